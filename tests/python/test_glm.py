"""raphson.fit_glm against Newton's method in NumPy, scikit-learn, statsmodels, and its own certificates."""

from __future__ import annotations

import copy
import os
import pickle
import warnings

import numpy as np
import pytest

import raphson
from glm_reference import check_certificate, data, evaluate, newton
from interrupts import check_interrupt
from raphson import fit_glm

METHODS = ["auto", "quasi_newton", "sketch_pcg", "newton_cg", "newton", "newton_sketch"]
FAMILIES = ["logistic", "multinomial", "poisson", "gaussian"]


def parameters(result):
    coef = np.atleast_2d(result.coef)
    if not result.fit_intercept:
        return coef
    return np.column_stack([coef, np.atleast_1d(result.intercept)])


# ---- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("intercept", [True, False])
def test_is_the_minimiser(family, method, intercept):
    X, y = data(family)
    options = {"family": family, "ridge": 1e-2}
    result = fit_glm(X, y, fit_intercept=intercept, method=method, **options)
    w = newton(X, y, family, 1e-2, intercept, classes=3 if family == "multinomial" else 1)
    if family == "multinomial" and intercept:
        w[:, -1] -= w[:, -1].mean()  # the gauge
    np.testing.assert_allclose(parameters(result), w, atol=3e-7)
    check_certificate(result, parameters(result), X, y, family, 1e-2, intercept)
    assert result.method == method or method == "auto"
    assert len(result.history) >= 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["quasi_newton", "newton"])
def test_weights_and_offsets(family, method):
    X, y = data(family, n=300)
    rng = np.random.default_rng(3)
    weight = rng.integers(0, 4, 300).astype(float)
    outputs = 3 if family == "multinomial" else 1
    offset = rng.standard_normal((300, outputs) if outputs > 1 else 300)
    result = fit_glm(X, y, family=family, ridge=0.05, sample_weight=weight, offset=offset, method=method)
    repeated = np.repeat(np.arange(300), weight.astype(int))
    w = newton(X[repeated], y[repeated], family, 0.05, True, offset=offset[repeated], classes=outputs)
    if outputs > 1:
        w[:, -1] -= w[:, -1].mean()
    np.testing.assert_allclose(parameters(result), w, atol=1e-6)
    counts = fit_glm(X, y, family=family, ridge=0.05, sample_weight=weight.astype(int), offset=offset, method=method)
    assert np.array_equal(counts.coef, result.coef)


@pytest.mark.parametrize("method", ["quasi_newton", "sketch_pcg"])
@pytest.mark.parametrize("cond", [1.0, 1e4])
def test_long_data_start_from_a_sample(method, cond):
    X, y = data("logistic", n=30000, d=60, cond=cond)
    result = fit_glm(X, y, ridge=1e-8, method=method)
    assert result.converged
    m = X @ result.coef + result.intercept
    r = 1 / (1 + np.exp(-m)) - y
    slope = np.append(X.T @ r / 30000 + 1e-8 * result.coef, r.mean())
    r0 = 0.5 - y
    assert np.linalg.norm(slope) <= 1.01e-8 * np.linalg.norm(np.append(X.T @ r0 / 30000, r0.mean()))
    assert result.sweeps <= (12 if method == "quasi_newton" else 40)
    assert result.history["gradient_norm"][0] < 0.5  # the sample's minimiser, not 0


def test_rows_that_sampling_misses_are_found():
    rng = np.random.default_rng(0)
    X = np.zeros((40000, 50))
    X[:, :10] = rng.standard_normal((40000, 10))
    X[np.arange(40) * 1000 + 77, 10 + np.arange(40)] = 30.0  # a column that one row alone knows
    y = (rng.random(40000) < 0.5).astype(float)
    for method in ("quasi_newton", "sketch_pcg"):
        result = fit_glm(X, y, ridge=1e-7, method=method)
        assert result.converged, method
        m = X @ result.coef + result.intercept
        r = 1 / (1 + np.exp(-m)) - y
        assert np.abs(X.T @ r / 40000 + 1e-7 * result.coef).max() < 1e-8


def test_extreme_margins_keep_their_digits():
    X = np.array([[800.0], [-800.0], [40.0], [-40.0], [1.0]])
    y = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    result = fit_glm(X, y, ridge=1e-3, fit_intercept=False)
    assert result.converged
    value = evaluate(X, y, np.atleast_2d(result.coef), "logistic", 1e-3, False)[0]
    assert result.objective == pytest.approx(value, rel=1e-12)
    poisson = fit_glm(np.array([[1.0], [30.0]]), np.array([1.0, 1e9]), family="poisson", ridge=1e-6)
    assert poisson.converged
    assert np.isfinite(poisson.objective)


def test_poisson_steps_that_would_overflow():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3)) * 50
    y = rng.poisson(np.exp(np.clip(X @ [0.05, -0.04, 0.02], None, 8))).astype(float)
    for method in METHODS:
        result = fit_glm(X, y, family="poisson", ridge=1e-6, method=method)
        assert result.converged, method
    bad = fit_glm(X, y, family="poisson", ridge=1e-6, init=np.array([1e3, 0, 0, 0]))
    assert bad.converged  # a start of infinite loss is dropped


def test_extreme_units_are_said_to_be_so():
    X, y = data("logistic")
    with pytest.raises(ValueError, match="overflow"):
        fit_glm(X * 1e200, y, ridge=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny = fit_glm(X * 1e-200, y, fit_intercept=False)
    assert not tiny.converged  # coefficients of 1e200 are not zeros
    for unit in (1e-60, 1e60):
        result = fit_glm(X * unit, y)
        np.testing.assert_allclose(result.coef * unit, fit_glm(X, y).coef, rtol=1e-6)
        assert result.converged


def test_multinomial_gauge_and_labels():
    X, y = data("multinomial")
    names = np.array(["cherry", "apple", "plum"])[y]
    result = fit_glm(X, names, family="multinomial")
    assert list(result.classes) == ["apple", "cherry", "plum"]
    np.testing.assert_allclose(result.coef.sum(axis=0), 0, atol=1e-12)
    assert result.intercept.sum() == pytest.approx(0, abs=1e-12)
    probability = result.predict(X)
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert np.mean(result.predict(X, kind="label") == names) > 0.5
    assert result.deviance == pytest.approx(
        -2 * np.log(probability[np.arange(400), np.searchsorted(result.classes, names)]).sum()
    )


@pytest.mark.parametrize("family", ["logistic", "poisson", "gaussian"])
def test_predict(family):
    X, y = data(family)
    result = fit_glm(X, y, family=family, ridge=1e-3)
    m = X @ result.coef + result.intercept
    mean = {"logistic": 1 / (1 + np.exp(-m)), "poisson": np.exp(m), "gaussian": m}[family]
    np.testing.assert_allclose(result.predict(X), mean, rtol=1e-12)
    np.testing.assert_allclose(result.predict(X, offset=np.ones(len(X)), kind="margin"), m + 1, rtol=1e-12)
    with pytest.raises(ValueError, match=r"X must have shape"):
        result.predict(X[:, :3])
    with pytest.raises(ValueError, match=r"offset must have shape"):
        result.predict(X, offset=np.ones(3))
    with pytest.raises(ValueError, match=r"kind must be"):
        result.predict(X, kind="odds")
    if family == "logistic":
        assert set(np.unique(result.predict(X, kind="label"))) <= {0.0, 1.0}
    else:
        with pytest.raises(ValueError, match="label"):
            result.predict(X, kind="label")


# ---- where there is no answer ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_separable_labels_without_a_ridge(method):
    X, _ = data("logistic", n=100)
    y = (X[:, 0] + 0.1 * X[:, 1] > 0).astype(float)
    with pytest.warns(raphson.ConvergenceWarning, match="separable"):
        result = fit_glm(X, y, method=method)
    assert result.status == "infeasible"
    assert not result.converged
    assert ((X @ result.coef + result.intercept > 0) == (y == 1)).all()  # the proof
    assert fit_glm(X, y, ridge=1e-3, method=method).converged


def test_one_class():
    X, _ = data("logistic", n=50)
    for y in (np.zeros(50), np.ones(50)):
        with pytest.warns(raphson.ConvergenceWarning):
            result = fit_glm(X, y, ridge=0.1)
        assert result.status == "infeasible"
        assert fit_glm(X, y, ridge=0.1, fit_intercept=False).converged
    with pytest.warns(raphson.ConvergenceWarning):
        assert fit_glm(X, np.zeros(50), family="poisson", ridge=0.1).status == "infeasible"
    single = fit_glm(X, np.full(50, 7), family="multinomial", ridge=0.1)
    assert single.converged
    assert list(single.classes) == [7]


@pytest.mark.parametrize("method", METHODS)
def test_collinear_constant_and_empty_columns(method):
    X, y = data("logistic", n=300, d=5)
    X = np.column_stack([X, X[:, 0], np.ones(300), np.zeros(300), 2 * X[:, 1] - X[:, 2]])
    result = fit_glm(X, y, method=method)
    plain = fit_glm(X[:, :5], y)
    assert result.converged
    assert result.objective == pytest.approx(plain.objective, rel=1e-9)
    assert np.abs(result.coef).max() < 100
    np.testing.assert_allclose(result.predict(X), plain.predict(X[:, :5]), atol=1e-5)


def test_a_limit_of_steps_is_reported():
    X, y = data("logistic", n=3000, d=30, cond=1e3)
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        result = fit_glm(X, y, ridge=1e-8, method="quasi_newton", max_iter=2)
    assert result.status == "max_iter"
    assert result.iterations == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        floor = fit_glm(X, y, ridge=1e-8, tol=1e-300)
    assert floor.status in ("precision_floor", "stalled")
    assert floor.gradient_norm < 1e-10


# ---- outside truth -----------------------------------------------------------------------------------------


def test_scikit_learn_breast_cancer_and_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import LogisticRegression

    X, y = datasets.load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    for ridge in (1e-2, 1e-4):
        peer = LogisticRegression(C=1 / (ridge * len(y)), solver="newton-cholesky", tol=1e-12, max_iter=500).fit(X, y)
        result = fit_glm(X, y, ridge=ridge)
        np.testing.assert_allclose(result.coef, peer.coef_[0], atol=1e-6)
        assert result.intercept == pytest.approx(peer.intercept_[0], abs=1e-6)
    X, y = datasets.load_digits(return_X_y=True)
    X = X / 16
    peer = LogisticRegression(C=1 / (1e-2 * len(y)), solver="newton-cg", tol=1e-12, max_iter=500).fit(X, y)
    result = fit_glm(X, y, family="multinomial", ridge=1e-2)
    np.testing.assert_allclose(result.coef, peer.coef_, atol=1e-6)
    np.testing.assert_allclose(result.intercept, peer.intercept_ - peer.intercept_.mean(), atol=1e-6)


def test_statsmodels_coefficients_and_standard_errors():
    sm = pytest.importorskip("statsmodels.api")
    table = sm.datasets.star98.load_pandas()
    X = np.asarray(table.exog, dtype=float)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    counts = np.asarray(table.endog, dtype=float)
    total = counts.sum(axis=1)
    peer = sm.GLM(counts, np.column_stack([X, np.ones(len(X))]), family=sm.families.Binomial()).fit(tol=1e-14)
    result = fit_glm(X, counts[:, 0] / total, sample_weight=total)
    np.testing.assert_allclose(parameters(result)[0], peer.params, atol=1e-6)
    np.testing.assert_allclose(result.standard_errors, peer.bse, atol=1e-6)
    assert result.deviance == pytest.approx(peer.deviance, rel=1e-8)

    table = sm.datasets.randhie.load_pandas()
    X, y = np.asarray(table.exog, dtype=float), np.asarray(table.endog, dtype=float)
    peer = sm.GLM(y, np.column_stack([X, np.ones(len(X))]), family=sm.families.Poisson()).fit(tol=1e-14)
    result = fit_glm(X, y, family="poisson")
    np.testing.assert_allclose(parameters(result)[0], peer.params, atol=1e-6)
    np.testing.assert_allclose(result.standard_errors, peer.bse, atol=1e-6)
    assert result.deviance == pytest.approx(peer.deviance, rel=1e-8)

    peer = sm.OLS(y, np.column_stack([X, np.ones(len(X))])).fit()
    result = fit_glm(X, y, family="gaussian")
    np.testing.assert_allclose(parameters(result)[0], peer.params, atol=1e-6)
    np.testing.assert_allclose(result.standard_errors, peer.bse, rtol=1e-6)
    np.testing.assert_allclose(result.covariance(), peer.cov_params(), rtol=1e-5, atol=1e-9)


def test_multinomial_covariance_is_the_pseudo_inverse():
    X, y = data("multinomial", n=500, d=4)
    result = fit_glm(X, y, family="multinomial")
    _, _, hessian = evaluate(X, y, parameters(result), "multinomial", 0.0, True)
    np.testing.assert_allclose(result.covariance(), np.linalg.pinv(500 * hessian, rcond=1e-10), rtol=1e-6, atol=1e-9)
    assert result.standard_errors.shape == (3, 5)


# ---- where X comes from, and what a citizen does -----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["auto", "quasi_newton", "sketch_pcg", "newton_cg", "newton", "newton_sketch"])
def test_sparse_blocks_and_memory_maps(family, method, tmp_path):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X, y = data(family, n=900, d=12)
    X[np.random.default_rng(0).random(X.shape) < 0.7] = 0
    options = {"family": family, "ridge": 1e-2, "method": method}
    expected = fit_glm(X, y, **options)
    stored = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=float, shape=X.shape)
    stored[:] = X
    assert np.array_equal(fit_glm(stored, y, **options).coef, expected.coef)
    for other in (
        scipy_sparse.csr_array(X),
        scipy_sparse.csc_matrix(X),
        lambda: (X[i : i + 200] for i in range(0, 900, 200)),
        lambda: (scipy_sparse.csr_array(X[i : i + 250]) for i in range(0, 900, 250)),
    ):
        result = fit_glm(other, y, **options)
        assert result.converged
        np.testing.assert_allclose(result.coef, expected.coef, atol=1e-6)
        np.testing.assert_allclose(result.standard_errors, expected.standard_errors, rtol=1e-5)


def test_float32_and_torch():
    X, y = data("logistic", n=2000)
    result = fit_glm(X.astype(np.float32), y, ridge=1e-3)
    assert result.coef.dtype == np.float32
    assert result.tol == 1e-4
    assert result.converged
    np.testing.assert_allclose(result.coef, fit_glm(X, y, ridge=1e-3).coef, atol=1e-4)
    torch = pytest.importorskip("torch")
    given = fit_glm(torch.from_numpy(X), torch.from_numpy(y), ridge=1e-3)
    assert isinstance(given.coef, torch.Tensor)
    np.testing.assert_array_equal(given.coef.numpy(), fit_glm(X, y, ridge=1e-3).coef)
    assert isinstance(given.predict(torch.from_numpy(X)), torch.Tensor)


@pytest.mark.parametrize("method", ["quasi_newton", "sketch_pcg", "newton_cg", "newton"])
def test_threads_never_change_a_bit(method):
    X, y = data("logistic", n=20000, d=40, cond=1e3)
    before, found = raphson.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            found.append(fit_glm(X, y, ridge=1e-6, method=method, tol=1e-6).coef)
    finally:
        raphson.set_num_threads(before)
    assert all(np.array_equal(w, found[0]) for w in found)


def test_warm_starts_callbacks_and_pickles():
    X, y = data("logistic", n=5000, d=20, cond=1e2)
    first = fit_glm(X, y, ridge=1e-5, method="quasi_newton")
    again = fit_glm(X, y, ridge=1e-5, method="quasi_newton", init=parameters(first)[0])
    assert again.iterations == 0
    assert np.array_equal(again.coef, first.coef)
    seen = []
    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        stopped = fit_glm(X, y, ridge=1e-5, method="quasi_newton", callback=lambda s: seen.append(s) or len(seen) == 3)
    assert stopped.status == "stopped"
    assert len(seen) == 3
    assert seen[-1].sweeps >= seen[0].sweeps
    with pytest.raises(ZeroDivisionError):
        fit_glm(X, y, callback=lambda s: 1 // 0)
    for other in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert np.array_equal(other.coef, first.coef)
        np.testing.assert_array_equal(other.standard_errors, first.standard_errors)
    streamed = fit_glm(lambda: iter([X]), y, ridge=1e-5)
    assert streamed.covariance().shape == (21, 21)
    fresh = pickle.loads(pickle.dumps(fit_glm(lambda: iter([X]), y, ridge=1e-5)))
    assert np.array_equal(fresh.coef, streamed.coef)
    with pytest.raises(ValueError, match="pickled"):
        fresh.covariance()
    errors, alone = first.standard_errors, first.detach()
    assert np.array_equal(alone.predict(X), first.predict(X))
    assert len(pickle.dumps(alone)) < 20_000 < len(pickle.dumps(first))
    with pytest.raises(ValueError, match=r"detach\(\)"):
        alone.covariance()
    assert np.array_equal(first.standard_errors, errors)  # the result itself is what it was
    assert len(repr(first)) < 250
    assert "gradient_norm" in repr(first)
    assert fit_glm(X, y, ridge=1e-5, progress=True).converged


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize("blocks", [False, True])
def test_interrupt(blocks):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40000, 100)) @ (rng.standard_normal((100, 100)) * np.logspace(0, -6, 100)[:, None])
    y = (rng.random(40000) < 0.5).astype(float)
    data = (lambda: (X[i : i + 4000] for i in range(0, 40000, 4000))) if blocks else X
    check_interrupt(lambda: fit_glm(data, y, method="newton_cg"))  # conjugate gradients that cannot get there
    assert fit_glm(X[:1000, :5], y[:1000]).converged  # nothing is left behind


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"X": np.ones((9, 2))}, ValueError, r"X must have 10 rows"),
        ({"X": np.ones(10)}, ValueError, r"X must have two axes"),
        ({"X": np.ones((10, 2), dtype=int)}, TypeError, r"float64"),
        ({"X": np.full((10, 2), np.nan)}, ValueError, r"X has NaN or Inf"),
        ({"y": np.full(10, 2.0)}, ValueError, r"labels must lie in \[0, 1\]"),
        ({"y": np.full(10, -1.0), "family": "poisson"}, ValueError, r"must not be negative"),
        ({"y": np.full(10, np.nan)}, ValueError, r"y has NaN or Inf"),
        ({"y": np.full(10, np.nan), "family": "multinomial"}, ValueError, r"y has NaN or Inf"),
        ({"y": np.array(["a"] * 10)}, TypeError, r"y must be numbers"),
        ({"y": np.ones((10, 2))}, ValueError, r"y must have shape"),
        ({"sample_weight": np.full(10, -1.0)}, ValueError, r"sample_weight must not be negative"),
        ({"sample_weight": np.zeros(10)}, ValueError, r"sample_weight must have a positive sum"),
        ({"sample_weight": np.ones(9)}, ValueError, r"sample_weight must have shape"),
        ({"offset": np.ones(9)}, ValueError, r"offset must have shape"),
        ({"offset": np.full(10, np.inf)}, ValueError, r"offset has NaN or Inf"),
        ({"ridge": -1.0}, ValueError, r"ridge"),
        ({"tol": 0.0}, ValueError, r"tol"),
        ({"max_iter": 0}, ValueError, r"max_iter"),
        ({"init": np.ones(2)}, ValueError, r"init must have shape \(3,\)"),
        ({"family": "gamma"}, ValueError, r"family must be one of"),
        ({"method": "lbfgs"}, ValueError, r"method must be one of"),
        ({"callback": 3}, TypeError, r"callback"),
        ({"seed": None}, TypeError, r"seed"),
        ({"X": np.ones((0, 2)), "y": np.ones(0)}, ValueError, r"at least one row"),
    ],
)
def test_bad_input(change, error, message):
    rng = np.random.default_rng(0)
    given = {"X": rng.standard_normal((10, 2)), "y": (rng.random(10) < 0.5).astype(float)} | change
    X, y = given.pop("X"), given.pop("y")
    with pytest.raises(error, match=message):
        fit_glm(X, y, **given)
