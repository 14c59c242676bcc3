"""Entropic transport, slow and obvious: alternating exact minimisation in the log domain, NumPy float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def log_sum_exp(x: Array, axis: int) -> Array:
    highest = np.max(x, axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        return np.squeeze(np.log(np.sum(np.exp(x - highest), axis=axis, keepdims=True)) + highest, axis)


def plan_of(a: Array, b: Array, cost: Array, reg: float, f: Array, g: Array) -> Array:
    """P = a⊗b·exp((f⊕g − C)/reg); zero weights and forbidden pairs give zeros."""
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = (f[:, None] + g[None, :] - cost) / reg + np.log(a)[:, None] + np.log(b)[None, :]
    return np.where(np.isnan(exponent), 0.0, np.exp(np.where(np.isnan(exponent), -np.inf, exponent)))


def marginal_error(a: Array, b: Array, plan: Array) -> float:
    return float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())


def sinkhorn(
    a: Array,
    b: Array,
    cost: Array,
    reg: float,
    rho: tuple[float, float] = (np.inf, np.inf),
    tol: float = 1e-13,
    most: int = 200000,
) -> tuple[Array, Array, Array]:
    """(f, g, plan). Stops when no potential moves by more than tol·reg."""
    cost = cost.astype(float)
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    damp = [1.0 if np.isinf(r) else r / (r + reg) for r in rho]
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(most):
        new_f = -damp[0] * reg * log_sum_exp((g[None, :] - cost) / reg + log_b[None, :], 1)
        new_g = -damp[1] * reg * log_sum_exp((new_f[:, None] - cost) / reg + log_a[:, None], 0)
        moved = max(np.abs(new_f - f).max(), np.abs(new_g - g).max())
        f, g = new_f, new_g
        if moved <= tol * max(reg, 1e-3 * np.abs(cost[np.isfinite(cost)]).max()):
            break
    return f, g, plan_of(a, b, cost, reg, f, g)


def kl(p: Array, q: Array) -> float:
    """Generalised Kullback-Leibler divergence."""
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])) - p.sum() + q.sum())


def objective(a: Array, b: Array, cost: Array, reg: float, rho: tuple[float, float], plan: Array) -> float:
    linear = float(np.sum(np.where(plan > 0, plan * np.where(np.isinf(cost), 0, cost), 0)))
    value = linear + reg * kl(plan, np.outer(a, b))
    if np.isfinite(rho[0]):
        value += rho[0] * kl(plan.sum(1), a)
    if np.isfinite(rho[1]):
        value += rho[1] * kl(plan.sum(0), b)
    return value
