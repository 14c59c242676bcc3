"""fit_glm's starts and metrics of long data: samples, the exact Hessian where that is cheap, and given coefficients."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

import raphson
from glm_reference import check_certificate, data, newton
from raphson import fit_glm

# Rows and columns: the exact Hessian once; a sample's; so few columns that Newton's method is chosen.
LONG = {"exact": (9000, 50), "sampled": (9200, 150), "narrow": (4000, 9)}


def long_data(kind, family="logistic"):
    n, d = LONG[kind]
    return data(family, n=n, d=d, cond=30)


def parameters(result):
    return np.column_stack([np.atleast_2d(result.coef), np.atleast_1d(result.intercept)])


@functools.lru_cache
def minimiser(kind, family):
    w = newton(*long_data(kind, family), family, 1e-3, True, classes=3 if family == "multinomial" else 1)
    if family == "multinomial":
        w[:, -1] -= w[:, -1].mean()  # the gauge
    return w


# The reference takes a minute for 453 parameters, whose path is that of fewer columns.
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        (k, f)
        for k in LONG
        for f in ("logistic", "poisson", "gaussian", "multinomial")
        if (k, f) != ("sampled", "multinomial")
    ],
)
@pytest.mark.parametrize("method", ["auto", "quasi_newton", "sketch_pcg", "newton_cg", "newton"])
def test_given_coefficients(kind, family, method):
    """A start that is given leaves no sample behind whose Hessian could serve: a metric has to be made."""
    X, y = long_data(kind, family)
    classes = 3 if family == "multinomial" else 1
    expected = minimiser(kind, family)
    start = expected + 0.1 * np.random.default_rng(0).standard_normal(expected.shape)
    result = fit_glm(X, y, family=family, ridge=1e-3, method=method, init=start if classes > 1 else start[0])
    assert result.converged
    assert result.iterations > 0
    np.testing.assert_allclose(parameters(result), expected, atol=1e-5)
    check_certificate(result, parameters(result), X, y, family, 1e-3, True)


@pytest.mark.parametrize("family", ["logistic", "poisson"])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_exact_hessian_at_the_samples_minimiser(family, weighted):
    X, y = long_data("exact", family)
    weight = np.random.default_rng(1).integers(0, 3, len(y)).astype(float) if weighted else None
    result = fit_glm(X, y, family=family, ridge=1e-6, sample_weight=weight)
    assert result.converged
    assert result.method == "quasi_newton"
    assert result.sweeps <= 10  # the sample's own Hessian as the metric takes 12 to 14
    kept = slice(None) if weight is None else np.repeat(np.arange(len(y)), weight.astype(int))
    expected = newton(X[kept], y[kept], family, 1e-6, True)
    np.testing.assert_allclose(parameters(result), expected, atol=1e-5)


def test_newtons_method_starts_from_a_sample():
    X, y = long_data("narrow")
    sampled = fit_glm(X, y, ridge=1e-6)
    zero = fit_glm(X, y, ridge=1e-6, init=np.zeros(X.shape[1] + 1))
    assert sampled.method == zero.method == "newton"
    assert sampled.iterations < zero.iterations
    np.testing.assert_allclose(sampled.coef, zero.coef, rtol=1e-9)
    for result in (sampled, zero):
        assert result.gradient_norm <= 1e-11  # one step beyond the tolerance


def test_least_squares_need_one_hessian():
    X, y = data("gaussian", n=20000, d=200, cond=1e3)
    result = fit_glm(X, y, family="gaussian", ridge=1e-9)
    assert result.method == "quasi_newton"
    assert (result.iterations, result.gradient_norm <= 1e-11) == (1, True)
    A = np.column_stack([X, np.ones(len(y))])
    expected = np.linalg.solve(A.T @ A / len(y) + 1e-9 * np.diag(np.r_[np.ones(200), 0]), A.T @ y / len(y))
    np.testing.assert_allclose(parameters(result)[0], expected, rtol=0, atol=1e-8)


def test_a_sample_without_weight():
    """All weight on rows that a sample hardly meets: no start, and still the minimiser."""
    X, y = long_data("sampled")
    weight = np.zeros(len(y))
    weight[[17, 5000, 5001, *range(9000, 9150)]] = 1
    result = fit_glm(X, y, ridge=1e-2, sample_weight=weight)
    kept = weight > 0
    expected = newton(X[kept], y[kept], "logistic", 1e-2, True)
    assert result.converged
    np.testing.assert_allclose(parameters(result), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["auto", "sketch_pcg", "newton_cg", "newton", "quasi_newton", "newton_sketch"])
@pytest.mark.parametrize("far", [43.0, -400.0])
def test_a_start_without_curvature_is_dropped(method, far):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((801, 1))
    y = (rng.random(801) < 0.5).astype(float)
    result = fit_glm(X, y, ridge=1.0, init=[far, -far / 2], method=method)
    assert result.converged
    np.testing.assert_allclose(result.coef, fit_glm(X, y, ridge=1.0).coef, atol=1e-7)


@pytest.mark.parametrize("method", ["auto", "sketch_pcg", "newton_cg", "newton", "quasi_newton", "newton_sketch"])
def test_one_class_has_the_ridge_alone(method):
    X = np.random.default_rng(0).standard_normal((3000, 10))
    y, start = np.zeros(3000), np.full((1, 10), 0.3)
    result = fit_glm(X, y, family="multinomial", ridge=0.5, fit_intercept=False, init=start, method=method)
    assert result.converged
    np.testing.assert_allclose(result.coef, 0, atol=1e-8)
    np.testing.assert_allclose(result.covariance() * 3000 * 0.5, np.eye(10), atol=1e-12)


@pytest.mark.parametrize("method", ["auto", "sketch_pcg", "newton_cg", "newton", "quasi_newton", "newton_sketch"])
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
@pytest.mark.parametrize("most", [1, 2, 3])
def test_never_more_than_max_iter_steps(method, family, most):
    X, y = data(family, n=300, d=5, cond=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        result = fit_glm(X, y, family=family, ridge=1e-3, method=method, max_iter=most)
    assert result.iterations <= most
