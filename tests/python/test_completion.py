"""raphson.sketch.complete_matrix against alternating least squares in NumPy, and its own certificates."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import raphson
from completion_reference import als, objective, optimality, problem
from cuda_arrays import DeviceArray
from interrupts import check_interrupt
from raphson import ConvergenceWarning
from raphson.sketch import CompletionResult, complete_matrix

METHODS = ["auto", "normal", "sketch", "qr"]


def quiet(*args, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return complete_matrix(*args, **keywords)


# ---- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("m", "n", "rank", "fraction"), [(100, 80, 3, 0.4), (300, 200, 5, 0.2), (70, 90, 9, 0.6), (41, 37, 1, 0.3)]
)
def test_recovers_a_matrix_of_low_rank(m, n, rank, fraction, method):
    matrix, rows, cols, values = problem(m, n, rank, fraction)
    result = complete_matrix(rows, cols, values, (m, n), rank, method=method, tol=1e-12)
    assert result.converged
    assert result.residual < 1e-10
    np.testing.assert_allclose(result.dense(), matrix, atol=1e-8)
    assert result.left.shape == (m, rank)
    assert result.right.shape == (n, rank)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ridge", [0.0, 0.3, 8.0])
def test_ends_where_plain_alternating_least_squares_ends(ridge, method):
    _, rows, cols, values = problem(40, 30, 3, 0.5, noise=0.3)
    result = complete_matrix(rows, cols, values, (40, 30), 3, ridge=ridge, tol=1e-11, method=method)
    left, right = als(rows, cols, values, (40, 30), result.right, ridge, 2)
    np.testing.assert_allclose(left @ right.T, result.dense(), atol=1e-8)  # it stays where it is
    away = np.linalg.svd(result.dense())[2][:3].T * 2.0  # the same valley, with another balance of the factors
    left, right = als(rows, cols, values, (40, 30), away, ridge, 30 if ridge == 0 else 150)
    truth = objective(rows, cols, values, left, right, ridge)
    assert truth * (1 - 1e-7) <= result.objective <= truth * (1 + 1e-9)
    assert result.optimality <= 1e-11


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_one_iteration_is_a_step_of_plain_least_squares(ridge, method):
    _, rows, cols, values = problem(30, 200, 4, 0.6, noise=0.5)  # left's rows have some 120 entries: a sketch's
    start = np.random.default_rng(3).standard_normal((200, 4))
    result = quiet(
        rows, cols, values, (30, 200), 4, ridge=ridge, init=(np.zeros((30, 4)), start), max_iter=1, method=method
    )
    left, right = als(rows, cols, values, (30, 200), start, ridge, 1)
    np.testing.assert_allclose(result.dense(), left @ right.T, rtol=1e-9, atol=1e-9)
    assert result.iterations == 1
    assert (result.regressions["sketch"] > 0) == (method == "sketch")
    assert (result.regressions["qr"] > 0) == (method in ("qr", "sketch"))


@pytest.mark.parametrize("rank", [1, 7, 8, 9, 16, 17, 33, 70])
def test_any_rank(rank):
    m, n = 2 * rank + 30, 3 * rank + 20
    matrix, rows, cols, values = problem(m, n, rank, 0.97)
    result = complete_matrix(rows, cols, values, (m, n), rank, tol=1e-11)
    np.testing.assert_allclose(result.dense(), matrix, atol=1e-6)
    step = quiet(rows, cols, values, (m, n), rank, ridge=1.0, init=(np.zeros((m, rank)), np.eye(n, rank)), max_iter=1)
    left, right = als(rows, cols, values, (m, n), np.eye(n, rank), 1.0, 1)
    np.testing.assert_allclose(step.dense(), left @ right.T, rtol=1e-9, atol=1e-9)


def test_noise_is_averaged_out_as_well_as_an_oracle_does():
    matrix, rows, cols, values = problem(300, 250, 4, 0.3, noise=0.1)
    result = complete_matrix(rows, cols, values, (300, 250), 4)
    error = np.sqrt(np.mean((result.dense() - matrix) ** 2))
    freedom = 4 * (300 + 250 - 4)
    oracle = 0.1 * np.sqrt(freedom / len(rows))  # of least squares on the true tangent space
    assert error < 1.3 * oracle
    assert result.residual == pytest.approx(0.1 * np.sqrt(1 - freedom / len(rows)), rel=0.05)


def test_the_certificates_are_measured_on_the_factors():
    _, rows, cols, values = problem(50, 60, 3, 0.5, noise=0.2)
    for dtype, ridge in ((np.float64, 0.0), (np.float64, 0.7), (np.float32, 0.2)):
        given = values.astype(dtype)
        result = quiet(rows, cols, given, (50, 60), 3, ridge=ridge, max_iter=3)
        left, right, wide = (a.astype(float) for a in (result.left, result.right, given))
        errors = wide - (left[rows] * right[cols]).sum(1)
        assert result.residual == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-12)
        assert result.objective == pytest.approx(objective(rows, cols, wide, left, right, ridge), rel=1e-12)
        assert result.optimality == pytest.approx(optimality(rows, cols, wide, left, right, ridge), rel=1e-6)
        assert not result.converged
        assert result.status == "max_iter"


def test_float32():
    matrix, rows, cols, values = problem(120, 100, 3, 0.5)
    result = complete_matrix(rows, cols, values.astype(np.float32), (120, 100), 3)
    assert result.converged
    assert result.tol == 1e-5
    assert result.left.dtype == result.right.dtype == result.dense().dtype == np.float32
    assert result.predict(rows, cols).dtype == np.float32
    np.testing.assert_allclose(result.dense(), matrix, atol=2e-3)
    floor = quiet(rows, cols, values.astype(np.float32), (120, 100), 3, tol=1e-13)
    assert floor.status == "precision_floor"
    assert not floor.converged


def test_a_ridge_that_takes_columns_away():
    _, rows, cols, values = problem(60, 50, 4, 0.5)
    sizes = [
        np.linalg.matrix_rank(quiet(rows, cols, values, (60, 50), 4, ridge=r).dense(), tol=1e-4) for r in (1, 25, 1e4)
    ]
    assert sizes[0] == 4
    assert 0 < sizes[1] <= 4
    assert sizes[2] == 0


# ---- odd data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.4])
@pytest.mark.parametrize("method", METHODS)
def test_rows_with_few_entries(ridge, method):
    rng = np.random.default_rng(5)
    matrix, rows, cols, values = problem(60, 50, 4, 0.5, noise=0.1)
    few = rng.random(len(rows)) < 0.05
    keep = ((rows >= 20) | few) & ((cols >= 15) | few) & (rows != 7) & (cols != 9)
    rows, cols, values = rows[keep], cols[keep], values[keep]
    assert np.bincount(rows, minlength=60).min() == 0
    assert 0 < np.sort(np.bincount(rows, minlength=60))[5] < 4
    result = quiet(rows, cols, values, (60, 50), 4, ridge=ridge, method=method, max_iter=60)
    assert not result.left[7].any()
    assert not result.right[9].any()
    assert np.isfinite(result.dense()).all()
    assert result.history["residual"][-1] <= result.history["residual"][0]
    start = rng.standard_normal((50, 4))
    step = quiet(rows, cols, values, (60, 50), 4, ridge=ridge, method=method, max_iter=1, init=(matrix[:, :4], start))
    left, right = als(rows, cols, values, (60, 50), start, ridge, 1)  # rows of least norm where there are several
    unique = np.bincount(cols, minlength=50) >= (8 if ridge == 0 else 0)
    assert unique.sum() >= 30
    np.testing.assert_allclose(step.dense()[:, unique], (left @ right.T)[:, unique], atol=1e-8)


def test_a_place_given_twice_counts_twice():
    _, rows, cols, values = problem(30, 25, 2, 0.5, noise=0.3)
    start = np.random.default_rng(0).standard_normal((25, 2))
    twice = [np.concatenate([a, a[:100]]) for a in (rows, cols, values)]
    twice[2][-100:] += 0.5
    result = quiet(*twice, (30, 25), 2, init=(np.zeros((30, 2)), start), max_iter=2)
    left, right = als(*twice, (30, 25), start, 0.0, 2)
    np.testing.assert_allclose(result.dense(), left @ right.T, atol=1e-9)


def test_dependent_columns_and_badly_scaled_values():
    _, rows, cols, values = problem(40, 30, 2, 0.7)
    flat = quiet(rows, cols, values, (40, 30), 5, tol=1e-9)  # a rank too high: regressions without one solution
    assert flat.residual < 1e-6
    for scale in (1e-60, 1e60):
        result = complete_matrix(rows, cols, scale * values, (40, 30), 2, tol=1e-10)
        plain = complete_matrix(rows, cols, values, (40, 30), 2, tol=1e-10)
        np.testing.assert_allclose(result.dense() / scale, plain.dense(), atol=1e-7)


@pytest.mark.parametrize("method", ["auto", "qr", "sketch"])
def test_ill_conditioned_regressions(method):
    rng = np.random.default_rng(2)
    right = rng.standard_normal((400, 6)) * np.logspace(0, -7, 6)
    left = rng.standard_normal((20, 6)) / np.logspace(0, -7, 6)
    rows, cols = np.nonzero(rng.random((20, 400)) < 0.8)
    values = (left[rows] * right[cols]).sum(1)
    result = quiet(rows, cols, values, (20, 400), 6, init=(left, right), method=method, max_iter=2)
    np.testing.assert_allclose(result.dense(), left @ right.T, atol=1e-6)


def test_zeros_and_nothing():
    zeros = complete_matrix([0, 1], [1, 0], [0.0, 0.0], (3, 2), 2)
    assert zeros.converged
    assert not zeros.dense().any()
    assert zeros.iterations == 0
    none = complete_matrix([], [], np.empty(0), (3, 2), 1, ridge=0.1)
    assert none.converged
    assert not none.dense().any()
    assert none.residual == 0
    assert not complete_matrix([0, 1], [1, 0], [0.0, 0.0], (3, 2), 2, ridge=0.1).right.any()
    one = complete_matrix([0], [0], [2.5], (1, 1), 1)
    assert one.dense()[0, 0] == pytest.approx(2.5)


def test_layouts_and_integer_kinds():
    _, rows, cols, values = problem(30, 25, 2, 0.5)
    expected = complete_matrix(rows, cols, values, (30, 25), 2)
    strided = np.repeat(values, 2)[::2]
    for kind in (np.int8, np.uint16, np.int32, np.uint64):
        result = complete_matrix(rows.astype(kind), list(cols), strided, (30, 25), 2)
        np.testing.assert_array_equal(result.left, expected.left)


# ---- repeatability -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_threads_change_no_bit(ridge):
    _, rows, cols, values = problem(2000, 900, 12, 0.05, noise=0.1)
    found = []
    before = raphson.get_num_threads()
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            found.append(quiet(rows, cols, values, (2000, 900), 12, ridge=ridge, max_iter=4))
    finally:
        raphson.set_num_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other.left, found[0].left)
        np.testing.assert_array_equal(other.right, found[0].right)
        assert (other.objective, other.optimality) == (found[0].objective, found[0].optimality)


def test_seeds_and_starts():
    _, rows, cols, values = problem(60, 50, 3, 0.5, noise=0.1)
    run = lambda **k: quiet(rows, cols, values, (60, 50), 3, max_iter=1, **k)  # noqa: E731
    np.testing.assert_array_equal(run(seed=4).left, run(seed=4).left)
    assert not np.array_equal(run(seed=4, init="random").left, run(seed=5, init="random").left)
    assert run().residual < run(init="random").residual  # the spectral start is the better one
    end = complete_matrix(rows, cols, values, (60, 50), 3, tol=1e-10)
    again = complete_matrix(rows, cols, values, (60, 50), 3, tol=1e-9, init=end)
    assert again.iterations <= 1
    np.testing.assert_allclose(again.dense(), end.dense(), atol=1e-8)


def test_a_ridge_balances_the_factors():
    _, rows, cols, values = problem(100, 80, 3, 0.4)
    result = complete_matrix(rows, cols, values, (100, 80), 3, ridge=0.1, tol=1e-10)
    assert result.iterations < 60  # alternation alone: above 500
    np.testing.assert_allclose(result.left.T @ result.left, result.right.T @ result.right, atol=1e-6)


def test_the_spectral_start_is_shortened_where_it_is_coherent():
    rng = np.random.default_rng(0)
    matrix = np.outer(rng.standard_normal(60), rng.standard_normal(100)) + 0.01 * rng.standard_normal((60, 100))
    matrix[:, 0] = 60 * rng.standard_normal(60)  # far above the others: eight power steps find it
    rows, cols = np.nonzero(np.ones_like(matrix))
    top = np.linalg.svd(matrix)[2][:1].T
    start = top * np.minimum(1, 4 / np.sqrt(100) / np.abs(top))
    assert not np.allclose(start, top)
    found = quiet(rows, cols, matrix[rows, cols], (60, 100), 1, max_iter=1)
    left, right = als(rows, cols, matrix[rows, cols], (60, 100), start, 0.0, 1)
    np.testing.assert_allclose(found.dense(), left @ right.T, atol=1e-6)


def test_callbacks_and_history():
    _, rows, cols, values = problem(60, 50, 3, 0.5, noise=0.1)
    seen = []
    result = complete_matrix(rows, cols, values, (60, 50), 3, callback=seen.append)
    assert [s.iteration for s in seen] == list(range(1, result.iterations + 1))
    np.testing.assert_array_equal([s.residual for s in seen], result.history["residual"])
    assert (np.diff(result.history["residual"]) <= 1e-12).all()
    with pytest.warns(ConvergenceWarning, match="callback"):
        stopped = complete_matrix(rows, cols, values, (60, 50), 3, callback=lambda s: s.iteration == 2)
    assert stopped.status == "stopped"
    assert stopped.iterations == 2
    with pytest.raises(ZeroDivisionError):
        complete_matrix(rows, cols, values, (60, 50), 3, callback=lambda s: 1 / 0)


def test_interrupt():
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 3000, 1_000_000), rng.integers(0, 2000, 1_000_000)
    values = rng.standard_normal(1_000_000)
    check_interrupt(lambda: complete_matrix(rows, cols, values, (3000, 2000), 20, tol=1e-300, max_iter=10**6))


def test_results_pickle_and_say_what_they_are():
    _, rows, cols, values = problem(30, 25, 2, 0.5)
    result = complete_matrix(rows, cols, values, (30, 25), 2)
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert isinstance(twin, CompletionResult)
        np.testing.assert_array_equal(twin.dense(), result.dense())
        assert repr(twin) == repr(result)
    assert "30×25 of rank 2, converged" in repr(result)
    assert len(repr(result)) < 200
    np.testing.assert_allclose(result.predict(rows, cols), result.dense()[rows, cols], atol=1e-13)
    assert result.predict([], []).shape == (0,)


def test_torch():
    torch = pytest.importorskip("torch")
    _, rows, cols, values = problem(30, 25, 2, 0.5)
    result = complete_matrix(torch.from_numpy(rows), torch.from_numpy(cols), torch.from_numpy(values), (30, 25), 2)
    expected = complete_matrix(rows, cols, values, (30, 25), 2)
    for name in ("left", "right"):
        assert isinstance(getattr(result, name), torch.Tensor)
        np.testing.assert_array_equal(getattr(result, name).numpy(), getattr(expected, name))
    assert isinstance(result.dense(), torch.Tensor)
    assert isinstance(result.predict(rows, cols), torch.Tensor)


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"rows": [0, 3]}, ValueError, r"rows\[1\] is 3, outside \[0, 3\)"),
        ({"cols": [-1, 0]}, ValueError, r"cols\[0\] is -1, outside \[0, 2\)"),
        ({"rows": [0]}, ValueError, r"rows must have the shape of values, \(2,\), got \(1,\)"),
        ({"rows": [[0, 1]]}, ValueError, "rows must have one axis"),
        ({"rows": [0.0, 1.0]}, TypeError, "rows must be integers"),
        ({"cols": [True, False]}, TypeError, "cols must be integers"),
        ({"rows": np.array([0, 2**63], np.uint64)}, ValueError, "rows must lie inside"),
        ({"values": [[1.0, 2.0]]}, ValueError, r"values must have shape \(count,\)"),
        ({"values": [1, 2]}, TypeError, "values"),
        ({"values": [1.0, np.nan]}, ValueError, "values has NaN or Inf"),
        ({"values": [1.0, -np.inf]}, ValueError, "values has NaN or Inf"),
        ({"values": [1.0, 1e200]}, ValueError, "values has NaN or Inf, or numbers whose squares overflow"),
        ({"shape": (0, 2)}, ValueError, "shape must be from 1"),
        ({"shape": (3, 2**31)}, ValueError, "shape must be from 1"),
        ({"shape": 3}, ValueError, "shape must be two integers"),
        ({"rank": 3}, ValueError, r"rank must be from 1 to min\(shape\) = 2, got 3"),
        ({"rank": 0}, ValueError, "rank must be"),
        ({"rank": 1.5}, TypeError, "integer"),
        ({"ridge": -1.0}, ValueError, "ridge must be finite and not negative"),
        ({"ridge": np.inf}, ValueError, "ridge"),
        ({"tol": 0.0}, ValueError, "tol must be positive"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"method": "svd"}, ValueError, "method must be one of auto, normal, sketch, qr"),
        ({"init": "zeros"}, ValueError, "init must be one of"),
        ({"init": 3}, TypeError, "init must be a name"),
        (
            {"init": (np.ones((3, 1)), np.ones((3, 1)))},
            ValueError,
            r"init's right must have shape \(2, 1\), got \(3, 1\)",
        ),
        ({"init": (np.ones((3, 1)), np.zeros((2, 1)))}, ValueError, "must not be zeros"),
        ({"init": (np.ones((3, 1)), np.full((2, 1), np.nan))}, ValueError, "init has NaN"),
        ({"callback": 3}, TypeError, "callback must be callable"),
        ({"seed": None}, TypeError, "seed"),
    ],
)
def test_errors(change, error, match):
    given = {"rows": [0, 1], "cols": [1, 0], "values": [1.0, 2.0], "shape": (3, 2), "rank": 1} | change
    with pytest.raises(error, match=match):
        complete_matrix(**given)


def test_errors_of_predict():
    result = complete_matrix([0, 1], [1, 0], [1.0, 2.0], (3, 2), 1)
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 3\)"):
        result.predict([3], [0])
    with pytest.raises(ValueError, match="one shape"):
        result.predict([0, 1], [0])


@pytest.mark.parametrize("name", ["rows", "cols", "values"])
def test_cuda_arrays_are_refused(name):
    given = {"rows": np.array([0, 1]), "cols": np.array([1, 0]), "values": np.array([1.0, 2.0])}
    given[name] = DeviceArray(given[name])
    with pytest.raises(RuntimeError, match="CUDA"):
        complete_matrix(**given, shape=(3, 2), rank=1)
