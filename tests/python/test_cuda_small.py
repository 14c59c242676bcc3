"""Matrices that stay in shared memory from the norm to the result, a launch for all of a batch (see docs/gpu.md)."""

from __future__ import annotations

import numpy as np
import pytest

import cuda_arrays
from raphson.newton_schulz import orthogonalize, orthogonalize_many

device = cuda_arrays.device()

# Errors of a whole orthogonalization in the arithmetic of the type, of the inputs below, relative to the result's norm.
TOLERANCE = {"float32": 8e-6, "float16": 6e-3, "bfloat16": 3e-2}
# Around the largest sizes of each kernel; the last of every row takes several launches.
SHAPES = {
    "float32": [(31, 77), (127, 129), (129, 128), (160, 160), (161, 162)],
    "float16": [(128, 129), (130, 129), (255, 256), (257, 258)],
    "bfloat16": [(128, 127), (129, 200), (256, 255), (258, 257)],
}
CASES = [(dtype, shape) for dtype, shapes in SHAPES.items() for shape in shapes]


def put(x: np.ndarray, name: str):
    return device.put(x if name == "bfloat16" else x.astype(name), bfloat16=name == "bfloat16")


def rounded(x: np.ndarray, name: str) -> np.ndarray:
    """What the device gets to see, in float64."""
    return device.get(put(x, name)).astype(np.float64)


def spectra(rng: np.random.Generator, m: int, n: int) -> dict[str, np.ndarray]:
    """Heavy-tailed and decaying: what iterations have blown up on."""
    r = min(m, n)
    u, v = np.linalg.qr(rng.standard_normal((m, r)))[0], np.linalg.qr(rng.standard_normal((n, r)))[0]
    return {
        "cauchy": np.clip(rng.standard_cauchy((m, n)), -3e4, 3e4),
        "decaying": (u * np.arange(1.0, r + 1) ** -1) @ v.T,
    }


def norms(found: np.ndarray, x: np.ndarray, **how) -> tuple[float, float]:
    """The error in Frobenius norm against float64 on the CPU, relative, and the result's largest singular value."""
    expected = orthogonalize(x, **how)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    return error, np.linalg.norm(found, 2)


@pytest.mark.parametrize(("dtype", "shape"), CASES, ids=str)
def test_heavy_tails_do_not_blow_up(rng, dtype, shape):
    for name, x in spectra(rng, *shape).items():
        x = rounded(x.astype(np.float32), dtype)
        out = put(np.full(shape, np.nan, np.float32), dtype)
        assert orthogonalize(put(x.astype(np.float32), dtype), schedule="polar_express", steps=5, out=out) is out
        error, largest = norms(device.get(out).astype(np.float64), x, schedule="polar_express", steps=5)
        assert error <= TOLERANCE[dtype], name
        assert largest <= 1.15, name


@pytest.mark.parametrize(("dtype", "shape"), CASES, ids=str)
def test_a_nan_stays_in_its_matrix(rng, dtype, shape):
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    clean = device.get(orthogonalize(put(x, dtype), schedule="muon", steps=2))
    x[1, -1, -1] = np.nan
    found = device.get(orthogonalize(put(x, dtype), schedule="muon", steps=2))
    np.testing.assert_array_equal(found[0], clean[0])
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("dtype", SHAPES)
def test_a_list_of_small_and_large_is_what_each_is_alone(rng, dtype):
    large = SHAPES[dtype][-1]
    shapes = [(20, 33), (2, 33, 20), SHAPES[dtype][-2], large, large[::-1], (20, 33)]
    xs = [put(rng.standard_normal(s).astype(np.float32), dtype) for s in shapes]
    for x, result in zip(xs, orthogonalize_many(xs, schedule="muon", steps=2), strict=True):
        np.testing.assert_array_equal(device.get(result), device.get(orthogonalize(x, schedule="muon", steps=2)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 6e-4), ("bfloat16", 3e-3)])
@pytest.mark.parametrize("shape", [(64, 200), (330, 100)], ids=str)  # in one launch, and in several
def test_the_gram_iteration_keeps_all_digits_of_16_bits(rng, dtype, tolerance, shape):
    m = min(shape)
    u = np.linalg.qr(rng.standard_normal((shape[0], m)))[0]
    v = np.linalg.qr(rng.standard_normal((shape[1], m)))[0]
    x = rounded(((u * np.logspace(0, -4, m)) @ v.T).astype(np.float32), dtype)
    found = orthogonalize(put(x.astype(np.float32), dtype), schedule="polar_express", method="gram")
    error, largest = norms(device.get(found).astype(np.float64), x, schedule="polar_express")
    assert error <= tolerance
    assert largest <= 1.15


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_auto_stays_with_the_standard_steps_in_16_bits(rng, dtype):
    x = put(rng.standard_normal((64, 200)).astype(np.float32), dtype)
    found = [device.get(orthogonalize(x, schedule="muon", steps=3, method=method)) for method in ("auto", "standard")]
    np.testing.assert_array_equal(*found)
