"""Implicit differentiation of entropic transport.

With φ = f/reg + log a and ψ = g/reg + log b the plan is P = exp(φ⊕ψ − C/reg), and the potentials solve P1 = r(φ, a),
Pᵀ1 = s(ψ, b), where r = a for an exact marginal and a·exp(−f/ρ) for a relaxed one. With κ = reg/ρ and
H = [[diag(P1 + κr), P], [Pᵀ, diag(Pᵀ1 + κs)]], a scalar L with ∂L/∂P = W has

    H (α, β) = ((W∘P)1, (W∘P)ᵀ1),   ∂L/∂a = (1 + κ)(r/a)·α,   ∂L/∂C = P∘(α⊕β − W)/reg,

one linear system, solved by the conjugate gradients of the Newton steps on the whole plan (or its entries above 1e-17).
The objective needs none: ∂/∂C = P, ∂/∂a = f + reg(Σb − r/a), and ρ(1 − exp(−f/ρ)) + reg(Σb − r/a) when relaxed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raphson import _core
from raphson._frameworks import back
from raphson._point_cloud import PointCloud, host
from raphson._results import warn_not_converged

if TYPE_CHECKING:
    from raphson._transport import Doubles, Problem, TransportResult

__all__ = ["PlanWeights", "gradients", "vjp"]

# Of the linear system, unless the transport's is larger. It usually reaches 1e-14; products with a float32 cost on a
# device are float32.
SYSTEM_TOLERANCE = {"float64": 1e-9, "float32": 1e-5}


def _number(value: Any, name: str) -> float:
    if value is None:
        return 0.0
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"vjp: {name} must be finite, got {number}")
    return number


class PlanWeights:
    """W = cost_weight·C + plan_bar of a problem in NumPy, in blocks of rows; what follows from it and the plan."""

    def __init__(self, problem: Problem, cost_weight: float, plan_bar: Any) -> None:
        self._problem, self._cost_weight = problem, cost_weight
        self._plan_bar = None if plan_bar is None else _core._as_numpy(plan_bar, "vjp", "plan_bar")
        if self._plan_bar is not None and not np.isfinite(self._plan_bar).all():
            raise ValueError("vjp: plan_bar has NaN or Inf")

    def _rows(self, begin: int, end: int) -> Doubles:
        cost = self._problem.cost_rows(begin, end)
        rows: Doubles = self._cost_weight * np.where(np.isinf(cost), 0.0, cost)  # forbidden pairs carry no mass
        return rows if self._plan_bar is None else rows + self._plan_bar[begin:end]

    def sums(self, f: Doubles, g: Doubles) -> tuple[Doubles, Doubles]:
        """(W∘P)1 and (W∘P)ᵀ1."""
        problem = self._problem
        right, below = (np.zeros(size) for size in problem.shape)
        for begin, end in problem.blocks():
            product = self._rows(begin, end) * problem.core().rows(f, g, begin, end)
            right[begin:end] = product.sum(axis=1)
            below += product.sum(axis=0)
        return right, below

    def gradient(
        self, f: Doubles, g: Doubles, direct: float, adjoints: tuple[Doubles, Doubles] | None, like: Any
    ) -> dict[str, Any]:
        """``"cost"``, or ``"x"`` and ``"y"``: ∂L/∂C = P∘(direct + (α⊕β − W)/reg), without α and β P·direct."""
        problem = self._problem
        cloud = problem.cost if isinstance(problem.cost, PointCloud) else None
        found: dict[str, Doubles] = {}
        if cloud is None:
            found["cost"] = np.empty(problem.shape)
        else:
            x, y = cloud._read("x").astype(np.float64), cloud._read("y").astype(np.float64)
            found["x"], found["y"] = np.zeros_like(x), np.zeros_like(y)
        for begin, end in problem.blocks():
            plan = problem.core().rows(f, g, begin, end)
            block = direct * plan
            if adjoints is not None:
                alpha, beta = adjoints
                block += plan * (alpha[begin:end, None] + beta[None, :] - self._rows(begin, end)) / problem.reg
            if cloud is None:
                found["cost"][begin:end] = block
                continue
            for k in range(cloud.dim):
                difference = np.subtract.outer(x[begin:end, k], y[:, k])
                if cloud.metric == "sqeuclidean":
                    slope = 2 * cloud.scale * difference
                elif cloud.metric == "cityblock":
                    slope = cloud.scale * np.sign(difference)
                else:
                    distance = cloud.rows(begin, end) / cloud.scale
                    slope = cloud.scale * np.divide(
                        difference, distance, out=np.zeros_like(distance), where=distance > 0
                    )
                pull = block * slope
                found["x"][begin:end, k] += pull.sum(axis=1)
                found["y"][:, k] -= pull.sum(axis=0)
        return {name: back(value, like, problem.dtype) for name, value in found.items()}


def vjp(result: TransportResult, plan_bar: Any, cost_bar: Any, objective_bar: Any) -> dict[str, Any]:
    """Gradients of L given ∂L/∂plan (n, m), ∂L/∂cost and ∂L/∂objective (numbers); what is None counts as 0.

    Returns
    -------
    dict
        ``"a"`` (n,), ``"b"`` (m,), and ``"cost"`` (n, m), or ``"x"`` and ``"y"`` for a ``PointCloud``, in the cost's
        dtype.
        Balanced, ∂L/∂a and ∂L/∂b are free by opposite constants, since masses must stay equal: a and b move along a
        perturbation whose masses agree.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or Inf.

    Warns
    -----
    ConvergenceWarning
        The linear system's L1 residual, measured on α and β, is above 1e-9 (float32: 1e-5) of its right-hand side, and
        above ``tol``.

    Notes
    -----
    Two passes over the plan in blocks of rows, and for ``plan_bar`` and ``cost_bar`` one linear system by
    preconditioned conjugate gradients (to 1e-14 of its right-hand side, or as far as they get). Of a CUDA cost passes
    and system are the device's, without blocks of rows; n + m numbers, and gradients of points, come by way of the
    host.
    """
    gradient, residual = gradients(result, plan_bar, cost_bar, objective_bar)
    level = max(SYSTEM_TOLERANCE[result._need("vjp").dtype], result.tol)
    if not residual <= level:
        hint = "Converge the potentials first: the derivative is that of a solution."
        warn_not_converged("TransportResult.vjp", "stalled", residual, level, hint, stacklevel=4)
    return gradient


def gradients(
    result: TransportResult, plan_bar: Any, cost_bar: Any, objective_bar: Any
) -> tuple[dict[str, Any], float]:
    """:func:`vjp` without a warning, and the linear system's residual."""
    problem = result._need("vjp")
    core, f, g, reg = problem.core(), result._f, result._g, result.reg
    n, m = problem.shape
    cost_weight, objective_weight = _number(cost_bar, "cost_bar"), _number(objective_bar, "objective_bar")
    if plan_bar is not None:
        shape = _core._describe(plan_bar, "vjp", "plan_bar")[0]
        if shape != (n, m):
            raise ValueError(f"vjp: plan_bar must have shape {(n, m)}, got {shape}")
    implicit = plan_bar is not None or cost_weight != 0
    a, b = core.weights(False), core.weights(True)
    weights = problem.plan_weights(cost_weight, plan_bar)
    alpha, beta, adjoints, residual = np.zeros(n), np.zeros(m), None, 0.0
    if implicit:
        right, below = weights.sums(f, g)
        alpha, beta, residual = core.hessian(f, g, right, below)
        adjoints = alpha, beta

    rows, columns = (
        host(result.row_marginal, "vjp", "row_marginal"),
        host(result.column_marginal, "vjp", "column_marginal"),
    )
    gradient = {}
    for name, weight, other, potential, marginal, adjoint, rho in (
        ("a", a, b, f, rows, alpha, problem.rho[0]),
        ("b", b, a, g, columns, beta, problem.rho[1]),
    ):
        kappa = reg / rho
        used = weight > 0
        out = np.zeros_like(weight)
        ratio = marginal[used] / weight[used]
        target = np.exp(-potential[used] / rho) if kappa > 0 else np.ones(int(used.sum()))
        out[used] = (1 + kappa) * target * adjoint[used]
        direct = potential[used] if kappa == 0 else -rho * np.expm1(-potential[used] / rho)
        out[used] += objective_weight * (direct + reg * (other.sum() - ratio))
        gradient[name] = back(out, result._like, problem.dtype)
    gradient.update(weights.gradient(f, g, cost_weight + objective_weight, adjoints, result._like))
    return gradient, residual
