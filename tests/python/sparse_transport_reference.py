"""Quadratically regularised transport, slow and obvious: optimality conditions, and SciPy on the problem as written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def simplex(v: Array, z: float, most: int | None = None) -> Array:
    """argmin over p ≥ 0, Σp = z of ‖p − v‖, by sorting; at most so many entries: those of the largest v."""
    p = np.zeros(len(v))
    if z == 0:
        return p
    order = np.argsort(-v, kind="stable")[:most]
    u = v[order]
    sums = np.cumsum(u) - z
    count = np.nonzero(u - sums / np.arange(1, len(u) + 1) > 0)[0][-1] + 1
    p[order] = np.maximum(u - sums[count - 1] / count, 0)
    return p


def rows_for(a: Array, g: Array, cost: Array, reg: float, most: int | None = None) -> Array:
    """The plan whose rows are optimal given g."""
    return np.array([simplex((g - c) / reg, w, most) for c, w in zip(cost, a, strict=True)])


def semi_dual(a: Array, b: Array, g: Array, cost: Array, reg: float, most: int | None = None) -> float:
    """⟨b, g⟩ − Σᵢ max over rows: what is maximised."""
    plan = rows_for(a, g, cost, reg, most)
    return float(b @ g - np.sum(plan * (g - cost)) + 0.5 * reg * np.sum(plan**2))


def quadratic_programme(a: Array, b: Array, cost: Array, reg: float) -> Array:
    """The plan by SciPy's active sets (nonnegative least squares), heavy marginals, then exactly on the support."""
    from scipy.optimize import nnls

    n, m = cost.shape
    held = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    heavy = 1e4
    found, _ = nnls(
        np.vstack([heavy * held, np.sqrt(reg) * np.eye(n * m)]),
        np.r_[heavy * a, heavy * b, -cost.ravel() / np.sqrt(reg)],
        maxiter=10000,
    )
    used = found > 1e-9
    k = int(used.sum())
    system = np.block([[reg * np.eye(k), held[:, used].T], [held[:, used], np.zeros((n + m, n + m))]])
    solution = np.linalg.lstsq(system, np.r_[-cost.ravel()[used], a, b], rcond=None)[0]
    plan = np.zeros(n * m)
    plan[used] = solution[:k]
    return plan.reshape(n, m)


def kkt_residual(a: Array, b: Array, cost: Array, reg: float, f: Array, g: Array, plan: Array) -> float:
    """The largest violation of primal feasibility, dual feasibility and complementarity, in units of mass."""
    used = np.ix_(a > 0, b > 0)
    slack = f[a > 0][:, None] + g[b > 0][None, :] - cost[used]
    expected = np.zeros_like(plan)
    expected[used] = np.maximum(slack, 0) / reg
    return max(
        float(np.abs(plan - expected).max()),
        float(np.abs(plan.sum(1) - a).max()),
        float(np.abs(plan.sum(0) - b).max()),
        float(-plan.min()),
    )


def cutting_planes(a: Array, b: Array, cost: Array, reg: float, most: int, tol: float = 1e-8) -> tuple[float, float]:
    """What the largest value lies between of the concave dual in f with at most so many entries a column, by Kelley."""
    from scipy.optimize import linprog

    n = len(a)
    reach = 3 * (np.ptp(cost) + reg * b.max())
    planes: list[Array] = []
    sides: list[float] = []
    f, low, high = np.zeros(n), -np.inf, np.inf
    while high - low > tol * max(1.0, abs(low)) and len(planes) < 3000:
        plan = rows_for(b, f, cost.T, reg, most).T
        value = semi_dual(b, a, f, cost.T, reg, most)
        slope = a - plan.sum(1)
        low = max(low, value)
        planes.append(np.r_[-slope, 1.0])  # t ≤ value + slope·(f' − f)
        sides.append(value - slope @ f)
        bounds = [(0, 0)] + [(-reach, reach)] * (n - 1) + [(None, None)]
        found = linprog(np.r_[np.zeros(n), -1.0], A_ub=np.array(planes), b_ub=np.array(sides), bounds=bounds)
        f, high = found.x[:n], min(high, -found.fun)
    return low, high
