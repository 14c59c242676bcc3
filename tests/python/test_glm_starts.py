"""fit_glm's starts and metrics of long data: samples, the exact Hessian where that is cheap, and given coefficients."""

from __future__ import annotations

import functools

import numpy as np
import pytest

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
    weight[[17, 5000, 5001, *range(11000, 11400)]] = 1
    result = fit_glm(X, y, ridge=1e-2, sample_weight=weight)
    kept = weight > 0
    expected = newton(X[kept], y[kept], "logistic", 1e-2, True)
    assert result.converged
    np.testing.assert_allclose(parameters(result), expected, atol=1e-6)
