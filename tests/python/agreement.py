"""How results of the matrix iterations are compared with their truths."""

from __future__ import annotations

import ml_dtypes
import numpy as np

import reference
import tolerance

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float64), np.dtype(np.float32), BF16]
NAMES = ["muon", "you", "polar_express"]


def dtype_id(dtype: np.dtype) -> str:
    return dtype.name


def relative(got: np.ndarray, truth: np.ndarray) -> float:
    """Error in the Frobenius norm, relative to the truth's."""
    return float(np.linalg.norm(np.asarray(got).astype(np.float64) - truth) / np.linalg.norm(truth))


def assert_close(got: np.ndarray, x: np.ndarray, schedule: str = "polar_express") -> None:
    """Every matrix of `got` is what the schedule makes of x in x's own precision, by the standard method."""
    table, factor, _ = reference.SCHEDULES[schedule]
    if x.dtype != BF16:
        assert relative(got, reference.named(x, schedule)) <= tolerance.GAUSSIAN[x.dtype.name]
        return
    for index in np.ndindex(x.shape[:-2]):
        truth = reference.newton_schulz_bfloat16(x[index], table, factor)
        assert relative(got[index], truth) <= tolerance.BFLOAT16_EMULATED


def singular_values(x: np.ndarray, factor: float) -> np.ndarray:
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    return s / (factor * np.linalg.norm(s))
