"""`sinkhorn` against a slow log-domain truth: methods, forms, dtypes, shapes, regularisations, threads."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ot_reference as truth
import raphson
from raphson import _core
from raphson.ot import PointCloud, sinkhorn

METHODS = ("auto", "sinkhorn", "sns", "ssns", "splr")
INF = np.inf


def instance(n, m, seed=0, kind="uniform"):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 0.1, rng.random(m) + 0.1
    if kind == "uniform":
        cost = rng.random((n, m))
    elif kind == "line":
        x, y = np.sort(rng.random(n)), np.sort(rng.random(m))
        cost = (x[:, None] - y[None]) ** 2
    else:
        x, y = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
        cost = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
    return a / a.sum(), b / b.sum(), cost


def check(a, b, cost, reg, result, *, tol=1e-9, rho=(INF, INF), exact=None):
    """The certificate is true, and the plan is the truth's."""
    f, g = np.asarray(result.f), np.asarray(result.g)
    plan = truth.plan_of(a, b, cost.astype(float), reg, f, g)
    assert result.converged, result
    assert result.status == "converged"
    f, g = np.where(a > 0, f, 0), np.where(b > 0, g, 0)
    rows, columns = a * np.exp(-f / rho[0]), b * np.exp(-g / rho[1])
    measured = np.abs(plan.sum(1) - rows).sum() + np.abs(plan.sum(0) - columns).sum()
    rounding = 1e-12 + 1e-15 * float(np.abs(cost[np.isfinite(cost)]).max()) / reg
    assert measured == pytest.approx(result.marginal_error, abs=rounding)
    assert result.marginal_error <= tol
    relative, tiny = (1e-9, 1e-18) if result.plan.dtype == np.float64 else (1e-6, 1e-37)  # it has the data's dtype
    np.testing.assert_allclose(result.plan, plan, rtol=relative, atol=tiny)
    if exact is not None:
        assert np.abs(plan - exact).sum() < 200 * tol


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (6, 1), (5, 5), (13, 30), (64, 17), (100, 101)])
@pytest.mark.parametrize("reg", [1.0, 0.05])
def test_matches_the_truth(method, n, m, reg):
    a, b, cost = instance(n, m)
    result = sinkhorn(a, b, cost, reg, method=method)
    check(a, b, cost, reg, result, exact=truth.sinkhorn(a, b, cost, reg)[2])


@pytest.mark.parametrize("kind", ["uniform", "line", "points"])
@pytest.mark.parametrize("reg", [1e-2, 1e-3])
@pytest.mark.parametrize("method", ["auto", "sns", "ssns", "splr"])
def test_small_regularisations(method, kind, reg):
    a, b, cost = instance(60, 80, kind=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)  # sns and ssns by name may stop, saying so
        result = sinkhorn(a, b, cost, reg, method=method)
    assert result.converged or method != "auto"
    if result.converged:
        check(a, b, cost, reg, result)


@pytest.mark.parametrize("reg", [1e-4, 1e-5])
@pytest.mark.parametrize("kind", ["uniform", "line", "points"])
def test_auto_reaches_tiny_regularisations(kind, reg):
    a, b, cost = instance(150, 120, kind=kind)
    reg *= cost.max()
    result = sinkhorn(a, b, cost, reg)
    check(a, b, cost, reg, result)
    # the linear programme's value from above, within reg·log of the entries
    scipy_optimize = pytest.importorskip("scipy.optimize")
    rows = np.kron(np.eye(150), np.ones(120))
    columns = np.kron(np.ones(150), np.eye(120))
    exact = scipy_optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]), method="highs"
    )
    assert exact.fun - 1e-8 <= result.cost <= exact.fun + reg * np.log(150 * 120) + 1e-8


@pytest.mark.parametrize("rho", [(1.0, 1.0), (0.3, 5.0), (INF, 0.5), (0.5, INF), (1e-3, 1e3)])
@pytest.mark.parametrize("reg", [0.5, 0.02])
@pytest.mark.parametrize("method", METHODS)
def test_relaxed_marginals(rho, reg, method):
    a, b, cost = instance(23, 31, seed=3)
    a = 1.7 * a
    result = sinkhorn(a, b, cost, reg, unbalanced=rho, method=method)
    exact = truth.sinkhorn(a, b, cost, reg, rho)[2]
    check(a, b, cost, reg, result, rho=rho, exact=exact)
    assert result.objective == pytest.approx(truth.objective(a, b, cost, reg, rho, exact), rel=1e-7, abs=1e-8)
    assert abs(result.duality_gap) < 1e-7


def test_one_rho_is_both():
    a, b, cost = instance(9, 8)
    one, two = sinkhorn(a, b, cost, 0.1, unbalanced=2.0), sinkhorn(a, b, cost, 0.1, unbalanced=(2.0, 2.0))
    np.testing.assert_array_equal(one.f, two.f)
    large = sinkhorn(a, b, cost, 0.1, unbalanced=1e9)
    np.testing.assert_allclose(large.plan, sinkhorn(a, b, cost, 0.1).plan, atol=1e-8)


def test_objective_and_gap():
    a, b, cost = instance(40, 50)
    for reg in (1.0, 0.01):
        result = sinkhorn(a, b, cost, reg)
        plan = truth.sinkhorn(a, b, cost, reg)[2]
        assert result.objective == pytest.approx(truth.objective(a, b, cost, reg, (INF, INF), plan), abs=1e-8)
        assert result.dual_objective == pytest.approx(result.objective, abs=1e-8)
        assert result.duality_gap == pytest.approx(result.objective - result.dual_objective)
        assert result.cost == pytest.approx(np.sum(result.plan * cost), abs=1e-13)


def test_gauge():
    a, b, cost = instance(40, 50)
    result = sinkhorn(a, b, cost, 0.01)
    assert a @ result.f == pytest.approx(b @ result.g, abs=1e-12)


# ---- dtypes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reg", [1.0, 0.01])
def test_float32_cost(method, reg):
    a, b, cost = instance(70, 90)
    narrow = cost.astype(np.float32)
    result = sinkhorn(a, b, narrow, reg, method=method)
    assert result.tol == 1e-5
    check(a, b, narrow, reg, result, tol=1e-5)
    # potentials and sums are float64: float32 data is no limit
    fine = sinkhorn(a, b, narrow, reg, method=method, tol=1e-9)
    check(a, b, narrow, reg, fine, exact=truth.sinkhorn(a, b, narrow.astype(float), reg)[2])


def test_float32_weights():
    a, b, cost = instance(1000, 700)
    result = sinkhorn(a.astype(np.float32), b.astype(np.float32), cost, 0.1)
    assert result.converged
    assert result.f.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_kernel_is_left_when_scalings_run_away(dtype):
    """Potentials move by more than log 1e100 (float32: 1e12) times reg after the kernel was made."""
    x, y = np.linspace(0, 1, 60), np.linspace(0, 1, 50) ** 3
    cost = ((x[:, None] - y[None]) ** 2).astype(dtype)
    a, b = np.full(60, 1 / 60), np.full(50, 1 / 50)
    reg = 2e-4
    slow = sinkhorn(a, b, cost, reg, method="sinkhorn", tol=1e-7, max_iter=100000)
    assert np.ptp(slow.f) > (230 if dtype == np.float64 else 28) * reg
    check(a, b, cost, reg, slow, tol=1e-7)
    np.testing.assert_allclose(slow.plan, sinkhorn(a, b, cost, reg, tol=1e-9).plan, atol=1e-7)


# ---- weights and forbidden pairs ---------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_zero_weights(method):
    a, b, cost = instance(20, 24)
    a[[0, 7, 19]], b[[3, 23]] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    result = sinkhorn(a, b, cost, 0.05, method=method)
    assert np.all(result.f[[0, 7, 19]] == -INF)
    assert np.all(result.g[[3, 23]] == -INF)
    assert np.all(result.plan[[0, 7, 19]] == 0)
    assert np.all(result.plan[:, [3, 23]] == 0)
    kept = np.ix_(a > 0, b > 0)
    small = sinkhorn(a[a > 0], b[b > 0], cost[kept], 0.05, method=method)
    np.testing.assert_allclose(result.plan[kept], small.plan, atol=1e-9)
    check(a, b, cost, 0.05, result)


@pytest.mark.parametrize("method", ["auto", "sinkhorn"])
def test_subnormal_weights(method):
    a, b, cost = instance(20, 24)
    a[2], b[5], b[6] = 1e-310, 5e-324, 1e-200
    a, b = a / a.sum(), b / b.sum()
    result = sinkhorn(a, b, cost, 0.05, method=method)
    check(a, b, cost, 0.05, result)
    exact = truth.sinkhorn(a, b, cost, 0.05)
    assert result.g[6] - exact[1][6] == pytest.approx(result.g[0] - exact[1][0], abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_forbidden_pairs(method):
    a, b, cost = instance(30, 30, seed=5)
    banned = np.random.default_rng(1).random((30, 30)) < 0.5
    np.fill_diagonal(banned, False)
    a = b = np.full(30, 1 / 30)
    cost[banned] = INF
    result = sinkhorn(a, b, cost, 0.05, method=method)
    assert np.all(result.plan[banned] == 0)
    check(a, b, cost, 0.05, result, exact=truth.sinkhorn(a, b, cost, 0.05)[2])


def test_unconnected_parts():
    a, b, cost = instance(12, 12)
    cost[:5, 5:], cost[5:, :5] = INF, INF
    a[:5] *= 0.5 / a[:5].sum()
    a[5:] *= 0.5 / a[5:].sum()
    b[:5] *= 0.5 / b[:5].sum()
    b[5:] *= 0.5 / b[5:].sum()
    result = sinkhorn(a, b, cost, 0.05)
    check(a, b, cost, 0.05, result)
    for part in (slice(None, 5), slice(5, None)):  # a gauge in each
        assert a[part] @ result.f[part] == pytest.approx(b[part] @ result.g[part], abs=1e-12)


# ---- what must not matter ----------------------------------------------------------------------------------
@pytest.mark.parametrize("factor", [1e6, 1e-6, 1e200, 1e-200])
def test_units_do_not_matter(factor):
    a, b, cost = instance(40, 30)
    plain, scaled = sinkhorn(a, b, cost, 0.01), sinkhorn(a, b, cost * factor, 0.01 * factor)
    np.testing.assert_allclose(scaled.plan, plain.plan, atol=1e-9)
    np.testing.assert_allclose(scaled.f, plain.f * factor, rtol=1e-5, atol=1e-9 * factor)


def test_a_shift_of_the_cost_does_not_matter():
    a, b, cost = instance(40, 30)
    shifted = sinkhorn(a, b, cost - 5, 0.01)
    np.testing.assert_allclose(shifted.plan, sinkhorn(a, b, cost, 0.01).plan, atol=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "line", "points"])
def test_threads_do_not_matter(kind):
    a, b, cost = instance(300, 400, kind=kind)
    before = raphson.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            for reg in (0.1, 0.001):
                found.append(sinkhorn(a, b, cost, reg))
    finally:
        raphson.set_num_threads(before)
    for k, other in itertools.product(range(2), range(2, 8, 2)):
        np.testing.assert_array_equal(found[k].f, found[k + other].f)
        np.testing.assert_array_equal(found[k].g, found[k + other].g)
        assert found[k].cost == found[k + other].cost


def test_layouts():
    a, b, cost = instance(40, 30)
    plain = sinkhorn(a, b, cost, 0.05)
    for other in (np.asfortranarray(cost), np.repeat(cost, 2, 1)[:, ::2], cost[::-1][::-1], cost.tolist()):
        np.testing.assert_array_equal(sinkhorn(a, b, other, 0.05).f, plain.f)
    np.testing.assert_array_equal(sinkhorn(a[::-1][::-1], b.tolist(), cost, 0.05).f, plain.f)


def test_none_is_uniform():
    cost = instance(6, 9)[2]
    np.testing.assert_array_equal(
        sinkhorn(None, None, cost, 0.1).f, sinkhorn(np.full(6, 1 / 6), np.full(9, 1 / 9), cost, 0.1).f
    )


def test_masses_other_than_one():
    a, b, cost = instance(30, 20)
    result = sinkhorn(1000 * a, 1000 * b, cost, 0.05, tol=1e-6)
    assert result.converged
    np.testing.assert_allclose(result.plan, 1000 * truth.sinkhorn(a, b, cost, 0.05)[2], atol=1e-6)


# ---- warm starts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_is_honoured(method):
    a, b, cost = instance(80, 90)
    first = sinkhorn(a, b, cost, 0.01)
    for start in (first, (first.f, first.g), (None, first.g)):
        again = sinkhorn(a, b, cost, 0.01, init=start, method=method)
        assert again.iterations <= 2
        np.testing.assert_allclose(again.plan, first.plan, atol=1e-9)
    near = sinkhorn(a, b, cost, 0.009, init=first, method=method)
    cold = sinkhorn(a, b, cost, 0.009, method=method)
    assert near.iterations < cold.iterations
    np.testing.assert_allclose(near.plan, cold.plan, atol=1e-8)


@pytest.mark.parametrize("reg", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("kind", ["uniform", "line", "points"])
def test_a_useless_start_at_a_small_regularisation(kind, reg):
    """From where Newton steps alone do not arrive, the continuation does."""
    a, b, cost = instance(150, 140, kind=kind)
    for g in (np.zeros(140), np.random.default_rng(3).standard_normal(140)):
        check(a, b, cost, reg, sinkhorn(a, b, cost, reg, init=(None, g)))


def grid(side, metric):
    pixels = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    difference = pixels[:, None] - pixels[None]
    cost = (difference**2).sum(-1) if metric == "squared" else np.abs(difference).sum(-1)
    rng = np.random.default_rng(1)
    a, b = rng.random(side * side) ** 4 + 1e-3, rng.random(side * side) ** 4 + 1e-3
    return a / a.sum(), b / b.sum(), cost / cost.max()


@pytest.mark.parametrize(("metric", "reg", "most"), [("squared", 1e-3, 40), ("squared", 1e-5, 100), ("L1", 1e-3, 70)])
def test_images_take_few_sweeps(metric, reg, most):
    """Integer costs have ties, and plans nearly forests: Sinkhorn crawls there, and Newton stalls from afar."""
    a, b, cost = grid(12, metric)
    result = sinkhorn(a, b, cost, reg)
    check(a, b, cost, reg, result)
    assert result.iterations <= most


def test_a_bad_start_does_no_harm():
    a, b, cost = instance(30, 40)
    rng = np.random.default_rng(0)
    for size in (1e3, 1e8):
        result = sinkhorn(a, b, cost, 0.05, init=(size * rng.standard_normal(30), size * rng.standard_normal(40)))
        check(a, b, cost, 0.05, result)


# ---- the exponential ---------------------------------------------------------------------------------------
def test_exponentials_to_two_ulp():
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(-1021, 1023, 1500), rng.uniform(-3, 3, 1500), np.arange(-64, 64) / 32, [-1021, 1022.9]]
    )
    got = _core._exp2(x)
    with mpmath.workdps(40):
        for value, at in zip(got, x, strict=True):
            exact = mpmath.mpf(2) ** mpmath.mpf(float(at))
            assert abs(mpmath.mpf(float(value)) - exact) <= 2 * mpmath.mpf(float(np.spacing(float(exact))))
    np.testing.assert_array_equal(_core._exp2(np.array([-1021.5, -1e4, -1e300, -INF])), 0)
    np.testing.assert_array_equal(_core._exp2(np.array([0.0, -0.0, 1, 10, -3])), [1, 1, 2, 1024, 0.125])
    assert np.all(_core._exp2(np.array([1030.0, 1e10])) > 1e307)


# ---- point clouds ------------------------------------------------------------------------------------------
def cloud_cost(x, y, metric, scale):
    difference = x[:, None].astype(float) - y[None].astype(float)
    if metric == "cityblock":
        return scale * np.abs(difference).sum(-1)
    squares = (difference**2).sum(-1)
    return scale * (squares if metric == "sqeuclidean" else np.sqrt(squares))


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cityblock"])
@pytest.mark.parametrize("dim", [1, 3, 10])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_point_clouds(metric, dim, dtype):
    rng = np.random.default_rng(dim)
    x, y = rng.standard_normal((45, dim)).astype(dtype), rng.standard_normal((37, dim)).astype(dtype)
    cloud = PointCloud(x, y, metric=metric, scale=0.5)
    cost = cloud_cost(x, y, metric, 0.5)
    np.testing.assert_allclose(cloud.rows(3, 9), cost[3:9], rtol=1e-12)
    result = sinkhorn(None, None, cloud, 0.05, tol=1e-9)
    dense = sinkhorn(None, None, cost, 0.05)
    np.testing.assert_allclose(result.plan, dense.plan, atol=1e-8)
    check(np.full(45, 1 / 45), np.full(37, 1 / 37), cost, 0.05, result)


@pytest.mark.parametrize("reg", [0.5, 0.01])
def test_point_clouds_in_tiles(reg):
    """More pairs than are kept: costs are computed tile by tile."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1700, 2)), rng.standard_normal((1400, 2)) + 0.5
    result = sinkhorn(None, None, PointCloud(x, y), reg)
    dense = sinkhorn(None, None, cloud_cost(x, y, "sqeuclidean", 1.0), reg)
    assert result.converged
    assert result.marginal_error <= 1e-9
    np.testing.assert_allclose(result.plan, dense.plan, atol=1e-9)
    v = rng.standard_normal(1400)
    np.testing.assert_allclose(result.apply(v), dense.plan @ v, atol=1e-11)


# ---- properties --------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 12),
    m=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    log_reg=st.floats(-3, 2),
    zeros=st.booleans(),
    method=st.sampled_from(METHODS),
)
def test_any_small_problem(n, m, seed, log_reg, zeros, method):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 1e-3, rng.random(m) + 1e-3
    if zeros:
        a[rng.random(n) < 0.3] = 0
        b[rng.random(m) < 0.3] = 0
    if a.sum() == 0 or b.sum() == 0:
        return
    a, b = a / a.sum(), b / b.sum()
    cost = rng.standard_normal((n, m))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        result = sinkhorn(a, b, cost, 10**log_reg, method=method)
    assert np.isfinite(result.plan).all()
    assert truth.marginal_error(a, b, result.plan) == pytest.approx(result.marginal_error, abs=1e-11)
    assert result.converged == (result.marginal_error <= 1e-9)
    assert result.converged or method != "auto"


# ---- against POT -------------------------------------------------------------------------------------------
def test_the_one_line_replacement_of_pot():
    pot = pytest.importorskip("ot")
    a, b, cost = instance(50, 60)
    for reg in (1.0, 0.1, 0.02):
        theirs = pot.sinkhorn(a, b, cost, reg, stopThr=1e-13, numItermax=100000)
        ours = sinkhorn(a, b, cost, reg)
        np.testing.assert_allclose(ours.plan, theirs, atol=1e-8)
        solved = pot.solve(cost, a, b, reg=reg, reg_type="KL", tol=1e-13, max_iter=100000)
        assert ours.objective == pytest.approx(float(solved.value), abs=1e-8)
        relaxed = pot.unbalanced.sinkhorn_unbalanced(
            a, b, cost, reg, 1.5, stopThr=1e-13, numItermax=100000, reg_type="kl"
        )
        np.testing.assert_allclose(sinkhorn(a, b, cost, reg, unbalanced=1.5).plan, relaxed, atol=1e-8)


@pytest.mark.parametrize("kind", ["uniform", "points"])
def test_splr_is_its_own_way(kind):
    """Converges where ssns does, on far fewer entries, so in more steps; and the correction by the last step helps."""
    a, b, cost = instance(150, 170, kind=kind)
    cost = cost / cost.max()
    trusted, low_rank = (sinkhorn(a, b, cost, 2e-3, method=method) for method in ("ssns", "splr"))
    assert trusted.converged
    assert low_rank.converged
    assert low_rank.newton_iterations > trusted.newton_iterations
    assert "newton" in low_rank.history["stage"]
    np.testing.assert_allclose(low_rank.plan, trusted.plan, atol=1e-9)
    check(a, b, cost, 2e-3, low_rank)


@pytest.mark.parametrize("kind", ["assignment", "points"])
def test_splr_learns_from_its_last_step(kind):
    """Steps of the corrected model are taken as they are. Without the correction half of the sweeps are spent on the
    search along them (334 for 185 steps between points), with one of a wrong sign a quarter (50 for 37)."""
    rng = np.random.default_rng(7)
    cost = rng.random((150, 150))
    if kind == "points":
        x, y = rng.random((200, 2)), rng.random((180, 2))
        cost = ((x[:, None] - y) ** 2).sum(-1)
    result = sinkhorn(None, None, cost, 1e-2, method="splr")
    assert result.converged
    assert result.iterations <= 1.1 * result.newton_iterations + 3


# ---- rows without weight, and starts without sense ----------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_without_weight_far_from_every_column(method, dtype):
    a, b = np.array([0, 0.5, 0.5, 0]), np.array([0.5, 0.5])
    cost = np.array([[0, 0.1], [0.12, 3], [3, 0.1], [1, 2]], dtype=dtype)
    result = sinkhorn(a, b, cost, 1e-5, method=method, tol=1e-6)  # of the empty rows exp((f + g - C)/reg) is Inf
    assert result.converged, result
    np.testing.assert_allclose(result.plan, [[0, 0], [0.5, 0], [0, 0.5], [0, 0]], atol=1e-6)
    assert float(result.cost) == pytest.approx(0.11, rel=1e-6)
    np.testing.assert_array_equal(result.row_marginal[[0, 3]], 0)


@pytest.mark.parametrize("unbalanced", [1.0, (INF, 0.5), (0.5, INF)])
def test_an_absurd_start_is_dropped(unbalanced):
    a, b, cost = instance(20, 30)
    truly = sinkhorn(a, b, cost, 0.05, unbalanced=unbalanced)
    for far in (1e9, -1e9):
        result = sinkhorn(a, b, cost, 0.05, unbalanced=unbalanced, init=(np.full(20, far), np.full(30, far)))
        assert result.converged, result
        assert float(result.cost) == pytest.approx(float(truly.cost), rel=1e-6)
