"""raphson.jax.sinkhorn: the same answers and gradients in compiled programs, certificates as arrays."""

from __future__ import annotations

import importlib
import pickle
import warnings

import numpy as np
import pytest

import raphson

REG = 0.1


@pytest.fixture(scope="module")
def rj(jax):
    return importlib.import_module("raphson.jax")


@pytest.fixture
def x64(jax):
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with home.enable_x64(True):
        yield


@pytest.fixture
def problem(rng):
    a, b = rng.random(6) + 0.1, rng.random(5) + 0.1
    return a / a.sum(), b / b.sum(), rng.random((6, 5))


def slope(function, point: np.ndarray, direction: np.ndarray) -> float:
    h = 1e-3
    ahead, behind = (function(point + s * h * direction) - function(point - s * h * direction) for s in (1, 2))
    return float((8 * ahead - behind) / (12 * h))


@pytest.mark.parametrize("given", ["both", "a", "b", "none"])
@pytest.mark.parametrize("unbalanced", [None, 0.7, (np.inf, 0.5)], ids=str)
def test_the_same_answer_compiled(jax, rj, x64, problem, given, unbalanced):
    a, b, cost = problem
    a, b = a if given in ("both", "a") else None, b if given in ("both", "b") else None
    truth = raphson.sinkhorn(a, b, cost, REG, unbalanced=unbalanced)

    def run(left, right, costs):
        return rj.sinkhorn(left, right, costs, REG, unbalanced=unbalanced)

    for got in (run(a, b, cost), jax.jit(run)(a, b, cost)):
        for name in ("f", "g", "cost", "objective", "dual_objective", "duality_gap", "marginal_error", "converged"):
            assert np.array_equal(getattr(got, name), getattr(truth, name)), name
        assert (int(got.iterations), int(got.newton_iterations)) == (truth.iterations, truth.newton_iterations)
        assert rj.STATUSES[int(got.status)] == "converged"
        assert np.array_equal(got.plan, truth.plan)
        assert "1 of 1 converged" in repr(got)
        other = pickle.loads(pickle.dumps(got))
        assert np.array_equal(other.plan, truth.plan)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_points(jax, rj, x64, rng, metric):
    x, y = rng.random((7, 2)), rng.random((6, 2))
    truth = raphson.sinkhorn(None, None, raphson.PointCloud(x, y, metric=metric, scale=1.5), REG)
    run = jax.jit(lambda p, q: rj.sinkhorn(None, None, rj.PointCloud(p, q, metric, 1.5), REG))
    for got in (run(x, y), rj.sinkhorn(None, None, raphson.PointCloud(x, y, metric=metric, scale=1.5), REG)):
        assert float(got.objective) == truth.objective
        assert np.array_equal(got.plan, truth.plan)


def test_gradients_of_costs_and_weights(jax, rj, x64, problem, rng):
    a, b, cost = problem
    weight = rng.random(cost.shape)

    def loss(logits, right, costs):
        found = rj.sinkhorn(jax.nn.softmax(logits), right, costs, REG, tol=1e-13)
        return jax.numpy.sin(3 * found.cost) + found.objective**2 + (found.plan * weight).sum() - found.dual_objective

    at = (np.log(a), b, cost)
    found = jax.jit(jax.grad(loss, argnums=(0, 2)))(*at)
    for k, gradient in zip((0, 2), found, strict=True):
        direction = rng.standard_normal(at[k].shape)
        ahead = slope(lambda moved, k=k: loss(*at[:k], moved, *at[k + 1 :]), at[k], direction)
        assert np.isclose(ahead, (gradient * direction).sum(), rtol=1e-7)
    by_b = jax.grad(loss, argnums=1)(*at)
    direction = rng.standard_normal(5)
    direction -= direction.mean()  # masses stay equal
    assert np.isclose(slope(lambda moved: loss(at[0], moved, cost), b, direction), by_b @ direction, rtol=1e-7)


def test_gradients_of_points(jax, rj, x64, rng):
    x, y = rng.random((7, 2)), rng.random((6, 2))

    def loss(p, q):
        found = rj.sinkhorn(None, None, rj.PointCloud(p, q), REG, tol=1e-13, unbalanced=(1.0, np.inf))
        return found.cost * found.objective + (found.plan[:3] ** 2).sum()

    by_x, by_y = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, y)
    direction = rng.standard_normal(x.shape)
    assert np.isclose(slope(lambda p: loss(p, y), x, direction), (by_x * direction).sum(), rtol=1e-7)
    direction = rng.standard_normal(y.shape)
    assert np.isclose(slope(lambda q: loss(x, q), y, direction), (by_y * direction).sum(), rtol=1e-7)


def test_mapped_problems(jax, rj, x64, problem, rng):
    a, b, _ = problem
    costs, weights = rng.random((3, 6, 5)), rng.random((2, 6)) + 0.1
    weights /= weights.sum(axis=1, keepdims=True)

    def run(left, cost):
        return rj.sinkhorn(left, b, cost, REG)

    got = jax.vmap(jax.vmap(run, in_axes=(0, None)), in_axes=(None, 0))(weights, costs)
    assert got.f.shape == (3, 2, 6)
    truth = raphson.sinkhorn(weights[1], b, costs[2], REG)
    assert np.array_equal(got.f[2, 1], truth.f)
    assert float(got.objective[2, 1]) == truth.objective
    with pytest.raises(ValueError, match=r"^plan: of one problem"):
        _ = got.plan

    def loss(cost):
        found = run(a, cost)
        return found.plan[0, 0] + found.cost

    slopes = jax.vmap(jax.grad(loss))(costs)
    assert np.allclose(slopes[1], jax.grad(loss)(costs[1]), rtol=1e-12, atol=0)
    mapped = jax.vmap(lambda cost: run(a, cost).plan)(costs)
    assert np.array_equal(mapped[1], raphson.sinkhorn(a, b, costs[1], REG).plan)


def test_warm_starts(jax, rj, x64, problem):
    a, b, cost = problem
    first = rj.sinkhorn(a, b, cost, REG)
    for start in (first, (first.f, first.g)):
        again = jax.jit(lambda left, init: rj.sinkhorn(left, b, cost, REG, init=init))(a, start)
        assert int(again.iterations) < int(first.iterations)
        assert rj.sinkhorn(a, b, cost, REG, init=start).iterations == again.iterations
    costs = np.stack([cost, cost**2])
    cold = jax.vmap(lambda c: rj.sinkhorn(a, b, c, REG))(costs)
    warm = jax.vmap(lambda c, f, g: rj.sinkhorn(a, b, c, REG, init=(f, g)))(costs, cold.f, cold.g)
    assert (warm.iterations < cold.iterations).all()
    gradient = jax.grad(lambda f: rj.sinkhorn(a, b, cost, REG, init=(f, first.g)).cost)(first.f)
    assert not gradient.any()


def test_without_64_bits_the_error_is_that_of_what_is_returned(jax, rj, rng):
    cost = (rng.random((80, 70)) * 100).astype(np.float32)
    run = jax.jit(lambda c: rj.sinkhorn(None, None, c, 0.01, tol=1e-5))
    for got in (run(cost), rj.sinkhorn(None, None, cost, 0.01, tol=1e-5)):
        assert got.f.dtype == got.plan.dtype == np.float32
        f, g = np.asarray(got.f, np.float64), np.asarray(got.g, np.float64)
        plan = np.exp((f[:, None] + g - cost) / 0.01) / (80 * 70)
        error = np.abs(plan.sum(1) - 1 / 80).sum() + np.abs(plan.sum(0) - 1 / 70).sum()
        assert np.isclose(got.marginal_error, error, rtol=1e-5)
        assert error > 1e-5  # single precision potentials beside a small reg cannot do better
        assert rj.STATUSES[int(got.status)] == "precision_floor"
        assert not bool(got.converged)
    relaxed = jax.jit(lambda c: rj.sinkhorn(None, None, c, 0.5, unbalanced=0.3).marginal_error)(cost / 100)
    assert relaxed < 1e-5  # of the relaxed marginals, not of the given ones


def test_what_would_be_refused_has_a_status_inside(jax, rj, x64, problem):
    a, b, cost = problem
    run = jax.jit(lambda left, costs: rj.sinkhorn(left, b, costs, REG))
    for left, costs, status, text in (
        (2 * a, cost, "infeasible", "mass"),
        (-a, cost, "infeasible", "negative"),
        (np.where(a > a.min(), a, np.nan), cost, "breakdown", "NaN"),
        (a, np.where(cost > cost.min(), cost, np.nan), "breakdown", "NaN"),
        (a, np.where(cost > cost.min(), cost, -np.inf), "breakdown", "Inf"),
        (a, np.where(np.arange(6)[:, None] == 2, np.inf, cost), "infeasible", "row 2"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = run(left, costs)
            assert rj.STATUSES[int(got.status)] == status
            assert not bool(got.converged)
            assert np.isnan(got.objective)
            assert np.isnan(got.f).all()
            gradient = jax.grad(lambda c, left=left: rj.sinkhorn(left, b, c, REG).cost)(costs)
            assert np.isnan(gradient).all()
        with pytest.raises(ValueError, match=text):
            rj.sinkhorn(left, b, costs, REG)
    with pytest.warns(raphson.ConvergenceWarning):
        outside = rj.sinkhorn(a, b, cost, 1e-3, max_iter=1, method="sinkhorn")
    inside = jax.jit(lambda c: rj.sinkhorn(a, b, c, 1e-3, max_iter=1, method="sinkhorn"))(cost)
    assert int(inside.status) == int(outside.status) == rj.STATUSES.index("max_iter")
    forbidden = np.where(np.eye(6, 5) > 0, np.inf, cost)
    assert np.array_equal(run(a, forbidden).plan, raphson.sinkhorn(a, b, forbidden, REG).plan)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"reg": 0.0}, ValueError, "reg must be positive"),
        ({"method": "nobody"}, ValueError, "nobody"),
        ({"tol": 0.0}, ValueError, "tol"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"unbalanced": -1.0}, ValueError, "unbalanced"),
        ({"a": np.ones(5)}, ValueError, r"a must have shape \(6,\), got \(5,\)"),
        ({"a": np.ones((6, 1))}, ValueError, "a must have 1 axes"),
        ({"a": np.ones(6, int)}, TypeError, "a must be float64 or float32"),
        ({"cost": np.ones(6)}, ValueError, "cost must have 2 axes"),
        ({"init": (np.ones(6), np.ones(6))}, ValueError, r"g must have shape \(5,\)"),
    ],
    ids=str,
)
def test_wrong_use_is_found_when_a_program_is_traced(jax, rj, x64, problem, change, error, text):
    a, b, cost = problem
    given = {"a": a, "b": b, "cost": cost, "reg": REG, **change}
    with pytest.raises(error, match=text):
        jax.jit(lambda scale: rj.sinkhorn(**{**given, "b": scale * b}))(1.0)


def test_points_are_checked_and_reg_is_a_number(jax, rj, x64, rng):
    x = rng.random((4, 2))
    for cloud, text in (
        (lambda p: rj.PointCloud(p, p, "cosine"), "cosine"),
        (lambda p: rj.PointCloud(p, p, scale=-1.0), "scale"),
        (lambda p: rj.PointCloud(p, p[:, :1]), r"shapes \(n, d\)"),
    ):
        with pytest.raises(ValueError, match=text):
            jax.jit(lambda p, cloud=cloud: rj.sinkhorn(None, None, cloud(p), REG).cost)(x)
    with pytest.raises(TypeError, match=r"reg must be a number, not a traced array"):
        jax.jit(lambda reg: rj.sinkhorn(None, None, x, reg).cost)(REG)
