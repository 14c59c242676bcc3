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
from raphson._point_cloud import PointCloud
from raphson._transport import _back

if TYPE_CHECKING:
    from raphson._transport import Doubles, Matrix, TransportResult

__all__ = ["vjp"]


def _number(value: Any, name: str) -> float:
    if value is None:
        return 0.0
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"vjp: {name} must be finite, got {number}")
    return number


def _masked(cost: Matrix) -> Doubles:
    """Forbidden pairs carry no mass: their cost counts as 0."""
    values: Doubles = np.where(np.isinf(cost), 0.0, cost)
    return values


def vjp(result: TransportResult, plan_bar: Any, cost_bar: Any, objective_bar: Any) -> dict[str, Any]:
    """Gradients of L given ∂L/∂plan (n, m), ∂L/∂cost and ∂L/∂objective (numbers); what is None counts as 0.

    Returns
    -------
    dict
        ``"a"`` (n,), ``"b"`` (m,), and ``"cost"`` (n, m), or ``"x"`` and ``"y"`` for a ``PointCloud``, float64.
        Balanced, ∂L/∂a and ∂L/∂b are free by opposite constants, since masses must stay equal: a and b move along a
        perturbation whose masses agree.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or Inf.

    Notes
    -----
    Two passes over the plan in blocks of rows, and for ``plan_bar`` and ``cost_bar`` one linear system by
    preconditioned conjugate gradients (to 1e-14 of its right-hand side, or as far as they get).
    """
    problem = result._need("vjp")
    core, f, g, reg = problem.core(), result._f, result._g, result.reg
    n, m = problem.shape
    cost_weight, objective_weight = _number(cost_bar, "cost_bar"), _number(objective_bar, "objective_bar")
    weights = None
    if plan_bar is not None:
        weights = _core._as_numpy(plan_bar, "vjp", "plan_bar")
        if weights.shape != (n, m):
            raise ValueError(f"vjp: plan_bar must have shape {(n, m)}, got {weights.shape}")
        if not np.isfinite(weights).all():
            raise ValueError("vjp: plan_bar has NaN or Inf")
    implicit = weights is not None or cost_weight != 0
    a, b = core.weights(False), core.weights(True)

    def w_rows(begin: int, end: int) -> Doubles:
        rows = cost_weight * _masked(problem.cost_rows(begin, end))
        return rows if weights is None else rows + weights[begin:end]

    alpha, beta = np.zeros(n), np.zeros(m)
    if implicit:
        right, below = np.zeros(n), np.zeros(m)
        for begin, end in result._blocks():
            product = w_rows(begin, end) * result._rows(begin, end)
            right[begin:end] = product.sum(axis=1)
            below += product.sum(axis=0)
        alpha, beta, _ = core.hessian(f, g, right, below)

    rows, columns = np.asarray(result.row_marginal), np.asarray(result.column_marginal)
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
        gradient[name] = out

    cloud = problem.cost if isinstance(problem.cost, PointCloud) else None
    if cloud is None:
        cost_gradient = np.empty((n, m))
    else:
        x, y = cloud._read("x").astype(np.float64), cloud._read("y").astype(np.float64)
        x_gradient, y_gradient = np.zeros_like(x), np.zeros_like(y)
    for begin, end in result._blocks():
        plan = result._rows(begin, end)
        block = (cost_weight + objective_weight) * plan
        if implicit:
            block += plan * (alpha[begin:end, None] + beta[None, :] - w_rows(begin, end)) / reg
        if cloud is None:
            cost_gradient[begin:end] = block
            continue
        for k in range(cloud.dim):
            difference = np.subtract.outer(x[begin:end, k], y[:, k])
            if cloud.metric == "sqeuclidean":
                slope = 2 * cloud.scale * difference
            elif cloud.metric == "cityblock":
                slope = cloud.scale * np.sign(difference)
            else:
                distance = cloud.rows(begin, end) / cloud.scale
                slope = cloud.scale * np.divide(difference, distance, out=np.zeros_like(distance), where=distance > 0)
            pull = block * slope
            x_gradient[begin:end, k] += pull.sum(axis=1)
            y_gradient[:, k] -= pull.sum(axis=0)
    if cloud is None:
        gradient["cost"] = cost_gradient
    else:
        gradient["x"], gradient["y"] = x_gradient, y_gradient
    return {name: _back(value, result._like, problem.dtype) for name, value in gradient.items()}
