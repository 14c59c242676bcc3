"""What the functions of :mod:`raphson.ot` share: reading a problem, one solve, its callback and its warning."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from raphson import _core
from raphson._frameworks import like_of
from raphson._point_cloud import PointCloud
from raphson._results import Progress, warn_not_converged
from raphson._transport import MASS_TOLERANCE, Problem, TransportResult, relaxations, start_of, weights_of
from raphson._transport_cuda import CudaProblem

__all__ = [
    "TransportState",
    "Watch",
    "hint",
    "iterations_of",
    "method_of",
    "read",
    "solve",
    "solve_all",
    "tolerance_of",
    "warn_unless_converged",
]

METHODS = ("auto", "sinkhorn", "sns", "ssns", "splr")
DEFAULT_TOL = {"float64": 1e-9, "float32": 1e-5}
DEFAULT_ITERATIONS = 10000


class TransportState(NamedTuple):
    """What a callback of :func:`sinkhorn` sees after every sweep; ``problem``: which one of a batch."""

    stage: str
    iteration: int
    marginal_error: float
    reg: float
    seconds: float
    problem: int = 0


def method_of(method: Any, function: str) -> int:
    if method not in METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(METHODS)}, got {method!r}")
    return METHODS.index(method)


def tolerance_of(tol: Any, dtype: str, function: str) -> float:
    if tol is None:
        return DEFAULT_TOL[dtype]
    value = float(tol)
    if not value > 0:
        raise ValueError(f"{function}: tol must be positive, got {tol}")
    return value


def iterations_of(max_iter: Any, function: str) -> int:
    if max_iter is None:
        return DEFAULT_ITERATIONS
    count = operator.index(max_iter)
    if not 1 <= count < 2**31:
        raise ValueError(f"{function}: max_iter must be at least 1, got {max_iter}")
    return count


def read(
    a: Any,
    b: Any,
    cost: Any,
    reg: Any,
    unbalanced: Any,
    check_finite: bool | None,
    function: str,
    *,
    part: int | None = None,
) -> tuple[Problem, str, Any]:
    """The problem, the dtype of its data, and the array whose framework results take (None: NumPy).

    ``part``: one of a batch, whose weights have been read; which of the costs, or -1 where there is one.
    """
    like: Any = cost.x if isinstance(cost, PointCloud) else cost
    on_device = _core._is_cuda(like)
    rows: Any = cost
    shape: tuple[int, ...]
    if isinstance(cost, PointCloud):
        shape, dtype = cost.shape, cost.dtype
    elif on_device:
        shape, dtype = _core._describe(cost, function, "cost")
        shape = shape[1:] if part is not None and part >= 0 else shape
    else:
        view = _core._as_numpy(cost, function, "cost")
        shape, dtype = view.shape, view.dtype.name
        rows = np.ascontiguousarray(view)
    if len(shape) != 2:
        raise ValueError(f"{function}: cost must have shape (n, m), got {shape}")
    n, m = shape
    for name, given in (("a", a), ("b", b)):
        if given is not None and part is None:
            _core._require_same(like, given, function, "cost", name)
    weights_a, dtype_a = weights_of(a, n, function, "a")
    weights_b, dtype_b = weights_of(b, m, function, "b")
    narrow = "float32" in (dtype, dtype_a, dtype_b)
    arguments = (
        weights_a,
        weights_b,
        rows,
        float(reg),
        relaxations(unbalanced, function),
        MASS_TOLERANCE["float32" if narrow else "float64"],
        function,
        bool(check_finite) if on_device else check_finite is not False,
    )
    problem = CudaProblem(*arguments, -1 if part is None else part) if on_device else Problem(*arguments)
    return problem, "float32" if narrow else "float64", like_of(like)


def hint(status: str, reg: float, span: float) -> str:
    """What to try, one sentence."""
    if status == "precision_floor":
        beside = f" beside costs up to {span:.3g}" if math.isfinite(span) else ""
        return f"This is what float64 reaches with reg {reg:.3g}{beside}; ask for a larger tol."
    if status == "infeasible":
        return "The pairs that cost=inf leaves cannot carry these marginals; allow more, or relax them by unbalanced=."
    if status == "breakdown":
        return "A number left the finite range; check_finite=True says whether the cost has NaN or -Inf, and where."
    if status == "stalled":
        return "Try method='sinkhorn' from this result (init=), or a larger reg."
    return "Try method='auto', a larger max_iter, or init= from a solve with larger reg."


def solve(
    function: str,
    a: Any,
    b: Any,
    cost: Any,
    reg: float,
    method: str,
    tol: float | None,
    max_iter: int | None,
    init: Any,
    unbalanced: Any,
    callback: Callable[[TransportState], bool | None] | None,
    progress: bool,
    check_finite: bool | None,
) -> TransportResult:
    """One problem, solved without a warning."""
    problem, dtype, like = read(a, b, cost, reg, unbalanced, check_finite, function)
    number, level, most = (
        method_of(method, function),
        tolerance_of(tol, dtype, function),
        iterations_of(max_iter, function),
    )
    f, g = start_of(init, problem, function)
    problem.core()  # checks the rest, before anything shows on the screen
    with Watch(callback, progress, level, function) as watch:
        found = problem.solve(number, level, most, (f, g), watch.hook)
    return TransportResult._from_core(problem, found, level, like)


def warn_unless_converged(function: str, *results: TransportResult) -> None:
    """The one warning of a call of several solves: that of the worst."""
    left = [result for result in results if not result.converged]
    if left:
        worst = max(left, key=lambda result: float(result.marginal_error))
        what = hint(worst.status, worst.reg, worst._need(function).span())
        warn_not_converged(function, worst.status, float(worst.marginal_error), worst.tol, what, stacklevel=4)


def solve_all(
    problems: Sequence[Problem], number: int, level: float, most: int, starts: list[tuple[Any, Any]], watch: Watch
) -> list[dict[str, Any]]:
    """Problems of a batch: one a thread, or one after another where somebody watches."""
    for problem in problems:  # what is wrong with any is said before any is solved
        problem.core()
    if watch.hook is None:
        return type(problems[0]).solve_batch(problems, number, level, most, starts) if problems else []
    found = []
    for k, (problem, start) in enumerate(zip(problems, starts, strict=True)):
        watch.problem = k
        found.append(problem.solve(number, level, most, start, watch.hook))
    return found


class Watch:
    """The caller's callback and a progress bar, as one hook for the core; of ``count`` problems after another."""

    def __init__(
        self,
        callback: Callable[[TransportState], bool | None] | None,
        progress: bool,
        tol: float,
        name: str = "sinkhorn",
        count: int = 1,
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"{name}: callback must be callable, got {type(callback).__name__}")
        self._callback, self._tol, self._bar, self._count = callback, tol, Progress(progress, name), count
        self._stopped, self.problem = False, 0

    @property
    def hook(self) -> Callable[..., bool] | None:
        return None if self._callback is None and self._bar.silent else self._call

    def _call(self, stage: str, iteration: int, error: float, reg: float, seconds: float) -> bool:
        if 0 < error < math.inf:
            whole = max(math.log10(2 / self._tol), 0.0)
            mine = max(math.log10(error / self._tol), 0.0)
            left = mine if self._count == 1 else min(mine, whole) + (self._count - 1 - self.problem) * whole
            self._bar.left(left, error=f"{error:.1e}", reg=f"{reg:.2g}")
        if self._callback is not None and not self._stopped:
            state = TransportState(stage, iteration, error, reg, seconds, self.problem)
            self._stopped = bool(self._callback(state))
        return self._stopped

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
