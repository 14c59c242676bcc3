"""Saddle-point systems [[B, Gᵀ], [G, 0]] x = rhs."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import back, like_of, require_one_framework
from raphson._results import warn_not_converged
from raphson._rows import compressed, is_sparse
from raphson._seed import Seed, as_key

__all__ = ["KktResult", "solve_kkt"]

Doubles = npt.NDArray[np.float64]

KKT_METHODS = {"ldlt": 0, "minres": 1, "kaczmarz": 2, "gaussian": 3, "block": 4}
_SAMPLINGS = {"equilibrated": 0, "uniform": 1, "row_norm": 2}
_LEVEL = {"ldlt": 1e-12, "minres": 1e-10, "kaczmarz": 1e-6, "gaussian": 1e-6, "block": 1e-6}
_WORST = 1e-3  # a residual beyond it solves nothing, whatever the precision reaches
_HINTS = {
    "infeasible": "The matrix is singular and rhs is not in its range: rows of G depend on one another.",
    "precision_floor": "The system's conditioning does not allow more.",
    "stalled": "Use method='ldlt', or scale the system.",
    "max_iter": "Raise max_iter, or use method='ldlt' or 'minres'.",
    "breakdown": "The solution overflowed: scale the system.",
}


@dataclass(frozen=True, eq=False, repr=False)
class KktResult:
    """The solution of a saddle-point system, and what it leaves.

    Attributes
    ----------
    x : array (n + m,)
        In rhs's framework: n unknowns of B, then m multipliers.
    residual : float
        ‖K x − rhs‖ / ‖rhs‖, measured on x.
    converged, status : bool, str
        Whether ``residual`` is within ``tol``; one of :data:`raphson._results.STATUSES`.
    iterations : int
        Refinements (ldlt), products (minres), or steps.
    inertia : tuple (positive, negative, zero) or None
        Signs of the eigenvalues of what was factored; None where nothing was.
    method : str
    tol : float
    """

    x: Any
    residual: float
    converged: bool
    status: str
    iterations: int
    inertia: tuple[int, int, int] | None
    method: str
    tol: float

    def __repr__(self) -> str:
        return (
            f"KktResult({self.method}, x of shape {tuple(self.x.shape)}, {self.status}, residual={self.residual:.2g}, "
            f"iterations={self.iterations}, inertia={self.inertia})"
        )


def as_rows(given: Any, function: str, name: str) -> tuple[_core.Rows, tuple[int, int]]:
    """A float64 matrix in the core's hands, dense or compressed with ascending columns."""
    if is_sparse(given):
        if given.ndim != 2:
            raise ValueError(f"{function}: {name} must have two axes, got shape {given.shape}")
        if given.dtype.kind not in "fiub":
            raise TypeError(f"{function}: {name} must be real numbers, got {given.dtype}")
        rows = given.tocsr()
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        shape = (int(given.shape[0]), int(given.shape[1]))
        return compressed(rows.astype(np.float64, copy=False), function, name)[0], shape
    view = _core._as_numpy(given, function, name)
    if view.ndim != 2:
        raise ValueError(f"{function}: {name} must have two axes, got shape {view.shape}")
    return _core.Rows.dense(np.ascontiguousarray(view, dtype=np.float64)), (view.shape[0], view.shape[1])


def _finite(given: Any, function: str, name: str) -> None:
    values = given.data if is_sparse(given) else _core._as_numpy(given, function, name)
    if not np.isfinite(values).all():
        raise ValueError(f"{function}: {name} has NaN or Inf")


def solve_kkt(
    B: Any,
    G: Any,
    rhs: Any,
    *,
    method: str = "ldlt",
    tol: float | None = None,
    seed: Seed = 0,
    max_iter: int | None = None,
    sampling: str = "equilibrated",
    block_size: int = 32,
) -> KktResult:
    """Solve [[B, Gᵀ], [G, 0]] x = rhs.

    Parameters
    ----------
    B : array (n, n), or SciPy sparse
        Symmetric, definite or not; its upper triangle is read. float64 or float32; arithmetic in float64.
    G : array (m, n), SciPy sparse, or None
        None, or m = 0: B alone. Sparse where B is sparse, else a dense copy of both is made.
    rhs : array (n + m,)
    method : str
        ``"ldlt"``: L D Lᵀ, dense with Bunch–Kaufman pivoting, sparse by fronts with delayed pivots; refined.
        ``"minres"``: preconditioned by |diag B| and the Schur complement G |diag B|⁻¹ Gᵀ, factored: for a B that is
        nearly diagonal. Sketch-and-project: ``"kaczmarz"`` (a random row a step), ``"gaussian"`` (a random combination
        of all rows), ``"block"`` (a random block of a fixed partition): they need ‖K‖_F²/σ_min² steps for each factor
        e, and lose to both of the above on every system that can be stored (docs/newton.md has the measurements).
    tol : float, optional
        Of ‖K x − rhs‖ / ‖rhs‖; by default 1e-12, 1e-10 (minres), 1e-6 (the others, and a float32 rhs) or, for ldlt and
        where x is large, 10 ulp of ‖K‖_F ‖x‖ (at most 1e-3).
    seed : int or numpy.random.Generator
        Of the sketches.
    max_iter : int, optional
        By default 5 (n + m) + 50 products, or 1000 (n + m) steps.
    sampling : str
        Of Kaczmarz's rows: ``"equilibrated"`` (uniform, rows and columns scaled alike first), ``"uniform"``,
        ``"row_norm"``.
    block_size : int
        Rows of a block.

    Returns
    -------
    KktResult

    Raises
    ------
    ValueError
        Shapes that do not fit (both are named), an asymmetric B, NaN or Inf.
    TypeError
        Integer or complex data.

    Warns
    -----
    ConvergenceWarning
        ``residual`` is above ``tol``.

    Notes
    -----
    Dense LDLᵀ: (n + m)³/3 flops, (n + m)² numbers. A Kaczmarz step: 4 flops an entry of the row; a Gaussian step 2 (n +
    m)².

    Sources: Bunch and Kaufman 1977; Duff and Reid 1983; Amestoy, Davis and Duff 1996; Paige and Saunders 1975; Murphy,
    Golub and Wathen 2000; Strohmer and Vershynin 2009; Gower and Richtárik 2015.
    """
    function = "solve_kkt"
    if method not in KKT_METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(KKT_METHODS)}, got {method!r}")
    if sampling not in _SAMPLINGS:
        raise ValueError(f"{function}: sampling must be one of {', '.join(_SAMPLINGS)}, got {sampling!r}")
    require_one_framework(function, "B", B, G=G, rhs=rhs)
    right = _core._as_numpy(rhs, function, "rhs")
    single = right.dtype == np.float32
    level = float(tol) if tol is not None else max(_LEVEL[method], 1e-6 if single else 0.0)
    if not level > 0:
        raise ValueError(f"{function}: tol must be positive, got {tol!r}")
    most = 0 if max_iter is None else operator.index(max_iter)
    if max_iter is not None and most < 1:
        raise ValueError(f"{function}: max_iter must be at least 1, got {max_iter!r}")
    if operator.index(block_size) < 1:
        raise ValueError(f"{function}: block_size must be at least 1, got {block_size!r}")
    for name, matrix in (("B", B), ("G", G)):
        if is_sparse(matrix) and matrix.dtype not in (np.float64, np.float32):
            raise TypeError(f"{function}: {name} must be float64 or float32, got {matrix.dtype}")
    b, (n, columns) = as_rows(B, function, "B")
    if n != columns:
        raise ValueError(f"{function}: B must be square, got shape {(n, columns)}")
    _finite(B, function, "B")
    _require_symmetric(B, function)
    g, m = None, 0
    if G is not None:
        if is_sparse(B) and not is_sparse(G):
            G = _compress(G, function)
        elif is_sparse(G) and not is_sparse(B):
            G = G.toarray()
        g, (m, columns) = as_rows(G, function, "G")
        if columns != n:
            raise ValueError(f"{function}: G must have as many columns as B, {n}, got shape {(m, columns)}")
        _finite(G, function, "G")
    if right.shape != (n + m,):
        raise ValueError(f"{function}: rhs must have shape ({n + m},), got {right.shape}")
    if not np.isfinite(right).all():
        raise ValueError(f"{function}: rhs has NaN or Inf")
    found = _core.solve_kkt(
        b,
        g if m > 0 else None,
        np.ascontiguousarray(right, dtype=np.float64),
        KKT_METHODS[method],
        level,
        most,
        as_key(seed, function=function),
        _SAMPLINGS[sampling],
        block_size,
    )
    like = like_of(rhs)
    residual, status = found["residual"], found["status"]
    if tol is None and method == "ldlt" and status == "precision_floor" and residual <= _WORST:
        status = "converged"  # ten units in the last place of ‖K‖ ‖x‖: what the precision reaches
    if single:
        with np.errstate(over="ignore"):
            rounded = found["x"].astype(np.float32).astype(np.float64)
        if not np.isfinite(rounded).all() and np.isfinite(found["x"]).all():
            raise ValueError(f"{function}: x leaves the range of rhs's dtype, float32; scale B, G or rhs")
        residual, unit = _residual(B, G, rounded, right.astype(np.float64), n)
        reached = max(level, min(10 * unit, _WORST)) if tol is None and method == "ldlt" else level
        if not residual <= reached and status == "converged":
            status = "precision_floor"
    result = KktResult(
        x=back(found["x"], like, right.dtype.name),
        residual=residual,
        converged=status == "converged",
        status=status,
        iterations=found["iterations"],
        inertia=found["inertia"],
        method=method,
        tol=level,
    )
    if not result.converged:
        warn_not_converged(function, result.status, result.residual, level, _HINTS.get(result.status, ""))
    return result


def _residual(B: Any, G: Any, x: Doubles, rhs: Doubles, n: int) -> tuple[float, float]:
    """‖K x − rhs‖ / ‖rhs‖ of an x that was rounded to float32, and what a unit in its last place may change."""

    def product(matrix: Any, v: Doubles) -> Doubles:
        held = matrix if is_sparse(matrix) else _core._as_numpy(matrix, "solve_kkt", "B").astype(np.float64, copy=False)
        return np.asarray(held @ v)

    left = product(B, x[:n]) - rhs[:n]
    below = np.empty(0)
    if len(x) > n:
        left += product(G.T if is_sparse(G) else _core._as_numpy(G, "solve_kkt", "G").T, x[n:])
        below = product(G, x[:n]) - rhs[n:]
    size = float(np.linalg.norm(rhs))
    size = size if size > 0 else 1.0
    squares = _squares(B) + (2 * _squares(G) if len(x) > n else 0.0)
    unit = float(np.finfo(np.float32).eps) * (math.sqrt(squares) * float(np.linalg.norm(x)) / size + 1)
    return float(np.hypot(np.linalg.norm(left), np.linalg.norm(below))) / size, unit


def _squares(matrix: Any) -> float:
    values = matrix.data if is_sparse(matrix) else _core._as_numpy(matrix, "solve_kkt", "B")
    return float(np.square(values, dtype=np.float64).sum())


def _compress(dense: Any, function: str) -> Any:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    return csr_array(_core._as_numpy(dense, function, "G"))


def _require_symmetric(B: Any, function: str) -> None:
    if is_sparse(B):
        apart = abs(B - B.T)
        gap, size = float(apart.max()) if apart.nnz else 0.0, float(abs(B).max()) if B.nnz else 0.0
    else:
        dense = _core._as_numpy(B, function, "B")
        if np.array_equal(dense, dense.T):
            return
        gap = float(np.abs(dense - dense.T).max(initial=0.0))
        size = float(np.abs(dense).max(initial=0.0))
    if gap > 1e-6 * size:
        raise ValueError(f"{function}: B must be symmetric, but entries differ from their mirror's by up to {gap:.3g}")
