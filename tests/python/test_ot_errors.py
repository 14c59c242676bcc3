"""What transport refuses, and how it says that it did not converge."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

import raphson
from interrupts import check_interrupt
from raphson.ot import PointCloud, sinkhorn, sinkhorn_batch

INF = np.inf
A, B, C = np.full(4, 0.25), np.full(5, 0.2), np.arange(20.0).reshape(4, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.full(3, 1 / 3)}, r"a must have shape \(4,\) for a cost of shape \(4, 5\), got \(3,\)"),
        ({"b": np.full((5, 1), 0.2)}, r"b must have shape \(5,\), got \(5, 1\)"),
        ({"a": A * [1, 1, 1, -1]}, r"a must not be negative, got -0.25 at index 3"),
        ({"a": A * [1, np.nan, 1, 1]}, r"a has NaN or Inf at index 1"),
        ({"b": B * [1, INF, 1, 1, 1]}, r"b has NaN or Inf at index 1"),
        ({"a": 0 * A}, r"a has no mass"),
        ({"a": 2 * A}, r"equal mass .* got 2 and 1 \(they differ by 1\)"),
        ({"a": A * (1 + 1e-8)}, r"equal mass"),
        ({"reg": 0.0}, r"reg must be positive and finite, got 0"),
        ({"reg": -1.0}, r"reg must be positive"),
        ({"reg": np.nan}, r"reg must be positive"),
        ({"reg": INF}, r"reg must be positive"),
        ({"cost": np.where(C == 7, np.nan, C)}, r"cost has NaN at \(1, 2\)"),
        ({"cost": np.where(C == 7, -INF, C)}, r"cost has -Inf at \(1, 2\)"),
        ({"cost": np.where(C >= 15, INF, C)}, r"infeasible: row 3 has mass 0.25"),
        ({"cost": np.where(np.arange(5) == 2, INF, C)}, r"infeasible: column 2 wants mass 0.2"),
        ({"cost": np.full((4, 5), INF)}, r"infeasible: cost has no finite entry"),
        ({"cost": C[0]}, r"cost must have shape \(n, m\), got \(5,\)"),
        ({"cost": np.empty((0, 5))}, r"must not be empty"),
        ({"tol": 0.0}, r"tol must be positive"),
        ({"tol": -1e-9}, r"tol must be positive"),
        ({"max_iter": 0}, r"max_iter must be at least 1"),
        ({"method": "newton"}, r"method must be one of auto, sinkhorn, sns, ssns, splr"),
        ({"unbalanced": 0.0}, r"unbalanced must be positive"),
        ({"unbalanced": (1.0, -1.0)}, r"unbalanced must be positive"),
        ({"unbalanced": (1.0, 1.0, 1.0)}, r"unbalanced must be a number or a pair"),
        ({"init": (np.zeros(4), np.zeros(4))}, r"init g must have shape \(5,\)"),
        ({"init": (np.full(4, np.nan), np.zeros(5))}, r"init f has NaN"),
    ],
)
def test_clear_errors(change, message):
    arguments = {"a": A, "b": B, "cost": C, "reg": 1.0} | change
    if "cost" in change and np.shape(change["cost"])[:1] == (0,):
        arguments["a"] = np.empty(0)
    with pytest.raises(ValueError, match=message) as caught:
        sinkhorn(**arguments)
    assert str(caught.value).startswith("sinkhorn: ")


@pytest.mark.parametrize(
    "change",
    [
        {"a": np.ones(4, dtype=int)},
        {"cost": C.astype(int)},
        {"cost": C.astype(complex)},
        {"cost": C.astype(object)},
        {"cost": "cost"},
        {"init": 3},
        {"callback": 3},
    ],
)
def test_wrong_types(change):
    with pytest.raises(TypeError):
        sinkhorn(**({"a": A, "b": B, "cost": C, "reg": 1.0} | change))


def test_unconnected_parts_with_unequal_mass():
    cost = np.zeros((4, 4))
    cost[:2, 2:], cost[2:, :2] = INF, INF
    with pytest.raises(ValueError, match=r"2 unconnected parts, and the one with row 0 has mass 0.5 in a but 0.6 in b"):
        sinkhorn(np.full(4, 0.25), np.array([0.3, 0.3, 0.2, 0.2]), cost, 1.0)


def test_hall_infeasible_is_said():
    """Connected, masses agree, and yet rows 0 and 1 (mass 0.5) can only use column 0 (mass 0.2)."""
    cost = np.zeros((4, 3))
    cost[:2, 1:] = INF
    a, b = np.full(4, 0.25), np.array([0.2, 0.4, 0.4])
    for method in ("auto", "sinkhorn"):
        with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
            result = sinkhorn(a, b, cost, 0.5, method=method, max_iter=500)
        assert result.status == "infeasible"
        assert not result.converged
        assert result.marginal_error > 0.1
        assert np.isfinite(result.plan).all()


def test_all_forbidden_row_of_a_relaxed_problem():
    with pytest.raises(ValueError, match="row 3"):
        sinkhorn(A, B, np.where(C >= 15, INF, C), 1.0, unbalanced=1.0)


def test_a_row_without_mass_may_be_forbidden():
    a = np.array([0.5, 0.25, 0.25, 0])
    result = sinkhorn(a, B, np.where(C >= 15, INF, C), 1.0)
    assert result.converged


@pytest.mark.parametrize("points", [np.ones(3), np.ones((3, 0)), np.full((3, 2), np.nan), np.ones((3, 3))])
def test_point_cloud_errors(points):
    with pytest.raises(ValueError, match="PointCloud"):
        PointCloud(points, np.ones((4, 2)))


def test_point_cloud_arguments():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="metric"):
        PointCloud(x, x, metric="cosine")
    for scale in (0, -1, np.nan, INF):
        with pytest.raises(ValueError, match="scale"):
            PointCloud(x, x, scale=scale)
    with pytest.raises(TypeError):
        PointCloud(x.astype(int), x)


# ---- honest ends -------------------------------------------------------------------------------------------
def hard():
    rng = np.random.default_rng(0)
    return np.full(200, 1 / 200), np.full(200, 1 / 200), rng.random((200, 200))


def test_max_iter_is_said():
    a, b, cost = hard()
    for method in ("auto", "sinkhorn", "sns", "ssns", "splr"):
        with pytest.warns(raphson.ConvergenceWarning, match="max_iter") as caught:
            result = sinkhorn(a, b, cost, 0.001, max_iter=3, method=method)
        assert len(caught) == 1
        assert (result.status, result.converged) == ("max_iter", False)
        assert result.iterations <= 4
        assert np.isfinite(result.plan).all()


@pytest.mark.parametrize("method", ["auto", "sinkhorn"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_tolerance_below_the_precision_is_said(method, dtype):
    a, b, cost = hard()
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        result = sinkhorn(a, b, cost.astype(dtype), 0.05, tol=1e-25, method=method)
    assert result.status == "precision_floor"
    assert result.marginal_error < 1e-12


def test_a_cost_too_large_for_the_regularisation():
    a, b, cost = hard()
    with pytest.warns(raphson.ConvergenceWarning):
        result = sinkhorn(a, b, cost, 1e-13)
    assert result.status in ("precision_floor", "stalled", "max_iter")
    assert np.isfinite(result.plan).all()


def test_nan_unchecked_is_not_silent():
    cost = np.where(C == 7, np.nan, C)
    with pytest.warns(raphson.ConvergenceWarning):
        result = sinkhorn(A, B, cost, 1.0, check_finite=False)
    assert not result.converged
    for name in ("cost", "objective", "dual_objective", "duality_gap", "marginal_error"):
        assert np.isnan(getattr(result, name)), name


def test_one_warning_points_here():
    a, b, cost = hard()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sinkhorn(a, b, cost, 0.001, max_iter=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__


# ---- long work ---------------------------------------------------------------------------------------------
def test_callback_sees_every_sweep():
    a, b, cost = hard()
    seen = []
    result = sinkhorn(a, b, cost, 0.01, callback=seen.append)
    assert len(seen) == result.iterations
    assert [s.iteration for s in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].marginal_error <= 1e-9
    assert {"sinkhorn"} <= {s.stage for s in seen}


@pytest.mark.parametrize("method", ["auto", "sinkhorn", "sns", "ssns", "splr"])
def test_callback_stops(method):
    a, b, cost = hard()
    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        result = sinkhorn(a, b, cost, 0.001, callback=lambda s: s.iteration >= 4, method=method)
    assert (result.status, result.iterations) == ("stopped", 4)
    assert np.isfinite(result.f).all()


def test_callback_may_raise():
    a, b, cost = hard()

    def fail(_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sinkhorn(a, b, cost, 0.01, callback=fail)


def test_progress(capsys):
    pytest.importorskip("tqdm")
    a, b, cost = hard()
    sinkhorn(a, b, cost, 0.01, progress=True)
    assert "sinkhorn" in capsys.readouterr().err


def test_interrupt():
    rng = np.random.default_rng(0)
    cost = rng.random((2000, 2000))
    check_interrupt(lambda: sinkhorn(None, None, cost, 1e-5, method="sinkhorn", max_iter=100000))


def test_several_threads_at_once():
    a, b, cost = hard()
    expected = sinkhorn(a, b, cost, 0.01).f
    found = []
    threads = [threading.Thread(target=lambda: found.append(sinkhorn(a, b, cost, 0.01).f)) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 6
    for f in found:
        np.testing.assert_array_equal(f, expected)


def test_inputs_are_left_alone():
    a, b, cost = hard()
    a = np.random.default_rng(1).random(200)
    a /= a.sum()
    copies = a.copy(), b.copy(), cost.copy()
    for array in (a, b, cost):
        array.setflags(write=False)
    sinkhorn(a, b, cost, 0.01)
    for array, kept in zip((a, b, cost), copies, strict=True):
        np.testing.assert_array_equal(array, kept)


def test_batch_errors():
    with pytest.raises(ValueError, match="batch axis"):
        sinkhorn_batch(A, B, C, 1.0)
    with pytest.raises(ValueError, match="batch sizes must agree"):
        sinkhorn_batch(np.stack([A, A]), np.stack([B, B, B]), C, 1.0)
    with pytest.raises(ValueError, match="sinkhorn_batch: a must not be negative"):
        sinkhorn_batch(np.stack([A, A * [1, 1, 1, -1]]), B, C, 1.0)
