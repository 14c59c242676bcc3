"""Transport of CUDA arrays beside the CPU's and beside the slow truth of ot_reference.py."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

import cuda_arrays
import ot_reference
import raphson
from cuda_transport import INF, device, measured, number, problem, solve
from interrupts import check_interrupt
from raphson.ot import PointCloud, monge_gap, sinkhorn, sinkhorn_divergence

emulated = pytest.mark.skipif(not device.emulated, reason="asks what only hand-made arrays tell")

TOL = {np.float64: 1e-9, np.float32: 1e-5}  # the defaults


def check(result, a, b, cost, reg, rho=(INF, INF), tol=1e-9):
    """Against the plan of the potentials as they came back, and against the truth."""
    plan = measured(result, a, b, cost, reg, rho, tol)
    _, _, truth = ot_reference.sinkhorn(a, b, cost, reg, rho)
    assert np.abs(plan - truth).sum() <= 20 * tol
    value = ot_reference.objective(a, b, cost.astype(float), reg, rho, truth)
    assert abs(number(result.objective) - value) <= 20 * tol
    assert abs(number(result.duality_gap)) <= 20 * tol
    got = device.get(result.plan)
    assert got.dtype == cost.dtype
    np.testing.assert_allclose(got, plan, rtol=1e-11 if cost.dtype == np.float64 else 1e-6, atol=1e-300)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (9, 1), (33, 65), (70, 31)])
def test_it_is_the_plan(rng, n, m, dtype):
    a, b, cost = problem(rng, n, m, dtype)
    result = solve(a, b, cost, 0.05)
    check(result, a, b, cost, 0.05, tol=TOL[dtype])
    assert type(result.f) is type(result.plan) is type(result.cost) is type(device.put(cost))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rho", [(0.7, 0.7), (INF, 0.3), (2.0, INF), (0.1, 5.0)])
def test_relaxed_marginals(rng, rho, dtype):
    a, b, cost = problem(rng, 23, 40, dtype)
    if INF not in rho:
        a *= 1.5  # masses may differ
    result = solve(a, b, cost, 0.1, unbalanced=rho)
    check(result, a, b, cost, 0.1, rho, TOL[dtype])
    cpu = sinkhorn(a, b, cost, 0.1, unbalanced=rho)
    np.testing.assert_allclose(device.get(result.f), cpu.f, atol=0.1 * 100 * TOL[dtype])


def test_the_potentials_are_the_cpus(rng):
    a, b, cost = problem(rng, 60, 45)
    for reg in (1.0, 0.1, 0.01):
        found, cpu = solve(a, b, cost, reg, tol=1e-11), sinkhorn(a, b, cost, reg, tol=1e-11)
        np.testing.assert_allclose(device.get(found.f), cpu.f, atol=1e-9)
        np.testing.assert_allclose(device.get(found.g), cpu.g, atol=1e-9)
        for name in ("cost", "objective", "dual_objective"):
            assert abs(number(getattr(found, name)) - getattr(cpu, name)) <= 1e-9


def test_weights_of_either_width_and_none(rng):
    a, b, cost = problem(rng, 12, 20, np.float32)
    narrow = sinkhorn(device.put(a.astype(np.float32)), device.put(b.astype(np.float32)), device.put(cost), 0.1)
    wide = solve(a, b, cost, 0.1)
    np.testing.assert_allclose(device.get(narrow.f), device.get(wide.f), atol=1e-5)
    uniform = solve(None, None, cost, 0.1)
    np.testing.assert_array_equal(
        device.get(uniform.f), device.get(solve(np.full(12, 1 / 12), np.full(20, 0.05), cost, 0.1).f)
    )
    # float32 anywhere makes the tolerance float32's
    assert sinkhorn(device.put(a.astype(np.float32)), None, device.put(cost.astype(float)), 0.1).tol == 1e-5
    assert solve(a, b, cost.astype(float), 0.1).tol == 1e-9


def test_zero_weights(rng):
    a, b, cost = problem(rng, 14, 17)
    a[[0, 5]], b[[3, 16]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    result = solve(a, b, cost, 0.05)
    check(result, a, b, cost, 0.05)
    assert (device.get(result.f)[[0, 5]] == -INF).all()
    assert (device.get(result.g)[[3, 16]] == -INF).all()
    plan = device.get(result.plan)
    assert (plan[[0, 5]] == 0).all()
    assert (plan[:, [3, 16]] == 0).all()
    assert (device.get(result.row_marginal)[[0, 5]] == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_forbidden_pairs(rng, dtype):
    a, b, cost = problem(rng, 16, 19, dtype)
    cost[rng.random((16, 19)) < 0.2] = INF
    cost[:, 0] = 0.5
    cost[0] = 0.5
    result = solve(a, b, cost, 0.2)
    check(result, a, b, cost, 0.2, tol=TOL[dtype])
    assert (device.get(result.plan)[np.isinf(cost)] == 0).all()


def test_unconnected_parts_have_a_gauge_each(rng):
    cost = rng.random((6, 7))
    cost[:2, 3:], cost[2:, :3] = INF, INF
    a, b = rng.random(6) + 0.1, rng.random(7) + 0.1
    for rows, columns in ((slice(0, 2), slice(0, 3)), (slice(2, 6), slice(3, 7))):
        a[rows] /= 2 * a[rows].sum()
        b[columns] /= 2 * b[columns].sum()
    result, cpu = solve(a, b, cost, 0.3), sinkhorn(a, b, cost, 0.3)
    check(result, a, b, cost, 0.3)
    np.testing.assert_allclose(device.get(result.f), cpu.f, atol=1e-8)
    assert abs(a[:2] @ device.get(result.f)[:2] - b[:3] @ device.get(result.g)[:3]) <= 1e-12


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_point_clouds(rng, metric, dtype):
    x, y = rng.standard_normal((21, 3)).astype(dtype), rng.standard_normal((34, 3)).astype(dtype)
    a, b, _ = problem(rng, 21, 34)
    cloud = PointCloud(device.put(x), device.put(y), metric=metric, scale=0.5)
    assert (cloud.shape, cloud.dim, cloud.dtype) == ((21, 34), 3, np.dtype(dtype).name)
    result = sinkhorn(device.put(a), device.put(b), cloud, 1.0)
    cost = PointCloud(x, y, metric=metric, scale=0.5).rows(0, 21)
    f, g = device.get(result.f), device.get(result.g)
    plan = ot_reference.plan_of(a, b, cost, 1.0, f, g)
    assert ot_reference.marginal_error(a, b, plan) <= 1.01 * TOL[dtype]
    assert result.converged
    assert result.tol == TOL[dtype]
    got = device.get(result.plan)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, plan, rtol=1e-11 if dtype == np.float64 else 1e-6, atol=1e-300)
    np.testing.assert_allclose(number(result.cost), (plan * cost).sum(), rtol=1e-12)


@pytest.mark.parametrize("rho", [None, (0.4, 2.0)])
def test_maps(rng, rho):
    x, y = rng.standard_normal((18, 2)), rng.standard_normal((25, 2)) + 1
    a, b, _ = problem(rng, 18, 25)
    a[4] = b[2] = 0
    a, b = a / a.sum(), b / b.sum()
    new = 3 * rng.standard_normal((7, 2))
    found = sinkhorn(device.put(a), device.put(b), PointCloud(device.put(x), device.put(y)), 0.05, unbalanced=rho)
    cpu = sinkhorn(a, b, PointCloud(x, y), 0.05, unbalanced=rho, init=(device.get(found.f), device.get(found.g)))
    for given, points in ((None, x), (device.put(new), new)):
        mapped = device.get(found.map(given))
        assert mapped.shape == points.shape
        exponent = (device.get(found.g) - PointCloud(x, y).rows(0, len(points), x=points)) / 0.05
        weight = b * np.exp(exponent - exponent[:, b > 0].max(axis=1, keepdims=True))
        np.testing.assert_allclose(mapped, weight @ y / weight.sum(axis=1, keepdims=True), atol=1e-11)
        np.testing.assert_allclose(mapped, cpu.map(None if given is None else new), atol=1e-6)
    assert device.get(found.map(device.put(np.empty((0, 2))))).shape == (0, 2)
    with pytest.raises(ValueError, match=r"map: x_new must have shape \(k, 2\)"):
        found.map(device.put(np.ones((3, 3))))
    with pytest.raises(ValueError, match="map: needs a PointCloud"):
        solve(None, None, np.ones((3, 3)), 1.0).map()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_layout_is_read(rng, dtype):
    a, b, cost = problem(rng, 13, 22, dtype)
    expected = device.get(solve(a, b, cost, 0.1).f)
    wide = np.full((13, 30), np.nan, dtype)
    wide[:, 4:26] = cost
    spread = np.full((26, 44), np.nan, dtype)
    spread[::2, ::2] = cost
    # rows with a stride are read where they are: the same bits as far as the sweeps are the same
    for view in (wide[:, 4:26], np.asfortranarray(cost), spread[::2, ::2]):
        result = solve(a, b, view, 0.1)
        np.testing.assert_allclose(device.get(result.f), expected, atol=1e-6 if dtype == np.float32 else 1e-13)
        check(result, a, b, cost, 0.1, tol=TOL[dtype])
    every_other = np.full(26, np.nan)
    every_other[::2] = a
    result = sinkhorn(device.put(every_other[::2]), device.put(b), device.put(cost), 0.1)
    np.testing.assert_array_equal(device.get(result.f), expected)


@emulated
def test_reversed_and_repeated_views_are_read(rng):
    a, b, cost = problem(rng, 9, 12)
    expected = device.get(solve(a, b, cost, 0.1).f)
    np.testing.assert_array_equal(
        device.get(solve(a, b, np.ascontiguousarray(cost[::-1, ::-1])[::-1, ::-1], 0.1).f), expected
    )
    row = cost[:1]
    check(solve(a, b, np.broadcast_to(row, (9, 12)), 0.1), a, b, np.repeat(row, 9, axis=0), 0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_with_the_plan(rng, dtype):
    a, b, cost = problem(rng, 31, 44, dtype)
    a[3], cost[5, 6] = 0, INF
    a /= a.sum()
    result = solve(a, b, cost, 0.1)
    plan = ot_reference.plan_of(a, b, cost.astype(float), 0.1, device.get(result.f), device.get(result.g))
    for size, transpose, matrix in ((44, False, plan), (31, True, plan.T)):
        for shape in ((size,), (size, 1), (size, 3), (size, 0)):
            for kind in (np.float64, np.float32):
                v = rng.standard_normal(shape).astype(kind)
                found = device.get(result.apply(device.put(v), transpose=transpose))
                assert found.dtype == kind
                assert found.shape == (matrix.shape[0], *shape[1:])
                np.testing.assert_allclose(found, matrix @ v, atol=1e-14 if kind == np.float64 else 1e-7)
        v = rng.standard_normal((3, size)).T  # a vector's entries lie apart
        np.testing.assert_allclose(device.get(result.apply(device.put(v), transpose=transpose)), matrix @ v, atol=1e-14)


def test_starts(rng):
    a, b, cost = problem(rng, 40, 50)
    cold = solve(a, b, cost, 0.02)
    assert cold.iterations > 3
    pair = (device.put(device.get(cold.f)), device.put(device.get(cold.g)))
    for init in (cold, pair, sinkhorn(a, b, cost, 0.02), (None, device.get(cold.g))):
        warm = solve(a, b, cost, 0.02, init=init)
        check(warm, a, b, cost, 0.02)
        assert warm.iterations <= 3
    far = solve(a, b, cost, 0.02, init=(device.put(np.full(40, 1e3)), device.put(np.full(50, -7.0))))
    check(far, a, b, cost, 0.02)


def test_a_tolerance_that_is_not_reached(rng):
    a, b, cost = problem(rng, 60, 60)
    with pytest.warns(raphson.ConvergenceWarning, match=r"^sinkhorn did not converge \(max_iter\)") as caught:
        result = sinkhorn(device.put(a), device.put(b), device.put(cost), 0.001, max_iter=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (result.status, result.converged) == ("max_iter", False)
    assert result.iterations <= 4
    assert "Try method='auto', a larger max_iter" in str(caught[0].message)
    plan = ot_reference.plan_of(a, b, cost, 0.001, device.get(result.f), device.get(result.g))
    np.testing.assert_allclose(number(result.marginal_error), ot_reference.marginal_error(a, b, plan), rtol=1e-9)
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        result = solve(a, b, cost, 0.1, tol=1e-25)
    assert result.status == "precision_floor"
    assert number(result.marginal_error) < 1e-12


def test_nan_in_is_nan_out(rng):
    a, b, cost = problem(rng, 8, 11, np.float32)
    for bad in (np.nan, -INF):
        cost[6, 9] = bad
        with pytest.warns(raphson.ConvergenceWarning, match=r"breakdown.*check_finite=True"):
            result = solve(a, b, cost, 0.1)
        assert (result.status, result.converged) == ("breakdown", False)
        for array in (result.f, result.g, result.marginal_error, result.cost, result.plan, result.row_marginal):
            assert np.isnan(device.get(array)).all()
        assert np.isnan(device.get(result.apply(device.put(b)))).all()
        assert np.isnan(device.get(result.apply(device.put(a), transpose=True))).all()
        with pytest.raises(ValueError, match=rf"^sinkhorn: cost has {'NaN' if bad != bad else '-Inf'} at \(6, 9\)$"):
            solve(a, b, cost, 0.1, check_finite=True)


A, B, C = np.full(4, 0.25), np.full(5, 0.2), np.arange(20.0).reshape(4, 5)
PARTS = np.where((np.arange(4) < 2)[:, None] == (np.arange(5) < 2)[None, :], C, INF)


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.full(3, 1 / 3)},
        {"b": np.full((5, 1), 0.2)},
        {"a": A * [1, 1, 1, -1]},
        {"a": A * [1, np.nan, 1, 1]},
        {"b": B * [1, INF, 1, 1, 1]},
        {"a": 0 * A},
        {"a": 2 * A},
        {"a": A * (1 + 1e-8)},
        {"reg": 0.0},
        {"reg": np.nan},
        {"cost": np.where(C == 7, np.nan, C), "check_finite": True},
        {"cost": np.where(C == 7, -INF, C), "check_finite": True},
        {"cost": np.where(C >= 15, INF, C)},
        {"cost": np.where(np.arange(5) == 2, INF, C)},
        {"cost": np.full((4, 5), INF)},
        {"cost": PARTS},  # 0.5 and 0.4
        {"cost": C[0]},
        {"cost": np.empty((0, 5)), "a": np.empty(0)},
        {"tol": 0.0},
        {"max_iter": 0},
        {"method": "newton"},
        {"unbalanced": 0.0},
        {"unbalanced": (1.0, 1.0, 1.0)},
        {"init": (np.zeros(4), np.zeros(4))},
        {"init": (np.full(4, np.nan), np.zeros(5))},
        {"init": 3},
        {"callback": 3},
        {"a": np.ones(4, dtype=np.float16)},
    ],
)
def test_what_is_wrong_is_said_as_on_the_cpu(change):
    arguments = {"a": A, "b": B, "cost": C, "reg": 1.0} | change

    def place(x):
        if isinstance(x, tuple):
            return tuple(place(part) for part in x)
        return device.put(x) if isinstance(x, np.ndarray) else x

    with pytest.raises((ValueError, TypeError)) as on_cpu:
        sinkhorn(**arguments)
    with pytest.raises((ValueError, TypeError)) as on_device:
        sinkhorn(**{name: place(value) for name, value in arguments.items()})
    assert type(on_device.value) is type(on_cpu.value)
    assert str(on_device.value) == str(on_cpu.value)


def test_other_things_that_are_wrong(rng):
    a, b, cost = problem(rng, 4, 5)
    there = device.put(cost)
    with pytest.raises(TypeError, match=r"^sinkhorn: cost must be float64 or float32, got float16$"):
        solve(a, b, cost.astype(np.float16), 0.1)
    with pytest.raises(TypeError, match=r"^sinkhorn: cost is .* and a "):
        sinkhorn(a, None, there, 0.1)
    with pytest.raises(TypeError, match=r"^sinkhorn: cost is .* and b "):
        sinkhorn(None, device.put(b), cost, 0.1)
    with pytest.raises(TypeError, match=r"^PointCloud: x is .* and y "):
        PointCloud(device.put(np.ones((3, 2))), np.ones((3, 2)))
    for bad in (np.full((3, 2), np.nan), np.ones((3, 3))):
        with pytest.raises(ValueError, match=r"^PointCloud: "):
            PointCloud(device.put(bad), device.put(np.ones((4, 2))))
    result = solve(a, b, cost, 0.1)
    with pytest.raises(ValueError, match=r"^apply: v must have shape \(5,\) or \(5, k\), got \(4,\)$"):
        result.apply(device.put(np.ones(4)))
    with pytest.raises(ValueError, match=r"^apply: v must have shape \(4,\)"):
        result.apply(device.put(np.ones((4, 2, 2))), transpose=True)
    with pytest.raises(TypeError, match=r"^sinkhorn: cost is .* and v "):
        result.apply(np.ones(5))
    with pytest.raises(TypeError, match=r"^apply: v must be float64 or float32, got float16$"):
        result.apply(device.put(np.ones(5, dtype=np.float16)))


@emulated
def test_another_device_is_named(rng):
    elsewhere = cuda_arrays.DeviceArray(np.full(4, 0.25), device=1)
    with pytest.raises(TypeError, match="cost is on CUDA device 0 and a is on CUDA device 1; they must be on one"):
        sinkhorn(elsewhere, None, device.put(np.ones((4, 5))), 0.1)


def test_no_coupling_exists():
    """As test_ot_errors.test_hall_infeasible_is_said."""
    cost = np.zeros((4, 3))
    cost[:2, 1:] = INF
    with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
        result = solve(np.full(4, 0.25), np.array([0.2, 0.4, 0.4]), cost, 0.5, max_iter=500)
    assert result.status == "infeasible"
    assert number(result.marginal_error) > 0.1


def test_callback(rng):
    a, b, cost = problem(rng, 50, 50)
    seen = []
    result = solve(a, b, cost, 0.002, callback=seen.append)
    assert [s.iteration for s in seen] == sorted({s.iteration for s in seen})
    assert seen[-1].iteration == result.iterations
    assert seen[-1].marginal_error <= 1e-9
    assert seen[0].reg > seen[-1].reg == 0.002  # continuation, of which the cost's range is the measure
    assert len(result.history) == len(seen)
    assert list(result.history["marginal_error"]) == [s.marginal_error for s in seen]
    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        stopped = solve(a, b, cost, 0.002, callback=lambda s: s.iteration >= 2)
    assert stopped.status == "stopped"
    assert stopped.iterations < result.iterations
    assert np.isfinite(device.get(stopped.plan)).all()

    def fail(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        solve(a, b, cost, 0.02, callback=fail)


def test_interrupt(rng):
    a, b, cost = problem(rng, 60, 45)
    check_interrupt(lambda: solve(a, b, cost, 1e-5, max_iter=10**7, method="sinkhorn"))  # takes minutes


def test_divergence_and_gap(rng):
    x, y = rng.standard_normal((15, 2)), rng.standard_normal((20, 2))
    found = sinkhorn_divergence(device.put(x), device.put(y), 0.5)
    np.testing.assert_allclose(number(found.value), sinkhorn_divergence(x, y, 0.5).value, atol=1e-8)
    gap = monge_gap(device.put(x), device.put(2 * x + 1), 5.0)
    np.testing.assert_allclose(number(gap), monge_gap(x, 2 * x + 1, 5.0), atol=1e-7)


def test_the_object(rng, monkeypatch):
    a, b, cost = problem(rng, 6, 8)
    result = solve(a, b, cost, 0.1)
    assert "6 × 8" in repr(result)
    assert result.plan is result.plan
    copied = copy.deepcopy(result)
    np.testing.assert_array_equal(device.get(copied.plan), device.get(result.plan))
    bare = result.detach()
    np.testing.assert_array_equal(device.get(bare.f), device.get(result.f))
    with pytest.raises(ValueError, match=r"apply: the cost was dropped by detach\(\)"):
        bare.apply(device.put(b))
    monkeypatch.setattr("raphson._transport.DENSE_LIMIT", 100)
    with pytest.raises(MemoryError, match="apply"):
        copied.dense()
    assert device.get(copied.dense(force=True)).shape == (6, 8)


def test_inputs_are_left_alone_and_bits_are_the_same(rng):
    a, b, cost = problem(rng, 40, 37, np.float32)
    arrays = [device.put(x.copy()) for x in (a, b, cost)]
    first = sinkhorn(*arrays, 0.01)
    for _ in range(2):
        again = sinkhorn(*arrays, 0.01)
        np.testing.assert_array_equal(device.get(again.f), device.get(first.f))
        np.testing.assert_array_equal(device.get(again.plan), device.get(first.plan))
        assert number(again.marginal_error) == number(first.marginal_error)
    for array, kept in zip(arrays, (a, b, cost), strict=True):
        np.testing.assert_array_equal(device.get(array), kept)


@emulated
def test_the_stream_is_asked_for_in_every_call(rng):
    _, b, cost = problem(rng, 5, 6)
    there = device.put(cost)
    result = sinkhorn(None, None, there, 0.1)
    count = len(there.streams)
    assert count >= 1
    result.apply(device.put(b))
    assert len(there.streams) > count
    assert set(there.streams) == {1}


def test_converged_results_do_not_warn(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(*problem(rng, 10, 10), 0.1)
