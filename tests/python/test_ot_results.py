"""What a transport result answers: products, maps, sparse and rounded plans, gradients, pickles, frameworks."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import ot_reference as truth
import raphson
from raphson.ot import PointCloud, TransportResult, sinkhorn

INF = np.inf


@pytest.fixture
def problem(rng):
    a, b = rng.random(37) + 0.1, rng.random(52) + 0.1
    return a / a.sum(), b / b.sum(), rng.random((37, 52))


def test_apply(problem, rng):
    result = sinkhorn(*problem, 0.05)
    for k in ((), (1,), (3,), (19,)):
        v, w = rng.standard_normal((52, *k)), rng.standard_normal((37, *k))
        np.testing.assert_allclose(result.apply(v), result.plan @ v, atol=1e-14)
        np.testing.assert_allclose(result.apply(w, transpose=True), result.plan.T @ w, atol=1e-14)
    np.testing.assert_allclose(result.apply(np.ones(52)), result.row_marginal, rtol=1e-13)
    np.testing.assert_allclose(result.apply(np.ones(37), transpose=True), result.column_marginal, rtol=1e-13)


def test_apply_with_zero_weights_and_forbidden_pairs(problem):
    a, b, cost = problem
    a[[1, 36]], b[0] = 0, 0
    cost[3, :20] = INF
    a, b = a / a.sum(), b / b.sum()
    result = sinkhorn(a, b, cost, 0.05)
    np.testing.assert_allclose(result.apply(np.ones(52)), result.plan.sum(1), atol=1e-15)
    assert np.isfinite(result.cost)
    assert result.cost == pytest.approx(np.sum(result.plan * np.where(np.isinf(cost), 0, cost)))


@pytest.mark.parametrize("shape", [(1700, 1400), (40, 3000), (3000, 40)])
def test_apply_in_blocks(shape, rng):
    cost = rng.random(shape)
    result = sinkhorn(None, None, cost, 0.1)
    v, w = rng.standard_normal((shape[1], 9)), rng.standard_normal((shape[0], 9))
    np.testing.assert_allclose(result.apply(v), result.plan @ v, atol=1e-13)
    np.testing.assert_allclose(result.apply(w, transpose=True), result.plan.T @ w, atol=1e-13)


@pytest.mark.parametrize("most", [0.0, 1e-12, 1e-6, 0.01, 0.5, 2.0])
def test_sparse_plan(problem, most):
    pytest.importorskip("scipy")
    result = sinkhorn(*problem, 0.01)
    sparse = result.sparse_plan(most)
    dense = sparse.toarray()
    kept = dense > 0
    np.testing.assert_allclose(dense[kept], result.plan[kept], rtol=1e-12)
    dropped = result.plan[~kept].sum()
    assert dropped <= most + 1e-18
    assert sparse.dropped_mass == pytest.approx(dropped, rel=1e-12, abs=1e-17)
    if kept.any() and not kept.all():
        assert result.plan[~kept].max() <= result.plan[kept].min()
        # nothing more of the next size could go: twice the threshold would drop too much
        smallest = result.plan[kept].min()
        assert dropped + result.plan[kept & (result.plan <= 2 * smallest)].sum() > most
    if most == 1e-6:
        assert sparse.nnz < result.plan.size // 2


def test_rounded_plan(problem):
    a, b, cost = problem
    result = sinkhorn(a, b, cost, 0.01, tol=1e-4)
    plan = result.rounded_plan()
    assert plan.min() >= 0
    assert truth.marginal_error(a, b, plan) < 1e-14
    assert np.abs(plan - result.plan).sum() <= 2 * result.marginal_error + 1e-15
    assert np.abs(plan - result.plan).sum() > 1e-12


def test_rounded_plan_refuses_forbidden_pairs():
    a = b = np.full(3, 1 / 3)
    cost = np.array([[0.0, 1, INF], [1, 0, 1], [INF, 1, 0.2]])
    loose = sinkhorn(a, b, cost, 0.5, tol=0.02, method="sinkhorn")
    if loose.marginal_error < 1e-12:
        pytest.skip("too good a start")
    left = np.maximum(a - loose.plan.sum(1), 0)
    right = np.maximum(b - loose.plan.sum(0), 0)
    touched = (np.outer(left, right)[np.isinf(cost)] > 0).any()
    try:
        plan = loose.rounded_plan()
    except ValueError as error:
        assert "forbidden" in str(error)  # noqa: PT017
    else:
        assert not touched or np.all(plan[np.isinf(cost)] == 0)
        assert np.all(plan[np.isinf(cost)] == 0)


def test_rounded_plan_is_for_balanced_problems(problem):
    with pytest.raises(ValueError, match="balanced"):
        sinkhorn(*problem, 0.1, unbalanced=1.0).rounded_plan()


def test_map(rng):
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((55, 3))
    b = rng.random(55)
    b /= b.sum()
    result = sinkhorn(None, b, PointCloud(x, y, metric="euclidean"), 0.1)
    expected = result.plan @ y / result.plan.sum(1, keepdims=True)
    np.testing.assert_allclose(result.map(), expected, atol=1e-12)
    np.testing.assert_allclose(result.map(x), expected, atol=1e-12)
    new = rng.standard_normal((7, 3))
    distance = np.sqrt(((new[:, None] - y[None]) ** 2).sum(-1))
    weight = b * np.exp((result.g[None] - distance) / 0.1)
    np.testing.assert_allclose(result.map(new), weight @ y / weight.sum(1, keepdims=True), atol=1e-12)
    for bad in (new[:, :2], new[0]):
        with pytest.raises(ValueError, match=r"\(k, 3\)"):
            result.map(bad)


def test_map_needs_points(problem):
    with pytest.raises(ValueError, match="PointCloud"):
        sinkhorn(*problem, 0.1).map()


# ---- the object --------------------------------------------------------------------------------------------
def test_pickle_copy_and_repr(problem, rng):
    cloud = PointCloud(rng.random((9, 2)), rng.random((8, 2)))
    for result in (sinkhorn(*problem, 0.05), sinkhorn(None, None, cloud, 0.05)):
        for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            np.testing.assert_array_equal(twin.plan, result.plan)
            np.testing.assert_array_equal(twin.history, result.history)
            assert twin.marginal_error == result.marginal_error
        text = repr(result)
        assert "converged" in text
        assert len(text) < 300
    assert "9 × 8" in repr(cloud)
    twin = pickle.loads(pickle.dumps(cloud))
    np.testing.assert_array_equal(twin.x, cloud.x)


def test_results_are_frozen(problem):
    result = sinkhorn(*problem, 0.05)
    with pytest.raises(AttributeError):
        result.f = None


def test_detach(problem):
    result = sinkhorn(*problem, 0.05).detach()
    assert isinstance(result, TransportResult)
    assert result.converged
    for ask in (lambda: result.plan, lambda: result.apply(np.ones(52)), result.vjp, result.rounded_plan):
        with pytest.raises(ValueError, match="detach"):
            ask()
    assert len(pickle.dumps(result)) < 30000


def test_history(problem):
    result = sinkhorn(*problem, 0.001)
    history = result.history
    assert history.dtype.names[:3] == ("stage", "marginal_error", "seconds")
    assert len(history) == result.iterations
    assert np.all(np.diff(history["seconds"]) >= 0)
    assert history["reg"][-1] == 0.001
    assert np.all(np.diff(history["reg"]) <= 0)
    assert history["marginal_error"][-1] == pytest.approx(result.marginal_error, abs=1e-10)
    newton = np.char.endswith(history["stage"], "newton").sum()
    assert newton == result.newton_iterations > 0


def test_the_plan_above_the_limit_is_refused(monkeypatch, problem):
    from raphson import _transport

    monkeypatch.setattr(_transport, "DENSE_LIMIT", 1000)
    result = sinkhorn(*problem, 0.05)
    with pytest.raises(MemoryError, match=r"dense\(force=True\)"):
        _ = result.plan
    assert result.dense(force=True).shape == (37, 52)


# ---- gradients ---------------------------------------------------------------------------------------------
def directional(loss, point, direction, step):
    """Fourth-order central difference."""
    values = [loss(point + k * step * direction) for k in (-2, -1, 1, 2)]
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


@pytest.mark.parametrize("rho", [None, (0.7, 0.7), (0.5, INF), (INF, 2.0)])
@pytest.mark.parametrize("reg", [0.5, 0.05])
@pytest.mark.parametrize("what", ["plan", "cost", "objective", "all"])
def test_vjp_against_finite_differences(rho, reg, what, rng):
    a, b, cost = rng.random(7) + 0.2, rng.random(9) + 0.2, rng.random((7, 9))
    a, b = a / a.sum(), b / b.sum()
    bars = {
        "plan_bar": rng.standard_normal((7, 9)) if what in ("plan", "all") else None,
        "cost_bar": 1.3 if what in ("cost", "all") else None,
        "objective_bar": -0.7 if what in ("objective", "all") else None,
    }

    def loss(a_, b_, cost_):
        r = sinkhorn(a_, b_, cost_, reg, unbalanced=rho, tol=1e-14 if reg > 0.1 else 3e-14)
        value = 0.0
        if bars["plan_bar"] is not None:
            value += float(np.sum(bars["plan_bar"] * r.plan))
        return value + (bars["cost_bar"] or 0) * r.cost + (bars["objective_bar"] or 0) * r.objective

    gradient = sinkhorn(a, b, cost, reg, unbalanced=rho, tol=1e-13).vjp(**bars)
    step = 1e-3 * reg
    with np.errstate(all="ignore"), _quiet():
        direction = rng.standard_normal((7, 9))
        expected = directional(lambda c: loss(a, b, c), cost, direction, step)
        assert np.sum(gradient["cost"] * direction) == pytest.approx(expected, rel=1e-6, abs=1e-8)
        for name in ("a", "b"):
            direction = rng.standard_normal(7 if name == "a" else 9)
            if rho is None:
                direction -= direction.mean()  # masses stay equal
            point = a if name == "a" else b
            expected = directional(
                lambda w, n=name: loss(w, b, cost) if n == "a" else loss(a, w, cost), point, direction, 1e-4
            )
            assert gradient[name] @ direction == pytest.approx(expected, rel=1e-6, abs=1e-8)


class _quiet:
    """Tolerances near the floor: what is measured there is measured by the difference."""

    def __enter__(self):
        import warnings

        self._context = warnings.catch_warnings()
        self._context.__enter__()
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)

    def __exit__(self, *error):
        self._context.__exit__(*error)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
def test_vjp_of_point_clouds(metric, rng):
    x, y = rng.standard_normal((8, 2)), rng.standard_normal((6, 2))
    bar = rng.standard_normal((8, 6))

    def loss(x_, y_):
        r = sinkhorn(None, None, PointCloud(x_, y_, metric=metric, scale=0.5), 0.3, tol=1e-14)
        return float(np.sum(bar * r.plan)) + 0.4 * r.objective

    with _quiet():
        gradient = sinkhorn(None, None, PointCloud(x, y, metric=metric, scale=0.5), 0.3, tol=1e-13).vjp(bar, None, 0.4)
        for name, point in (("x", x), ("y", y)):
            direction = rng.standard_normal(point.shape)
            expected = directional(lambda p, n=name: loss(p, y) if n == "x" else loss(x, p), point, direction, 1e-4)
            assert np.sum(gradient[name] * direction) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_vjp_of_a_sparse_plan(rng):
    """Small reg, many points: the factored sparse system, against the same system solved densely."""
    n, m, reg = 150, 130, 2e-3
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    a, b, cost = a / a.sum(), b / b.sum(), rng.random((n, m))
    with _quiet():
        result = sinkhorn(a, b, cost, reg, tol=1e-13)
    bar = rng.standard_normal((n, m))
    gradient = result.vjp(bar)
    plan = result.plan
    hessian = np.block([[np.diag(plan.sum(1)), plan], [plan.T, np.diag(plan.sum(0))]])
    right = np.concatenate([(bar * plan).sum(1), (bar * plan).sum(0)])
    solved = np.linalg.lstsq(hessian, right, rcond=1e-14)[0]
    expected = plan * (solved[:n, None] + solved[None, n:] - bar) / reg
    assert np.abs(gradient["cost"] - expected).max() < 1e-7 * np.abs(expected).max()


def test_vjp_of_forbidden_pairs_and_zero_weights(problem):
    a, b, cost = problem
    cost[2, :10], a[5] = INF, 0
    a /= a.sum()
    gradient = sinkhorn(a, b, cost, 0.1).vjp(np.ones_like(cost), 1.0, 1.0)
    assert all(np.isfinite(value).all() for value in gradient.values())
    assert np.all(gradient["cost"][2, :10] == 0)
    assert gradient["a"][5] == 0


def test_vjp_refuses(problem):
    result = sinkhorn(*problem, 0.1)
    with pytest.raises(ValueError, match="plan_bar must have shape"):
        result.vjp(np.ones((37, 51)))
    with pytest.raises(ValueError, match="NaN"):
        result.vjp(np.full((37, 52), np.nan))
    with pytest.raises(ValueError, match="finite"):
        result.vjp(cost_bar=np.inf)


# ---- dtypes and frameworks ----------------------------------------------------------------------------------
def test_arrays_have_the_dtype_of_the_data(problem, rng):
    a, b, cost = problem
    result = sinkhorn(a, b, cost.astype(np.float32), 0.05)
    assert result.plan.dtype == result.rounded_plan().dtype == np.float32
    assert result.f.dtype == result.g.dtype == result.row_marginal.dtype == np.float64
    assert isinstance(result.cost, float)
    assert all(value.dtype == np.float32 for value in result.vjp(cost_bar=1.0).values())
    assert result.apply(np.ones(52, np.float32)).dtype == np.float32
    assert result.apply(np.ones(52)).dtype == np.float64
    x, y = rng.random((9, 2), dtype=np.float32), rng.random((8, 2), dtype=np.float32)
    cloud = sinkhorn(None, None, PointCloud(x, y), 0.1)
    assert cloud.plan.dtype == cloud.map().dtype == np.float32
    assert cloud.map(x.astype(float)).dtype == np.float64
    assert sinkhorn(a, b, cost, 0.05).plan.dtype == np.float64


def test_torch(torch, problem):
    a, b, cost = (torch.from_numpy(v) for v in problem)
    result = sinkhorn(a, b, cost, 0.05)
    plain = sinkhorn(*problem, 0.05)
    for name in ("f", "g", "plan", "cost", "objective", "marginal_error", "row_marginal"):
        value = getattr(result, name)
        assert isinstance(value, torch.Tensor), name
        np.testing.assert_array_equal(value.numpy(), getattr(plain, name))
    assert result.cost.ndim == 0
    assert result.converged is True
    assert isinstance(result.apply(b), torch.Tensor)
    assert isinstance(result.vjp(objective_bar=1.0)["cost"], torch.Tensor)
    points = torch.randn(10, 2, dtype=torch.float32)
    mapped = sinkhorn(None, None, PointCloud(points, points + 1), 0.5).map()
    assert isinstance(mapped, torch.Tensor)
    assert mapped.dtype == torch.float32
    with pytest.raises(TypeError, match="numpy"):
        sinkhorn(problem[0], b, cost, 0.05)


def test_jax(jax, problem):
    cost = jax.numpy.asarray(problem[2], dtype="float32")
    result = sinkhorn(None, None, cost, 0.05)
    assert isinstance(result.f, jax.Array)
    assert isinstance(result.plan, jax.Array)
    assert np.abs(np.asarray(result.plan).sum(1) - 1 / 37).max() < 1e-5
