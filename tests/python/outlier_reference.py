"""Truths of soft_clip and auon in float64, and inputs that are hard to select from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

QUANTILES = [0.0, 0.1, 0.5, 0.9, 0.999, 1.0]
#: r is a generator, n how many entries.
HARD: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "zeros": lambda r, n: np.zeros(n),
    "equal": lambda r, n: np.full(n, -3.0),
    "sparse": lambda r, n: r.standard_normal(n) * (r.random(n) < 0.2),
    "few values": lambda r, n: r.integers(-2, 3, n).astype(float),
    "ramp": lambda r, n: np.arange(n, dtype=float),
    "periodic": lambda r, n: np.where(np.arange(n) % 150 == 7, 1e6, 1.0) * (1 + 0.1 * r.random(n)),
    "heavy": lambda r, n: np.exp(8 * r.standard_normal(n)),
    "denormal": lambda r, n: r.standard_normal(n) * 1e-39,
    "huge": lambda r, n: r.standard_normal(n) * 1e37,
    "step at q": lambda r, n: np.concatenate([np.zeros(n - n // 10), np.ones(n // 10)]),
}


def split_truth(x: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """Every matrix in float64, the limit and the outliers rounded to x's dtype."""
    wide = x.astype(np.float64)
    limit = np.quantile(np.abs(wide), quantile, axis=(-2, -1), keepdims=True).astype(x.dtype).astype(np.float64)
    clipped = np.clip(wide, -limit, limit)
    return clipped.astype(x.dtype), (wide - clipped).astype(x.dtype)


def auon_truth(x: np.ndarray, gamma: float = 1.5) -> np.ndarray:
    """Every matrix, in float64."""
    x = x.astype(np.float64)
    largest = np.abs(x).max(axis=(-2, -1), keepdims=True)
    z = x / np.where(largest > 0, largest, 1)
    norm = np.sqrt((z * z).sum(axis=(-2, -1), keepdims=True))
    z = z / np.where(norm > 0, norm, 1)
    return z / np.sqrt((np.cosh(gamma * z) ** 2).mean(axis=(-2, -1), keepdims=True))
