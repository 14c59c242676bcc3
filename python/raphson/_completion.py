"""Low-rank matrices from some of their entries."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import as_array, back, like_of, require_one_framework
from raphson._results import Progress, warn_not_converged
from raphson._seed import Seed, as_key

__all__ = ["CompletionResult", "CompletionState", "complete_matrix"]

Doubles = npt.NDArray[np.float64]

_METHODS = {"auto": 0, "normal": 1, "sketch": 2, "qr": 3}
_INITS = ("spectral", "random")
_LEVEL = {"float64": 1e-8, "float32": 1e-5}
_HISTORY = np.dtype([("residual", "f8"), ("optimality", "f8"), ("seconds", "f8")])
_ENTRIES_AT_A_TIME = 1 << 20
_HINTS = {
    "max_iter": "Raise max_iter, lower the rank, or add a ridge: few entries a row make steps slow.",
    "precision_floor": "This is what the precision reaches; ask for a larger tol.",
    "stalled": "The objective does not fall any more; try a ridge or another rank.",
    "stopped": "The callback ended the run.",
    "breakdown": "The factors overflowed: scale the values.",
}


@dataclass(frozen=True)
class CompletionState:
    """What a callback sees after every iteration; ``optimality`` is the left factor's."""

    iteration: int
    residual: float
    optimality: float
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class CompletionResult:
    """Factors of a low-rank matrix, and how well they fit the entries that were given.

    Attributes
    ----------
    left, right : array (m, rank), (n, rank)
        The matrix is left @ right.T; in the framework and dtype of the values.
    residual : float
        √(Σ (value − prediction)² / count), measured on the factors as they are here.
    objective : float
        Σ (value − prediction)² + ridge (‖left‖² + ‖right‖²).
    optimality : float
        ‖∇‖ over a bound of what it is at a factor of zeros: for left √Σᵢ‖gᵢ‖² / √(Σᵢ‖aᵢ‖²‖Vᵢ‖² + ridge Σa²), gᵢ =
        Σ (prediction − value) v + ridge u, aᵢ the values of row i and Vᵢ right's rows that meet them; for right
        likewise; the larger.
    converged, status : bool, str
        Whether ``optimality`` is within ``tol``; one of :data:`raphson._results.STATUSES`.
    iterations : int
        Each is a step of left and one of right.
    history : structured array
        residual, optimality (of left) and seconds after every iteration.
    regressions : dict
        How many were solved by ``"qr"`` and by ``"sketch"``, over all iterations.
    tol, ridge : float
    """

    left: Any
    right: Any
    residual: float
    objective: float
    optimality: float
    converged: bool
    status: str
    iterations: int
    history: npt.NDArray[Any]
    regressions: dict[str, int]
    tol: float
    ridge: float
    _factors: tuple[Doubles, Doubles] = field(repr=False)
    _like: Any = field(repr=False)
    _dtype: str = field(repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._factors[0]), len(self._factors[1])

    @property
    def rank(self) -> int:
        return int(self._factors[0].shape[1])

    def predict(self, rows: Any, cols: Any) -> Any:
        """The completed matrix at (rows[p], cols[p]), (count,); 2·rank flops an entry."""
        function = "CompletionResult.predict"
        i, j = (_indices(a, function, name) for a, name in ((rows, "rows"), (cols, "cols")))
        if i.shape != j.shape:
            raise ValueError(f"{function}: rows and cols must have one shape, got {i.shape} and {j.shape}")
        for index, name, size in ((i, "rows", self.shape[0]), (j, "cols", self.shape[1])):
            if index.size and not (index.min() >= 0 and index.max() < size):
                raise ValueError(f"{function}: {name} must lie in [0, {size}), got {index.min()} to {index.max()}")
        left, right = self._factors
        found = np.empty(len(i))
        step = max(1, _ENTRIES_AT_A_TIME // self.rank)
        for first in range(0, len(i), step):
            part = slice(first, first + step)
            np.einsum("pk,pk->p", left[i[part]], right[j[part]], out=found[part])
        return back(found, self._like, self._dtype)

    def dense(self) -> Any:
        """The whole matrix, (m, n); MemoryError where it does not fit."""
        left, right = self._factors
        return back(left @ right.T, self._like, self._dtype)

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __repr__(self) -> str:
        return (
            f"CompletionResult({self.shape[0]}×{self.shape[1]} of rank {self.rank}, {self.status}, "
            f"residual={self.residual:.3g}, optimality={self.optimality:.2g}, iterations={self.iterations})"
        )


def complete_matrix(
    rows: Any,
    cols: Any,
    values: Any,
    shape: tuple[int, int],
    rank: int,
    *,
    ridge: float = 0.0,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int = 500,
    init: Any = "spectral",
    seed: Seed = 0,
    callback: Callable[[CompletionState], bool | None] | None = None,
    progress: bool = False,
) -> CompletionResult:
    """Complete a matrix of low rank: min Σ (valueₚ − leftᵢ·rightⱼ)² + ridge (‖left‖² + ‖right‖²).

    Parameters
    ----------
    rows, cols : array (count,)
        Integers: where the values stand, i = rows[p], j = cols[p]. In any order; a place given twice counts twice.
    values : array (count,)
        float64 or float32; arithmetic in float64.
    shape : (int, int)
        (m, n) of the matrix. A row or column without entries gets a factor of zeros.
    rank : int
        1 to min(shape).
    ridge : float
        Not negative; in units of values (both factors are about √values). Not scaled by the number of entries.
    method : str
        How a row's regression is solved. ``"normal"``: its k×k normal matrix and Cholesky's factor; QR where a pivot
        is lost to rounding. ``"sketch"``: conjugate gradients preconditioned by the triangle of a sparse sign sketch of
        6 k rows, where a row has 16 k entries or more; else QR. ``"qr"``: Householder and Jacobi. ``"auto"``: normal;
        where a pivot is lost, sketch for k ≥ 32 and 16 k entries, else QR. Several minimisers: the one nearest to
        where the factor was.
    tol : float, optional
        Of ``optimality``; by default 1e-8, for float32 values 1e-5.
    max_iter : int
    init : str, CompletionResult, or (left, right)
        ``"spectral"``: eight steps of a block power iteration on the matrix with zeros where nothing is known, from
        random columns; rows of the right factor longer than four times the average are shortened. ``"random"``:
        orthonormal columns. Of a result or a pair right alone is used: left is the first step.
    seed : int or numpy.random.Generator
        Of the start and the sketches.
    callback : callable, optional
        Gets a :class:`CompletionState` after every iteration; True stops.
    progress : bool
        A tqdm bar, if tqdm is installed: decades of the optimality.

    Returns
    -------
    CompletionResult

    Raises
    ------
    ValueError
        Lengths that differ, indices outside the shape, a rank outside it, NaN or Inf, ridge < 0.
    TypeError
        Indices that are no integers, values that are no floating-point numbers.
    RuntimeError
        CUDA arrays.

    Warns
    -----
    ConvergenceWarning
        ``optimality`` is above ``tol``.

    Notes
    -----
    An iteration reads every entry twice, along the rows and along the columns, and costs 2 k (k + 6) flops an entry and
    (m + n) k³/3. Residuals are computed as they are and regressions give corrections, so that the normal matrix's
    rounding slows steps but does not shift where they end. Between half steps the left factor is made orthonormal
    (ridge = 0), or both are balanced by the singular value decomposition of their product (ridge > 0). Memory: the
    entries twice, 16 bytes each (float64: 24), and four factors. The problem is not convex: with too few entries, less
    than some 2 k (m + n), or a poor rank a local minimum may be what is found.

    Sources: Jain, Netrapalli and Sanghavi 2013 (alternating minimisation, spectral start); Gu, Song, Yin and Zhang,
    arXiv 2302.11068 (regressions solved by sketched preconditioners).
    """
    function = "complete_matrix"
    require_one_framework(function, "values", values)
    if method not in _METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(_METHODS)}, got {method!r}")
    given = _core._as_numpy(as_array(values), function, "values")
    if given.ndim != 1:
        raise ValueError(f"{function}: values must have shape (count,), got {given.shape}")
    i, j = _indices(rows, function, "rows"), _indices(cols, function, "cols")
    for index, name in ((i, "rows"), (j, "cols")):
        if index.shape != given.shape:
            raise ValueError(f"{function}: {name} must have the shape of values, {given.shape}, got {index.shape}")
    try:
        m, n = (operator.index(size) for size in shape)
    except (TypeError, ValueError):
        raise ValueError(f"{function}: shape must be two integers, got {shape!r}") from None
    k, most = operator.index(rank), operator.index(max_iter)
    level = _LEVEL[given.dtype.name] if tol is None else float(tol)
    if not 0 < level < math.inf:
        raise ValueError(f"{function}: tol must be positive, got {tol!r}")
    penalty = float(ridge)
    if not 0 <= penalty < math.inf:
        raise ValueError(f"{function}: ridge must be finite and not negative, got {ridge!r}")
    if not 1 <= most < 2**31:
        raise ValueError(f"{function}: max_iter must be at least 1, got {max_iter!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"{function}: callback must be callable, got {type(callback).__name__}")
    start = _start(init, (m, n), k, function)
    key = as_key(seed, function=function)
    bar = Progress(progress, function)
    try:
        found = _core.complete_matrix(
            i,
            j,
            np.ascontiguousarray(given),
            m,
            n,
            k,
            penalty,
            level,
            most,
            key,
            init != "random" if isinstance(init, str) else True,
            _METHODS[method],
            start,
            None if callback is None and bar.silent else _hook(callback, bar, level),
        )
    finally:
        bar.close()
    like, dtype, status = like_of(values), given.dtype.name, found["status"]
    result = CompletionResult(
        left=back(found["left"], like, dtype),
        right=back(found["right"], like, dtype),
        residual=found["residual"],
        objective=found["objective"],
        optimality=found["optimality"],
        converged=status == "converged",
        status=status,
        iterations=found["iterations"],
        history=np.array(found["history"], dtype=_HISTORY),
        regressions={"qr": found["orthogonal"], "sketch": found["sketched"]},
        tol=level,
        ridge=penalty,
        _factors=(found["left"], found["right"]),
        _like=like,
        _dtype=dtype,
    )
    if not result.converged:
        warn_not_converged(function, status, result.optimality, level, _HINTS.get(status, ""))
    return result


def _indices(given: Any, function: str, name: str) -> npt.NDArray[np.int64]:
    if _core._is_cuda(given):
        raise RuntimeError(f"{function}: {name} is a CUDA array, but this function has no CUDA kernels yet")
    view = np.asarray(given)
    if view.ndim != 1:
        raise ValueError(f"{function}: {name} must have one axis, got shape {view.shape}")
    if view.size == 0:
        return np.empty(0, np.int64)
    if view.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} must be integers, got {view.dtype}")
    if view.dtype == np.uint64 and int(view.max()) >= 2**63:
        raise ValueError(f"{function}: {name} must lie inside the shape, got {view.max()}")
    return np.ascontiguousarray(view, dtype=np.int64)


def _start(init: Any, shape: tuple[int, int], rank: int, function: str) -> Doubles | None:
    if isinstance(init, str):
        if init not in _INITS:
            raise ValueError(f"{function}: init must be one of {', '.join(_INITS)}, a result or a pair, got {init!r}")
        return None
    pair = (init.left, init.right) if isinstance(init, CompletionResult) else init
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{function}: init must be a name, a CompletionResult or (left, right)")
    found = []
    for factor, name, size in zip(pair, ("left", "right"), shape, strict=True):
        view = _core._as_numpy(as_array(factor), function, "init")
        if view.shape != (size, rank):
            raise ValueError(f"{function}: init's {name} must have shape {(size, rank)}, got {view.shape}")
        if not np.isfinite(view).all():
            raise ValueError(f"{function}: init has NaN or Inf")
        found.append(np.ascontiguousarray(view, dtype=np.float64))
    if not found[1].any():
        raise ValueError(f"{function}: init's right must not be zeros: no step leaves them")
    return found[1]


def _hook(callback: Callable[[CompletionState], bool | None] | None, bar: Progress, tol: float) -> Callable[..., bool]:
    def hook(iteration: int, residual: float, optimality: float, seconds: float) -> bool:
        if optimality > 0:
            bar.left(max(math.log10(optimality / tol), 0.0))
        return False if callback is None else bool(callback(CompletionState(iteration, residual, optimality, seconds)))

    return hook
