"""sparse_transport where it is hard: supports that are degenerate, and limits whose dual has its maximum on kinks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import raphson
from interrupts import check_interrupt
from raphson.ot import PointCloud, sparse_transport
from sparse_transport_reference import cutting_planes, kkt_residual, rows_for, semi_dual


# ---- tied costs, weights of very different sizes, reg next to zero ---------------------------------------------------
def pixels(side, seed, tiny, power):
    """Images on a grid, most of whose pixels hold next to nothing."""
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2).astype(float)
    cost = (np.abs(grid[:, None] - grid[None]) ** power).sum(-1)
    rng = np.random.default_rng(seed)
    n = side * side
    a = np.where(rng.random(n) < 0.3, rng.random(n), tiny)
    b = np.where(rng.random(n) < 0.3, rng.random(n), tiny)
    return a / a.sum(), b / b.sum(), cost / cost.max()


# Each of these stalled at 1e-8 to 1e-4 while the only method was Newton's on the semi-dual.
STALLED = [
    (12, 0, 1e-5, 2, 0.1),
    (12, 0, 1e-5, 2, 1e-3),
    (12, 1, 1e-6, 2, 1.0),
    (12, 1, 1e-6, 2, 1e-4),
    (16, 2, 1e-6, 2, 1e-4),
    (12, 0, 1e-5, 1, 1e-3),
    (16, 1, 1e-4, 1, 1e-3),  # most pairs tie
    (16, 1, 1e-6, 1, 10.0),
    (16, 2, 1e-4, 1, 1e-2),  # the pairs nearest to the support cannot carry the marginals
    (16, 2, 1e-6, 1, 1e-3),
    (28, 0, 1e-6, 2, 0.1),
    (28, 0, 1e-6, 1, 1e-3),
]


@pytest.mark.parametrize(("side", "seed", "tiny", "power", "reg"), STALLED)
def test_ties_and_tiny_weights(side, seed, tiny, power, reg):
    a, b, cost = pixels(side, seed, tiny, power)
    result = sparse_transport(a, b, cost, reg)
    assert result.converged
    f, g, plan = result.f, result.g, result.plan
    np.testing.assert_allclose(plan, np.maximum(f[:, None] + g - cost, 0) / reg, rtol=0, atol=1e-9)
    assert np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum() <= 1e-9
    primal = np.sum(plan * cost) + reg / 2 * np.sum(plan**2)
    # weak duality, from the potentials alone
    dual = a @ f + b @ g - np.sum(np.maximum(f[:, None] + g - cost, 0) ** 2) / (2 * reg)
    assert abs(primal - dual) <= 2e-9 * np.ptp(np.r_[f, g])
    assert kkt_residual(a, b, cost, reg, f, g, plan) <= 1e-9


def test_next_to_the_linear_programme():
    ot = pytest.importorskip("ot")
    a, b, cost = pixels(12, 3, 1e-6, 2)
    result = sparse_transport(a, b, cost, 1e-5)
    assert result.converged
    assert result.cost == pytest.approx(ot.emd2(a, b, cost), abs=1e-5 / 2)  # reg/2·‖P‖² ≤ reg/2


@pytest.mark.parametrize("shape", [(64, 30), (30, 64), (64, 1)])
def test_ties_where_the_sides_differ(shape):
    a, b, cost = pixels(8, 5, 1e-6, 1)
    a, b, cost = a[: shape[0]], b[: shape[1]], cost[: shape[0], : shape[1]]
    a, b = a / a.sum(), b / b.sum()
    for reg in (1.0, 1e-2, 1e-4):
        result = sparse_transport(a, b, cost, reg)
        assert result.converged
        assert kkt_residual(a, b, cost, reg, result.f, result.g, result.plan) <= 1e-9


def test_ties_with_forbidden_pairs_and_zero_weights():
    a, b, cost = pixels(12, 0, 1e-5, 2)
    a[::7], b[3::11] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    cost[cost > 0.55] = np.inf
    for reg in (0.1, 1e-3):
        result = sparse_transport(a, b, cost, reg)
        assert result.converged
        assert kkt_residual(a, b, cost, reg, result.f, result.g, result.plan) <= 1e-9
        assert (result.plan[np.isinf(cost)] == 0).all()


def test_a_tolerance_below_the_precision_with_ties():
    a, b, cost = pixels(16, 2, 1e-6, 2)
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        result = sparse_transport(a, b, cost, 1e-3, tol=1e-25)
    assert result.marginal_error <= 1e-10


@pytest.mark.parametrize("metric", ["sqeuclidean", "cityblock"])
def test_ties_of_a_point_cloud(metric):
    a, b, _ = pixels(16, 2, 1e-6, 2)
    points = np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing="ij"), -1).reshape(-1, 2) / np.sqrt(450)
    cloud = PointCloud(points, points, metric=metric)
    result = sparse_transport(a, b, cloud, 1e-2)
    assert result.converged
    assert kkt_residual(a, b, cloud.rows(0, 256), 1e-2, result.f, result.g, result.plan) <= 1e-9


def test_ties_in_float32():
    a, b, cost = pixels(16, 2, 1e-6, 2)
    narrow = cost.astype(np.float32)
    result = sparse_transport(a, b, narrow, 1e-3, tol=1e-9)
    assert result.converged
    wide = sparse_transport(a, b, narrow.astype(float), 1e-3)
    np.testing.assert_allclose(result.sparse_plan().toarray(), wide.plan, rtol=0, atol=1e-9)


def test_infeasible_with_ties():
    cost = np.round(3 * np.random.default_rng(0).random((120, 120)))
    cost[:40, 30:] = np.inf
    with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
        result = sparse_transport(None, None, cost, 1e-3)
    assert (result.status, result.dual_bound) == ("infeasible", np.inf)


def test_interrupt_with_a_limit():
    cost = np.random.default_rng(0).random((1500, 1500))
    check_interrupt(lambda: sparse_transport(None, None, cost, 10.0, cardinality=2))


def test_threads_do_not_change_a_bit_of_ties():
    a, b, cost = pixels(28, 0, 1e-6, 2)
    before = raphson.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            raphson.set_num_threads(threads)
            results.append(sparse_transport(a, b, cost, 0.1))
    finally:
        raphson.set_num_threads(before)
    for other in results[1:]:
        np.testing.assert_array_equal(other.g, results[0].g)
        np.testing.assert_array_equal(other.plan, results[0].plan)


# ---- limits on columns -----------------------------------------------------------------------------------------------
def problem(n, m, seed, kind="random"):
    rng = np.random.default_rng(seed)
    a, b = rng.random(n) + 1e-3, rng.random(m) + 1e-3
    if kind == "points":
        x, y = rng.standard_normal((n, 2)), rng.standard_normal((m, 2))
        cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    elif kind == "grid":
        cost = np.abs(np.arange(n)[:, None] - np.arange(m)[None]).astype(float) / max(n, m)
    else:
        cost = rng.random((n, m))
    return a / a.sum(), b / b.sum(), cost


def limited(a, b, cost, reg, k, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        return sparse_transport(a, b, cost, reg, cardinality=k, **options)


@pytest.mark.parametrize(("n", "m", "k", "reg"), [(3, 7, 1, 1.0), (4, 6, 2, 3.0), (4, 9, 3, 20.0), (5, 5, 2, 5.0)])
def test_the_maximum_of_the_limited_dual(n, m, k, reg):
    """Cutting planes on the concave function itself, which know nothing of how it is smoothed."""
    a, b, cost = problem(n, m, 4)
    low, high = cutting_planes(a, b, cost, reg, k)
    result = limited(a, b, cost, reg, k)
    scale = 1e-6 * abs(high)
    assert low - scale <= result.dual_objective <= high + 1e-10
    assert low - 1e-10 <= result.dual_bound <= high + scale
    assert result.dual_objective == pytest.approx(semi_dual(b, a, result.f, cost.T, reg, k), rel=1e-9)


def test_one_entry_a_column_is_a_linear_programme():
    """P²/ζ of one entry a column is its mass times P: the relaxation is plain transport, plus reg/2·‖b‖²."""
    ot = pytest.importorskip("ot")
    for n, m, kind, reg, seed in (
        (30, 30, "random", 3.0, 2),
        (20, 45, "points", 3.0, 2),
        (25, 25, "grid", 3.0, 2),
        (33, 21, "random", 8000.0, 571),
        (43, 54, "random", 3.6, 715),
        (29, 43, "grid", 0.87, 90),
    ):
        a, b, cost = problem(n, m, seed, kind)
        expected = ot.emd2(a, b, cost) + reg / 2 * np.sum(b**2)
        result = limited(a, b, cost, reg, 1)
        assert result.dual_objective == pytest.approx(expected, rel=1e-6)
        assert result.dual_objective <= expected + 1e-10
        assert expected <= result.dual_bound + 1e-9
        assert result.dual_bound == pytest.approx(expected, rel=1e-6)
        for most in (1, 40, 100):
            short = limited(a, b, cost, reg, 1, max_iter=most)
            assert short.iterations <= most + 1
            assert (short.plan > 0).sum(0).max() <= 1
            assert short.dual_objective <= expected + 1e-10


CASES = [
    (40, 60, 3, 3.0, "random", 3),
    (60, 40, 2, 1.0, "random", 3),
    (25, 25, 4, 10.0, "random", 3),
    (50, 50, 2, 30.0, "grid", 2),
    (80, 60, 4, 10.0, "points", 2),
    (60, 80, 3, 100.0, "points", 5),
    (100, 100, 2, 1e4, "random", 5),
]


@pytest.mark.parametrize(("n", "m", "k", "reg", "kind", "seed"), CASES)
def test_never_below_pot(n, m, k, reg, kind, seed, capsys):
    ot = pytest.importorskip("ot")
    a, b, cost = problem(n, m, seed, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, log = ot.smooth.smooth_ot_semi_dual(
            a, b, cost, reg, reg_type="sparsity_constrained", max_nz=k, stopThr=1e-12, numItermax=200, log=True
        )
    result = limited(a, b, cost, reg, k)
    value = semi_dual(b, a, log["alpha"], cost.T, reg, k)
    assert result.dual_objective >= value
    assert result.dual_bound >= result.dual_objective
    assert result.dual_bound - result.dual_objective <= 3e-6 * abs(value)  # and not by chance: nothing is above it
    assert result.status == "stalled"  # the plan does not fit, and is not said to
    assert not result.converged
    assert result.marginal_error == pytest.approx(np.abs(result.plan.sum(1) - a).sum(), abs=1e-11)


@pytest.mark.parametrize(("n", "m", "k", "reg", "kind", "seed"), CASES[1:4])
def test_ties_are_broken_to_fit(n, m, k, reg, kind, seed):
    """Better than the first of those that tie."""
    a, b, cost = problem(n, m, seed, kind)
    result = limited(a, b, cost, reg, k)
    first = rows_for(b, result.f, cost.T, reg, k).T
    assert (result.plan > 0).sum(0).max() <= k
    assert result.marginal_error < np.abs(first.sum(1) - a).sum()


def test_forbidden_pairs_with_a_limit():
    a, b, cost = problem(30, 40, 1)
    cost[np.random.default_rng(0).random((30, 40)) < 0.3] = np.inf
    result = limited(a, b, cost, 3.0, 3)
    assert (result.plan[np.isinf(cost)] == 0).all()
    assert (result.plan > 0).sum(0).max() <= 3
    np.testing.assert_allclose(result.plan.sum(0), b, atol=1e-12)
    assert 0 <= result.dual_bound - result.dual_objective <= 3e-6 * abs(result.dual_objective)


def test_a_limit_that_binds_on_the_way_but_not_at_the_end():
    """Where no candidates tie the plan fits, and the solve converges although the plain plan has more entries."""
    a, b, cost = np.full(2, 0.5), np.full(2, 0.5), np.array([[0.0, 1.0], [1.0, 0.0]])
    assert (sparse_transport(a, b, cost, 10.0).plan > 0).all()
    result = sparse_transport(a, b, cost, 10.0, cardinality=1)
    assert result.converged
    np.testing.assert_allclose(result.plan, np.diag([0.5, 0.5]), atol=1e-9)
    assert result.duality_gap == pytest.approx(0, abs=1e-9)
    assert result.dual_bound == pytest.approx(result.dual_objective, abs=1e-8)


def test_a_start_with_a_limit():
    a, b, cost = problem(40, 60, 3)
    first = limited(a, b, cost, 3.0, 3)
    again = limited(a, b, cost, 3.0, 3, init=first)
    assert again.dual_objective == pytest.approx(first.dual_objective, rel=1e-7)


def test_stopping_with_a_limit():
    a, b, cost = problem(40, 60, 3)
    best = limited(a, b, cost, 3.0, 3)
    for most in (1, 5, *range(20, 130, 10)):
        result = limited(a, b, cost, 3.0, 3, max_iter=most)
        assert result.dual_objective <= best.dual_objective * (1 + 1e-9)
        assert result.dual_bound >= best.dual_objective  # on the way, too, whatever the ease
        assert result.iterations <= most + 1
        assert result.status == "max_iter"
        assert (result.plan > 0).sum(0).max() <= 3
        assert result.dual_bound >= result.dual_objective
    seen = []
    stopped = limited(a, b, cost, 3.0, 3, callback=lambda s: seen.append(s) or len(seen) >= 90)
    assert (stopped.status, len(seen)) == ("stopped", 90)


# ---- costs without a range -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [0.0, 1e-310, 3.0])
@pytest.mark.parametrize("tol", [1e-9, 1e-16, 3e-17, 1e-17])
def test_a_constant_cost_ends(value, tol):
    rng = np.random.default_rng(0)
    a, b = rng.random(5), rng.random(7)
    a[1] = b[2] = 0
    a, b = a / a.sum(), b / b.sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        result = sparse_transport(a, b, np.full((5, 7), value), 1.0, tol=tol)
    assert result.status == "converged" if tol == 1e-9 else result.status in ("converged", "precision_floor")
    np.testing.assert_allclose(result.plan.sum(1), a, atol=1e-9)
    np.testing.assert_allclose(result.plan.sum(0), b, atol=1e-9)


@pytest.mark.parametrize("spread", [0.0, 1e-13])
def test_a_start_that_is_none(spread):
    rng = np.random.default_rng(0)
    cost = 3 + spread * rng.random((182, 63))
    result = sparse_transport(None, None, cost, 1e-3, init=(rng.random(182), 0.0078 * rng.random(63)))
    assert result.converged, result
