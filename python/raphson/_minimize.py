"""Newton methods for smooth functions, with or without equality constraints."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._constraints import Derivatives, Equality, gather
from raphson._constraints import check_derivatives as _check
from raphson._frameworks import back, like_of
from raphson._kkt import KKT_METHODS
from raphson._results import warn_not_converged
from raphson._seed import Seed, as_key

__all__ = ["Equality", "MinimizeResult", "MinimizeState", "minimize"]

Doubles = npt.NDArray[np.float64]

_METHODS = {"auto": 0, "gns": 1, "lazy": 2, "damped": 3, "adasketch": 4}
_RULES = {"practical": 0, "paper": 1}
_OPTIONS = ("max_iter", "maxiter", "inner_max_iter", "multipliers", "period", "order")
_MESSAGES = {
    "converged": "First-order conditions hold to the tolerance.",
    "max_iter": "The iteration limit was reached.",
    "stalled": "No step lowers the merit function any more.",
    "stopped": "The callback ended the run.",
    "infeasible": "A stationary point of the constraints' violation was found where they do not hold.",
    "breakdown": "The function is unbounded below, or left the finite numbers.",
    "precision_floor": "The tolerance is below what rounding allows.",
}
_HINTS = {
    "max_iter": "Raise options={'max_iter': ...}.",
    "precision_floor": "This is what float64 reaches: an ulp of x changes the residual as much; ask for a larger tol.",
    "stalled": "Try check_derivatives=True, a larger tol, or another start.",
    "infeasible": "Check the constraints, or start elsewhere.",
    "breakdown": "Check that a minimiser exists.",
    "stopped": "The callback ended the run.",
}


@dataclass(frozen=True)
class MinimizeState:
    """What a callback sees after every step; ``step`` is its length, or with constraints the line search's factor."""

    iteration: int
    x: Doubles
    fun: float
    optimality: float
    constraint_violation: float
    multipliers: Doubles
    step: float


@dataclass(frozen=True, eq=False, repr=False)
class MinimizeResult:
    """Where a minimisation ended; fields can be read as items too, as SciPy's OptimizeResult.

    Attributes
    ----------
    x : array (n,)
        In x0's framework; float64, as the functions saw it.
    fun : float
    success, status, message : bool, str, str
        ``success`` only if optimality and constraint_violation, measured at x, are within tol (rule="paper": if
        ‖(∇L, c)‖₂ is). status: one of :data:`raphson._results.STATUSES`.
    nit, nfev, njev, nhev, nhvp : int
        Iterations; calls of fun, jac, hess and hessp (of constraints: whichever was
        called more; not counted is the one call of a constraint's fun that finds how many there are).
    multipliers : array (m,)
        Of the Lagrangian fun + multipliersᵀ c.
    optimality : float
        ‖∇L‖∞ / max(1, ‖multipliers‖∞); the gradient's largest entry without constraints.
    constraint_violation : float
        ‖c‖∞.
    indefinite : bool
        The Hessian at x has a negative eigenvalue, but fun does not fall along its direction.
    factorisations, inner_iterations, restorations : int
        Factors made; steps of the inner solver; how often violation alone was minimised.
    method : str
        The one that ran.
    """

    x: Any
    fun: float
    success: bool
    status: str
    message: str
    nit: int
    nfev: int
    njev: int
    nhev: int
    nhvp: int
    multipliers: Doubles
    constraint_violation: float
    optimality: float
    indefinite: bool
    factorisations: int
    inner_iterations: int
    restorations: int
    method: str
    tol: float

    @property
    def converged(self) -> bool:
        return self.success

    @property
    def iterations(self) -> int:
        return self.nit

    def keys(self) -> Iterator[str]:
        return (f.name for f in fields(self))

    __iter__ = keys

    def __len__(self) -> int:
        return len(fields(self))

    def __contains__(self, name: object) -> bool:
        return name in list(self.keys())

    def values(self) -> Iterator[Any]:
        return (self[name] for name in self.keys())

    def items(self) -> Iterator[tuple[str, Any]]:
        return ((name, self[name]) for name in self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name) if name in self.keys() else default

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def __repr__(self) -> str:
        return (
            f"MinimizeResult({self.method}, x of shape {tuple(self.x.shape)}, {self.status}, fun={self.fun:.6g}, "
            f"optimality={self.optimality:.2g}, constraint_violation={self.constraint_violation:.2g}, nit={self.nit}, "
            f"nfev={self.nfev})"
        )


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    *,
    jac: Callable[..., Any] | bool,
    hess: Callable[..., Any] | None = None,
    hessp: Callable[..., Any] | None = None,
    method: str = "auto",
    constraints: Any = (),
    tol: float = 1e-8,
    callback: Callable[[MinimizeState], bool | None] | None = None,
    options: dict[str, Any] | None = None,
    check_derivatives: bool = False,
    seed: Seed = 0,
    rule: str = "practical",
    inner: str = "ldlt",
    bounds: None = None,
) -> MinimizeResult:
    """Minimise fun(x), subject to equality constraints, by Newton steps.

    Parameters
    ----------
    fun : callable
        fun(x, *args) → float; (value, gradient) with jac=True. x is a fresh NumPy float64 array (n,). NaN or Inf
        shortens the step.
    x0 : array (n,)
    args : tuple
        Further arguments of fun, jac, hess and hessp.
    jac : callable or True
        Gradient (n,).
    hess : callable, optional
        Hessian (n, n), dense or SciPy sparse; its upper triangle is read. Without hess and hessp: central differences
        of jac, 2n calls for each Hessian. May be an approximation (Gauss–Newton, sampled).
    hessp : callable, optional
        hessp(x, v, *args) → ∇²f(x) v, instead of hess: conjugate gradients in a trust region, no matrix. With
        constraints or adasketch the matrix is assembled from n products.
    method : str
        ``"gns"``: (H + λI) step = −g, λ = ‖g‖/γ with a γ that adapts: global convergence, quadratic at the end.
        ``"lazy"``: the same, Hessian and factors kept for several steps: as many as the measured cost of a Hessian is
        worth in steps (so the path can differ from run to run; options={"period": k} fixes it). ``"damped"``: Newton
        steps whose length follows from the decrement (convex functions; options={"order": q}: 2 for O(k⁻²), up to 4 for
        nearly O(k⁻³)). ``"adasketch"``: with constraints, Newton steps on the optimality conditions, an exact augmented
        Lagrangian as merit function. ``"auto"``: adasketch with constraints, else gns.
    constraints : Equality, or SciPy's LinearConstraint or NonlinearConstraint with lb == ub, or a list of them
    tol : float
        Of max(optimality, constraint_violation).
    callback : callable, optional
        Gets a :class:`MinimizeState` after every step; True, or StopIteration, stops.
    options : dict, optional
        ``max_iter`` (1000), ``inner_max_iter`` (100000), ``multipliers`` to start from (m,), ``period``, ``order``.
    check_derivatives : bool
        Compare every derivative with central differences near x0 first.
    seed : int or numpy.random.Generator
        Of sketches, and of the directions in which hessp looks for negative curvature.
    rule : str
        ``"practical"``: inner residuals of at most 0.1 of the conditions' and smaller near the solution, or where a
        step would not descend. ``"paper"``: AdaSketch-Newton's condition, starting multipliers 0, ‖(∇L, c)‖₂ ≤ tol.
    inner : str
        Solver of the Newton system: as ``method`` of :func:`solve_kkt`. Only "ldlt" is meant for use; the others are
        here to compare.

    Returns
    -------
    MinimizeResult

    Raises
    ------
    ValueError
        A derivative of the wrong shape (named, with both shapes), no finite value at x0, inequalities, unknown options,
        with check_derivatives a wrong derivative.
    TypeError
        Bounds; results that are not real numbers.
    Exception
        What the functions raise passes through; its attribute ``state`` is the :class:`MinimizeResult` so far.

    Warns
    -----
    ConvergenceWarning
        The conditions do not hold to tol.

    Notes
    -----
    An iteration costs one Hessian, one factorisation ((n + m)³/3 flops dense; more where curvature is negative) and one
    value and gradient for each trial. Saddle points are left along directions of negative curvature, which the factors
    give.

    Sources: Semenov, Jaggi, Doikov, ICLR 2026 (gns); Doikov, Chayti, Jaggi, ICML 2023 (lazy); Hanzely et al. 2022 and
    Hanzely, Abdukhakimov, Takáč 2024 (damped); Hong, Na, Mahoney, Kolar, ICML 2023 (adasketch); Wächter and Biegler
    2006 (inertia correction); Steihaug 1983 (hessp).
    """
    function = "minimize"
    if bounds is not None:
        raise TypeError(f"{function}: bounds on the variables are not supported, only equality constraints")
    _require_choice(function, "method", method, _METHODS)
    _require_choice(function, "rule", rule, _RULES)
    _require_choice(function, "inner", inner, KKT_METHODS)
    if not callable(fun):
        raise TypeError(f"{function}: fun must be callable, got {type(fun).__name__}")
    if jac is not True and not callable(jac):
        raise TypeError(f"{function}: jac must be callable or True, got {jac!r}")
    for name, given in (("hess", hess), ("hessp", hessp), ("callback", callback)):
        if given is not None and not callable(given):
            raise TypeError(f"{function}: {name} must be callable, got {type(given).__name__}")
    level = float(tol)
    if not (level > 0 and math.isfinite(level)):
        raise ValueError(f"{function}: tol must be positive and finite, got {tol!r}")
    start, like = _start(x0, function)
    chosen = _read_options(options, function)
    extra = args if isinstance(args, tuple) else (args,)
    n = len(start)

    def bound(f: Callable[..., Any]) -> Callable[..., Any]:
        return (lambda *xs: f(*xs, *extra)) if extra else f

    value = bound(fun)
    gradient = (lambda x: np.asarray(value(x)[1])) if jac is True else bound(jac)
    product = None if hessp is None else bound(hessp)
    equalities = gather(constraints, start, function)
    if equalities and method not in ("auto", "adasketch"):
        raise ValueError(f"{function}: constraints need method='adasketch' or 'auto', got {method!r}")
    second = None if hess is None else bound(hess)
    assembles = bool(equalities) or method == "adasketch"
    if second is None and product is not None and assembles:
        assemble = product
        second = lambda x: np.stack([np.asarray(assemble(x, e)).ravel() for e in np.eye(n)])  # noqa: E731
    derivatives = Derivatives(n, gradient, second, equalities)
    count = derivatives.measure(start)
    multipliers = _multipliers(chosen.get("multipliers"), count, function)
    if check_derivatives:
        only = (lambda x: value(x)[0]) if jac is True else value
        _check(only, gradient, None if hess is None else second, product, equalities, start)
    matrix_free = product is not None and hess is None and not assembles
    reached: list[dict[str, Any]] = []
    try:
        found = _core.minimize(
            value,
            None if jac is True else gradient,
            None if matrix_free else derivatives.hessian,
            product if matrix_free else None,
            derivatives.values,
            derivatives.jacobian,
            count,
            start,
            _METHODS[method],
            _RULES[rule],
            KKT_METHODS[inner],
            level,
            chosen["max_iter"],
            chosen["inner_max_iter"],
            as_key(seed, function=function),
            multipliers,
            chosen["period"],
            chosen["order"],
            None if callback is None else _hook(callback),
            reached,
        )
    except BaseException as error:
        if reached and reached[0]["x"].size == n:
            _attach(error, _result(reached[0] | {"status": "stopped"}, level, like))
        raise
    result = _result(found, level, like)
    if not result.success:
        worst = max(result.optimality, result.constraint_violation)
        warn_not_converged(function, result.status, worst, level, _HINTS.get(result.status, ""))
    return result


def _require_choice(function: str, name: str, given: str, allowed: dict[str, int]) -> None:
    if given not in allowed:
        raise ValueError(f"{function}: {name} must be one of {', '.join(allowed)}, got {given!r}")


def _start(x0: Any, function: str) -> tuple[Doubles, Any]:
    if isinstance(x0, (list, tuple, int, float)) or (isinstance(x0, np.ndarray) and x0.dtype.kind in "iub"):
        view, like = np.asarray(x0, dtype=np.float64), None  # a start may be integers
    else:
        view, like = _core._as_numpy(x0, function, "x0"), like_of(x0)
    if view.ndim != 1:
        raise ValueError(f"{function}: x0 must have shape (n,), got {view.shape}")
    start = np.array(view, dtype=np.float64)
    if not np.isfinite(start).all():
        raise ValueError(f"{function}: x0 has NaN or Inf")
    if start.size == 0:
        raise ValueError(f"{function}: x0 must have at least one entry, got shape (0,)")
    return start, like


def _read_options(given: dict[str, Any] | None, function: str) -> dict[str, Any]:
    chosen: dict[str, Any] = {"max_iter": 1000, "inner_max_iter": 100_000, "period": 0, "order": 2.0}
    for name, value in (given or {}).items():
        if name not in _OPTIONS:
            raise ValueError(f"{function}: options may hold {', '.join(_OPTIONS)}, got {name!r}")
        chosen["max_iter" if name == "maxiter" else name] = value
    for name, least in (("max_iter", 0), ("inner_max_iter", 1), ("period", 0)):
        chosen[name] = operator.index(chosen[name])
        if chosen[name] < least:
            raise ValueError(f"{function}: options[{name!r}] must be at least {least}, got {chosen[name]}")
    chosen["order"] = float(chosen["order"])
    if not 2 <= chosen["order"] <= 4:
        raise ValueError(f"{function}: options['order'] must lie in [2, 4], got {chosen['order']}")
    return chosen


def _multipliers(given: Any, count: int, function: str) -> Doubles | None:
    if given is None:
        return None
    found = np.ascontiguousarray(given, dtype=np.float64)
    if found.shape != (count,):
        raise ValueError(f"{function}: options['multipliers'] must have shape ({count},), got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{function}: options['multipliers'] has NaN or Inf")
    return found


def _hook(callback: Callable[[MinimizeState], bool | None]) -> Callable[..., bool]:
    def hook(
        iteration: int, fun: float, optimality: float, violation: float, step: float, x: Doubles, multipliers: Doubles
    ) -> bool:
        try:
            return bool(callback(MinimizeState(iteration, x, fun, optimality, violation, multipliers, step)))
        except StopIteration:
            return True

    return hook


def _result(found: dict[str, Any], tol: float, like: Any) -> MinimizeResult:
    shown = {key: found[key] for key in found if key != "x"}
    success = found["status"] == "converged"
    return MinimizeResult(
        x=back(found["x"], like), success=success, message=_MESSAGES[found["status"]], tol=tol, **shown
    )


def _attach(error: BaseException, state: MinimizeResult) -> None:
    try:
        error.state = state  # type: ignore[attr-defined]
    except AttributeError:  # an exception with slots has no room
        return
