"""Polynomials of a symmetric positive definite matrix as preconditioners."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import as_array, back, like_of
from raphson._kkt import as_rows
from raphson._rows import dense_view, is_sparse
from raphson._seed import Seed, as_key

__all__ = ["PolynomialPreconditioner", "polynomial_preconditioner"]

Doubles = npt.NDArray[np.float64]

_METHODS = ("auto", "symmetric", "chebyshev")
_DENSE_SIZE = 2000  # up to here all eigenvalues are computed where they are wanted
_LANCZOS = 30
_SHORT = 0.1  # of the largest eigenvalue: what Lanczos misses by less with probability 1 − 1e-8 √n
_STREAM = 0x504F4C59


class PolynomialPreconditioner:
    """p(A), applied by products with A; made by :func:`polynomial_preconditioner`.

    ``p @ v``, ``p.apply(v)`` and, as SciPy's linear operators, ``p.matvec(v)`` and ``p.matmat(v)`` give p(A) v; so
    ``scipy.sparse.linalg.cg(A, b, M=p)`` takes it as it is.

    Attributes
    ----------
    shape : (int, int)
    dtype : numpy.dtype
        float64.
    degree : int
    method : str
        ``"symmetric"`` or ``"chebyshev"``.
    bounds : (float, float)
        Smallest and largest eigenvalue of A: known, given or estimated; NaN where nothing was needed.
    condition : float
        Of p(A) A: exact where A's eigenvalues are known, for Chebyshev the bound for a spectrum inside ``bounds``; NaN
        where unknown.
    """

    dtype = np.dtype(np.float64)

    def __init__(
        self, matrix: Any, core: Any, n: int, steps: Doubles, method: str, bounds: tuple[float, float], condition: float
    ) -> None:
        self._matrix, self._core, self._steps = matrix, core, steps
        self.shape = (n, n)
        self.degree = len(steps) - 1
        self.method, self.bounds, self.condition = method, bounds, condition

    def evaluate(self, x: Any) -> Doubles:
        """p at numbers."""
        at = np.asarray(x, dtype=np.float64)
        now, before = np.zeros_like(at), np.zeros_like(at)
        for a, b, c, d in self._steps:
            now, before = a * now + b * at * now + c * before + d, now
        return now

    def apply(self, v: Any) -> Any:
        """p(A) v of v (n,) or (n, k), float64 or float32: ``degree`` reads of A for every four columns.

        The result has v's framework and dtype; sums are float64.
        """
        function = "PolynomialPreconditioner.apply"
        given = as_array(v)
        view = _core._as_numpy(given, function, "v")
        if view.ndim not in (1, 2) or view.shape[0] != self.shape[0]:
            n = self.shape[0]
            raise ValueError(f"{function}: v must have shape ({n},) or ({n}, k), got {view.shape}")
        rows = np.ascontiguousarray(view.reshape(self.shape[0], -1).T, dtype=np.float64)
        found = np.ascontiguousarray(self._product(rows).T).reshape(view.shape)
        return back(found, like_of(v), view.dtype.name)

    def _product(self, v: Doubles) -> Doubles:
        if self._core is not None:
            return _core.apply_recurrence(self._core, self._steps, v)
        now, before = np.zeros_like(v), np.zeros_like(v)
        for step, (a, b, c, d) in enumerate(self._steps):
            fresh = d * v
            if step > 0:
                fresh += a * now + b * _products(self._matrix, now) + c * before
            now, before = fresh, now
        return now

    def matvec(self, v: Any) -> Any:
        return self.apply(v)

    rmatvec = matvec
    matmat = matvec
    rmatmat = matvec
    __matmul__ = matvec
    __call__ = matvec

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_core": self._core is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._core = _rows(self._matrix)[1] if state["_core"] else None

    def __repr__(self) -> str:
        n = self.shape[0]
        return f"PolynomialPreconditioner({n}×{n}, {self.method}, degree {self.degree}, condition={self.condition:.3g})"


def polynomial_preconditioner(
    A: Any,
    degree: int,
    *,
    method: str = "auto",
    bounds: tuple[float, float] | None = None,
    eigenvalues: Any = None,
    seed: Seed = 0,
) -> PolynomialPreconditioner:
    """A polynomial p for which p(A) A has a better condition number than A, symmetric positive definite.

    Parameters
    ----------
    A : array (n, n), SciPy sparse, or an operator
        float64 or float32, symmetric positive definite; read where it lies whenever p is applied, so not to be changed.
        An operator has ``shape`` and either ``matvec`` or can be called, with v (n,).
    degree : int
        Products with A that p(A) v costs; 0 is the identity. Symmetric: below n.
    method : str
        ``"symmetric"``: Doikov and Rodomanov's: p(λᵢ) is the elementary symmetric polynomial of degree ``degree`` of
        the other eigenvalues, over that of all. Gaps behind the largest eigenvalues cost nothing: with λ₁ ≥ … ≥ λₙ the
        condition number of p(A) A is at most Σ_{i>degree} λᵢ / λₙ, and never above A's. ``"chebyshev"``: 1 − λ p(λ) is
        Chebyshev's polynomial on ``bounds``, the best for a spectrum that fills them. ``"auto"``: symmetric where A's
        eigenvalues are given or A is an array with n ≤ 2000, else chebyshev.
    bounds : (float, float), optional
        For chebyshev: where the eigenvalues lie. p stays positive on (0, low + high), so a ``low`` that is too large
        does no harm but to the condition. By default from 30 steps of Lanczos: the smallest Ritz value, and the largest
        over 0.9, or ‖A‖_∞ or ‖A‖_F where they are smaller.
    eigenvalues : array (n,), optional
        For symmetric: A's, where they are known. Otherwise they are computed (n ≤ 2000, or an array), or, for sparse A
        and degree ≤ 2, the traces of A and A² take their place.
    seed : int or numpy.random.Generator
        Of Lanczos' start.

    Returns
    -------
    PolynomialPreconditioner

    Raises
    ------
    ValueError
        Shapes that do not fit; an eigenvalue or a diagonal entry that is not positive; a degree at which rounding would
        leave p(A) indefinite (the largest that holds is named); symmetric where the eigenvalues are out of reach.
    TypeError
        Integer or complex data.
    RuntimeError
        CUDA arrays.

    Notes
    -----
    Power traces and Newton's identities lose σₖ to cancellation where one eigenvalue dominates, which is where these
    preconditioners help. So σₖ is summed up from the eigenvalues themselves, in positive terms: 4/3 n³ flops once, by
    LAPACK. To solve one dense system a Cholesky factor (n³/3) is cheaper: this pays for many, or where the spectrum is
    known. p is applied by Pₛ = σₛ I − A Pₛ₋₁, scaled by σₛ. Their adaptive variant minimises over a Krylov space in
    every step and is, for linear systems, conjugate gradients: it is not here.

    Sources: Doikov and Rodomanov, Polynomial preconditioning for gradient methods, ICML 2023; Saad 1985 (Chebyshev);
    Kuczyński and Woźniakowski 1992 (Lanczos from a random start).
    """
    function = "polynomial_preconditioner"
    if method not in _METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(_METHODS)}, got {method!r}")
    top = operator.index(degree)
    if top < 0:
        raise ValueError(f"{function}: degree must not be negative, got {degree!r}")
    matrix, core, n = _rows(A, check=True)
    key = as_key(seed, function=function)
    dense = core is not None and not is_sparse(matrix)
    if method == "auto":
        method = "symmetric" if eigenvalues is not None or (dense and n <= _DENSE_SIZE) else "chebyshev"
    if method == "chebyshev":
        if eigenvalues is not None:
            raise ValueError(f"{function}: eigenvalues are for method='symmetric'; give bounds")
        low, high = _given_bounds(bounds) if bounds is not None else _estimate(matrix, core, n, key)
        steps, condition = _chebyshev(top, low, high)
        return PolynomialPreconditioner(matrix, core, n, steps, method, (low, high), condition)
    if bounds is not None:
        raise ValueError(f"{function}: bounds are for method='chebyshev'; give eigenvalues")
    if top >= max(n, 1):
        raise ValueError(f"{function}: degree must be below n = {n}, got {top}")
    spectrum = _spectrum(matrix, core, n, top, dense, eigenvalues)
    if spectrum is None:
        steps = _symmetric(_from_traces(matrix, top))
        return PolynomialPreconditioner(matrix, core, n, steps, method, (math.nan, math.nan), math.nan)
    steps = _symmetric(_elementary(spectrum, top))
    holds, values = _positive(steps, spectrum)
    if holds < top:
        raise ValueError(
            f"{function}: rounding would leave p(A) indefinite at degree {top}; up to {holds} it is positive definite"
        )
    ends = (float(spectrum[-1]), float(spectrum[0])) if n else (math.nan, math.nan)
    condition = float(spectrum[0] * values[0] / (spectrum[-1] * values[-1])) if n else math.nan
    return PolynomialPreconditioner(matrix, core, n, steps, method, ends, condition)


def _rows(A: Any, *, check: bool = False) -> tuple[Any, Any, int]:
    """What is kept of A, the core's view of it (None for an operator), and n."""
    function = "polynomial_preconditioner"
    if is_sparse(A):
        if A.dtype not in (np.float64, np.float32):
            raise TypeError(f"{function}: A must be float64 or float32, got {A.dtype}")
        kept: Any = A.tocsr()
        core, shape = as_rows(kept, function, "A")
        entries = kept.data
    elif hasattr(A, "shape") and (hasattr(A, "matvec") or (callable(A) and not hasattr(A, "__dlpack__"))):
        shape, kept, core, entries = tuple(A.shape), A, None, np.empty(0)
    else:
        kept = dense_view(as_array(A), function, "A")
        core, shape, entries = _core.Rows.dense(kept), kept.shape, kept
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{function}: A must be square, got shape {shape}")
    if check and not np.isfinite(entries).all():
        raise ValueError(f"{function}: A has NaN or Inf")
    if check and core is not None:
        diagonal = kept.diagonal()
        if not (diagonal > 0).all():
            raise ValueError(f"{function}: A must be positive definite, but a diagonal entry is {diagonal.min():.3g}")
    return kept, core, int(shape[0])


def _products(matrix: Any, v: Doubles) -> Doubles:
    """A times the rows of v, of an operator."""
    multiply: Callable[[Doubles], Any] = matrix.matvec if hasattr(matrix, "matvec") else matrix
    out = np.empty_like(v)
    for row, to in zip(v, out, strict=True):
        product = np.asarray(multiply(row), dtype=np.float64)
        if product.size != row.size:
            raise ValueError(f"polynomial_preconditioner: A must give shape {row.shape}, got {product.shape}")
        to[:] = product.ravel()
    return out


def _spectrum(matrix: Any, core: Any, n: int, degree: int, dense: bool, eigenvalues: Any) -> Doubles | None:
    """Eigenvalues, descending; None where traces do instead."""
    function = "polynomial_preconditioner"
    if eigenvalues is not None:
        found = np.sort(np.asarray(eigenvalues, dtype=np.float64))[::-1]
        if found.shape != (n,):
            raise ValueError(f"{function}: eigenvalues must have shape ({n},), got {found.shape}")
    elif dense or (core is not None and n <= _DENSE_SIZE):
        full = matrix.toarray() if is_sparse(matrix) else matrix
        found = np.linalg.eigvalsh(full.astype(np.float64, copy=False))[::-1]
    elif degree <= (2 if core is not None else 0):
        return None
    else:
        kind = f"sparse with n = {n} > {_DENSE_SIZE}" if core is not None else "an operator"
        raise ValueError(f"{function}: method='symmetric' at degree {degree} needs eigenvalues=, since A is {kind}")
    if n and not (np.isfinite(found).all() and found[-1] > 0):
        raise ValueError(f"{function}: A must be positive definite, but its eigenvalues reach down to {found[-1]:.3g}")
    return np.ascontiguousarray(found)


def _elementary(spectrum: Doubles, degree: int) -> Doubles:
    """σₖ·trace⁻ᵏ for k = 0, 1, …, and the trace: sums of positive terms, so each has full relative accuracy."""
    sums = np.zeros(degree + 1)
    sums[0] = 1.0
    total = spectrum.sum() if len(spectrum) else 1.0
    for value in spectrum / total:
        sums[1:] += value * sums[:-1]
    return sums if degree == 0 else np.append(sums, total)


def _from_traces(matrix: Any, degree: int) -> Doubles:
    if degree == 0:
        return np.ones(1)
    total = float(matrix.diagonal().sum(dtype=np.float64))
    squares = float(np.square(matrix.data, dtype=np.float64).sum()) / total**2
    if degree == 2 and 1 - squares < 1e-10:
        raise ValueError(
            "polynomial_preconditioner: one eigenvalue holds nearly all of A's trace: no digits for degree 2"
        )
    return np.append([1.0, 1.0, (1 - squares) / 2][: degree + 1], total)


def _symmetric(scaled: Doubles) -> Doubles:
    """Steps of yₛ = v − (σₛ₋₁/σₛ) A yₛ₋₁; the last number of `scaled` is the trace."""
    if len(scaled) == 1:
        return np.array([[0.0, 0.0, 0.0, 1.0]])
    sums, total = scaled[:-1], scaled[-1]
    steps = np.zeros((len(sums), 4))
    steps[:, 3] = 1.0
    steps[1:, 1] = -sums[:-1] / sums[1:] / total
    return steps


def _positive(steps: Doubles, spectrum: Doubles) -> tuple[int, Doubles]:
    """The largest degree at which p exceeds its rounding on the spectrum, and p there."""
    values, error, epsilon = np.ones_like(spectrum), np.zeros_like(spectrum), np.finfo(float).eps
    for degree, b in enumerate(steps[1:, 1], 1):
        largest = np.abs(values).max(initial=0.0)
        error = np.abs(b) * (spectrum * error + 4 * epsilon * spectrum.max(initial=0.0) * largest) + epsilon
        values = 1 + b * spectrum * values
        if not (values > 4 * error).all():
            return degree - 1, values
    return len(steps) - 1, values


def _given_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(end) for end in bounds)
    if not 0 < low < high < math.inf:
        raise ValueError(f"polynomial_preconditioner: bounds must be (low, high), 0 < low < high, got {bounds!r}")
    return low, high


def _estimate(matrix: Any, core: Any, n: int, key: int) -> tuple[float, float]:
    """Lanczos' extreme Ritz values, with full orthogonalisation."""
    if n == 0:
        return 0.5, 1.0
    product = np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    draws = _core._uniforms(key ^ _STREAM, 0, n) - 0.5
    basis, diagonal, beside = [draws / np.linalg.norm(draws)], [], []
    for _ in range(min(_LANCZOS, n)):
        q = basis[-1]
        w = (_core.apply_recurrence(core, product, q[None]) if core is not None else _products(matrix, q[None]))[0]
        diagonal.append(float(q @ w))
        for _ in range(2):
            w = w - np.array(basis).T @ (np.array(basis) @ w)
        size = float(np.linalg.norm(w))
        if not size > 1e-12 * max(map(abs, diagonal)):
            break
        beside.append(size)
        basis.append(w / size)
    k = len(diagonal)
    ritz = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[: k - 1], 1) + np.diag(beside[: k - 1], -1))
    if not (np.isfinite(ritz).all() and ritz[0] > 0):
        raise ValueError(
            f"polynomial_preconditioner: A must be positive definite, but a Ritz value of it is {ritz[0]:.3g}"
        )
    high = float(ritz[-1]) / (1 - _SHORT)
    if core is not None:
        rows = np.asarray(abs(matrix).sum(axis=1)).ravel()
        entries = matrix.data if is_sparse(matrix) else matrix
        high = min(high, float(rows.max()), float(np.linalg.norm(entries.astype(np.float64, copy=False))))
    high = max(high, float(ritz[-1]) * (1 + 1e-10))
    return min(float(ritz[0]), 0.999 * high), high


def _chebyshev(degree: int, low: float, high: float) -> tuple[Doubles, float]:
    """Steps of the Chebyshev iteration for A y = v from y = 0: 1 − λ p(λ) = T(x(λ))/T(x(0)), T of degree + 1."""
    centre, half = (high + low) / 2, (high - low) / 2
    ratio = centre / half
    steps = np.zeros((degree + 1, 4))
    steps[0] = (0.0, 0.0, 0.0, 1 / centre)
    factor = 2.0
    for s in range(1, degree + 1):
        factor = 1 / (1 - factor / (4 * ratio**2)) if s > 1 else 1 / (1 - 1 / (2 * ratio**2))
        alpha = factor / centre
        steps[s] = (factor, -alpha, 1 - factor, alpha)
    growth = math.cosh((degree + 1) * math.acosh(ratio)) if (degree + 1) * math.acosh(ratio) < 700 else math.inf
    return steps, (1 + 1 / growth) / (1 - 1 / growth)
