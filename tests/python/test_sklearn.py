"""raphson.sklearn: scikit-learn's own checks, its estimators' coefficients, and manners."""

from __future__ import annotations

import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest

import raphson

sklearn = pytest.importorskip("sklearn", "1.6", exc_type=ImportError)
sparse = pytest.importorskip("scipy.sparse")
pytest.importorskip("scipy.sparse.linalg")

from sklearn import config_context, datasets, linear_model  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_validate  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import raphson.sklearn as estimators  # noqa: E402
from raphson.sklearn import LinearRegression, LogisticRegression, PoissonRegressor, Ridge  # noqa: E402

EVERY = [LogisticRegression, PoissonRegressor, LinearRegression, Ridge]


@parametrize_with_checks([*(kind() for kind in EVERY), Ridge(alpha=0.0), LogisticRegression(C=1e6)])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def standardised(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X, y = X[: 600 if name == "digits" else None], y[: 600 if name == "digits" else None]
    return (X - X.mean(axis=0)) / (X.std(axis=0) + 1e-3), y


def sum_to_zero(model):
    """The intercept in the gauge where scikit-learn's can be compared."""
    return model.intercept_ - (model.intercept_.mean() if len(model.classes_) > 2 else 0)


# ---- classifiers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "iris"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"C": 0.01},
        {"fit_intercept": False},
        {"C": 0.1, "class_weight": "balanced"},
        {"class_weight": {0: 3, 1: 0.5}},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression_is_scikit_learns(name, options, weighted, rng):
    X, y = standardised(name)
    weight = rng.random(len(y)) * 2 if weighted else None
    peer = linear_model.LogisticRegression(solver="newton-cg", tol=1e-12, max_iter=1000, **options).fit(X, y, weight)
    for given in (X, sparse.csr_array(X), sparse.csc_matrix(X)):
        model = LogisticRegression(**options).fit(given, y, weight)
        assert model.coef_.shape == peer.coef_.shape
        assert model.intercept_.shape == peer.intercept_.shape
        np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-8)
        np.testing.assert_allclose(sum_to_zero(model), sum_to_zero(peer), atol=1e-8)
        np.testing.assert_array_equal(model.classes_, peer.classes_)
        np.testing.assert_allclose(model.decision_function(given), peer.decision_function(X), atol=1e-7)
        np.testing.assert_allclose(model.predict_proba(given), peer.predict_proba(X), atol=1e-8)
        np.testing.assert_allclose(np.exp(model.predict_log_proba(given)), model.predict_proba(X), atol=1e-12)
        assert np.mean(model.predict(given) == peer.predict(X)) > 0.999
        assert model.result_.converged
        assert model.result_.gradient_norm <= 1e-8
    single = LogisticRegression(tol=1e-6, **options).fit(X.astype(np.float32), y, weight)
    assert single.coef_.dtype == single.intercept_.dtype == np.float32
    np.testing.assert_allclose(single.coef_, peer.coef_, atol=1e-4)


@pytest.mark.parametrize("name", ["breast_cancer", "iris"])
def test_without_a_penalty(name, rng):
    X, y = standardised(name)
    y = np.where(rng.random(len(y)) < 0.2, rng.permutation(y), y)  # no longer separable
    X = X[:, :4]
    peer = linear_model.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, y)
    for options in ({"C": np.inf}, {"penalty": None}):
        model = LogisticRegression(**options).fit(X, y)
        np.testing.assert_allclose(
            model.coef_, peer.coef_ - (peer.coef_.mean(axis=0) if name == "iris" else 0), atol=1e-6
        )
        np.testing.assert_allclose(sum_to_zero(model), sum_to_zero(peer), atol=1e-6)


def test_labels_of_any_kind_and_extreme_margins():
    X, y = standardised("iris")
    names = np.array(["plum", "apple", "cherry"], dtype=object)[y]
    model = LogisticRegression().fit(X, names)
    assert list(model.classes_) == list(model.result_.classes) == ["apple", "cherry", "plum"]
    assert model.score(X, names) > 0.95
    for labels in (y == 0, np.where(y == 0, "yes", "no"), y.astype(np.float64)):
        far = LogisticRegression().fit(X, labels)
        assert set(far.predict(X)) <= set(far.classes_)
        logarithms = far.predict_log_proba(X * 1e4)
        assert np.isfinite(logarithms).all()  # where the probabilities are zeros
        assert (far.predict_proba(X * 1e4) == 0).any()
        np.testing.assert_allclose(far.predict_proba(X).sum(axis=1), 1)


def test_a_class_of_no_weight():
    X, y = standardised("iris")
    with pytest.warns(ConvergenceWarning, match="never occurs"):
        model = LogisticRegression(class_weight={0: 0.0, 1: 1.0, 2: 1.0}).fit(X, y)
    assert 0 not in model.predict(X)
    with pytest.warns(ConvergenceWarning, match="never occurs"):
        model = LogisticRegression(class_weight="balanced").fit(X, y, (y > 0).astype(float))
    assert 0 not in model.predict(X)


def test_warm_start():
    X, y = standardised("digits")
    for kind, labels in ((LogisticRegression, y), (LogisticRegression, y > 4), (PoissonRegressor, y)):
        for options in ({}, {"fit_intercept": False}):
            model = kind(warm_start=True, **options).fit(X, labels)
            assert np.all(model.n_iter_ > 1)
            first = model.coef_.copy()
            assert np.all(model.fit(X, labels).n_iter_ == 0)
            np.testing.assert_array_equal(model.coef_, first)
            other = clone(model).set_params(warm_start=False).fit(X, labels)
            assert np.all(other.fit(X, labels).n_iter_ > 1)
            other.fit(X[:, :30], labels)
            np.testing.assert_array_equal(model.fit(X[:, :30], labels).coef_, other.coef_)  # of another shape: from 0
    model = LogisticRegression(warm_start=True).fit(X, y)
    np.testing.assert_array_equal(model.fit(X, y > 4).coef_, LogisticRegression().fit(X, y > 4).coef_)


# ---- counts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
def test_poisson_regressor_is_scikit_learns(alpha, weighted, intercept, rng):
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y = X * 10, np.round(y / 20)
    weight = rng.integers(0, 4, len(y)).astype(float) if weighted else None
    options = {"alpha": alpha, "fit_intercept": intercept}
    peer = linear_model.PoissonRegressor(solver="newton-cholesky", tol=1e-12, max_iter=1000, **options)
    peer.fit(X, y, weight)
    for given in (X, sparse.csr_array(X)):
        model = PoissonRegressor(**options).fit(given, y, weight)
        np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-8)
        assert model.intercept_ == pytest.approx(peer.intercept_, abs=1e-8)
        np.testing.assert_allclose(model.predict(given), peer.predict(X), rtol=1e-7)
        for by in (None, weight):
            assert model.score(given, y, by) == pytest.approx(peer.score(X, y, by), abs=1e-9)
    assert PoissonRegressor(**options).fit(X.astype(np.float32), y).coef_.dtype == np.float32


def test_scores_of_constant_counts():
    X = np.arange(5.0)[:, None]
    model = PoissonRegressor().fit(X, np.arange(5))
    model.coef_, model.intercept_ = np.zeros(1), np.log(2.0)
    assert model.score(X, np.full(5, 2.0)) == 1
    assert model.score(X, np.full(5, 3.0)) == 0
    with pytest.raises(ValueError, match=r"y must have shape"):
        model.score(X, -np.ones(5))


# ---- least squares -----------------------------------------------------------------------------------------


def truth(X, y, weight, alpha, intercept):
    """Centred, weighted, stacked, by NumPy's SVD."""
    weight = np.ones(len(X)) if weight is None else weight
    x_mean, y_mean = np.average(X, axis=0, weights=weight), np.average(y, axis=0, weights=weight)
    if not intercept:
        x_mean, y_mean = 0 * x_mean, 0 * y_mean
    root = np.sqrt(weight)[:, None]
    A = np.vstack([root * (X - x_mean), np.sqrt(alpha) * np.eye(X.shape[1])])
    b = np.vstack([root * (y - y_mean), np.zeros((X.shape[1], y.shape[1]))])
    coef = np.linalg.lstsq(A, b, rcond=1e-11)[0].T
    return coef, y_mean - coef @ x_mean if intercept else np.zeros(len(coef))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (30, 1), (40, 6), (2500, 7), (7, 7), (8, 7), (6, 20)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_least_squares(shape, weighted, intercept, alpha, rng):
    X = rng.standard_normal(shape) + 3
    Y = rng.standard_normal((len(X), 2)) + 5
    weight = None
    if weighted:
        weight = rng.integers(0, 3, len(X)) + (np.arange(len(X)) == len(X) - 1) * 2.0
    before = X.copy(), Y.copy()
    coef, level = truth(X, Y, weight, alpha, intercept)
    kinds = [Ridge(alpha=alpha, fit_intercept=intercept)]
    if alpha == 0:
        kinds.append(LinearRegression(fit_intercept=intercept))
    for model in kinds:
        for given, atol in ((X, 1e-11), (np.asfortranarray(X), 1e-11), (sparse.csr_array(X), 2e-8)):
            model.fit(given, Y, weight)
            assert model.coef_.shape == coef.shape
            np.testing.assert_allclose(model.coef_, coef, atol=atol)
            np.testing.assert_allclose(model.intercept_, level if intercept else 0.0, atol=10 * atol)
            np.testing.assert_allclose(model.predict(given), X @ coef.T + level, atol=10 * atol)
            assert model.result_.converged
            model.fit(given, Y[:, 0], weight)
            assert model.coef_.shape == coef[0].shape
            np.testing.assert_allclose(model.coef_, coef[0], atol=atol)
            assert np.ndim(model.intercept_) == 0
            assert model.predict(given).shape == (len(X),)
            if not sparse.issparse(given):
                rest = Y[:, 0] - model.predict(X)
                norm = np.linalg.norm(rest if weight is None else np.sqrt(weight) * rest)
                assert model.result_.residual_norm == pytest.approx(norm, rel=1e-8, abs=1e-11)  # of all rows
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(Y, before[1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_least_squares_are_scikit_learns(weighted, shift, rng):
    X, y = datasets.load_diabetes(return_X_y=True)
    X += shift
    Y = np.column_stack([y, y**2 / 100 + X[:, 0]])
    weight = rng.integers(0, 4, len(y)).astype(float) if weighted else None
    plain = linear_model.LinearRegression(tol=1e-14).fit(X, Y, weight)
    for alpha in (0.5, np.array([0.1, 2.0]), np.array([0.1, 0.1])):
        peer = linear_model.Ridge(alpha, solver="svd").fit(X, Y, weight)
        for given in (X, sparse.csr_array(X)):
            model = Ridge(alpha).fit(given, Y, weight)
            np.testing.assert_allclose(model.coef_, peer.coef_, rtol=1e-8)
            np.testing.assert_allclose(model.intercept_, peer.intercept_, rtol=1e-8)
            line = LinearRegression().fit(given, Y, weight)
            np.testing.assert_allclose(line.coef_, plain.coef_, rtol=1e-8)
            np.testing.assert_allclose(line.intercept_, plain.intercept_, rtol=1e-8)
            assert line.rank_ == plain.rank_ == 10
            assert line.score(given, Y, weight) == pytest.approx(plain.score(X, Y, weight), abs=1e-9)
    assert [result.converged for result in Ridge(np.array([2.0, 0.1])).fit(X, Y).result_] == [True, True]
    assert len(Ridge(np.array([2.0, 2.0])).fit(X, Y).result_) == 1
    single = Ridge(0.5).fit(X.astype(np.float32), Y)
    assert single.coef_.dtype == np.float32
    if shift == 0:
        np.testing.assert_allclose(single.coef_, linear_model.Ridge(0.5).fit(X, Y).coef_, rtol=1e-5)


def test_constant_and_collinear_columns(rng):
    X = np.column_stack([rng.standard_normal((200, 4)), np.full(200, 0.1), rng.integers(0, 2, 200), np.zeros(200)])
    X = np.column_stack([X, 1 - X[:, 5], X[:, 0]])
    y = rng.standard_normal((200, 1))
    for weight in (None, rng.random(200)):
        coef, level = truth(X, y, weight, 0.0, True)
        for given, atol in ((X, 1e-11), (sparse.csr_matrix(X), 1e-8)):
            model = LinearRegression().fit(given, y, weight)
            np.testing.assert_allclose(model.coef_, coef, atol=atol)
            np.testing.assert_allclose(model.intercept_, level, atol=atol)
            assert model.rank_ == 5
        assert (LinearRegression().fit(X, y, weight).coef_[:, 4] == 0).all()  # exactly, not noise over noise
    for unit in (1e-180, 1e180):
        model = LinearRegression().fit(sparse.csr_matrix(X * unit), y, weight)
        np.testing.assert_allclose(model.coef_ * unit, coef, atol=1e-8)
    far = LinearRegression().fit(X[:5] + 1e6, y[:5])  # wide when centred, with rows that are large
    np.testing.assert_allclose(far.predict(X[:5] + 1e6), y[:5], atol=1e-6)


def test_a_row_of_no_weight_costs_no_digits(rng):
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    outlier = np.vstack([np.full(4, 1e12), X]), np.append(1e15, y), np.append(0.0, np.ones(30))
    for intercept in (True, False):
        for kind in (LinearRegression, Ridge):
            model = kind(fit_intercept=intercept).fit(*outlier)
            expected = kind(fit_intercept=intercept).fit(X, y)
            np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-12)
            assert model.intercept_ == pytest.approx(expected.intercept_, abs=1e-12)


@pytest.mark.parametrize("solver", ["direct", "sketch", "fossils", "cg"])
def test_solvers_and_seeds(solver, rng):
    X = rng.standard_normal((3000, 8)) * np.logspace(0, -3, 8)
    y = X.sum(axis=1) + rng.standard_normal(3000)
    model = Ridge(1e-3, solver=solver).fit(X, y)
    assert model.result_.method == solver
    np.testing.assert_allclose(model.coef_, truth(X, y[:, None], None, 1e-3, True)[0][0], rtol=1e-6)
    assert (model.n_iter_ == 0) == (solver == "direct")
    for state in (3, np.random.RandomState(1), np.random.default_rng(1)):
        again = Ridge(1e-3, solver=solver, random_state=state).fit(X, y)
        np.testing.assert_allclose(again.coef_, model.coef_, rtol=1e-6)
    if solver == "sketch":
        assert not np.array_equal(again.coef_, model.coef_)
    np.testing.assert_array_equal(Ridge(1e-3, solver=solver).fit(X, y).coef_, model.coef_)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_many_sparse_columns(alpha, dtype, rng):
    d = 4200  # conjugate gradients
    X = sparse.random(3 * d, d, density=1e-3, random_state=0, format="csr", dtype=dtype)
    X = sparse.vstack([X, sparse.eye(d, dtype=dtype)], format="csr") * dtype(3)
    y, weight = X @ rng.standard_normal(d) + 2 + rng.standard_normal(4 * d), rng.random(4 * d)
    for by in (None, weight):
        model = Ridge(alpha).fit(X, y, by)
        assert model.result_.method == "cg"
        assert model.coef_.dtype == dtype
        rest = (y - X.astype(float) @ model.coef_ - model.intercept_) * (1 if by is None else by)
        slope = X.astype(float).T @ rest - alpha * model.coef_
        level = 1e-12 if dtype is np.float64 else 1e-5
        assert np.linalg.norm(slope) <= level * sparse.linalg.norm(X) * np.linalg.norm(rest)
        assert abs(rest.sum()) <= level * np.sqrt(len(y)) * np.linalg.norm(rest)


# ---- manners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EVERY)
def test_an_estimator_leaves_its_data_behind(kind):
    X, y = datasets.load_iris(return_X_y=True)
    X = np.repeat(X, 20, axis=0)
    gone = weakref.ref(X)
    model = kind().fit(X, np.repeat(y, 20))
    stored = pickle.dumps(model)
    assert len(stored) < 10_000
    again = pickle.loads(stored)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.result_.status == "converged"
    del X
    gc.collect()
    assert gone() is None
    if kind is LogisticRegression:
        with pytest.raises(ValueError, match=r"detach\(\)"):
            model.result_.covariance()


@pytest.mark.parametrize("kind", EVERY)
def test_grids_pipelines_and_tables(kind):
    pandas = pytest.importorskip("pandas")
    X, y = datasets.load_iris(return_X_y=True, as_frame=True)
    assert isinstance(X, pandas.DataFrame)
    parameter = {"LogisticRegression": "C", "LinearRegression": "fit_intercept"}.get(kind.__name__, "alpha")
    grid = {f"{kind.__name__.lower()}__{parameter}": [True, False] if parameter == "fit_intercept" else [0.1, 1.0]}
    search = GridSearchCV(make_pipeline(StandardScaler(), kind()), grid, cv=3).fit(X, y)
    assert search.best_score_ > (0.9 if kind is LogisticRegression else -10)
    model = kind().fit(X, y)
    assert list(model.feature_names_in_) == list(X.columns)
    assert model.n_features_in_ == 4
    np.testing.assert_allclose(model.coef_, kind().fit(X.to_numpy(), y.to_numpy()).coef_)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[X.columns[::-1]])
    assert clone(model).get_params() == kind().get_params()
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


@pytest.mark.parametrize("kind", EVERY)
def test_weights_are_routed(kind):
    X, y = datasets.load_iris(return_X_y=True)
    weight = np.arange(150) % 3 + 0.5
    with config_context(enable_metadata_routing=True):
        model = kind().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = cross_validate(model, X, y, cv=3, params={"sample_weight": weight}, return_estimator=True)
    rows = np.arange(150) >= 50 if kind is not LogisticRegression else None
    if rows is not None:
        expected = kind().fit(X[rows], y[rows], weight[rows])
        np.testing.assert_allclose(found["estimator"][0].coef_, expected.coef_)
    scalar, ones = kind().fit(X, y, 2.0), kind().fit(X, y, [2] * 150)
    np.testing.assert_array_equal(scalar.coef_, ones.coef_)


def test_warnings_are_scikit_learns_and_ours():
    assert issubclass(estimators.ConvergenceWarning, (ConvergenceWarning, raphson.ConvergenceWarning))
    X, y = standardised("breast_cancer")
    for category in (ConvergenceWarning, raphson.ConvergenceWarning):
        with pytest.warns(category, match="max_iter") as seen:
            LogisticRegression(max_iter=1).fit(X, y)
        assert len(seen) == 1
        assert seen[0].filename == __file__  # the line that called fit
    with pytest.warns(ConvergenceWarning) as seen:
        LinearRegression(tol=1e-30).fit(X, y)
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=raphson.ConvergenceWarning)
        with pytest.raises(estimators.ConvergenceWarning):
            PoissonRegressor(max_iter=1).fit(X, y)
    with pytest.warns(raphson.ConvergenceWarning) as seen:
        raphson.fit_glm(X, y.astype(float), ridge=1e-3, max_iter=1)
    assert seen[0].category is raphson.ConvergenceWarning  # the solver's own is what it was
    assert seen[0].filename == __file__


@pytest.mark.parametrize(
    ("model", "change", "error", "message"),
    [
        (LogisticRegression(C=0), {}, ValueError, r"LogisticRegression\.fit: C must be positive, got 0"),
        (LogisticRegression(C=float("nan")), {}, ValueError, r"C must be positive"),
        (LogisticRegression(C=1e-320), {}, ValueError, r"1 / \(C · sum of the weights\) must be finite"),
        (LogisticRegression(penalty="l1"), {}, ValueError, r"penalty must be 'l2' or None, got 'l1'"),
        (LogisticRegression(solver="lbfgs"), {}, ValueError, r"solver must be one of auto, .*, got 'lbfgs'"),
        (LogisticRegression(class_weight="even"), {}, ValueError, r"class_weight"),
        (LogisticRegression(tol=0), {}, ValueError, r"tol must be positive"),
        (LogisticRegression(max_iter=0), {}, ValueError, r"max_iter must be at least 1"),
        (LogisticRegression(), {"y": np.ones(20)}, ValueError, r"at least two classes, got one class: "),
        (LogisticRegression(), {"y": np.linspace(0, 1, 20)}, ValueError, r"continuous"),
        (LogisticRegression(), {"y": np.ones((20, 2))}, ValueError, r"y"),
        (PoissonRegressor(), {"y": -np.ones(20)}, ValueError, r"PoissonRegressor\.fit: y must not be negative"),
        (PoissonRegressor(alpha=-1), {}, ValueError, r"alpha must be finite and not negative, got -1"),
        (Ridge(alpha=-1), {}, ValueError, r"Ridge\.fit: alpha must be finite and not negative, got -1"),
        (Ridge(alpha=np.inf), {}, ValueError, r"alpha must be finite"),
        (Ridge(alpha=[[1.0]]), {}, ValueError, r"alpha must be a number or one for each of 1 targets"),
        (Ridge(alpha=[1, 2, 3]), {}, ValueError, r"alpha must be a number or one for each of 1 targets"),
        (Ridge(solver="svd"), {}, ValueError, r"solver must be one of auto, .*, got 'svd'"),
        (LinearRegression(random_state="a"), {}, ValueError, r"seed"),
        (LinearRegression(random_state=-1), {}, ValueError, r"seed must lie in"),
        (Ridge(), {"X": np.ones((19, 2))}, ValueError, r"inconsistent numbers of samples"),
        (Ridge(), {"X": np.full((20, 2), np.nan)}, ValueError, r"X contains NaN"),
        *(
            (kind(), {"sample_weight": weight}, ValueError, rf"{kind.__name__}\.fit: sample_weight must {what}")
            for kind in EVERY
            for weight, what in (
                (np.ones(19), r"have shape \(20,\), got \(19,\)"),
                (-np.ones(20), "not be negative"),
                (np.zeros(20), "have a positive sum"),
                (0.0, "have a positive sum"),
            )
        ),
        (Ridge(), {"sample_weight": np.full(20, np.nan)}, ValueError, r"sample_weight contains NaN"),
    ],
    ids=str,
)
def test_bad_input(model, change, error, message, rng):
    given = {"X": rng.standard_normal((20, 2)), "y": np.arange(20) % 2.0, "sample_weight": None} | change
    with pytest.raises(error, match=message):
        model.fit(given["X"], given["y"], sample_weight=given["sample_weight"])


def test_without_scikit_learn(run_python):
    done = run_python("import sys; sys.modules['sklearn'] = None; import raphson; import raphson.sklearn", check=False)
    assert "ImportError: raphson.sklearn needs scikit-learn 1.6 or later: pip install scikit-learn" in done.stderr
