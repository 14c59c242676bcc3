"""raphson.fit_glm of CUDA arrays: beside Newton's method in NumPy, beside the CPU's own fits, and its certificates."""

from __future__ import annotations

import numpy as np
import pytest

import cuda_arrays
import glm_reference
import raphson
from glm_reference import check_certificate, evaluate, newton
from interrupts import check_interrupt
from raphson import fit_glm

device = cuda_arrays.device()

METHODS = ["auto", "quasi_newton", "sketch_pcg", "newton_cg", "newton", "newton_sketch"]
FAMILIES = ["logistic", "multinomial", "poisson", "gaussian"]
SINGLE = ["logistic", "poisson", "gaussian"]


def data(rng, family, n=230, d=7, cond=1.0):
    X, y = glm_reference.data(family, n, d, rng, cond)
    return X, y.astype(float)


def put(value):
    return device.put(value) if isinstance(value, np.ndarray) else value


def fit(X, y, **options):
    """Everything on the device."""
    return fit_glm(device.put(X), device.put(y), **{name: put(value) for name, value in options.items()})


def parameters(result):
    coef = np.atleast_2d(device.get(result.coef))
    if not result.fit_intercept:
        return coef
    return np.column_stack([coef, np.atleast_1d(device.get(result.intercept))])


def outputs(family):
    return 3 if family == "multinomial" else 1


def gauge(w, family, intercept):
    if family == "multinomial" and intercept:
        w[:, -1] -= w[:, -1].mean()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("intercept", [True, False])
def test_is_the_minimiser(rng, family, method, intercept):
    X, y = data(rng, family)
    result = fit(X, y, fit_intercept=intercept, method=method, family=family, ridge=1e-2)
    w = newton(X, y, family, 1e-2, intercept, classes=outputs(family))
    gauge(w, family, intercept)
    np.testing.assert_allclose(parameters(result), w, atol=3e-7)
    check_certificate(result, parameters(result), X, y, family, 1e-2, intercept)
    assert result.method == method or method == "auto"
    cpu = fit_glm(X, y, fit_intercept=intercept, method=method, family=family, ridge=1e-2)
    assert result.method == cpu.method
    assert result.iterations == cpu.iterations  # the same driver: what differs is rounding
    np.testing.assert_allclose(device.get(result.coef), cpu.coef, atol=1e-9)
    assert result.deviance == pytest.approx(cpu.deviance, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_weights_and_offsets(rng, family, method):
    X, y = data(rng, family, n=200)
    weight = rng.integers(0, 4, 200).astype(float)
    offset = rng.standard_normal(200 if family != "multinomial" else (200, 3))
    result = fit(X, y, family=family, ridge=0.05, sample_weight=weight, offset=offset, method=method)
    repeated = np.repeat(np.arange(200), weight.astype(int))
    w = newton(X[repeated], y[repeated], family, 0.05, True, offset=offset[repeated], classes=outputs(family))
    gauge(w, family, True)
    np.testing.assert_allclose(parameters(result), w, atol=1e-6)
    # the host's, in any type it takes
    options = {"family": family, "ridge": 0.05, "method": method}
    beside = fit_glm(device.put(X), y.tolist(), sample_weight=weight.astype(int), offset=offset, **options)
    assert np.array_equal(parameters(beside), parameters(result))
    narrow = fit(X, y, sample_weight=weight.astype(np.float32), offset=offset, **options)
    assert np.array_equal(parameters(narrow), parameters(result))


@pytest.mark.parametrize("method", ["quasi_newton", "sketch_pcg"])
@pytest.mark.parametrize("weighted", [False, True])
def test_long_data_start_from_a_sample(rng, method, weighted):
    X, y = data(rng, "logistic", n=2600, d=36, cond=1e3)
    weight = rng.random(2600) if weighted else None
    offset = rng.standard_normal(2600) if weighted else None
    result = fit(X, y, ridge=1e-8, method=method, sample_weight=weight, offset=offset)
    assert result.converged
    gradient = evaluate(X, y, parameters(result), "logistic", 1e-8, True, weight, offset)[1]
    at_zero = evaluate(X, y, np.zeros((1, 37)), "logistic", 1e-8, True, weight, offset)[1]
    assert np.linalg.norm(gradient) <= 1.01e-8 * np.linalg.norm(at_zero)
    assert result.history["gradient_norm"][0] < 0.5  # the sample's minimiser, not 0
    cpu = fit_glm(X, y, ridge=1e-8, method=method, sample_weight=weight, offset=offset)
    assert abs(result.iterations - cpu.iterations) <= 1
    assert abs(result.sweeps - cpu.sweeps) <= 4
    # the same sample, whose fit is the start; its gradient was measured
    assert result.history["gradient_norm"][0] == pytest.approx(cpu.history["gradient_norm"][0], rel=1e-6)


def test_rows_that_sampling_misses_are_found(rng):
    X = np.zeros((4000, 40))
    X[:, :10] = rng.standard_normal((4000, 10))
    X[np.arange(30) * 133 + 77, 10 + np.arange(30)] = 30.0  # a column that one row alone knows
    y = (rng.random(4000) < 0.5).astype(float)
    result = fit(X, y, ridge=1e-7, method="quasi_newton")
    assert result.converged
    gradient = evaluate(X, y, parameters(result), "logistic", 1e-7, True)[1]
    assert np.abs(gradient).max() < 1e-8


def test_steps_that_would_overflow(rng):
    X = rng.standard_normal((120, 4)) * 30
    y = rng.poisson(np.exp(np.clip(X[:, 0] / 10, -3, 5))).astype(float)
    for method in ("newton", "quasi_newton", "newton_cg"):
        result = fit(X, y, family="poisson", ridge=1e-6, method=method)
        assert result.converged, method
        np.testing.assert_allclose(parameters(result), newton(X, y, "poisson", 1e-6, True), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_separable_labels_without_a_ridge(rng, method):
    X, _ = data(rng, "logistic", n=100)
    y = (X[:, 0] + 0.1 * X[:, 1] > 0).astype(float)
    with pytest.warns(raphson.ConvergenceWarning, match="separable"):
        result = fit(X, y, method=method)
    assert result.status == "infeasible"
    assert not result.converged
    w = parameters(result)[0]
    assert ((X @ w[:-1] + w[-1] > 0) == (y == 1)).all()  # the proof
    assert fit(X, y, ridge=1e-3, method=method).converged


def test_one_class(rng):
    X, _ = data(rng, "logistic", n=50)
    for y in (np.zeros(50), np.ones(50)):
        with pytest.warns(raphson.ConvergenceWarning):
            result = fit(X, y, ridge=0.1)
        assert result.status == "infeasible"
        assert fit(X, y, ridge=0.1, fit_intercept=False).converged


@pytest.mark.parametrize("method", METHODS)
def test_collinear_constant_and_empty_columns(rng, method):
    X, y = data(rng, "logistic", n=200, d=5)
    X = np.column_stack([X, X[:, 0], np.ones(200), np.zeros(200), 2 * X[:, 1] - X[:, 2]])
    result, plain = fit(X, y, method=method), fit_glm(X[:, :5], y)
    assert result.converged
    assert result.objective == pytest.approx(plain.objective, rel=1e-9)
    assert np.abs(device.get(result.coef)).max() < 100


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_and_layouts(rng, family):
    X, y = data(rng, family, n=300)
    X32, y32 = X.astype(np.float32), y.astype(np.float32)
    result = fit(X32, y32, family=family, ridge=1e-3)
    assert result.converged
    assert result.tol == 1e-4
    assert device.get(result.coef).dtype == device.get(result.intercept).dtype == np.float32
    w = newton(X32.astype(float), y32.astype(float), family, 1e-3, True, classes=outputs(family))
    gauge(w, family, True)
    np.testing.assert_allclose(parameters(result), w, atol=1e-3)
    _, gradient, _ = evaluate(X32, y32, parameters(result).astype(float), family, 1e-3, True)
    at_zero = evaluate(X32, y32, np.zeros_like(w), family, 1e-3, True)[1]
    assert result.gradient_norm == pytest.approx(np.linalg.norm(gradient) / np.linalg.norm(at_zero), rel=1e-6)
    plain = parameters(fit(X, y, family=family, ridge=1e-3))
    padded = np.full((300, 12), np.nan)[:, 2:9]
    padded[...] = X
    for other in (padded, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(parameters(fit(other, y, family=family, ridge=1e-3)), plain, rtol=1e-9, atol=1e-12)
    strided = fit_glm(device.put(X), device.put(np.repeat(y, 2)[::2]), family=family, ridge=1e-3)
    np.testing.assert_array_equal(parameters(strided), plain)


@pytest.mark.parametrize("family", SINGLE)
@pytest.mark.parametrize("intercept", [True, False])
def test_predict_covariance_and_standard_errors(rng, family, intercept):
    X, y = data(rng, family)
    weight, offset = rng.random(230) + 0.5, rng.standard_normal(230)
    options = {"family": family, "ridge": 1e-2, "sample_weight": weight, "offset": offset, "fit_intercept": intercept}
    result, cpu = fit(X, y, **options), fit_glm(X, y, **options)
    for dtype in (np.float64, np.float32):
        rows = rng.standard_normal((41, 7)).astype(dtype)
        added = rng.standard_normal(41)
        for kind in ("mean", "margin", *(["label"] if family == "logistic" else [])):
            for there in (None, added):
                found = device.get(result.predict(device.put(rows), offset=put(there), kind=kind))
                assert found.dtype == np.float64
                assert found.shape == (41,)
                expected = cpu.predict(rows.astype(float), offset=there, kind=kind)
                np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(device.get(cpu.predict(device.put(rows))), cpu.predict(rows.astype(float)), rtol=1e-12)
    np.testing.assert_allclose(device.get(result.covariance()), cpu.covariance(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(device.get(result.standard_errors), cpu.standard_errors, rtol=1e-6)
    with pytest.raises(ValueError, match=r"X must have shape \(m, 7\)"):
        result.predict(device.put(rows[:, :3].copy()))
    with pytest.raises(ValueError, match=r"offset must have shape \(41, 1\)"):
        result.predict(device.put(rows), offset=device.put(np.ones(3)))
    with pytest.raises(ValueError, match="kind must be"):
        result.predict(device.put(rows), kind="odds")
    if family != "logistic":
        with pytest.raises(ValueError, match="kind='label'"):
            result.predict(device.put(rows), kind="label")


@pytest.mark.parametrize("intercept", [True, False])
def test_classes(rng, intercept):
    X, number = data(rng, "multinomial")
    names = np.array(["c", "a", "b"])[number.astype(int)]
    offset = rng.standard_normal((230, 3))
    options = {"family": "multinomial", "ridge": 1e-2, "fit_intercept": intercept}
    result = fit_glm(device.put(X), names, offset=device.put(offset), **options)
    cpu = fit_glm(X, names, offset=offset, **options)
    assert list(result.classes) == ["a", "b", "c"]
    np.testing.assert_allclose(parameters(result), cpu._parameters, atol=1e-9)
    for dtype in (np.float64, np.float32):
        rows, added = rng.standard_normal((41, 7)).astype(dtype), rng.standard_normal((41, 3))
        for there in (None, added):
            for kind in ("mean", "margin"):
                found = device.get(result.predict(device.put(rows), offset=put(there), kind=kind))
                assert found.dtype == np.float64
                np.testing.assert_allclose(found, cpu.predict(rows.astype(float), offset=there, kind=kind), atol=1e-7)
            labels = result.predict(device.put(rows), offset=put(there), kind="label")
            assert list(labels) == list(cpu.predict(rows, offset=there, kind="label"))
    np.testing.assert_allclose(device.get(result.covariance()), cpu.covariance(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(device.get(result.standard_errors), cpu.standard_errors, rtol=1e-6, atol=1e-9)
    assert device.get(result.standard_errors).shape == (3, 7 + intercept)
    for wrong in (np.ones(41), np.ones((41, 2))):
        with pytest.raises(ValueError, match=r"offset must have shape \(41, 3\)"):
            result.predict(device.put(rows), offset=device.put(wrong))


def test_many_classes_from_a_sample(rng):
    X = rng.standard_normal((2300, 34))
    y = np.argmax(X[:, :5] + rng.gumbel(size=(2300, 5)), axis=1).astype(float)
    options = {"family": "multinomial", "ridge": 1e-4, "method": "sketch_pcg"}
    result, cpu = fit(X, y, **options), fit_glm(X, y, **options)
    assert result.converged
    assert result.history["gradient_norm"][0] == pytest.approx(cpu.history["gradient_norm"][0], rel=1e-6)
    np.testing.assert_allclose(parameters(result), cpu._parameters, atol=1e-6)


def test_extreme_margins_of_predictions(rng):
    X, y = data(rng, "logistic")
    result = fit(X, y, ridge=1e-2, fit_intercept=False)
    rows = np.outer([-800.0, -40.0, 40.0, 800.0], device.get(result.coef))
    m = rows @ device.get(result.coef)
    found = device.get(result.predict(device.put(rows)))
    np.testing.assert_allclose(found, np.exp(-np.logaddexp(0, -m)), rtol=1e-10, atol=1e-320)


def test_equal_calls_give_equal_bits(rng):
    X, y = data(rng, "logistic", n=2600, d=36)
    first, again = (fit(X, y, ridge=1e-4, method="quasi_newton", seed=5) for _ in range(2))
    assert np.array_equal(parameters(first), parameters(again))
    assert first.objective == again.objective
    assert first.deviance == again.deviance


def test_starts_callbacks_and_limits(rng):
    X, y = data(rng, "logistic", n=300, d=12, cond=1e3)
    plain = fit(X, y, ridge=1e-4)
    warm = fit(X, y, ridge=1e-4, init=parameters(plain)[0])
    assert warm.iterations <= 1
    assert warm.converged
    seen = []
    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        stopped = fit(X, y, ridge=1e-4, method="newton_cg", callback=lambda state: seen.append(state) or len(seen) == 2)
    assert stopped.status == "stopped"
    assert [state.sweeps for state in seen] == list(stopped.history["sweeps"])
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        assert fit(X, y, ridge=1e-4, method="newton_cg", max_iter=1).status == "max_iter"
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        assert fit(X, y, ridge=1e-4, tol=1e-19).status == "precision_floor"


@pytest.mark.parametrize(("n", "d", "method"), [(3000, 48, "auto"), (3000, 48, "newton"), (8800, 145, "auto")])
def test_long_data_from_a_sample_or_given_coefficients(rng, n, d, method):
    """All rows' Hessian once, or a sample's; where coefficients are given there is no sample that left one."""
    X, y = data(rng, "logistic", n=n, d=d, cond=10.0)
    given = 0.1 * rng.standard_normal(d + 1)
    for init in (None, given):
        result = fit(X, y, ridge=1e-3, method=method, init=init)
        cpu = fit_glm(X, y, ridge=1e-3, method=method, init=init)
        assert result.converged
        assert (result.method, result.iterations) == (cpu.method, cpu.iterations)
        np.testing.assert_allclose(device.get(result.coef), cpu.coef, atol=1e-9)
        check_certificate(result, parameters(result), X, y, "logistic", 1e-3, True)


@pytest.mark.skipif(not device.emulated, reason="a device is done before")
@pytest.mark.parametrize("family", ["logistic", "multinomial"])
def test_interrupt(rng, family):
    X, y = data(rng, family, n=8000, d=40, cond=1e7)
    check_interrupt(lambda: fit(X, y, family=family, method="newton_cg", tol=1e-300, max_iter=10**6))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_nan_in_gives_nan_out(rng, bad, method, family):
    X, y = data(rng, family, n=60)
    X[40, 3] = bad
    with pytest.warns(raphson.ConvergenceWarning, match="breakdown.*NaN or Inf"):
        result = fit(X, y, family=family, ridge=0.1, method=method)
    assert result.status == "breakdown"
    assert result.method == method or method == "auto" != result.method
    assert not result.converged
    assert np.isnan(parameters(result)).all()
    assert np.isnan([result.objective, result.gradient_norm, result.deviance]).all()
    rows = device.put(X)
    assert np.isnan(device.get(result.predict(rows))).all()


def test_nan_in_a_sample(rng):
    X, y = data(rng, "logistic", n=2600, d=36)
    X[:, 5] = np.nan
    with pytest.warns(raphson.ConvergenceWarning, match="breakdown"):
        assert fit(X, y, method="quasi_newton").status == "breakdown"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": np.ones(9)}, ValueError, r"X must have 9 rows"),
        ({"X": np.ones(10)}, ValueError, r"X must have two axes"),
        ({"X": np.ones((10, 2), np.float16)}, TypeError, r"float64 or float32"),
        ({"y": np.ones(10, np.float16)}, TypeError, r"float64 or float32"),
        ({"y": np.full(10, 2.0)}, ValueError, r"logistic labels must lie in \[0, 1\]"),
        ({"y": np.full(10, np.nan)}, ValueError, r"y has NaN or Inf"),
        ({"y": -np.ones(10), "family": "poisson"}, ValueError, r"counts must not be negative"),
        ({"sample_weight": -np.ones(10)}, ValueError, r"sample_weight must not be negative"),
        ({"sample_weight": np.zeros(10)}, ValueError, r"positive sum"),
        ({"sample_weight": np.ones(9)}, ValueError, r"sample_weight must have shape \(10,\)"),
        ({"offset": np.full(10, np.inf)}, ValueError, r"offset has NaN or Inf"),
        ({"offset": np.ones((10, 2))}, ValueError, r"offset must have shape \(10,\)"),
        ({"ridge": -1.0}, ValueError, r"ridge"),
        ({"init": np.ones(2)}, ValueError, r"init must have shape \(3,\)"),
        ({"family": "multinomial", "offset": np.ones(10)}, ValueError, r"offset must have shape \(10, 2\)"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, ValueError, r"at least one row"),
    ],
)
def test_bad_input(rng, change, error, message):
    given = {"X": rng.standard_normal((10, 2)), "y": (rng.random(10) < 0.5).astype(float)} | change
    X, y = given.pop("X"), given.pop("y")
    with pytest.raises(error, match=message):
        fit(X, y, **given)


def test_rows_of_the_host_take_no_response_of_the_device(rng):
    X, y = data(rng, "logistic")
    with pytest.raises(RuntimeError, match="no CUDA kernels yet"):
        fit_glm(X, device.put(y))
    labels = fit_glm(device.put(X), y.astype(int), ridge=0.1)
    assert np.array_equal(parameters(labels), parameters(fit(X, y, ridge=0.1)))
