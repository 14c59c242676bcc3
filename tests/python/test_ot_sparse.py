"""sparse_transport: quadratic regularisation and the limit on the entries of columns."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import raphson
from interrupts import check_interrupt
from raphson.ot import PointCloud, sinkhorn, sparse_transport
from sparse_transport_reference import kkt_residual, quadratic_programme, rows_for, semi_dual

INF = np.inf


def problem(n, m, seed=0, kind="random"):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 1e-3, rng.random(m) + 1e-3
    if kind == "points":
        x, y = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
        cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    elif kind == "grid":  # ties everywhere
        cost = np.abs(np.arange(n)[:, None] - np.arange(m)[None]).astype(float) / max(n, m)
    else:
        cost = rng.random((n, m))
    return a / a.sum(), b / b.sum(), cost


def check(a, b, cost, reg, result, tol=1e-10):
    assert result.converged
    assert result.status == "converged"
    assert kkt_residual(a, b, np.asarray(cost, float), reg, result.f, result.g, result.plan) <= tol
    np.testing.assert_allclose(result.plan.sum(1), result.row_marginal, atol=1e-14)
    np.testing.assert_allclose(result.plan.sum(0), result.column_marginal, atol=1e-14)
    measured = np.abs(result.row_marginal - a).sum() + np.abs(result.column_marginal - b).sum()
    assert measured == pytest.approx(result.marginal_error, abs=1e-14)
    finite = np.where(result.plan > 0, cost, 0)
    assert result.cost == pytest.approx(np.sum(finite * result.plan), rel=1e-10, abs=1e-13)
    assert result.objective == pytest.approx(result.cost + reg / 2 * np.sum(result.plan**2), rel=1e-12)
    used_a, used_b = a > 0, b > 0
    dual = a[used_a] @ result.f[used_a] + b[used_b] @ result.g[used_b] - reg / 2 * np.sum(result.plan**2)
    assert result.dual_objective == pytest.approx(dual, rel=1e-10, abs=1e-13)
    assert abs(result.duality_gap) <= 1e-9 * (1 + abs(result.objective))
    assert 0 <= result.dual_bound - result.dual_objective <= 1e-8 * (1 + abs(result.objective))


@pytest.mark.parametrize("kind", ["random", "points", "grid"])
@pytest.mark.parametrize("reg", [1e-3, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (9, 1), (2, 2), (7, 5), (40, 33), (65, 120)])
def test_optimality_conditions(n, m, reg, kind):
    a, b, cost = problem(n, m, n + m, kind)
    check(a, b, cost, reg, sparse_transport(a, b, cost, reg, tol=1e-10))


@pytest.mark.parametrize("reg", [0.05, 0.5, 5.0])
def test_against_a_quadratic_programme(reg):
    a, b, cost = problem(4, 5, 3)
    expected = quadratic_programme(a, b, cost, reg)
    np.testing.assert_allclose(sparse_transport(a, b, cost, reg).plan, expected, atol=1e-9)


@pytest.mark.parametrize("reg", [0.1, 1.0, 20.0])
def test_against_pot(reg):
    ot = pytest.importorskip("ot")
    a, b, cost = problem(30, 40, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # SciPy's, of what POT passes to it
        theirs = ot.smooth.smooth_ot_dual(a, b, cost, reg, stopThr=1e-14, numItermax=20000)
        solved = ot.solve(cost, a, b, reg=reg, reg_type="L2", tol=1e-14, max_iter=20000)
    result = sparse_transport(a, b, cost, reg)
    np.testing.assert_allclose(result.plan, theirs, atol=1e-5)
    assert result.objective + reg / 2 * np.sum(result.plan**2) == pytest.approx(solved.value, rel=1e-5)


def test_small_reg_is_the_linear_programme():
    ot = pytest.importorskip("ot")
    a, b, cost = problem(60, 50, 9)
    result = sparse_transport(a, b, cost, 1e-4)
    exact = ot.emd2(a, b, cost)
    assert exact <= result.cost + 1e-9
    assert result.cost - exact <= 1e-5
    assert result.nnz <= 60 + 50 + 20


def test_weights_of_very_different_sizes():
    """As of images on a grid: most pixels hold next to nothing, and costs tie."""
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12), indexing="ij"), -1).reshape(-1, 2).astype(float)
    cost = ((grid[:, None] - grid[None]) ** 2).sum(-1)
    cost /= cost.max()
    rng = np.random.default_rng(0)
    a = np.where(rng.random(144) < 0.3, rng.random(144), 1e-5)
    b = np.where(rng.random(144) < 0.3, rng.random(144), 1e-5)
    a, b = a / a.sum(), b / b.sum()
    for reg in (10.0, 1.0, 0.1):
        check(a, b, cost, reg, sparse_transport(a, b, cost, reg, tol=1e-10))
    check(a, b, cost, 1e-3, sparse_transport(a, b, cost, 1e-3))  # next to the linear programme


def test_zero_weights():
    a, b, cost = problem(20, 25, 2)
    a[[0, 7]], b[[3, 24]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    result = sparse_transport(a, b, cost, 0.7, tol=1e-10)
    check(a, b, cost, 0.7, result)
    assert (result.f[[0, 7]] == -INF).all()
    assert (result.g[[3, 24]] == -INF).all()
    kept = sparse_transport(a[a > 0], b[b > 0], cost[np.ix_(a > 0, b > 0)], 0.7)
    np.testing.assert_allclose(result.plan[np.ix_(a > 0, b > 0)], kept.plan, atol=1e-9)


def test_forbidden_pairs():
    a, b, cost = problem(30, 30, 4)
    cost[np.random.default_rng(0).random((30, 30)) < 0.5] = INF
    result = sparse_transport(a, b, cost, 0.5, tol=1e-10)
    check(a, b, cost, 0.5, result)
    assert (result.plan[np.isinf(cost)] == 0).all()
    assert np.isfinite(result.cost)


def test_unconnected_parts():
    a, b = np.full(6, 1 / 6), np.full(6, 1 / 6)
    cost = np.full((6, 6), INF)
    cost[:3, :3], cost[3:, 3:] = np.random.default_rng(0).random((2, 3, 3))
    result = sparse_transport(a, b, cost, 0.3, tol=1e-10)
    check(a, b, cost, 0.3, result)
    for part in (slice(0, 3), slice(3, 6)):
        assert a[part] @ result.f[part] == pytest.approx(b[part] @ result.g[part], abs=1e-12)


def test_hall_infeasible_is_said():
    cost = np.zeros((4, 3))
    cost[:2, 1:] = INF
    with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
        result = sparse_transport(np.full(4, 0.25), np.array([0.2, 0.4, 0.4]), cost, 0.5)
    assert result.status == "infeasible"
    assert result.marginal_error > 0.1
    assert result.dual_bound == INF
    assert np.isfinite(result.plan).all()


def test_scales():
    """Costs by c and masses by s: the plan of reg·c/s, times s."""
    a, b, cost = problem(25, 31, 6)
    plan = sparse_transport(a, b, cost, 0.8).plan
    scaled = sparse_transport(1e6 * a, 1e6 * b, 1e-4 * cost, 0.8e-10, tol=1e-3)
    np.testing.assert_allclose(scaled.plan, 1e6 * plan, atol=1e-3)
    shifted = sparse_transport(a, b, cost - 5, 0.8)
    np.testing.assert_allclose(shifted.plan, plan, atol=1e-9)


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed"])
def test_layouts(layout):
    a, b, cost = problem(21, 34, 7)
    expected = sparse_transport(a, b, cost, 0.4)
    big = np.zeros((42, 68))
    big[::2, ::2] = cost
    other = {"fortran": np.asfortranarray(cost), "strided": big[::2, ::2], "reversed": cost[::-1, ::-1][::-1, ::-1]}
    np.testing.assert_array_equal(sparse_transport(a, b, other[layout], 0.4).plan, expected.plan)


@pytest.mark.parametrize("cardinality", [None, 40])
def test_float32(cardinality):
    a, b, cost = problem(50, 70, 8)
    narrow = cost.astype(np.float32)
    wide = sparse_transport(a, b, narrow.astype(float), 0.6)
    result = sparse_transport(a, b, narrow, 0.6, tol=1e-9, cardinality=cardinality)
    assert result.plan.dtype == np.float32
    assert result.f.dtype == np.float64
    np.testing.assert_allclose(result.sparse_plan().toarray(), wide.plan, atol=1e-9)
    assert sparse_transport(a, b, narrow, 0.6).tol == 1e-5


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
@pytest.mark.parametrize("cardinality", [None, 30])
def test_point_clouds(metric, cardinality):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((45, 3)), rng.standard_normal((60, 3))
    cloud = PointCloud(x, y, metric=metric, scale=0.5)
    result = sparse_transport(None, None, cloud, 3.0, cardinality=cardinality, tol=1e-10)
    check(np.full(45, 1 / 45), np.full(60, 1 / 60), cloud.rows(0, 45), 3.0, result)


def test_a_point_cloud_in_tiles():
    rng = np.random.default_rng(1)
    x, y = rng.random((1500, 2)), rng.random((1450, 2))  # more pairs than are kept
    cloud = PointCloud(x, y)
    result = sparse_transport(None, None, cloud, 5.0)
    dense = sparse_transport(None, None, cloud.rows(0, 1500), 5.0)
    assert result.converged
    assert abs(result.sparse_plan() - dense.sparse_plan()).max() < 1e-10


# ---- a limit on the columns ------------------------------------------------------------------------------------------
def entries_of_columns(result):
    return np.diff(result.sparse_plan().tocsc().indptr)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_limit_that_does_not_bind(k):
    """With reg small enough the plain plan has at most k entries a column, and is the answer."""
    a, b, cost = problem(30, 30, 11)
    reg = 1e-3
    if k == 1:
        a = b = np.full(30, 1 / 30)
        reg = 1e-2
    plain = sparse_transport(a, b, cost, reg, tol=1e-10)
    if entries_of_columns(plain).max() > k:
        k = int(entries_of_columns(plain).max())
    result = sparse_transport(a, b, cost, reg, cardinality=k, tol=1e-10)
    assert result.converged
    np.testing.assert_allclose(result.plan, plain.plan, atol=1e-9)


def test_a_limit_above_the_rows_is_none():
    a, b, cost = problem(6, 9, 1)
    for k in (6, 7, 100):
        np.testing.assert_array_equal(
            sparse_transport(a, b, cost, 2.0, cardinality=k).plan, sparse_transport(a, b, cost, 2.0).plan
        )


@pytest.mark.parametrize(("n", "m", "k", "reg"), [(40, 60, 3, 3.0), (60, 40, 2, 1.0), (25, 25, 4, 10.0)])
def test_a_limit_that_binds(n, m, k, reg):
    """Columns fit exactly and are limited, and are maximisers at f: the best ones, or as good where candidates tie."""
    a, b, cost = problem(n, m, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        result = sparse_transport(a, b, cost, reg, cardinality=k)
    assert result.status in ("converged", "stalled")
    assert entries_of_columns(result).max() <= k
    np.testing.assert_allclose(result.plan.sum(0), b, atol=1e-12)
    expected = rows_for(b, result.f, cost.T, reg, k).T
    gained = [np.sum(p * (result.f[:, None] - cost) - reg / 2 * p**2, axis=0) for p in (result.plan, expected)]
    np.testing.assert_allclose(gained[0], gained[1], rtol=0, atol=1e-9)
    alike = np.isclose(result.plan, expected, rtol=0, atol=1e-9).all(0)
    kept = np.sort(np.where(result.plan > 0, result.f[:, None] - cost, INF), axis=0)[0]
    candidates = np.sort(result.f[:, None] - cost, axis=0)
    assert (alike | (np.abs(candidates[-k] - kept) <= 1e-8)).all()  # what is not is a tie for the last place
    assert alike.mean() > 0.3
    assert result.marginal_error == pytest.approx(np.abs(result.plan.sum(1) - a).sum(), abs=1e-11)
    value = semi_dual(b, a, result.f, cost.T, reg, k)
    assert value == pytest.approx(result.dual_objective, rel=1e-9)
    assert value >= sparse_transport(a, b, cost, reg).dual_objective  # a smaller set to choose from
    assert value <= result.dual_bound <= value + 1e-6 * abs(value)


def test_the_limited_dual_beside_pot(capsys):
    ot = pytest.importorskip("ot")
    a, b, cost = problem(30, 30, 2)
    reg, k = 3.0, 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, log = ot.smooth.smooth_ot_semi_dual(
            a, b, cost, reg, reg_type="sparsity_constrained", max_nz=k, stopThr=1e-12, numItermax=500, log=True
        )
        result = sparse_transport(a, b, cost, reg, cardinality=k)
    assert (theirs > 0).sum(0).max() <= k  # the same side is limited
    value = semi_dual(b, a, log["alpha"], cost.T, reg, k)
    assert result.dual_bound >= result.dual_objective >= value
    assert result.marginal_error <= 1.5 * np.abs(theirs.sum(1) - a).sum() + 1e-9


# ---- as a solver -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cardinality", [None, 4])
def test_threads_do_not_change_a_bit(cardinality):
    a, b, cost = problem(700, 640, 5, "points")
    results = []
    before = raphson.get_num_threads()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", raphson.ConvergenceWarning)
            for threads in (1, 2, 3):
                raphson.set_num_threads(threads)
                results.append(sparse_transport(a, b, cost, 20.0, cardinality=cardinality, max_iter=60))
    finally:
        raphson.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(other.f, results[0].f)
        np.testing.assert_array_equal(other.g, results[0].g)
        np.testing.assert_array_equal(other.plan, results[0].plan)
        assert other.iterations == results[0].iterations


def test_a_warm_start():
    a, b, cost = problem(200, 180, 5, "points")
    first = sparse_transport(a, b, cost, 2.0)
    for init in (first, (first.f, first.g), (None, first.g)):
        again = sparse_transport(a, b, cost, 2.0, init=init)
        assert again.iterations <= 2
        np.testing.assert_allclose(again.plan, first.plan, atol=1e-9)
    near = sparse_transport(a, b, cost, 1.5, init=first)
    assert near.converged
    assert near.iterations < sparse_transport(a, b, cost, 1.5).iterations
    assert sparse_transport(a, b, cost, 2.0, init=sinkhorn(a, b, cost, 0.01)).converged


def test_history_and_callback():
    a, b, cost = problem(60, 70, 5)
    seen = []
    result = sparse_transport(a, b, cost, 1.0, callback=seen.append)
    assert len(seen) == len(result.history) == result.iterations
    assert seen[-1].marginal_error <= 1e-9
    assert result.history["reg"][-1] == 1.0
    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        stopped = sparse_transport(a, b, cost, 1.0, callback=lambda s: s.iteration >= 3)
    assert (stopped.status, stopped.iterations) == ("stopped", 3)
    assert np.isfinite(stopped.f).all()
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        short = sparse_transport(a, b, cost, 1.0, max_iter=2)
    assert short.iterations == 2


def test_a_tolerance_below_the_precision_is_said():
    a, b, cost = problem(40, 40, 5)
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        result = sparse_transport(a, b, cost, 0.1, tol=1e-25)
    assert result.marginal_error < 1e-12


def test_progress(capsys):
    pytest.importorskip("tqdm")
    a, b, cost = problem(60, 70, 5)
    sparse_transport(a, b, cost, 1.0, progress=True)
    assert "sparse_transport" in capsys.readouterr().err


def test_the_hessian_is_smoothed():
    """Without it a line's support falls apart into pieces that only small steps can join: 897 passes instead of 118."""
    cost = (np.linspace(0, 1, 120)[:, None] - np.linspace(0, 1, 110)) ** 2
    a, b = np.exp(-(np.linspace(-3, 3, 120) ** 2)) + 1e-3, np.exp(-((np.linspace(-3, 3, 110) - 1) ** 2)) + 1e-3
    result = sparse_transport(a / a.sum(), b / b.sum(), cost, 0.1)
    assert result.converged
    assert result.iterations < 300


def test_what_does_not_fit_returns_the_best_that_was_met():
    cost = np.random.default_rng(7).random((150, 150))
    with pytest.warns(raphson.ConvergenceWarning):
        result = sparse_transport(None, None, cost, 1.0, cardinality=2)
    assert result.marginal_error <= (1 + 1e-9) * result.history["marginal_error"][-50:].min()
    plan = result.plan
    assert result.marginal_error == pytest.approx(
        np.abs(plan.sum(0) - 1 / 150).sum() + np.abs(plan.sum(1) - 1 / 150).sum()
    )


def test_interrupt():
    cost = np.random.default_rng(0).random((3000, 3000))
    check_interrupt(lambda: sparse_transport(None, None, cost, 1e-5))


def test_pickle_and_copy():
    a, b, cost = problem(20, 30, 5)
    result = sparse_transport(a, b, cost, 1.0)
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        np.testing.assert_array_equal(twin.plan, result.plan)
        assert repr(twin) == repr(result)
    with pytest.raises(AttributeError):
        result.status = "other"


def test_the_sparse_plan():
    a, b, cost = problem(20, 30, 5)
    result = sparse_transport(a, b, cost, 1.0)
    whole = result.sparse_plan()
    np.testing.assert_array_equal(whole.toarray(), result.plan)
    assert (whole.nnz, whole.dropped_mass) == (result.nnz, 0.0)
    less = result.sparse_plan(0.01)
    assert less.nnz < whole.nnz
    assert 0 < less.dropped_mass <= 0.01
    assert whole.sum() - less.sum() == pytest.approx(less.dropped_mass)
    with pytest.raises(ValueError, match="max_dropped_mass"):
        result.sparse_plan(-1.0)


A, B, C = np.full(4, 0.25), np.full(5, 0.2), np.arange(20.0).reshape(4, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.full(3, 1 / 3)}, r"a must have shape \(4,\)"),
        ({"b": B * [1, 1, 1, 1, -1]}, r"b must not be negative, got -0.2 at index 4"),
        ({"a": 2 * A}, r"equal mass"),
        ({"reg": 0.0}, r"reg must be positive"),
        ({"reg": np.nan}, r"reg must be positive"),
        ({"cost": np.where(C == 7, np.nan, C)}, r"cost has NaN at \(1, 2\)"),
        ({"cost": np.where(C >= 15, INF, C)}, r"infeasible: row 3 has mass 0.25"),
        ({"cost": C[0]}, r"cost must have shape \(n, m\)"),
        ({"cardinality": 0}, r"cardinality must be at least 1, got 0"),
        ({"cardinality": 2, "a": np.full(3, 1 / 3)}, r"a must have shape \(4,\)"),
        ({"tol": 0.0}, r"tol must be positive"),
        ({"max_iter": 0}, r"max_iter must be at least 1"),
        ({"init": (np.zeros(4), np.zeros(4))}, r"init g must have shape \(5,\)"),
    ],
)
def test_clear_errors(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        sparse_transport(**({"a": A, "b": B, "cost": C, "reg": 1.0} | change))
    assert str(caught.value).startswith("sparse_transport: ")


@pytest.mark.parametrize(
    "change", [{"cost": C.astype(int)}, {"cardinality": 2.5}, {"cardinality": "2"}, {"init": 3}, {"callback": 3}]
)
def test_wrong_types(change):
    with pytest.raises(TypeError):
        sparse_transport(**({"a": A, "b": B, "cost": C, "reg": 1.0} | change))


def test_torch():
    torch = pytest.importorskip("torch")
    a, b, cost = problem(20, 30, 5)
    result = sparse_transport(torch.tensor(a), torch.tensor(b), torch.tensor(cost), 1.0)
    assert isinstance(result.plan, torch.Tensor)
    assert isinstance(result.f, torch.Tensor)
    np.testing.assert_array_equal(result.plan.numpy(), sparse_transport(a, b, cost, 1.0).plan)


def test_inputs_are_left_alone():
    a, b, cost = problem(20, 30, 5)
    for array in (a, b, cost):
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        for k in (None, 3):
            sparse_transport(a, b, cost, 1.0, cardinality=k)
