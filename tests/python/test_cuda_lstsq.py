"""raphson.lstsq of CUDA arrays: beside NumPy, beside the CPU's own answers, and by an SVD's backward error."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import cuda_arrays
import raphson
from interrupts import check_interrupt
from lstsq_reference import backward_error, problem
from raphson import lstsq

device = cuda_arrays.device()

METHODS = ["auto", "direct", "gram", "sketch", "fossils"]


def on_device(a, b, **options):
    """x on the host, and the result."""
    result = lstsq(device.put(a), device.put(b), **options)
    x = device.get(result.x)
    assert x.dtype == a.dtype
    assert x.shape == (a.shape[1], *b.shape[1:])
    return x, result


def norms(result):
    return device.get(result.residual_norm)


@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, None), (7, 3, 2), (1501, 40, 3), (900, 64, None), (130, 5, 1)])
def test_agrees_with_numpy(rng, m, n, k, method):
    a, b = rng.standard_normal((m, n)), rng.standard_normal(m if k is None else (m, k))
    expected, *_ = np.linalg.lstsq(a, b, rcond=None)
    x, result = on_device(a, b, method=method)
    np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(norms(result), np.linalg.norm(b - a @ expected, axis=0), rtol=1e-12, atol=1e-13)
    assert result.converged
    assert result.rank == n
    assert result.backward_error <= result.tol == 1e-15


@pytest.mark.parametrize("method", ["sketch", "fossils"])
@pytest.mark.parametrize("cond", [1e2, 1e8, 1e12])
def test_is_backward_stable(cond, method):
    a, b, truth = problem(1700, 40, cond)
    x, result = on_device(a, b, method=method)
    assert result.method == method
    assert result.converged
    assert backward_error(a, b, x) <= 1e-15
    assert result.backward_error == pytest.approx(backward_error(a, b, x), rel=3, abs=2e-16)
    assert result.cond == pytest.approx(cond, rel=0.5)
    peer = np.linalg.norm(np.linalg.lstsq(a, b, rcond=None)[0] - truth)
    assert np.linalg.norm(x - truth) <= 30 * peer + 1e-13
    cpu = lstsq(a, b, method=method)  # the same sketch, the same steps, as far as rounding lets them be
    assert result.rank == cpu.rank
    assert cond == 1e12 or abs(result.iterations - cpu.iterations) <= 2


def test_the_method_that_runs(rng):
    for m, n, cond, method in [
        (100, 10, 10, "direct"),
        (3000, 200, 1e8, "direct"),
        (4000, 200, 1e8, "sketch"),
        (4000, 200, 1e3, "gram"),
    ]:
        a, b, _ = problem(m, n, cond)
        assert lstsq(device.put(a), device.put(b)).method == method
    a, b = rng.standard_normal((150, 200)), rng.standard_normal(150)
    assert lstsq(device.put(a), device.put(b)).method == "direct"


@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize("ridge", [1e-6, 0.5, 1e4])
def test_ridge(rng, ridge, method):
    a, b = rng.standard_normal((500, 20)), rng.standard_normal(500)
    expected = np.linalg.solve(a.T @ a + ridge * np.eye(20), a.T @ b)
    x, result = on_device(a, b, ridge=ridge, method=method)
    np.testing.assert_allclose(x, expected, rtol=1e-11)
    assert norms(result) == pytest.approx(np.linalg.norm(b - a @ expected))
    assert result.converged


@pytest.mark.parametrize("method", METHODS)
def test_least_norm_of_a_rank_deficient_matrix(rng, method):
    a = rng.standard_normal((1000, 12)) @ rng.standard_normal((12, 30))
    b = rng.standard_normal(1000)
    x, result = on_device(a, b, method=method)
    assert result.rank == 12
    np.testing.assert_allclose(x, np.linalg.lstsq(a, b, rcond=1e-12)[0], rtol=1e-9, atol=1e-12)
    assert result.converged


@pytest.mark.parametrize("method", METHODS)
def test_conditions_beyond_the_precision_are_cut(method):
    a, b, _ = problem(1000, 30, 1e17, residual=0.0)
    x, result = on_device(a, b, method=method)
    cpu = lstsq(a, b, method=method)
    assert result.rank == cpu.rank < 30
    assert result.converged == cpu.converged
    assert np.linalg.norm(x) < 10
    assert np.linalg.norm(b - a @ x) <= 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_zero_repeated_and_badly_scaled_columns(rng, method):
    a, b = rng.standard_normal((600, 10)), rng.standard_normal(600)
    scale = np.logspace(0, -20, 10)
    x, result = on_device(a * scale, b, method=method)
    assert result.rank == 10
    np.testing.assert_allclose(x * scale, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-8)
    a[:, 3] = 0
    a[:, 7] = a[:, 2]
    x, result = on_device(a, b, method=method)
    assert result.rank == 8
    np.testing.assert_allclose(x, np.linalg.lstsq(a, b, rcond=1e-12)[0], atol=1e-12)


def test_more_columns_than_rows(rng):
    a, b = rng.standard_normal((12, 40)), rng.standard_normal((12, 2))
    x, result = on_device(a, b)
    np.testing.assert_allclose(x, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-11)
    assert result.rank == 12


def test_a_zero_matrix_and_nothing(rng):
    x, result = on_device(np.zeros((300, 4)), np.ones(300), method="sketch")
    assert result.rank == 0
    assert (x == 0).all()
    assert norms(result) == pytest.approx(np.sqrt(300))
    x, _ = on_device(np.zeros((9, 0)), np.ones(9))
    assert x.shape == (0,)
    x, _ = on_device(rng.standard_normal((9, 2)), np.ones((9, 0)))
    assert x.shape == (2, 0)


@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize(("unit_a", "unit_b"), [(1e200, 1.0), (1e-200, 1.0), (1.0, 1e250), (1e-300, 1e-300)])
def test_extreme_units(rng, unit_a, unit_b, method):
    a, b = rng.standard_normal((700, 10)), rng.standard_normal(700)
    expected, *_ = np.linalg.lstsq(a, b, rcond=None)
    x, result = on_device(a * unit_a, b * unit_b, method=method)
    np.testing.assert_allclose(x * unit_a / unit_b, expected, rtol=1e-11)
    assert result.converged


@pytest.mark.parametrize("method", METHODS)
def test_float32(rng, method):
    a, b = rng.standard_normal((1500, 30)).astype(np.float32), rng.standard_normal((1500, 2)).astype(np.float32)
    expected, *_ = np.linalg.lstsq(a.astype(float), b.astype(float), rcond=None)
    x, result = on_device(a, b, method=method)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norms(result), np.linalg.norm(b - a @ x.astype(float), axis=0), rtol=1e-6)
    assert norms(result).dtype == np.float64
    assert result.converged
    wide, _ = on_device(a, b.astype(np.float64), method=method)  # b may be wider
    np.testing.assert_allclose(wide, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_layouts(rng, dtype):
    a, b = rng.standard_normal((700, 23)).astype(dtype), rng.standard_normal((700, 3)).astype(dtype)
    plain, _ = on_device(a, b, method="sketch")
    padded = np.full((700, 40), np.nan, dtype)[:, 3:26]
    padded[...] = a
    for other_a, other_b in [
        (padded, b),
        (np.asfortranarray(a), b),
        (np.repeat(a, 2, axis=0)[::2], np.asfortranarray(b)),
        (a, np.repeat(b, 2, axis=1)[:, ::2]),
        (a[:, ::-1].copy()[:, ::-1], b[::-1].copy()[::-1]),
    ]:
        if device.emulated or min(*other_a.strides, *other_b.strides) > 0:  # torch has no negative strides
            x, _ = on_device(other_a, other_b, method="sketch")
            np.testing.assert_allclose(x, plain, rtol=1e-13 if dtype is np.float64 else 1e-6)


def test_equal_calls_give_equal_bits(rng):
    a, b = rng.standard_normal((5000, 33)), rng.standard_normal(5000)
    first, _ = on_device(a, b, method="sketch", seed=3)
    again, _ = on_device(a, b, method="sketch", seed=3)
    assert (first == again).all()


def test_certificates_are_measured():
    a, b, _ = problem(2000, 30, 1e6)
    x, result = on_device(a, b, method="sketch", tol=1e-9)
    assert backward_error(a, b, x) <= 1e-9
    assert result.converged
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        _, floor = on_device(a, b, method="sketch", tol=1e-19)
    assert floor.status == "precision_floor"
    assert not floor.converged


@pytest.mark.skipif(not device.emulated, reason="a device is done before")
@pytest.mark.parametrize("method", ["sketch", "fossils", "cg"])
def test_interrupt(method):
    a, b, _ = problem(6000, 40, 1e6)
    check_interrupt(lambda: on_device(a, np.tile(b[:, None], 50), method=method, tol=1e-300))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize("where", ["A", "b"])
@pytest.mark.parametrize("m", [8, 900])
def test_nan_in_gives_nan_out(rng, bad, method, where, m):
    a, b = rng.standard_normal((m, 11)), rng.standard_normal((m, 2))
    (a if where == "A" else b)[m // 2, 1] = bad
    with pytest.warns(raphson.ConvergenceWarning, match="breakdown.*NaN or Inf"):
        x, result = on_device(a, b, method=method)
    assert np.isnan(x).all()
    assert np.isnan(norms(result)).all()
    assert np.isnan(result.backward_error)
    assert result.status == "breakdown"
    assert not result.converged


def test_bad_input(rng):
    a, b = device.put(rng.standard_normal((20, 3))), device.put(rng.standard_normal(20))
    for wrong, error, message in [
        ((a, device.put(np.ones(19))), ValueError, "A must have 19 rows"),
        ((a, device.put(np.ones((20, 1, 1)))), ValueError, "b must have shape"),
        ((device.put(np.ones(20)), b), ValueError, "A must have two axes"),
        ((a, np.ones(20)), TypeError, "numpy"),
        ((device.put(np.ones((20, 3), np.float16)), b), TypeError, "float64 or float32"),
        ((a, device.put(np.ones(20, np.float16))), TypeError, "float64 or float32"),
    ]:
        with pytest.raises(error, match=message):
            lstsq(*wrong)
    for options, message in [
        ({"ridge": -1.0}, "ridge"),
        ({"rcond": 1.0}, "rcond"),
        ({"tol": 0.0}, "tol"),
        ({"method": "qr"}, "method"),
    ]:
        with pytest.raises(ValueError, match=message):
            lstsq(a, b, **options)


def test_nothing_is_written_to_the_input(rng):
    a, b = rng.standard_normal((400, 7)), rng.standard_normal(400)
    on, right = device.put(a.copy()), device.put(b.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lstsq(on, right, method="sketch", ridge=0.1)
    assert (device.get(on) == a).all()
    assert (device.get(right) == b).all()
