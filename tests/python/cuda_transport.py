"""Transport problems on the device of cuda_arrays.py, and what has to hold for every answer."""

from __future__ import annotations

import numpy as np

import cuda_arrays
import ot_reference
from raphson.ot import PointCloud, sinkhorn

device = cuda_arrays.device()

INF = np.inf


def problem(rng, n, m, dtype=np.float64):
    a, b = rng.random(n) + 0.2, rng.random(m) + 0.2
    return a / a.sum(), b / b.sum(), rng.random((n, m)).astype(dtype)


def number(x) -> float:
    return float(device.get(x))


def solve(a, b, cost, reg, **options):
    """Everything on the device that may be an array."""
    weights = [None if w is None else device.put(w) for w in (a, b)]
    there = cost if isinstance(cost, PointCloud) else device.put(cost)
    return sinkhorn(*weights, there, reg, **options)


def measured(result, a, b, cost, reg, rho=(INF, INF), tol=1e-9):
    """The plan of the potentials as they came back, once it is what the result says of it."""
    f, g = device.get(result.f), device.get(result.g)
    assert f.dtype == g.dtype == np.float64
    assert result.converged
    plan = ot_reference.plan_of(a, b, cost.astype(float), reg, f, g)
    with np.errstate(over="ignore"):
        error = (
            np.abs(plan.sum(1) - a * np.exp(-np.where(a > 0, f, 0) / rho[0])).sum()
            + np.abs(plan.sum(0) - b * np.exp(-np.where(b > 0, g, 0) / rho[1])).sum()
        )
    rounding = 1e-13 * (10 + np.abs(cost[np.isfinite(cost)]).max() / reg)
    assert error <= tol + rounding
    assert abs(number(result.marginal_error) - error) <= rounding
    np.testing.assert_allclose(device.get(result.row_marginal), plan.sum(1), atol=rounding)
    np.testing.assert_allclose(device.get(result.column_marginal), plan.sum(0), atol=rounding)
    spent = np.where(plan > 0, plan * np.where(np.isinf(cost), 0, cost), 0).sum()
    assert abs(number(result.cost) - spent) <= rounding
    if np.isinf(rho).all():
        assert abs(a[a > 0] @ f[a > 0] - b[b > 0] @ g[b > 0]) <= 1e-12
    return plan
