"""Batches of small transport problems side by side on a CUDA device: each is what it is alone (see cuda_arrays.py)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import cuda_arrays
import raphson
from cuda_transport import INF, device, measured, problem, solve
from interrupts import check_interrupt
from raphson.ot import sinkhorn_batch

emulated = pytest.mark.skipif(not device.emulated, reason="torch has no such views")


def stacked(rng, count, n, m, dtype=np.float64):
    a, b, cost = zip(*(problem(rng, n, m, dtype) for _ in range(count)), strict=True)
    return np.stack(a), np.stack(b), np.stack(cost)


def batch(a, b, cost, reg, **options):
    return sinkhorn_batch(
        *(None if w is None else device.put(w) for w in (a, b)),
        device.put(cost),
        reg,
        **{"method": "sinkhorn"} | options,
    )


def same(one, other):
    for name in ("f", "g", "row_marginal", "column_marginal", "cost", "marginal_error"):
        np.testing.assert_array_equal(device.get(getattr(one, name)), device.get(getattr(other, name)), err_msg=name)
    assert (one.status, one.iterations) == (other.status, other.iterations)
    for name in ("marginal_error", "reg"):
        np.testing.assert_array_equal(one.history[name], other.history[name])


def alone(found, a, b, cost, reg, **options):
    """All of a batch against calls of one problem, which look at the error between launches."""
    for k, one in enumerate(found):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", raphson.ConvergenceWarning)
            same(one, solve(a[k], b[k], cost[k], reg, method="sinkhorn", **options))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("n", "m", "reg"), [(1, 1, 0.1), (1, 9, 0.1), (9, 1, 0.1), (5, 33, 0.05), (40, 7, 0.05), (16, 16, 0.1)]
)
def test_each_is_what_it_is_alone(rng, n, m, reg, dtype):
    a, b, cost = stacked(rng, 5, n, m, dtype)
    found = batch(a, b, cost, reg, tol=1e-9)
    assert found.all_converged
    for k in range(5):
        measured(found[k], a[k], b[k], cost[k], reg)
    alone(found, a, b, cost, reg, tol=1e-9)


def test_each_stops_by_itself_and_takes_as_many_launches_as_it_needs(rng):
    """More than 16 looks, 128 sweeps, for some: several launches, beside one a look."""
    a, b, cost = stacked(rng, 4, 6, 8)
    cost[1] *= 0.1
    cost[3] = 0
    found = batch(a, b, cost, 0.005)
    assert found.all_converged
    assert max(len(one.history) for one in found) > 70
    assert found[3].iterations == 1
    assert len(set(found.iterations)) == 4
    alone(found, a, b, cost, 0.005)


@pytest.mark.parametrize("rho", [0.5, (INF, 0.3), (2.0, INF)])
def test_relaxed_marginals(rng, rho):
    a, b, cost = stacked(rng, 3, 11, 13)
    found = batch(a, 1.5 * b, cost, 0.05, unbalanced=rho)
    both = (rho, rho) if isinstance(rho, float) else rho
    for k in range(3):
        measured(found[k], a[k], 1.5 * b[k], cost[k], 0.05, both)
    alone(found, a, 1.5 * b, cost, 0.05, unbalanced=rho)


def test_zero_weights_forbidden_pairs_and_parts(rng):
    a, b, cost = stacked(rng, 4, 8, 10)
    a[0, :3], b[1, 4:] = 0, 0
    a, b = a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)
    cost[2][rng.random((8, 10)) < 0.2] = INF
    cost[3, :4, 5:] = cost[3, 4:, :5] = INF  # two parts, of equal mass on either side
    b[3, :5] *= a[3, :4].sum() / b[3, :5].sum()
    b[3, 5:] *= a[3, 4:].sum() / b[3, 5:].sum()
    found = batch(a, b, cost, 0.1)
    for k in range(4):
        measured(found[k], a[k], b[k], cost[k], 0.1)
    alone(found, a, b, cost, 0.1)


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_scales(rng, size):
    a, b, cost = stacked(rng, 2, 7, 5)
    found = batch(a, b, cost * size + 3 * size, 0.05 * size)
    plain = batch(a, b, cost + 3, 0.05)
    np.testing.assert_allclose(device.get(found.plan), device.get(plain.plan), atol=1e-9)


def test_shared_costs_and_uniform_weights(rng):
    a, b, cost = stacked(rng, 3, 6, 9)
    found = batch(a, b, cost[0], 0.05)
    alone(found, a, b, [cost[0]] * 3, 0.05)
    plain = batch(None, None, cost, 0.05)
    alone(plain, [None] * 3, [None] * 3, cost, 0.05)


@pytest.mark.parametrize("layout", ["turned", "batch last", "spread", "reversed"])
def test_every_stride_is_read(rng, layout):
    if layout in ("spread", "reversed") and not device.emulated:
        pytest.skip("torch has no such views")
    a, b, cost = stacked(rng, 3, 6, 9)
    if layout == "turned":
        given = np.ascontiguousarray(cost.swapaxes(1, 2)).swapaxes(1, 2)
    elif layout == "batch last":
        given = np.moveaxis(np.ascontiguousarray(np.moveaxis(cost, 0, 2)), 2, 0)
    elif layout == "reversed":
        given = np.ascontiguousarray(cost[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    else:
        given = np.zeros((6, 12, 27))[::2, ::2, ::3]
        given[...] = cost
    found, plain = batch(a, b, given, 0.1), batch(a, b, cost, 0.1)
    for one, other in zip(found, plain, strict=True):
        same(one, other)


def test_starts(rng):
    a, b, cost = stacked(rng, 3, 7, 9)
    cold = batch(a, b, cost, 0.02)
    warm = batch(a, b, cost, 0.02, init=cold)
    assert all(w.iterations <= 3 < c.iterations for w, c in zip(warm, cold, strict=True))
    f, g = rng.standard_normal((3, 7)) + 50, rng.standard_normal((3, 9))
    f[1, 2] = -INF  # starts at 0
    started = batch(a, b, cost, 0.05, init=(f, g))
    for k in range(3):
        measured(started[k], a[k], b[k], cost[k], 0.05)
        same(started[k], solve(a[k], b[k], cost[k], 0.05, method="sinkhorn", init=(f[k], g[k])))


def test_starts_carry_any_constant(rng):
    """Which would cost as many digits as it has, were it kept."""
    a, b, cost = stacked(rng, 2, 7, 9)
    found = batch(a, b, cost, 0.05, init=(np.full((2, 7), 1e9), np.full((2, 9), -1e9)))
    for k in range(2):
        measured(found[k], a[k], b[k], cost[k], 0.05)


def test_limits_are_said_of_each(rng):
    a, b, cost = stacked(rng, 3, 9, 9)
    cost[1] = 0
    with pytest.warns(raphson.ConvergenceWarning, match="2 of 3 did not"):
        found = batch(a, b, cost, 0.01, max_iter=40)
    assert list(found.status) == ["max_iter", "converged", "max_iter"]
    assert list(found.iterations) == [40, 1, 40]
    alone(found, a, b, cost, 0.01, max_iter=40)
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        floor = batch(a, b, cost, 0.5, tol=1e-18)
    assert "precision_floor" in floor.status
    assert device.get(floor.marginal_error).max() < 1e-14
    with pytest.warns(raphson.ConvergenceWarning):
        early = batch(a, b, cost, 0.001, max_iter=5)  # within the continuation
    for k in (0, 2):
        assert early[k].iterations == 5
        plan = device.get(early[k].plan)
        assert abs(plan.sum(1) - a[k]).sum() + abs(plan.sum(0) - b[k]).sum() == pytest.approx(
            float(device.get(early[k].marginal_error)), abs=1e-12
        )


def test_a_limit_that_a_level_ends_with(rng):
    a, b, cost = problem(rng, 12, 15)
    whole = solve(a, b, cost, 0.01, method="sinkhorn", tol=1e-9)
    looks = 1 + int(np.flatnonzero(np.diff(whole.history["reg"]))[0])  # after 1, 3, 7, 15, 23, … sweeps
    first = sum(min(2**k, 8) for k in range(looks))
    for limit in (first - 1, first, first + 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", raphson.ConvergenceWarning)
            cut = solve(a, b, cost, 0.01, method="sinkhorn", tol=1e-9, max_iter=limit)
        assert (cut.status, cut.iterations) == ("max_iter", limit)
        assert (cut.history["marginal_error"] > 0).all()


def test_no_coupling_exists(rng):
    a, b, cost = stacked(rng, 2, 3, 3)
    a[1] = b[1] = np.array([0.5, 0.25, 0.25])
    b[1] = np.array([0.25, 0.5, 0.25])
    cost[1, 0, 1:] = INF  # half of the mass to a column of a quarter
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 2 did not"):
        found = batch(a, b, cost, 0.1, max_iter=200)
    assert list(found.status) == ["converged", "infeasible"]


@pytest.mark.parametrize("bad", [np.nan, -INF])
def test_one_bad_cost_leaves_the_others_alone(rng, bad):
    a, b, cost = stacked(rng, 3, 5, 6)
    good = batch(a, b, cost, 0.1)
    cost[1, 2, 3] = bad
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 3 did not"):
        found = batch(a, b, cost, 0.1)
    assert list(found.status) == ["converged", "breakdown", "converged"]
    assert np.isnan(device.get(found[1].f)).all()
    same(found[0], good[0])
    same(found[2], good[2])


@pytest.mark.parametrize("shape", [(130, 127), (3, 6000)])
def test_what_no_block_takes_goes_another_way(rng, shape):
    a, b, cost = stacked(rng, 2, *shape)
    found = batch(a, b, cost, 0.5, tol=1e-6)
    assert found.all_converged
    alone(found, a, b, cost, 0.5, tol=1e-6)


def test_watched_to_the_same_bits(rng):
    a, b, cost = stacked(rng, 3, 6, 7)
    found, seen = batch(a, b, cost, 0.02), []
    watched = batch(a, b, cost, 0.02, callback=lambda state: seen.append((state.problem, state.marginal_error)))
    for k, (one, other) in enumerate(zip(found, watched, strict=True)):
        same(one, other)
        assert [error for which, error in seen if which == k] == list(one.history["marginal_error"])
    with pytest.warns(raphson.ConvergenceWarning):
        stopped = batch(a, b, cost, 0.02, callback=lambda state: len(seen) > 0 and state.iteration >= 3)
    assert stopped[0].status == "stopped"
    assert stopped[0].iterations == 3


def test_interrupt(rng):
    a, b, cost = stacked(rng, 2, 20, 20)
    check_interrupt(lambda: batch(a, b, cost, 1e-5, max_iter=10**7))


@emulated
def test_other_devices_do_not_mix(rng):
    a, b, cost = stacked(rng, 2, 3, 4)
    with pytest.raises(TypeError, match="CUDA device 1"):
        sinkhorn_batch(cuda_arrays.DeviceArray(a, device=1), device.put(b), device.put(cost), 0.1)
