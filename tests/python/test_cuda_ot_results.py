"""What is asked of results of CUDA arrays, beside the CPU's and finite differences."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import ot_reference
import raphson
from cuda_transport import INF, device, number, problem, solve
from raphson.ot import PointCloud, sinkhorn, sinkhorn_batch


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparse_plans(rng, dtype):
    a, b, cost = problem(rng, 31, 70, dtype)
    a[3], cost[5, 6] = 0, INF
    a /= a.sum()
    result = solve(a, b, cost, 0.01)
    plan = ot_reference.plan_of(a, b, cost.astype(float), 0.01, device.get(result.f), device.get(result.g))
    for most in (0.0, 1e-12, 1e-6, 1e-2, 2.0):
        sparse = result.sparse_plan(most)
        assert sparse.shape == plan.shape
        assert sparse.has_sorted_indices
        kept = sparse.toarray()
        np.testing.assert_allclose(kept[kept > 0], plan[kept > 0], rtol=1e-11)
        left = plan[kept == 0].sum()
        assert left <= most + 1e-300
        np.testing.assert_allclose(sparse.dropped_mass, left, rtol=1e-8, atol=1e-300)
        assert sparse.dropped_mass <= most
        if 0 < most < 1:  # nothing of another power of two would fit, and larger entries are in
            least = kept[kept > 0].min()
            assert plan[kept == 0].max() < least
            assert left + plan[(kept > 0) & (plan < 2 * least)].sum() > most
    assert result.sparse_plan(0.0).nnz == np.count_nonzero(plan)
    assert result.sparse_plan(2.0).nnz == 0
    with pytest.raises(ValueError, match="max_dropped_mass must not be negative"):
        result.sparse_plan(-1.0)
    x = rng.standard_normal((6, 2))
    cloud = solve(None, None, PointCloud(device.put(x), device.put(x + 1)), 0.3)
    np.testing.assert_allclose(cloud.sparse_plan(0.0).toarray(), device.get(cloud.plan), rtol=1e-11)


# ---- rounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounded_plans(rng, dtype):
    a, b, cost = problem(rng, 23, 41, dtype)
    a[2] = b[7] = 0
    a, b = a / a.sum(), b / b.sum()
    cost[4, 5] = cost[6, 7] = INF
    for options in ({}, {"max_iter": 2}):  # nearly there, and far off
        if options:
            with pytest.warns(raphson.ConvergenceWarning):
                result = solve(a, b, cost, 0.02, method="sinkhorn", **options)
            with pytest.raises(ValueError, match=r"rounded_plan: the missing mass .* pairs, such as \(\d+, \d+\);"):
                result.rounded_plan()
            allowed = np.where(np.isinf(cost), dtype(1), cost)
            with pytest.warns(raphson.ConvergenceWarning):
                result = solve(a, b, allowed, 0.02, method="sinkhorn", **options)
        else:
            result = solve(a, b, np.where(np.isinf(cost), dtype(1), cost), 0.02)
        rounded = device.get(result.rounded_plan())
        assert rounded.dtype == dtype
        assert (rounded >= 0).all()
        last_bits = 1e-15 if dtype == np.float64 else 1e-7
        np.testing.assert_allclose(rounded.astype(float).sum(1), a, atol=4 * last_bits)
        np.testing.assert_allclose(rounded.astype(float).sum(0), b, atol=4 * last_bits)
        moved = np.abs(rounded - device.get(result.plan)).sum()
        assert moved <= 2 * number(result.marginal_error) + 100 * last_bits
        f, g = device.get(result.f), device.get(result.g)
        with np.errstate(divide="ignore", invalid="ignore"):
            plan = ot_reference.plan_of(a, b, np.where(np.isinf(cost), 1, cost).astype(float), 0.02, f, g)
            plan *= np.where(plan.sum(1) > a, a / plan.sum(1), 1)[:, None]
            plan *= np.where(plan.sum(0) > b, b / plan.sum(0), 1)
        left, right = np.maximum(a - plan.sum(1), 0), np.maximum(b - plan.sum(0), 0)
        plan += np.outer(left, right / max(right.sum(), 1e-300))
        np.testing.assert_allclose(rounded, plan, rtol=1e-10 if dtype == np.float64 else 1e-6, atol=1e-16)


def test_rounding_of_any_potentials(rng):
    """Rows that weigh too much as well as columns: sweeps leave the rows exact."""
    a, b, cost = problem(rng, 15, 22)
    result = solve(a, b, cost, 0.1)
    f = device.get(result.f) + 0.03 * rng.standard_normal(15)
    g = device.get(result.g) + 0.03 * rng.standard_normal(22)
    plan = ot_reference.plan_of(a, b, cost, 0.1, f, g)
    assert (plan.sum(1) > a).any()
    assert (plan.sum(1) < a).any()
    rounded = device.get(replace(result, _f=f, _g=g).rounded_plan())
    plan *= np.minimum(1, a / plan.sum(1))[:, None]
    plan *= np.minimum(1, b / plan.sum(0))
    left, right = a - plan.sum(1), np.maximum(b - plan.sum(0), 0)
    np.testing.assert_allclose(rounded, plan + np.outer(left, right / right.sum()), rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(rounded.sum(1), a, atol=1e-15)
    np.testing.assert_allclose(rounded.sum(0), b, atol=1e-15)


def test_rounding_names_the_first_forbidden_pair(rng):
    """And the CPU names the same one, from the same potentials."""
    a, b, cost = problem(rng, 9, 11)
    cost[rng.random((9, 11)) < 0.3] = INF
    cost[0] = cost[:, 0] = 0.5
    with pytest.warns(raphson.ConvergenceWarning):
        result = solve(a, b, cost, 0.01, max_iter=2, method="sinkhorn")
    with pytest.raises(ValueError, match="forbidden pairs") as said:
        result.rounded_plan()
    pair = tuple(int(x) for x in str(said.value).split("(")[1].split(")")[0].split(","))
    plan = ot_reference.plan_of(a, b, cost, 0.01, device.get(result.f), device.get(result.g))
    plan *= np.minimum(1, a / plan.sum(1))[:, None]
    plan *= np.minimum(1, b / plan.sum(0))
    wanted = (a - plan.sum(1) > 1e-12)[:, None] & (b - plan.sum(0) > 1e-12) & np.isinf(cost)
    assert wanted[pair]
    assert pair == tuple(np.argwhere(wanted)[0])
    with pytest.raises(ValueError, match="only balanced plans"):
        solve(a, b, cost, 0.1, unbalanced=1.0).rounded_plan()


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradients(result, bars, *, there):
    given = {k: device.put(v) if there and isinstance(v, np.ndarray) else v for k, v in bars.items()}
    return {k: device.get(v) if there else v for k, v in result.vjp(**given).items()}


def centred(x):
    return x - x.mean()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rho", [None, 0.7, (INF, 0.4)])
def test_gradients_are_the_cpus(rng, rho, dtype):
    a, b, cost = problem(rng, 19, 27, dtype)
    a[3] = b[5] = 0
    a, b = a / a.sum(), b / b.sum()
    cost[2, 2] = cost[7, 9] = INF
    options = {"tol": 1e-13, "unbalanced": rho, "max_iter": 300}
    there, here = (f(a, b, cost, 0.05, **options) for f in (solve, sinkhorn))
    for bars in (
        {"cost_bar": 1.3},
        {"objective_bar": -0.7},
        {"plan_bar": rng.standard_normal((19, 27))},
        {"plan_bar": rng.standard_normal((27, 19)).astype(np.float32).T, "cost_bar": 0.5, "objective_bar": 2.0},
    ):
        found, truth = gradients(there, bars, there=True), gradients(here, bars, there=False)
        assert found.keys() == truth.keys()
        for name, value in truth.items():
            got = found[name]
            assert got.dtype == dtype
            if rho is None and name != "cost":  # free by opposite constants
                used = (a if name == "a" else b) > 0
                got, value = centred(got[used].astype(float)), centred(value[used])
            scale = np.abs(value).max()
            np.testing.assert_allclose(got, value, atol=scale * (1e-8 if dtype == np.float64 else 1e-5))


def test_gradients_are_slopes(rng):
    a, b, cost = problem(rng, 8, 11)
    bar = rng.standard_normal((8, 11))

    def value(c):
        result = solve(a, b, c, 0.1, tol=1e-14)
        return (bar * device.get(result.plan)).sum() + 0.4 * number(result.cost) - 0.3 * number(result.objective)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        found = solve(a, b, cost, 0.1, tol=1e-14).vjp(device.put(bar), 0.4, -0.3)
        step, direction = 1e-5, rng.standard_normal((8, 11))
        slope = (value(cost + step * direction) - value(cost - step * direction)) / (2 * step)
    np.testing.assert_allclose((device.get(found["cost"]) * direction).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
@pytest.mark.parametrize("dim", [1, 3, 11])
def test_gradients_of_points(rng, metric, dim):
    x, y = rng.standard_normal((13, dim)), rng.standard_normal((17, dim))
    y[3] = x[2]  # where the root has no slope
    a, b, _ = problem(rng, 13, 17)
    a[1], b[0] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    bars = {"plan_bar": rng.standard_normal((13, 17)), "cost_bar": 0.8, "objective_bar": -0.2}
    there = solve(a, b, PointCloud(device.put(x), device.put(y), metric=metric, scale=0.5), 0.3, tol=1e-12)
    here = sinkhorn(a, b, PointCloud(x, y, metric=metric, scale=0.5), 0.3, tol=1e-12)
    for chosen in (bars, {"objective_bar": 1.0}):
        found, truth = gradients(there, chosen, there=True), gradients(here, chosen, there=False)
        for name in ("x", "y"):
            assert found[name].shape == truth[name].shape
            np.testing.assert_allclose(found[name], truth[name], atol=1e-9 * np.abs(truth[name]).max() + 1e-12)


def test_gradients_of_dense_plans(rng):
    """Large reg: more entries than the system keeps, which then takes the plan itself."""
    a, b, cost = problem(rng, 40, 30)
    bars = {"plan_bar": rng.standard_normal((40, 30))}
    there, here = (f(a, b, cost, 3.0, tol=1e-13) for f in (solve, sinkhorn))
    found, truth = gradients(there, bars, there=True), gradients(here, bars, there=False)
    np.testing.assert_allclose(found["cost"], truth["cost"], atol=1e-10 * np.abs(truth["cost"]).max())


def test_what_is_wrong_with_a_bar_is_said(rng):
    a, b, cost = problem(rng, 4, 5)
    result = solve(a, b, cost, 0.1)
    with pytest.raises(ValueError, match=r"^vjp: plan_bar must have shape \(4, 5\), got \(5, 4\)$"):
        result.vjp(device.put(np.ones((5, 4))))
    for bad in (np.nan, INF, -INF):
        bar = np.ones((4, 5))
        bar[1, 2] = bad
        with pytest.raises(ValueError, match=r"^vjp: plan_bar has NaN or Inf$"):
            result.vjp(device.put(bar))
    with pytest.raises(ValueError, match=r"^vjp: cost_bar must be finite"):
        result.vjp(cost_bar=np.nan)
    with pytest.raises(TypeError, match=r"cost is .* and plan_bar "):
        result.vjp(np.ones((4, 5)))
    with pytest.raises(ValueError, match=r"vjp: the cost was dropped by detach\(\)"):
        result.detach().vjp(cost_bar=1.0)


# ---- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("batched", ["cost", "a b", "a b cost", "b"])
def test_batches(rng, batched, dtype):
    a, b = rng.random((3, 9)) + 0.2, rng.random((3, 14)) + 0.2
    a /= a.sum(1, keepdims=True)
    b /= b.sum(1, keepdims=True)
    cost = rng.random((3, 9, 14)).astype(dtype)
    given = {n: v if n in batched.split() else v[0] for n, v in (("a", a), ("b", b), ("cost", cost))}
    wide = np.full((3, 9, 20), np.nan, dtype)
    wide[:, :, :14] = cost
    places = {n: device.put(v) for n, v in given.items()}
    for method in ("auto", "sinkhorn", "ssns"):
        found = sinkhorn_batch(*places.values(), 0.02, method=method)
        cpu = sinkhorn_batch(*given.values(), 0.02, method=method)
        assert len(found) == 3
        assert found.all_converged
        for k in range(3):
            one = solve(*(v[k] if n in batched.split() else v for n, v in given.items()), 0.02, method=method)
            np.testing.assert_array_equal(device.get(found[k].f), device.get(one.f))
            np.testing.assert_array_equal(device.get(found[k].plan), device.get(one.plan))
        tol = 1e-7 if dtype == np.float64 else 1e-3
        for name in ("f", "g", "cost", "objective", "plan"):
            np.testing.assert_allclose(device.get(getattr(found, name)), getattr(cpu, name), atol=tol)
    if batched == "cost":
        strided = sinkhorn_batch(places["a"], places["b"], device.put(wide[:, :, :14]), 0.02)
        np.testing.assert_allclose(device.get(strided.f), device.get(found.f), atol=1e-4)


def test_what_is_wrong_with_a_batch_is_said_as_on_the_cpu(rng):
    a, b, cost = np.full((2, 4), 0.25), np.full(5, 0.2), rng.random((2, 4, 5))
    for change in (
        {"a": np.full((3, 4), 0.25)},
        {"a": np.full((2, 3), 1 / 3)},
        {"a": a[0], "cost": cost[0]},
        {"a": np.stack([a[0], 2 * a[1]])},
        {"cost": cost[0, 0]},
        {"method": "newton"},
        {"cost": np.where(cost == cost[1, 2, 3], np.nan, cost), "check_finite": True},
    ):
        arguments = {"a": a, "b": b, "cost": cost, "reg": 0.1} | change
        with pytest.raises((ValueError, IndexError)) as on_cpu:
            sinkhorn_batch(**arguments)
        with pytest.raises((ValueError, IndexError)) as on_device:
            sinkhorn_batch(**{k: device.put(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()})
        assert str(on_device.value) == str(on_cpu.value)
    with pytest.raises(TypeError, match="sinkhorn_batch: cost is"):
        sinkhorn_batch(a, None, device.put(cost), 0.1)
    x = rng.standard_normal((4, 2))
    clouds = sinkhorn_batch(device.put(a), None, PointCloud(device.put(x), device.put(x + 1)), 0.5)
    np.testing.assert_allclose(
        device.get(clouds.cost), sinkhorn_batch(a, None, PointCloud(x, x + 1), 0.5).cost, atol=1e-8
    )
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 2 did not"):
        bad = sinkhorn_batch(None, None, device.put(np.where(cost == cost[1, 2, 3], np.nan, cost)), 0.1)
    assert list(bad.status) == ["converged", "breakdown"]
