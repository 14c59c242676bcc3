"""Quadratically regularised and cardinality-constrained transport: the solve and its result."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import back
from raphson._ot_solve import TransportState, Watch, iterations_of, read, tolerance_of
from raphson._point_cloud import PointCloud
from raphson._transport import DENSE_LIMIT, HISTORY, Problem, start_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

__all__ = ["SparseTransportResult", "solve_sparse"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class SparseTransportResult:
    """A transport plan with zeros, P = max(f⊕g − C, 0)/reg, kept by its entries; it does not need the cost any more.

    Attributes
    ----------
    f, g : array (n,), (m,)
        Potentials, float64, in units of the cost, in the cost's framework; −Inf where the weight is zero. ⟨a, f⟩ =
        ⟨b, g⟩ over positive weights, in each connected part of the allowed pairs. With a cardinality P is
        max(f⊕g − C, 0)/reg on the entries that are kept.
    marginal_error : float
        ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ of the plan as it is kept here, in float64. One side is exact to rounding: the rows
        without a cardinality, the columns with one.
    converged, status : bool, str
        Whether ``marginal_error`` is within the tolerance; one of :data:`raphson._results.STATUSES`. With a cardinality
        that binds ``stalled`` is usual, and ``dual_bound`` tells whether the dual was solved.
    iterations, newton_iterations, cg_iterations : int
        Passes over the cost; accepted Newton steps; conjugate gradient steps in them.
    cost : float
        ⟨P, C⟩.
    objective, dual_objective, duality_gap : float
        ⟨P, C⟩ + reg/2·‖P‖², ⟨a, f⟩ + ⟨b, g⟩ − reg/2·‖P‖², their difference: of a plan whose marginals are off, as with
        a cardinality they may stay, it may be negative.
    dual_bound : float
        The dual's maximum lies between ``dual_objective`` and this, measured: ⟨P, C⟩ + reg/2·‖P‖² of the plan, or of
        a plan of the limited problem's convex hull (there Σ P²/ζ with 0 ≤ ζ ≤ 1 and Σζ ≤ k in every column takes the
        place of ‖P‖²), plus what its marginals lack times the range of the potentials. +Inf of an infeasible problem.
    nnz : int
        Entries of the plan that are not zero.
    history : structured array
        One entry a pass: ``stage``, ``marginal_error``, ``seconds``, and ``reg`` of the continuation. With a
        cardinality the error is that of the plan with at most so many entries, whose ties are not yet chosen to fit.
    row_marginal, column_marginal : array (n,), (m,)
        P1 and Pᵀ1.
    """

    f: Any
    g: Any
    marginal_error: Any
    converged: bool
    status: str
    iterations: int
    newton_iterations: int
    cg_iterations: int
    cost: Any
    objective: Any
    dual_objective: Any
    dual_bound: Any
    duality_gap: Any
    history: npt.NDArray[np.void]
    row_marginal: Any
    column_marginal: Any
    reg: float
    tol: float
    cardinality: int | None
    _f: Doubles = field(repr=False)
    _g: Doubles = field(repr=False)
    _starts: npt.NDArray[np.int64] = field(repr=False)  # (n + 1,): of the rows among the entries
    _index: npt.NDArray[np.int32] = field(repr=False)
    _values: Doubles = field(repr=False)
    _dtype: str = field(repr=False, default="float64")
    _like: Any = field(repr=False, default=None)

    @property
    def nnz(self) -> int:
        return len(self._values)

    @property
    def plan(self) -> Any:
        """P, dense (n, m), in the cost's dtype. MemoryError above 4 GiB; :meth:`sparse_plan` needs none of it."""
        n, m = len(self._f), len(self._g)
        if 8 * n * m > DENSE_LIMIT:
            raise MemoryError(f"the plan would take {8 * n * m / 2**30:.1f} GiB; use sparse_plan()")
        plan = np.zeros((n, m))
        plan[np.repeat(np.arange(n), np.diff(self._starts)), self._index] = self._values
        return back(plan, self._like, self._dtype)

    def sparse_plan(self, max_dropped_mass: float = 0.0) -> csr_array:
        """P as a SciPy CSR array, float64, without its smallest entries, of at most ``max_dropped_mass`` together.

        ``.dropped_mass`` of the result is what was.
        """
        from scipy.sparse import csr_array

        most = float(max_dropped_mass)
        if not most >= 0:
            raise ValueError(f"sparse_plan: max_dropped_mass must not be negative, got {max_dropped_mass}")
        shape = (len(self._f), len(self._g))
        order = np.argsort(self._values, kind="stable")
        sums = np.cumsum(self._values[order])
        count = int(np.searchsorted(sums, most, side="right")) if most > 0 else 0
        keep = np.ones(self.nnz, dtype=bool)
        keep[order[:count]] = False
        starts = np.concatenate([[0], np.cumsum(keep)])[self._starts]
        plan = csr_array((self._values[keep], self._index[keep], starts), shape=shape)
        plan.dropped_mass = float(sums[count - 1]) if count else 0.0
        return plan

    def __repr__(self) -> str:
        limit = "" if self.cardinality is None else f", at most {self.cardinality} a column"
        return (
            f"SparseTransportResult({len(self._f)} × {len(self._g)}, reg {self.reg:.3g}{limit}: {self.status}, "
            f"marginal error {float(self.marginal_error):.2e} (tol {self.tol:.0e}), {self.iterations} passes, "
            f"{self.nnz} entries, cost {float(self.cost):.6g})"
        )


def _transposed(problem: Problem) -> Problem:
    cost: Any = problem.cost
    if isinstance(cost, PointCloud):
        turned: Any = PointCloud(cost.y, cost.x, metric=cost.metric, scale=cost.scale)
    else:
        turned = np.ascontiguousarray(cost.T)
    core = problem.core()  # has checked, and made the masses equal
    return Problem(
        core.weights(True), core.weights(False), turned, problem.reg, problem.rho, 1e-6, problem.function, False
    )


def _other_way(
    starts: npt.NDArray[np.int64], index: npt.NDArray[np.int32], values: Doubles, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], Doubles]:
    """Entries by columns for entries by rows."""
    order = np.argsort(index, kind="stable")
    rows = np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
    begins = np.concatenate([[0], np.cumsum(np.bincount(index, minlength=size))]).astype(np.int64)
    return begins, rows[order], values[order]


def solve_sparse(
    function: str,
    a: Any,
    b: Any,
    cost: Any,
    reg: Any,
    cardinality: Any,
    tol: float | None,
    max_iter: int | None,
    init: Any,
    callback: Callable[[TransportState], bool | None] | None,
    progress: bool,
    check_finite: bool | None,
) -> SparseTransportResult:
    """One problem, solved without a warning."""
    if _core._is_cuda(cost.x if isinstance(cost, PointCloud) else cost):
        raise RuntimeError(f"{function}: CUDA arrays are not supported; move a, b and cost to the CPU")
    limit = None if cardinality is None else operator.index(cardinality)
    if limit is not None and limit < 1:
        raise ValueError(f"{function}: cardinality must be at least 1, got {cardinality}")
    problem, dtype, like = read(a, b, cost, reg, None, check_finite, function)
    level, most = tolerance_of(tol, dtype, function), iterations_of(max_iter, function)
    pair: Any = (init._f, init._g) if isinstance(init, SparseTransportResult) else init
    start = start_of(pair, problem, function)
    weights = problem.core().weights(False), problem.core().weights(True)
    n, m = problem.shape
    # the limited side is the one that is projected, row by row of what the core sees
    turned = limit is not None and limit < n
    solved = _transposed(problem) if turned else problem
    solved.core()
    with Watch(callback, progress, level, function) as watch:
        found = solved.core().quadratic(limit or 0 if turned else 0, level, most, start[0 if turned else 1], watch.hook)
    f, g = (found["g"], found["f"]) if turned else (found["f"], found["g"])
    ends, index, values, _ = found["plan"]
    starts = np.concatenate([[0], ends]).astype(np.int64)
    if turned:
        starts, index, values = _other_way(starts, index, values, n)
    rows = np.repeat(np.arange(n), np.diff(starts))
    linear, square = found["cost"], 0.5 * float(reg) * found["squares"]
    dual = sum(float(w[w > 0] @ x[w > 0]) for w, x in zip(weights, (f, g), strict=True)) - square
    return SparseTransportResult(
        f=back(f, like),
        g=back(g, like),
        marginal_error=back(found["marginal_error"], like),
        converged=found["status"] == "converged",
        status=found["status"],
        iterations=found["iterations"],
        newton_iterations=found["newton_iterations"],
        cg_iterations=found["cg_iterations"],
        cost=back(linear, like),
        objective=back(linear + square, like),
        dual_objective=back(dual, like),
        dual_bound=back(max(found["bound"], dual), like),
        duality_gap=back(linear + square - dual, like),
        history=np.array([(s, e, t, r) for s, e, r, t in found["history"]], dtype=HISTORY),
        row_marginal=back(np.bincount(rows, values, minlength=n), like),
        column_marginal=back(np.bincount(index, values, minlength=m), like),
        reg=float(reg),
        tol=level,
        cardinality=limit,
        _f=f,
        _g=g,
        _starts=starts,
        _index=index,
        _values=values,
        _dtype=problem.dtype,
        _like=like,
    )
