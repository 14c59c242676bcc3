"""The problem and the result of :func:`raphson.ot.sinkhorn`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import back, like_of
from raphson._point_cloud import PointCloud, host
from raphson._rows import ENTRIES_AT_A_TIME

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

Doubles = npt.NDArray[np.float64]
Matrix = npt.NDArray[Any]

DENSE_LIMIT = 4 << 30  # bytes
HISTORY = np.dtype([("stage", "U12"), ("marginal_error", "f8"), ("seconds", "f8"), ("reg", "f8")])
MASS_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}  # of equal masses, relative


def weights_of(given: Any, size: int, function: str, name: str) -> tuple[Doubles, str]:
    """Weights in float64, and the dtype they came in; None is uniform."""
    if given is None:
        return np.full(size, 1.0 / size if size else 0.0), "float64"
    view = host(given, function, name)
    if view.ndim != 1:
        raise ValueError(f"{function}: {name} must have shape ({size},), got {view.shape}")
    return np.ascontiguousarray(view, dtype=np.float64), view.dtype.name


def relaxations(unbalanced: Any, function: str) -> tuple[float, float]:
    if unbalanced is None:
        return math.inf, math.inf
    if isinstance(unbalanced, (tuple, list)):
        if len(unbalanced) != 2:
            raise ValueError(f"{function}: unbalanced must be a number or a pair, got {unbalanced!r}")
        rho = math.inf if unbalanced[0] is None else float(unbalanced[0])
        return rho, math.inf if unbalanced[1] is None else float(unbalanced[1])
    return float(unbalanced), float(unbalanced)


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that defines a transport problem, in NumPy; the compiled twin is made when it is needed."""

    a: Doubles
    b: Doubles
    cost: Matrix | PointCloud  # C-contiguous, float64 or float32
    reg: float
    rho: tuple[float, float]
    mass_tolerance: float
    function: str = "sinkhorn"
    check_finite: bool = True

    def core(self) -> _core.Transport:
        made: _core.Transport | None = self.__dict__.get("_made")
        if made is None:
            cost = self.cost
            made = _core.Transport(
                self.function,
                self.a,
                self.b,
                None if isinstance(cost, PointCloud) else cost,
                cost._core_arguments() if isinstance(cost, PointCloud) else None,
                self.reg,
                self.rho[0],
                self.rho[1],
                self.mass_tolerance,
                self.check_finite,
            )
            object.__setattr__(self, "_made", made)
        return made

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    @property
    def dtype(self) -> str:
        """Of the cost or of the points: that of plans, maps and gradients."""
        return self.cost.dtype if isinstance(self.cost, PointCloud) else self.cost.dtype.name

    def span(self) -> float:
        """The largest finite cost by size; NaN of points."""
        if isinstance(self.cost, PointCloud):
            return math.nan
        finite = self.cost[np.isfinite(self.cost)]
        return float(np.abs(finite).max()) if finite.size else 0.0

    def solve(
        self, method: int, tol: float, most: int, start: tuple[Any, Any], hook: Callable[..., bool] | None
    ) -> dict[str, Any]:
        return self.core().solve(method, tol, most, *start, hook)

    @staticmethod
    def solve_batch(
        problems: Sequence[Problem], method: int, tol: float, most: int, starts: list[tuple[Any, Any]]
    ) -> list[dict[str, Any]]:
        return _core.Transport.solve_batch([problem.core() for problem in problems], method, tol, most, starts)

    def dense(self, f: Doubles, g: Doubles, like: Any) -> Any:
        return back(self.core().rows(f, g, 0, self.shape[0]), like, self.dtype)

    def apply(self, f: Doubles, g: Doubles, transpose: bool, v: Any) -> Any:
        size = self.shape[0 if transpose else 1]
        given = _core._as_numpy(v, "apply", "v")
        require_vectors(given.shape, size)
        if not np.isfinite(given).all():
            raise ValueError("apply: v has NaN or Inf")
        matrix = np.ascontiguousarray(given.reshape(size, -1), dtype=np.float64)
        out = self.core().apply(f, g, transpose, matrix)
        like = like_of(v)
        return back(out.reshape(out.shape[0], *given.shape[1:]), like, given.dtype.name)

    def map(self, g: Doubles, points: Matrix) -> Doubles:
        cloud = self.cost
        assert isinstance(cloud, PointCloud)
        y = cloud._read("y").astype(np.float64)
        with np.errstate(divide="ignore"):
            base = np.where(self.b > 0, g / self.reg + np.log(self.b), -np.inf)
        out = np.empty((len(points), cloud.dim))
        step = max(1, ENTRIES_AT_A_TIME // max(len(y), 1))
        for begin in range(0, len(points), step):
            rows = base - cloud.rows(begin, begin + step, x=points) / self.reg
            rows = np.exp(rows - rows.max(axis=1, keepdims=True))
            out[begin : begin + step] = rows @ y / rows.sum(axis=1, keepdims=True)
        return out

    def rounded(self, f: Doubles, g: Doubles, like: Any) -> tuple[Any, float, tuple[int, int] | None]:
        """The rounded plan, what scaling left to be added, and the forbidden pair that would have to take some."""
        a, b = self.core().weights(False), self.core().weights(True)
        plan = self.core().rows(f, g, 0, len(a))
        with np.errstate(divide="ignore", invalid="ignore"):
            plan *= np.where(plan.sum(axis=1) > a, a / plan.sum(axis=1), 1.0)[:, None]
            plan *= np.where(plan.sum(axis=0) > b, b / plan.sum(axis=0), 1.0)[None, :]
        left, right = np.maximum(a - plan.sum(axis=1), 0), np.maximum(b - plan.sum(axis=0), 0)
        missing = float(left.sum())
        if missing > 0 and right.sum() > 0:
            if not isinstance(self.cost, PointCloud):
                forbidden = np.isinf(self.cost) & (left > 0)[:, None] & (right > 0)[None, :]
                if forbidden.any():
                    i, j = np.argwhere(forbidden)[0]
                    return None, missing, (i, j)
            plan += np.outer(left, right / right.sum())
        return back(plan, like, self.dtype), missing, None

    def plan_weights(self, cost_weight: float, plan_bar: Any) -> Any:
        """What :func:`raphson._transport_vjp.vjp` asks of W = cost_weight·C + plan_bar: see ``PlanWeights`` there."""
        from raphson._transport_vjp import PlanWeights

        return PlanWeights(self, cost_weight, plan_bar)

    def blocks(self) -> list[tuple[int, int]]:
        """Rows of the plan that exist at a time: begin, end."""
        n, m = self.shape
        step = max(1, ENTRIES_AT_A_TIME // max(m, 1))
        return [(k, min(k + step, n)) for k in range(0, n, step)]

    def cost_rows(self, begin: int, end: int) -> Matrix:
        return self.cost.rows(begin, end) if isinstance(self.cost, PointCloud) else self.cost[begin:end]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_made"}


def require_vectors(shape: tuple[int, ...], size: int) -> None:
    if len(shape) not in (1, 2) or shape[0] != size:
        raise ValueError(f"apply: v must have shape ({size},) or ({size}, k), got {shape}")


def _kl(left: Doubles, right: Doubles) -> float:
    """Generalised KL of nonnegative vectors; 0·log 0 is 0."""
    used = left > 0
    return float(np.sum(left[used] * np.log(left[used] / right[used])) - left.sum() + right.sum())


@dataclass(frozen=True, eq=False, repr=False)
class TransportResult:
    """An entropic transport plan P = a⊗b·exp((f⊕g − C)/reg), by its potentials, and how well it fits.

    Attributes
    ----------
    f, g : array (n,), (m,)
        Potentials, float64, in units of the cost, in the cost's framework; −Inf where the weight is zero. Balanced:
        ⟨a, f⟩ = ⟨b, g⟩ over positive weights, in each connected part of the allowed pairs.
    marginal_error : float
        ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ of this P, measured on f and g as they are here, in float64; with ``unbalanced`` the L1
        optimality residual ‖P1 − a·exp(−f/ρ)‖₁ + ….
    converged, status : bool, str
        Whether ``marginal_error`` is within the tolerance; one of :data:`raphson._results.STATUSES`.
    iterations, newton_iterations, cg_iterations : int
        Sweeps over the cost (or over the kernel); accepted Newton steps; conjugate gradient steps in them.
    cost : float
        ⟨P, C⟩.
    objective, dual_objective, duality_gap : float
        ⟨P, C⟩ + reg·KL(P | a⊗b) + Σ ρ·KL(marginal | target) (generalised KL), the dual value, their difference.
    history : structured array
        One entry a sweep: ``stage``, ``marginal_error``, ``seconds``, and ``reg`` of the continuation.
    row_marginal, column_marginal : array (n,), (m,)
        P1 and Pᵀ1.

    Notes
    -----
    ``plan``, ``apply``, ``map``, ``sparse_plan``, ``rounded_plan`` and ``vjp`` read the cost when they are called: it
    must not be modified meanwhile. ``detach()`` drops it. Of a CUDA cost all of them run on its device; ``apply`` takes
    an exponential an entry for every vector, ``map`` returns by way of the host, and ``sparse_plan`` has host arrays.
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
    duality_gap: Any
    history: npt.NDArray[np.void]
    row_marginal: Any
    column_marginal: Any
    reg: float
    tol: float
    _problem: Problem | None = field(repr=False)
    _f: Doubles = field(repr=False)
    _g: Doubles = field(repr=False)
    _like: Any = field(repr=False, default=None)

    # ---- making one ----------------------------------------------------------------------------------------
    @classmethod
    def _from_core(cls, problem: Problem, found: dict[str, Any], tol: float, like: Any) -> TransportResult:
        f, g, rows, columns = found["f"], found["g"], found["row_marginal"], found["column_marginal"]
        a, b = problem.core().weights(False), problem.core().weights(True)
        used_a, used_b = a > 0, b > 0
        reg, (rho_a, rho_b) = problem.reg, problem.rho
        mass, product = float(rows.sum()), float(a.sum() * b.sum())
        cost = found["cost"] if math.isfinite(mass) else math.nan  # its sum passes over entries that are NaN
        # reg·KL(P | a⊗b) = ⟨P, f⊕g − C⟩ + reg·(Σa·Σb − ΣP), by the form of P
        primal = float(rows[used_a] @ f[used_a] + columns[used_b] @ g[used_b]) + reg * (product - mass)
        dual = reg * (product - mass)
        for weight, potential, marginal, rho in (
            (a[used_a], f[used_a], rows[used_a], rho_a),
            (b[used_b], g[used_b], columns[used_b], rho_b),
        ):
            if math.isinf(rho):
                dual += float(weight @ potential)
            else:
                primal += rho * _kl(marginal, weight)
                dual -= rho * float(weight @ np.expm1(-potential / rho))
        history = np.array([(s, e, t, r) for s, e, r, t in found["history"]], dtype=HISTORY)
        return cls(
            f=back(f, like),
            g=back(g, like),
            marginal_error=back(found["marginal_error"], like),
            converged=found["status"] == "converged",
            status=found["status"],
            iterations=found["iterations"],
            newton_iterations=found["newton_iterations"],
            cg_iterations=found["cg_iterations"],
            cost=back(cost, like),
            objective=back(primal, like),
            dual_objective=back(dual, like),
            duality_gap=back(primal - dual, like),
            history=history,
            row_marginal=back(rows, like),
            column_marginal=back(columns, like),
            reg=reg,
            tol=tol,
            _problem=problem,
            _f=f,
            _g=g,
            _like=like,
        )

    # ---- the plan ------------------------------------------------------------------------------------------
    def _need(self, what: str) -> Problem:
        if self._problem is None:
            raise ValueError(f"TransportResult.{what}: the cost was dropped by detach()")
        return self._problem

    @property
    def plan(self) -> Any:
        """P, dense (n, m), in the cost's dtype, built on first use. MemoryError above 4 GiB: see :meth:`dense`."""
        kept = self.__dict__.get("_plan")
        if kept is None:
            kept = self.dense()
            object.__setattr__(self, "_plan", kept)
        return kept

    def dense(self, *, force: bool = False) -> Any:
        """P, dense (n, m). MemoryError above 4 GiB unless ``force``; ``apply`` and ``sparse_plan`` need no plan."""
        n, m = self._need("dense").shape
        if 8 * n * m > DENSE_LIMIT and not force:
            raise MemoryError(
                f"the plan would take {8 * n * m / 2**30:.1f} GiB; use apply() or sparse_plan(), or dense(force=True)"
            )
        return self._need("dense").dense(self._f, self._g, self._like)

    def apply(self, v: Any, *, transpose: bool = False) -> Any:
        """P v, or Pᵀ v, without P, in v's dtype: v of shape (m,) or (m, k), or (n, …); summed in float64.

        One exponential an entry for all vectors (transposed: for eight of them).
        """
        return self._need("apply").apply(self._f, self._g, transpose, v)

    def map(self, x_new: Any = None) -> Any:
        """Barycentric projection of a ``PointCloud``: where the mass at each point goes, on average.

        Parameters
        ----------
        x_new : array (k, d), optional
            Points outside the sample: the entropic map Σⱼ bⱼ exp((gⱼ − c(x, yⱼ))/reg) yⱼ, normalised.

        Returns
        -------
        array (n, d) or (k, d)
            Rows of weight zero are mapped as points outside the sample.
        """
        cloud = self._need("map").cost
        if not isinstance(cloud, PointCloud):
            raise ValueError(
                "map: needs a PointCloud, whose points it averages; for a dense cost use apply(y) / row_marginal"
            )
        points = cloud._read("x") if x_new is None else host(x_new, "map", "x_new")
        if points.ndim != 2 or points.shape[1] != cloud.dim:
            raise ValueError(f"map: x_new must have shape (k, {cloud.dim}), got {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("map: x_new has NaN or Inf")
        out = self._need("map").map(self._g, points)
        like = self._like if x_new is None else like_of(x_new)
        return back(out, like, points.dtype.name)

    def sparse_plan(self, max_dropped_mass: float) -> csr_array:
        """The largest entries of P as a SciPy CSR array; what is left out weighs at most ``max_dropped_mass``.

        Entries are dropped by their size in powers of two, the smallest first. ``.dropped_mass`` of the result is
        what was (of a CUDA cost, whose entries are found on its device, up to 4e-9 of it more).
        """
        from scipy.sparse import csr_array

        most = float(max_dropped_mass)
        if not most >= 0:
            raise ValueError(f"sparse_plan: max_dropped_mass must not be negative, got {max_dropped_mass}")
        problem = self._need("sparse_plan")
        ends, index, values, dropped = problem.core().sparse(self._f, self._g, most)
        plan = csr_array((values, index, np.concatenate([[0], ends])), shape=problem.shape)
        plan.dropped_mass = dropped
        return plan

    def rounded_plan(self) -> Any:
        """A dense plan with the marginals a and b to the last bits of the cost's dtype.

        Source: Altschuler, Weed, Rigollet 2017, algorithm 2.

        Rows, then columns that weigh too much are scaled down, and what is missing is added as a rank-one plan: it
        moves at most 2·marginal_error of mass. ValueError if that would use a forbidden pair, or without exact
        marginals.
        """
        problem = self._need("rounded_plan")
        if not all(math.isinf(rho) for rho in problem.rho):
            raise ValueError("rounded_plan: only balanced plans have marginals to be rounded to")
        n, m = problem.shape
        if 8 * n * m > DENSE_LIMIT:
            self.dense()  # says what it would take
        plan, missing, pair = problem.rounded(self._f, self._g, self._like)
        if pair is not None:
            raise ValueError(
                f"rounded_plan: the missing mass {missing:.3g} would have to use forbidden pairs, such as"
                f" ({pair[0]}, {pair[1]}); solve to a smaller tol"
            )
        return plan

    def detach(self) -> TransportResult:
        """The same result without the cost: small, and safe when the cost changes."""
        return replace(self, _problem=None)

    # ---- gradients -----------------------------------------------------------------------------------------
    def vjp(self, plan_bar: Any = None, cost_bar: Any = None, objective_bar: Any = None) -> dict[str, Any]:
        """Gradients of a scalar L through this solution: :func:`raphson._transport_vjp.vjp` has the details."""
        from raphson._transport_vjp import vjp

        return vjp(self, plan_bar, cost_bar, objective_bar)

    # ---- as an object --------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for key, value in state.items():
            object.__setattr__(self, key, value)

    def __repr__(self) -> str:
        return (
            f"TransportResult({len(self._f)} × {len(self._g)}, reg {self.reg:.3g}: {self.status}, marginal error "
            f"{float(self.marginal_error):.2e} (tol {self.tol:.0e}), {self.iterations} sweeps, "
            f"{self.newton_iterations} Newton steps, cost {float(self.cost):.6g})"
        )


def start_of(init: Any, problem: Problem, function: str) -> tuple[Any, Any]:
    """f and g to start from, None where there are none."""
    if init is None:
        return None, None
    if isinstance(init, TransportResult):
        pair: Any = (init._f, init._g)
    else:
        if not isinstance(init, (tuple, list)) or len(init) != 2:
            raise TypeError(f"{function}: init must be (f, g) or a TransportResult, got {type(init).__name__}")
        pair = init
    values: list[Any] = []
    for name, given, size in (("f", pair[0], problem.shape[0]), ("g", pair[1], problem.shape[1])):
        if given is None:
            values.append(None)
            continue
        view = host(given, function, f"init {name}")
        if view.shape != (size,):
            raise ValueError(f"{function}: init {name} must have shape ({size},), got {view.shape}")
        value = np.ascontiguousarray(view, dtype=np.float64)
        if np.isnan(value).any() or (value == math.inf).any():
            raise ValueError(f"{function}: init {name} has NaN or Inf")
        values.append(value)
    return values[0], values[1]
