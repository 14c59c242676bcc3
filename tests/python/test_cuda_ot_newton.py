"""Newton steps of transport on CUDA arrays, beside the CPU's of the same driver and the truth of ot_reference.py."""

from __future__ import annotations

import numpy as np
import pytest

import ot_reference
import raphson
from cuda_transport import INF, device, measured, number, problem, solve
from raphson.ot import PointCloud, sinkhorn

METHODS = ("auto", "sns", "ssns", "splr")


def agree(result, cpu, reg, tol):
    # a potential is off by reg times the relative error of its marginal, times what the problem makes of it
    bound = 1e4 * reg * tol
    for name in ("f", "g"):
        np.testing.assert_allclose(device.get(getattr(result, name)), getattr(cpu, name), atol=bound)
    for name in ("cost", "objective", "dual_objective"):
        assert abs(number(getattr(result, name)) - getattr(cpu, name)) <= bound + 10 * tol


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_small_regularisations_are_solved_as_on_the_cpu(rng, method, dtype):
    a, b, cost = problem(rng, 37, 50, dtype)
    tol = 1e-9 if dtype == np.float64 else 1e-5
    result, cpu = (f(a, b, cost, 1e-3, method=method) for f in (solve, sinkhorn))
    measured(result, a, b, cost, 1e-3, tol=tol)
    agree(result, cpu, 1e-3, tol)
    assert result.newton_iterations > 3
    assert result.cg_iterations > result.newton_iterations
    assert result.iterations < 100  # sweeps alone take thousands
    assert {"newton"} <= set(result.history["stage"]) <= {"sinkhorn", "newton", "dense_newton"}
    assert result.history["marginal_error"][-1] <= tol


@pytest.mark.parametrize("method", METHODS)
def test_the_same_steps_as_on_the_cpu(rng, method):
    """Where rounding does not decide, and systems are too easy to be factored."""
    a, b, cost = problem(rng, 60, 70)
    result, cpu = (f(a, b, cost, 1e-2, method=method) for f in (solve, sinkhorn))
    measured(result, a, b, cost, 1e-2)
    if method != "auto":  # which weighs what passes cost
        assert (result.iterations, result.newton_iterations) == (cpu.iterations, cpu.newton_iterations)
        assert abs(result.cg_iterations - cpu.cg_iterations) <= 0.1 * cpu.cg_iterations
        np.testing.assert_allclose(device.get(result.f), cpu.f, atol=1e-12)


def test_float32_costs_to_float64_tolerances(rng):
    """Sweeps are then float64's, of costs as they are."""
    a, b, cost = problem(rng, 33, 29, np.float32)
    result = solve(a, b, cost, 5e-3, tol=1e-11)
    measured(result, a, b, cost, 5e-3, tol=1e-11)
    agree(result, sinkhorn(a, b, cost, 5e-3, tol=1e-11), 5e-3, 1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rho", [(0.7, 0.7), (INF, 0.3), (2.0, INF)])
def test_relaxed_marginals(rng, rho, method):
    a, b, cost = problem(rng, 23, 30)
    if INF not in rho:
        a *= 1.5
    result, cpu = (f(a, b, cost, 5e-3, unbalanced=rho, method=method) for f in (solve, sinkhorn))
    measured(result, a, b, cost, 5e-3, rho)
    agree(result, cpu, 5e-3, 1e-9)
    assert result.newton_iterations > 0


@pytest.mark.parametrize("method", METHODS)
def test_zero_weights_and_forbidden_pairs(rng, method):
    a, b, cost = problem(rng, 26, 33)
    a[[0, 5]], b[[3, 32]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    cost[rng.random(cost.shape) < 0.3] = INF
    cost[:, 0] = cost[1] = 0.9
    result, cpu = (f(a, b, cost, 4e-3, method=method) for f in (solve, sinkhorn))
    plan = measured(result, a, b, cost, 4e-3)
    agree(result, cpu, 4e-3, 1e-9)
    assert (device.get(result.f)[[0, 5]] == -INF).all()
    assert (plan[np.isinf(cost)] == 0).all()
    assert result.newton_iterations > 0


def test_unconnected_parts_have_a_gauge_each(rng):
    cost = rng.random((12, 14))
    cost[:4, 6:], cost[4:, :6] = INF, INF
    a, b = rng.random(12) + 0.1, rng.random(14) + 0.1
    for rows, columns in ((slice(0, 4), slice(0, 6)), (slice(4, 12), slice(6, 14))):
        a[rows] /= 2 * a[rows].sum()
        b[columns] /= 2 * b[columns].sum()
    result, cpu = solve(a, b, cost, 2e-3), sinkhorn(a, b, cost, 2e-3)
    measured(result, a, b, cost, 2e-3)
    agree(result, cpu, 2e-3, 1e-9)
    assert abs(a[:4] @ device.get(result.f)[:4] - b[:6] @ device.get(result.g)[:6]) <= 1e-12


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_point_clouds(rng, metric):
    x, y = rng.standard_normal((31, 3)), rng.standard_normal((24, 3)) + 0.5
    a, b, _ = problem(rng, 31, 24)
    cost = PointCloud(x, y, metric=metric, scale=0.7).rows(0, 31)
    reg = 1e-3 * cost.max()
    cloud = PointCloud(device.put(x), device.put(y), metric=metric, scale=0.7)
    result, dense = solve(a, b, cloud, reg), solve(a, b, cost, reg)
    measured(result, a, b, cost, reg)
    agree(result, sinkhorn(a, b, cost, reg), reg, 1e-9)
    assert result.newton_iterations > 0
    assert abs(result.newton_iterations - dense.newton_iterations) <= 3


def test_starts(rng):
    a, b, cost = problem(rng, 30, 41)
    cold = solve(a, b, cost, 2e-3)
    assert cold.iterations > 10
    again = solve(a, b, cost, 2e-3, init=cold)
    measured(again, a, b, cost, 2e-3)
    assert again.iterations <= 3
    for method in METHODS:
        near = solve(a, b, cost, 2e-3, init=solve(a, b, cost, 4e-3), method=method)
        measured(near, a, b, cost, 2e-3)
    far = solve(a, b, cost, 2e-3, init=(device.put(np.full(30, 1e3)), device.put(5 * rng.random(41))))
    measured(far, a, b, cost, 2e-3)


def test_callback_and_limits(rng):
    a, b, cost = problem(rng, 30, 30)
    seen = []
    result = solve(a, b, cost, 2e-3, callback=seen.append)
    assert [s.iteration for s in seen] == list(range(1, result.iterations + 1))  # after every sweep
    assert seen[0].reg > seen[-1].reg == 2e-3
    for method in METHODS:
        with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
            stopped = solve(a, b, cost, 2e-3, method=method, callback=lambda s: s.iteration >= 6)
        assert (stopped.status, stopped.iterations) == ("stopped", 6)
        with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
            short = solve(a, b, cost, 2e-3, method=method, max_iter=7)
        assert (short.status, short.iterations) == ("max_iter", 7)
        f, g = device.get(short.f), device.get(short.g)
        plan = ot_reference.plan_of(a, b, cost, 2e-3, f, g)
        np.testing.assert_allclose(number(short.marginal_error), ot_reference.marginal_error(a, b, plan), rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_reached(rng, method):
    a, b, cost = problem(rng, 12, 15)
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        result = solve(a, b, cost, 0.05, tol=1e-25, method=method)
    assert number(result.marginal_error) < 1e-12
    walls = np.zeros((4, 3))
    walls[:2, 1:] = INF
    with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
        result = solve(np.full(4, 0.25), np.array([0.2, 0.4, 0.4]), walls, 0.5, max_iter=300, method=method)
    assert result.status == "infeasible"
    cost[3, 4] = np.nan
    with pytest.warns(raphson.ConvergenceWarning, match="breakdown"):
        result = solve(a, b, cost, 0.1, method=method)
    for array in (result.f, result.g, result.marginal_error, result.cost, result.plan):
        assert np.isnan(device.get(array)).all()


def test_the_same_bits_every_time(rng):
    a, b, cost = problem(rng, 40, 35)
    for method in METHODS:
        first, second = (solve(a, b, cost, 2e-3, method=method) for _ in range(2))
        for name in ("f", "g"):
            np.testing.assert_array_equal(device.get(getattr(first, name)), device.get(getattr(second, name)))
        assert first.cg_iterations == second.cg_iterations
