"""Slow, obvious truths of the damped Fisher matrix F = λI + (1/m) Σ gᵢgᵢᵀ, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import reference

WIDE = np.longdouble  # 64 bits of mantissa on x86: leaves 1e-11 where F has condition 1e8
WINDOW_DTYPES = ["float64", "float32", "bfloat16", "float16", "int8"]
#: Half an ulp at 1 of what a result is rounded to, once.
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def blocks(dim: int, block_size: int | None) -> Iterator[slice]:
    """The columns of every diagonal block of F."""
    size = block_size or dim
    for first in range(0, dim, size):
        yield slice(first, min(first + size, dim))


# ---- what a window keeps of a gradient -------------------------------------------------------------------------------


def stored_int8(g: np.ndarray) -> np.ndarray:
    """Symmetric, ties to even, one float32 scale for every 256 columns."""
    values = np.zeros(len(g))
    for part in blocks(len(g), 256):
        x = g[part].astype(np.float32)
        scale = np.abs(x).max() / np.float32(127)
        if scale > 0:
            values[part] = np.rint(x / scale).astype(np.float64) * np.float64(scale)
    return values


def stored_float16(g: np.ndarray) -> np.ndarray:
    """Times the power of two that puts the largest entry into [2¹³, 2¹⁴): nothing overflows."""
    largest = np.abs(g).max()
    if largest == 0:
        return np.zeros(len(g))
    shift = 14 - math.frexp(largest)[1]
    return np.ldexp(np.ldexp(g, shift).astype(np.float16).astype(np.float64), -shift)


def stored(g: np.ndarray, dtype: str, block_size: int | None = None) -> np.ndarray:
    """The values, in float64, that a window of this dtype keeps of one gradient (d,) or of every row of (n, d)."""
    g = np.asarray(g).astype(np.float64)
    if g.ndim == 2:
        return np.array([stored(row, dtype, block_size) for row in g]).reshape(g.shape)
    if dtype == "int8":
        return np.concatenate([stored_int8(g[part]) for part in blocks(len(g), block_size)])
    if dtype == "float16":
        return stored_float16(g)
    return reference.rounded_bfloat16(g) if dtype == "bfloat16" else g.astype(dtype).astype(np.float64)


# ---- exact algebra ---------------------------------------------------------------------------------------------------


def cholesky(a: np.ndarray) -> np.ndarray:
    """L Lᵀ = a, column by column, in a's own precision (LAPACK has none beyond float64)."""
    factor = np.zeros_like(a)
    for j in range(len(a)):
        column = a[j:, j] - factor[j:, :j] @ factor[j, :j]
        assert column[0] > 0, "the truth itself ran out of digits"
        factor[j:, j] = column / np.sqrt(column[0])
    return factor


def solved(factor: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(L Lᵀ)⁻¹x for a vector or the columns of a matrix."""
    y = x.astype(factor.dtype, copy=True)
    n = len(factor)
    for j in range(n):
        y[j] = (y[j] - factor[j, :j] @ y[:j]) / factor[j, j]
    for j in reversed(range(n)):
        y[j] = (y[j] - factor[j + 1 :, j] @ y[j + 1 :]) / factor[j, j]
    return y


class Fisher:
    """F of the given rows, by way of GGᵀ + mλI in long double, one block of columns after the other."""

    def __init__(
        self, rows: np.ndarray, damping: float, m: int | None = None, block_size: int | None = None, wide: type = WIDE
    ) -> None:
        self.rows = np.asarray(rows).astype(wide)
        self.count, self.dim = self.rows.shape
        self.m = self.count if m is None else m
        self.damping = wide(damping)
        self.parts = list(blocks(self.dim, block_size))
        self.grams = [self.rows[:, part] @ self.rows[:, part].T for part in self.parts]
        self.factors = [cholesky(gram + self.m * self.damping * np.eye(self.count)) for gram in self.grams]

    @property
    def condition(self) -> float:
        """At least the condition number of F, and what every formula can lose."""
        return float(1 + max(np.trace(gram) for gram in self.grams) / (self.m * self.damping))

    def combination(self, weights: np.ndarray) -> np.ndarray:
        """F⁻¹Gᵀa = m·Gᵀ(GGᵀ + mλI)⁻¹a, which does not cancel."""
        result = [
            self.m * (self.rows[:, part].T @ solved(factor, np.asarray(weights)))
            for part, factor in zip(self.parts, self.factors, strict=True)
        ]
        return np.concatenate(result).astype(np.float64)

    def solve(self, x: np.ndarray) -> np.ndarray:
        """F⁻¹x = (x − Gᵀ(GGᵀ + mλI)⁻¹Gx)/λ for a vector (d,) or every row of (k, d)."""
        columns = np.asarray(x).astype(self.rows.dtype).T
        result = np.zeros_like(columns)
        for part, factor in zip(self.parts, self.factors, strict=True):
            g = self.rows[:, part]
            result[part] = (columns[part] - g.T @ solved(factor, g @ columns[part])) / self.damping
        return result.T.astype(np.float64)

    def quadratic(self, x: np.ndarray) -> float:
        return float(np.asarray(x).astype(np.float64) @ self.solve(x))

    def logdet(self) -> float:
        total = self.dim * np.log(self.damping)
        for factor in self.factors:
            total += 2 * np.log(np.diag(factor)).sum() - self.count * np.log(self.m * self.damping)
        return float(total)

    def influence(self) -> np.ndarray:
        """G F⁻¹ Gᵀ = Σ over blocks of m·K(K + mλI)⁻¹."""
        pairs = zip(self.grams, self.factors, strict=True)
        return np.sum([self.m * solved(factor, gram) for gram, factor in pairs], axis=0).astype(np.float64)


def fisher_matrix(rows: np.ndarray, damping: float, m: int | None = None, block_size: int | None = None) -> np.ndarray:
    """F itself, (d, d)."""
    rows = np.asarray(rows).astype(np.float64)
    dim = rows.shape[1]
    dense = damping * np.eye(dim)
    for part in blocks(dim, block_size):
        dense[part, part] += rows[:, part].T @ rows[:, part] / (m or len(rows))
    return dense


def mfac_recursion(rows: np.ndarray, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Static M-FAC as published (Frantar et al., prun.py): vᵢ = Fᵢ₋₁⁻¹gᵢ and qᵢ = m + gᵢ·vᵢ."""
    rows = np.asarray(rows).astype(np.float64)
    v, q = np.zeros_like(rows), np.zeros(len(rows))
    for i, g in enumerate(rows):
        v[i] = g / damping
        for j in range(i):
            v[i] -= v[j] * (v[j] @ g) / q[j]
        q[i] = len(rows) + g @ v[i]
    return v, q


def mfac_inverse(rows: np.ndarray, damping: float, block_size: int | None = None) -> np.ndarray:
    """F⁻¹ = I/λ − Σ vⱼvⱼᵀ/qⱼ of the recursion."""
    dim = rows.shape[1]
    inverse = np.eye(dim) / damping
    for part in blocks(dim, block_size):
        v, q = mfac_recursion(rows[:, part], damping)
        inverse[part, part] -= (v.T / q) @ v
    return inverse


# ---- pruning ---------------------------------------------------------------------------------------------------------


def obs_scores(inverse: np.ndarray, w: np.ndarray, group: int = 1) -> np.ndarray:
    """½ w_Qᵀ((F⁻¹)_QQ)⁻¹w_Q of every group Q of neighbours."""
    parts = list(blocks(len(w), group))
    return np.array([0.5 * w[q] @ np.linalg.solve(inverse[q, q], w[q]) for q in parts])


def obs_removed(inverse: np.ndarray, w: np.ndarray, count: int, group: int = 1) -> np.ndarray:
    """True for the weights of the groups with the lowest scores."""
    chosen = np.argsort(obs_scores(inverse, w, group), kind="stable")[: count // group]
    return np.repeat(np.isin(np.arange(len(w) // group), chosen), group)


def obs_prune(
    f: np.ndarray, w: np.ndarray, count: int, group: int = 1, joint: bool = False
) -> tuple[np.ndarray, float]:
    """The weights left and ½δᵀFδ. Not joint: δ = −F⁻¹z with z_Q = ((F⁻¹)_QQ)⁻¹w_Q, then zeros where removed."""
    inverse = np.linalg.inv(f)
    removed = obs_removed(inverse, w, count, group)
    z = np.zeros_like(w)
    if joint:
        s = np.flatnonzero(removed)
        z[s] = np.linalg.solve(inverse[np.ix_(s, s)], w[s])
    else:
        for q in blocks(len(w), group):
            if removed[q].all():
                z[q] = np.linalg.solve(inverse[q, q], w[q])
    left = np.where(removed, 0.0, w - inverse @ z)
    return left, float(0.5 * (left - w) @ f @ (left - w))


# ---- relatives -------------------------------------------------------------------------------------------------------


def gauss_newton(jac: np.ndarray, residual: np.ndarray, hessian: np.ndarray | None, damping: float) -> np.ndarray:
    """−(JᵀQJ/b + λI)⁻¹Jᵀr/b with Q block-diagonal over the batch, d × d and dense."""
    b, dim = jac.shape[0], jac.shape[-1]
    j = np.asarray(jac).astype(np.float64).reshape(b, -1, dim)
    c = j.shape[1]
    q = np.broadcast_to(np.eye(c), (b, c, c)) if hessian is None else np.asarray(hessian, dtype=float).reshape(b, c, c)
    normal = np.einsum("bcd,bce,bef->df", j, q, j) / b + damping * np.eye(dim)
    right = np.einsum("bcd,bc->d", j, np.asarray(residual).astype(np.float64).reshape(b, c)) / b
    return -np.linalg.solve(normal, right)


def softmax_hessian(rng: np.random.Generator, b: int, c: int) -> np.ndarray:
    """diag(p) − ppᵀ, singular by nature."""
    p = np.exp(rng.standard_normal((b, c)))
    p /= p.sum(axis=1, keepdims=True)
    return np.einsum("bc,ce->bce", p, np.eye(c)) - p[:, :, None] * p[:, None, :]


def rank_one_update(inv: np.ndarray, v: np.ndarray, decay: float, mode: str) -> np.ndarray:
    inv, v = np.asarray(inv).astype(np.float64), np.asarray(v).astype(np.float64)
    if mode == "ema":
        return np.linalg.inv(decay * np.linalg.inv(inv) + (1 - decay) * np.outer(v, v))
    p = decay * inv + (1 - decay) * np.eye(len(v))  # MKOR's published code
    return p - np.outer(p @ v, v @ p) / (1 + v @ p @ v)


# ---- gradients -------------------------------------------------------------------------------------------------------


def correlated(rng: np.random.Generator, count: int, dim: int, norm: float = 1.0, noise: float = 0.1) -> np.ndarray:
    """Like an optimizer's: a walk in 8 directions and noise, every row of the given norm."""
    walk = rng.standard_normal(8) + np.cumsum(0.1 * rng.standard_normal((count, 8)), axis=0)
    g = walk @ rng.standard_normal((8, dim)) + noise * rng.standard_normal((count, dim))
    return norm * g / np.linalg.norm(g, axis=1, keepdims=True)


#: What makes GGᵀ singular, or nearly: name -> rows from a generator and d.
DEGENERATE = {
    "duplicates": lambda r, d: np.repeat(r.standard_normal((1, d)), 20, axis=0),
    "pairs": lambda r, d: np.repeat(r.standard_normal((10, d)), 2, axis=0),
    "zeros": lambda r, d: np.zeros((20, d)),
    "zeros between": lambda r, d: r.standard_normal((20, d)) * (np.arange(20) % 3 == 1)[:, None],
    "near": lambda r, d: r.standard_normal((1, d)) + 1e-6 * r.standard_normal((20, d)),
    "opposite": lambda r, d: r.standard_normal((1, d)) * (-1.0) ** np.arange(20)[:, None],
    "scales": lambda r, d: r.standard_normal((20, d)) * np.logspace(-12, 3, 20)[::-1, None],
}


# ---- comparing -------------------------------------------------------------------------------------------------------


def gradient_dtype(dtype: str) -> np.dtype:
    return np.dtype({"bfloat16": ml_dtypes.bfloat16, "int8": np.float32}.get(dtype, dtype))


def tolerance(truth: Fisher, dtype: np.dtype | str = "float64") -> float:
    """One rounding to the result's dtype, and float64 arithmetic times what a matrix of this condition amplifies."""
    return 1.01 * UNIT[np.dtype(dtype).name] + 2.0**-48 * truth.condition


def assert_near(got: Any, truth: np.ndarray, bound: float) -> None:
    got = np.asarray(got).astype(np.float64)
    assert got.shape == truth.shape
    assert np.isfinite(got).all()
    error = np.linalg.norm(got - truth)
    assert error <= bound * np.linalg.norm(truth), f"relative error {error / np.linalg.norm(truth):.2e} > {bound:.2e}"


def damping_seen(window: Any, rows: np.ndarray) -> float:
    """λ, from a vector that F only multiplies by it."""
    basis = np.linalg.qr(rows.T)[0]
    x = np.random.default_rng(1).standard_normal(window.dim)
    for _ in range(3):
        x -= basis @ (basis.T @ x)
    return float(x @ x) / float(x @ window.solve(x))


def assert_holds(window: Any, rows: np.ndarray, damping: float, rng: np.random.Generator) -> None:
    """Every query of a window that should hold these stored rows, oldest first."""
    m = window.capacity if window.scale == "capacity" else len(rows)
    truth = Fisher(rows, damping, m, window.block_size)
    n, exact = len(rows), tolerance(truth)
    assert len(window) == n
    for dtype in ("float64", "float32"):
        x = rng.standard_normal(window.dim).astype(dtype)
        got = window.solve(x)
        assert got.dtype == dtype
        assert_near(got, truth.solve(x), tolerance(truth, dtype))
        value = window.quadratic(x)
        assert type(value) is float
        assert value == pytest.approx(truth.quadratic(x), rel=exact)
    for weights in ([1.0], rng.standard_normal(n), rng.standard_normal((n + 1) // 2)):
        got = window.solve_recent(weights)
        assert got.dtype == ("float64" if window.dtype == "float64" else "float32")
        padded = np.zeros(n)
        padded[: len(weights)] = weights
        assert_near(got, truth.combination(padded[::-1]), tolerance(truth, got.dtype))
    influence = truth.influence()
    got = window.influence()
    assert type(got) is np.ndarray
    assert got.dtype == np.float64
    assert_near(got, influence, exact)
    for index in {0, n // 2, n - 1}:
        assert window.quadratic(index) == pytest.approx(influence[index, index], rel=exact, abs=exact * 1e-3)
    terms = window.dim * abs(math.log(damping)) + abs(truth.logdet()) + n
    assert window.logdet() == pytest.approx(truth.logdet(), rel=0, abs=exact * terms)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, arrays and numbers alike."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return bool(a == b)


def answers(window: Any, x: np.ndarray) -> list[Any]:
    queries = [window.solve(x), window.solve_recent([0.5, 0.25]), window.influence()]
    return [*(q.tobytes() for q in queries), window.quadratic(x), window.quadratic(0), window.logdet()]


def gradients(rng: np.random.Generator, count: int, dim: int, dtype: str, **keywords: float) -> np.ndarray:
    return correlated(rng, count, dim, **keywords).astype(gradient_dtype(dtype))
