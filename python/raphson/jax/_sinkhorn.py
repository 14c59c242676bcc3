"""Entropic transport in jax programs: implicit differentiation of the fixed point, never through the iterations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from raphson import ot
from raphson._ot_solve import iterations_of, method_of, read, tolerance_of
from raphson._point_cloud import METRICS
from raphson._transport import Problem, relaxations, start_of
from raphson._transport import TransportResult as Solved
from raphson._transport_vjp import gradients
from raphson.jax._call import Arrays, as_arrays, call, code_of, dump, lanes, like, real, serves, traced

__all__ = ["PointCloud", "TransportResult", "sinkhorn"]

NUMBERS = ("cost", "objective", "dual_objective", "duality_gap", "marginal_error")
COUNTS = ("iterations", "newton_iterations")
RANKS = (1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)  # of f, g, the numbers, the counts, converged and status


@dataclass(frozen=True)
class PointCloud:
    """Costs between two sets of points, a pytree: :class:`raphson.PointCloud` has the details.

    Attributes
    ----------
    x, y : array (n, d), (m, d)
    metric : str
    scale : float
    """

    x: Any
    y: Any
    metric: str = "sqeuclidean"
    scale: float = 1.0


@dataclass(frozen=True, repr=False)
class TransportResult:
    """An entropic transport plan by its potentials, and how well it fits: a pytree of arrays.

    Attributes
    ----------
    f, g : array (n,), (m,)
        Potentials, in units of the cost; float64 where jax has it enabled. No gradient flows through them.
    cost, objective : array ()
        ⟨P, C⟩, and with the regularisation; differentiable in a, b and the cost, or the points.
    dual_objective, duality_gap : array ()
    marginal_error : array ()
        L1, measured on f and g as they are here (in float32, if they are float32).
    converged, status, iterations, newton_iterations : array ()
        bool; int32, a place in ``raphson.jax.STATUSES``; int32.
    """

    f: Any
    g: Any
    cost: Any
    objective: Any
    dual_objective: Any
    duality_gap: Any
    marginal_error: Any
    iterations: Any
    newton_iterations: Any
    converged: Any
    status: Any
    _inputs: Any = None
    _settings: str = ""

    @property
    def plan(self) -> jax.Array:
        """P, dense (n, m), in the cost's dtype; differentiable. Computed anew at every use."""
        if self.f.ndim > 1:
            raise ValueError("plan: of one problem; ask for it inside of the function that is mapped")
        result: jax.Array = _plan(self._inputs, (self.f, self.g), self._settings)
        return result

    def __repr__(self) -> str:
        shape = f"TransportResult({self.f.shape[-1]} × {self.g.shape[-1]}, "
        if traced(self):
            return shape + "traced)"
        return shape + (
            f"{np.count_nonzero(self.converged)} of {np.size(self.converged)} converged, largest marginal error "
            f"{np.max(self.marginal_error, initial=0.0):.2e})"
        )


FIELDS = ("f", "g", *NUMBERS, *COUNTS, "converged", "status")
jax.tree_util.register_dataclass(PointCloud, data_fields=["x", "y"], meta_fields=["metric", "scale"])
jax.tree_util.register_dataclass(TransportResult, data_fields=[*FIELDS, "_inputs"], meta_fields=["_settings"])


def sinkhorn(
    a: Any,
    b: Any,
    cost: Any,
    reg: float,
    *,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    unbalanced: Any = None,
) -> TransportResult:
    """:func:`raphson.sinkhorn` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    a, b : array (n,), (m,), or None
        Weights; None is uniform.
    cost : array (n, m), or PointCloud
        ``raphson.jax.PointCloud`` where the points are traced. float64 or float32.
    reg, method, tol, max_iter, unbalanced
        As there; numbers and names, fixed when a program is compiled.
    init : (f, g) or TransportResult, optional
        Where to start; no gradient flows through it.

    Returns
    -------
    TransportResult

    Raises
    ------
    TypeError, ValueError
        As there; of what the arrays hold only where they are concrete.

    Notes
    -----
    Inside of transformations nothing warns; what would be refused gives NaN and the status ``breakdown`` (NaN or Inf in
    the data) or ``infeasible`` (negative weights, unequal masses, a row with mass and no allowed pair, …).

    The derivative (reverse mode, once) starts from the potentials, a sweep or two of the solver, and takes one linear
    system, none for the objective alone; ``plan`` takes one of its own. Balanced, gradients of a and b are free by
    opposite constants. Problems of a mapped axis are solved one a thread.
    """
    plain = isinstance(cost, (PointCloud, ot.PointCloud))
    left, right = as_arrays(a, b)
    given: Any = jnp.asarray(cost) if not plain else _cloud(cost)
    start = None if init is None else as_arrays(*((init.f, init.g) if hasattr(init, "f") else init))
    rho = relaxations(unbalanced, "sinkhorn")
    dtype = _check(left, right, given, start, reg, rho)
    narrow = "float32" in (dtype, *(w.dtype.name for w in (left, right) if w is not None))
    settings: dict[str, Any] = {
        "reg": float(reg),
        "method": method,
        "tol": tolerance_of(tol, "float32" if narrow else "float64", "sinkhorn"),
        "max_iter": iterations_of(max_iter, "sinkhorn"),
        "unbalanced": rho,
    }
    method_of(method, "sinkhorn")
    inputs = (left, right, given)
    text = dump(
        **settings,
        given=[left is not None, right is not None, start is not None],
        cloud=[given.metric, given.scale] if plain else None,
    )
    if traced(inputs, start):
        found = _solve(inputs, None if start is None else tuple(map(jax.lax.stop_gradient, start)), text)
        return TransportResult(**dict(zip(FIELDS, found, strict=True)), _inputs=inputs, _settings=text)
    concrete = ot.PointCloud(given.x, given.y, metric=given.metric, scale=given.scale) if plain else given
    solved = ot.sinkhorn(left, right, concrete, **settings, init=start)
    measured: dict[str, Any] = {name: jnp.asarray(getattr(solved, name), real()) for name in ("f", "g", *NUMBERS)}
    measured["marginal_error"], status = _judged(solved, measured["f"], measured["g"])
    return TransportResult(
        **jax.tree.map(lambda number: jnp.asarray(number, real()), measured),
        **{name: jnp.asarray(getattr(solved, name), jnp.int32) for name in COUNTS},
        converged=jnp.asarray(status == "converged"),
        status=jnp.asarray(code_of(status)),
        _inputs=inputs,
        _settings=text,
    )


def _cloud(cost: Any) -> PointCloud:
    x, y = as_arrays(cost.x, cost.y)
    return PointCloud(x, y, cost.metric, cost.scale)


def _check(a: Any, b: Any, cost: Any, start: Any, reg: Any, rho: tuple[float, float]) -> str:
    """Shapes, dtypes and numbers: what is known when a program is traced. The dtype of the costs."""
    points = (cost.x, cost.y) if isinstance(cost, PointCloud) else (cost,)
    for name, array in (("a", a), ("b", b), *zip("xy" if len(points) == 2 else ("cost",), points, strict=True)):
        if array is not None and array.dtype.name not in ("float64", "float32"):
            raise TypeError(f"sinkhorn: {name} must be float64 or float32, got {array.dtype.name}")
        if array is not None and array.ndim != (1 if name in "ab" else 2):
            raise ValueError(f"sinkhorn: {name} must have {1 if name in 'ab' else 2} axes, got shape {array.shape}")
    if isinstance(cost, PointCloud):
        if cost.metric not in METRICS:
            raise ValueError(f"PointCloud: metric must be one of {', '.join(METRICS)}, got {cost.metric!r}")
        if not (float(cost.scale) > 0 and math.isfinite(cost.scale)):
            raise ValueError(f"PointCloud: scale must be positive and finite, got {cost.scale}")
        if cost.x.shape[1] != cost.y.shape[1] or cost.x.shape[1] == 0:
            raise ValueError(f"PointCloud: x and y must have shapes (n, d), (m, d), got {cost.x.shape}, {cost.y.shape}")
    n, m = (points[0].shape[0], points[1].shape[0]) if len(points) == 2 else points[0].shape
    for name, array, size in (("a", a, n), ("b", b, m), *(zip(("f", "g"), start or (), (n, m), strict=False))):
        if array is not None and array.shape != (size,):
            raise ValueError(f"sinkhorn: {name} must have shape ({size},), got {array.shape}")
    if traced(reg):
        raise TypeError("sinkhorn: reg must be a number, not a traced array: mark it static")
    if not (float(reg) > 0 and math.isfinite(reg)):
        raise ValueError(f"sinkhorn: reg must be positive and finite, got {reg}")
    if not all(r > 0 for r in rho):
        raise ValueError(f"sinkhorn: unbalanced must be positive, got {rho}")
    return str(points[0].dtype.name)


# ---- programs ----------------------------------------------------------------------------------------------
def _operands(inputs: Any, more: Any = None) -> list[Any]:
    """a, b, then the cost or x and y, then ``more``; what is None is left out."""
    return jax.tree.leaves((inputs, more))


def _sizes(cost: Any) -> tuple[int, int]:
    return (cost.x.shape[0], cost.y.shape[0]) if isinstance(cost, PointCloud) else cost.shape


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _solve(inputs: Any, start: Any, settings: str) -> tuple[jax.Array, ...]:
    n, m = _sizes(inputs[2])
    numbers = tuple(like((), real()) for _ in NUMBERS)
    counts = tuple(like((), kind) for kind in (jnp.int32, jnp.int32, bool, jnp.int32))
    shapes = (like((n,), real()), like((m,), real()), *numbers, *counts)
    return tuple(call("sinkhorn", settings, shapes, *_operands(inputs, start)))


def _solve_forward(inputs: Any, start: Any, settings: str) -> tuple[Any, Any]:
    found = _solve(inputs, start, settings)
    return found, (inputs, start, found[0], found[1])


def _solve_backward(settings: str, kept: Any, bars: Any) -> tuple[Any, Any]:
    inputs, start, f, g = kept
    cost_bar = bars[2]
    # at the solution the primal and the dual value are the same function of the data
    objective_bar = bars[3] + bars[4]
    return _pull(settings, inputs, f, g, cost_bar, objective_bar), jax.tree.map(jnp.zeros_like, start)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _plan(inputs: Any, potentials: Any, settings: str) -> jax.Array:
    shape = like(_sizes(inputs[2]), jax.tree.leaves(inputs[2])[0].dtype)
    result: jax.Array = call("transport_plan", settings, shape, *_operands(inputs, potentials))
    return result


def _plan_forward(inputs: Any, potentials: Any, settings: str) -> tuple[jax.Array, Any]:
    return _plan(inputs, potentials, settings), (inputs, potentials)


def _plan_backward(settings: str, kept: Any, bar: jax.Array) -> tuple[Any, Any]:
    inputs, potentials = kept
    return _pull(settings, inputs, *potentials, bar), jax.tree.map(jnp.zeros_like, potentials)


def _pull(settings: str, inputs: Any, *operands: Any) -> Any:
    """Gradients as a tree like ``inputs``; ``operands``: f, g, then the plan's cotangent or the two numbers'."""
    leaves, tree = jax.tree.flatten(inputs)
    shapes = tuple(like(leaf.shape, leaf.dtype) for leaf in leaves)
    return jax.tree.unflatten(tree, call("sinkhorn_vjp", settings, shapes, *leaves, *operands))


_solve.defvjp(_solve_forward, _solve_backward)
_plan.defvjp(_plan_forward, _plan_backward)


# ---- what XLA calls ----------------------------------------------------------------------------------------
def _kinds(settings: dict[str, Any]) -> tuple[int, ...]:
    """Axes of a, b, and the cost or x and y, without what is None."""
    weights = tuple(1 for given in settings["given"][:2] if given)
    return (*weights, 2) if settings["cloud"] is None else (*weights, 2, 2)


def _problem(settings: dict[str, Any], inputs: Arrays) -> tuple[Any, Any, Any]:
    arrays = list(inputs)
    a, b = (arrays.pop(0) if given else None for given in settings["given"][:2])
    if settings["cloud"] is None:
        return a, b, arrays[0]
    metric, scale = settings["cloud"]
    return a, b, ot.PointCloud(arrays[0], arrays[1], metric=metric, scale=scale)


def _solved(settings: dict[str, Any], given: list[tuple[Arrays, Any]]) -> list[Solved | None]:
    """Problems with their starts, several one a thread; None for what is refused."""
    ready: list[tuple[Problem, Any] | None] = []
    for inputs, start in given:
        try:
            a, b, cost = _problem(settings, inputs)
            problem, _, _ = read(a, b, cost, settings["reg"], tuple(settings["unbalanced"]), None, "sinkhorn")
            problem.core()
            ready.append((problem, start_of(start, problem, "sinkhorn")))
        except ValueError:
            ready.append(None)
    number, tol, most = method_of(settings["method"], "sinkhorn"), settings["tol"], settings["max_iter"]
    taken = [one for one in ready if one is not None]
    if len(taken) == 1:
        found = iter([taken[0][0].solve(number, tol, most, taken[0][1], None)])
    else:
        found = iter(Problem.solve_batch([p for p, _ in taken], number, tol, most, [start for _, start in taken]))
    return [None if one is None else Solved._from_core(one[0], next(found), tol, None) for one in ready]


def _judged(solved: Solved, f: Any, g: Any) -> tuple[float, str]:
    """Marginal error and status of the potentials as they are returned: float32 ones are not what was solved for."""
    if f.dtype == np.float64:
        return float(solved.marginal_error), solved.status
    core, rho = solved._need("marginal_error").core(), solved._need("marginal_error").rho
    potentials = np.asarray(f, dtype=np.float64), np.asarray(g, dtype=np.float64)
    error = 0.0
    for side in (0, 1):
        weight, ones = core.weights(bool(side)), np.ones((len(potentials[1 - side]), 1))
        marginal = core.apply(*potentials, bool(side), ones)[:, 0]
        used = weight > 0
        target = np.zeros_like(weight)
        target[used] = weight[used] * np.exp(-potentials[side][used] / rho[side])
        error += float(np.abs(marginal - target).sum())
    lost = solved.converged and not error <= solved.tol
    return error, "precision_floor" if lost else solved.status


@serves("sinkhorn")
def _serve(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    kinds = _kinds(settings)
    ranks = (*kinds, *(1,) * (len(inputs) - len(kinds)), *RANKS)
    parts = list(lanes(ranks, inputs + outputs, outputs[-1].shape))
    given = [(arrays[: len(kinds)], tuple(arrays[len(kinds) : len(inputs)]) or None) for arrays in parts]
    for arrays, (data, _), found in zip(parts, given, _solved(settings, given), strict=True):
        out = arrays[len(inputs) :]
        if found is None:
            # +Inf is a cost; nothing else may be infinite
            bad = any(np.isnan(array).any() or array.min(initial=0.0) == -np.inf for array in data)
            values = [np.nan] * 7 + [0, 0, False, code_of("breakdown" if bad else "infeasible")]
        else:
            out[0][...], out[1][...] = found.f, found.g
            error, status = _judged(found, out[0], out[1])
            values = [getattr(found, name) for name in FIELDS[:-2]]
            values = [*values[:6], error, *values[7:], status == "converged", code_of(status)]
        for array, value in zip(out, values, strict=True):
            array[...] = value


@serves("transport_plan")
def _serve_plan(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    kinds = _kinds(settings)
    for arrays in lanes((*kinds, 1, 1, 2), inputs + outputs, outputs[0].shape[:-2]):
        *given, f, g, out = arrays
        try:
            a, b, cost = _problem(settings, given)
            problem, _, _ = read(a, b, cost, settings["reg"], tuple(settings["unbalanced"]), None, "sinkhorn")
            out[...] = problem.core().rows(f.astype(np.float64), g.astype(np.float64), 0, len(f))
        except ValueError:
            out[...] = np.nan


@serves("sinkhorn_vjp")
def _serve_vjp(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    kinds = _kinds(settings)
    bars = inputs[len(kinds) + 2 :]
    of_plan = len(bars) == 1
    lead = outputs[0].shape[: outputs[0].ndim - kinds[0]]
    parts = list(lanes((*kinds, 1, 1, *((2,) if of_plan else (0, 0)), *kinds), inputs + outputs, lead))
    given = [(p[: len(kinds)], tuple(x.astype(np.float64) for x in p[len(kinds) : len(kinds) + 2])) for p in parts]
    names = [name for name, there in zip("ab", settings["given"], strict=False) if there]
    names += ["cost"] if settings["cloud"] is None else ["x", "y"]
    for arrays, found in zip(parts, _solved(settings, given), strict=True):
        bar = arrays[len(kinds) + 2 : len(inputs)]
        pulled: dict[str, Any] = dict.fromkeys(names, np.nan)
        if found is not None:
            pulled, _ = gradients(found, *((bar[0], None, None) if of_plan else (None, *map(float, bar))))
        for array, name in zip(arrays[len(inputs) :], names, strict=True):
            array[...] = pulled[name]
