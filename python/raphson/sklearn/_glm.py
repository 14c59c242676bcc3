"""Classifiers and regressors on :func:`raphson.fit_glm`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit, log_softmax, softmax, xlogy  # type: ignore[import-untyped]
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, validate_data

from raphson._results import warnings_as
from raphson.newton import _METHODS, GlmResult, fit_glm
from raphson.sklearn._base import FLOATS, ConvergenceWarning, LinearEstimator

__all__ = ["LogisticRegression", "PoissonRegressor"]

Doubles = npt.NDArray[np.float64]


class _GlmEstimator(LinearEstimator):
    fit_intercept: bool
    tol: float | None
    solver: str
    max_iter: int
    warm_start: bool
    result_: GlmResult

    def _fit(self, X: Any, y: Any, weight: Doubles | None, family: str, ridge: float, outputs: int) -> GlmResult:
        with warnings_as(ConvergenceWarning, above=2):
            found = fit_glm(
                X,
                y,
                family=family,
                ridge=ridge,
                sample_weight=weight,
                fit_intercept=self.fit_intercept,
                method=self._require_solver(self.solver, _METHODS),
                tol=self.tol,
                max_iter=self.max_iter,
                init=self._start(outputs, X.shape[1], family),
                seed=self._seed,
            )
        return found.detach()  # estimators do not hold on to their data

    def _start(self, outputs: int, features: int, family: str) -> Doubles | None:
        """Where warm_start starts: the last solution, if it is one of this problem's shape."""
        if not self.warm_start or not hasattr(self, "coef_") or np.shape(self.coef_)[-1] != features:
            return None
        start = np.atleast_2d(np.asarray(self.coef_, dtype=np.float64))
        if len(start) != outputs:
            return None
        if self.fit_intercept:
            start = np.column_stack([start, np.atleast_1d(self.intercept_)])
        return start if family == "multinomial" else start[0]


class LogisticRegression(ClassifierMixin, _GlmEstimator):
    """Logistic regression with an L2 penalty: scikit-learn's, by :func:`raphson.fit_glm`.

    Minimises C Σ weight·loss + ½‖coef‖²; of more than two classes the multinomial loss.

    Parameters
    ----------
    penalty : str or None
        ``"l2"``, or None, which is the same as C = inf.
    C : float
        Inverse of the penalty: ``ridge`` of :func:`raphson.fit_glm` is 1/(C·sum of the weights).
    tol : float, optional
        Of the gradient's norm, relative to that at 0 (scikit-learn's bounds its largest entry); by default 1e-8, for
        float32 data 1e-4.
    fit_intercept : bool
    class_weight : dict, "balanced" or None
        Factors of the rows' weights, by class; balanced: total / (classes · the class's own total).
    random_state : int, RandomState or None
        Key of the sketches; None is 0. Results differ within ``tol``.
    solver : str
        ``method`` of :func:`raphson.fit_glm`.
    max_iter : int
    warm_start : bool
        Start from the last solution, if it has this problem's shape.

    Attributes
    ----------
    coef_ : array (1, d), or (classes, d) for more than two
        In X's dtype.
    intercept_ : array (1,) or (classes,)
    classes_ : array
    n_iter_ : array (1,)
    n_features_in_, feature_names_in_
    result_ : GlmResult
        The certificate: ``gradient_norm``, measured on the coefficients, ``status``, ``objective``. Without the data,
        so without standard errors, which :func:`raphson.fit_glm` gives.

    Warns
    -----
    ConvergenceWarning
        Of :mod:`raphson.sklearn`: scikit-learn's class and raphson's. C = inf and separable labels have no solution.

    Notes
    -----
    Cost as :func:`raphson.fit_glm`. Left out of scikit-learn's parameters: dual, intercept_scaling, l1_ratio, n_jobs
    (:func:`raphson.set_num_threads`), verbose.
    """

    def __init__(
        self,
        penalty: str | None = "l2",
        *,
        C: float = 1.0,
        tol: float | None = None,
        fit_intercept: bool = True,
        class_weight: Any = None,
        random_state: Any = None,
        solver: str = "auto",
        max_iter: int = 200,
        warm_start: bool = False,
    ) -> None:
        self.penalty = penalty
        self.C = C
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LogisticRegression:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)
        y : array-like (n,)
            Labels of any kind, at least two.
        sample_weight : array-like (n,), optional
            Not negative.

        Returns
        -------
        self
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS)
        check_classification_targets(y)
        classes, label = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"{self._name}: y must have at least two classes, got one class: {classes[0]!r}")
        weight = self._balanced(self._weights(sample_weight, len(label)), classes, label, y)
        ridge = self._ridge(float(len(label) if weight is None else weight.sum()))
        outputs = len(classes) if len(classes) > 2 else 1
        found = self._fit(X, label, weight, "multinomial" if outputs > 1 else "logistic", ridge, outputs)
        self.classes_ = classes
        self.coef_ = np.atleast_2d(found.coef)
        self.intercept_ = np.atleast_1d(np.asarray(found.intercept, dtype=X.dtype))
        self.n_iter_ = np.array([found.iterations], dtype=np.int32)
        self.result_ = replace(found, classes=classes) if outputs > 1 else found
        return self

    def _ridge(self, total: float) -> float:
        if self.penalty not in ("l2", None):
            raise ValueError(f"{self._name}: penalty must be 'l2' or None, got {self.penalty!r}")
        if not self.C > 0:
            raise ValueError(f"{self._name}: C must be positive, got {self.C!r}")
        if self.penalty is None or math.isinf(self.C):
            return 0.0
        return self._not_negative(1 / (self.C * total), "1 / (C · sum of the weights)")

    def _balanced(
        self, weight: Doubles | None, classes: npt.NDArray[Any], label: npt.NDArray[np.intp], y: npt.NDArray[Any]
    ) -> Doubles | None:
        if self.class_weight is None:
            return weight
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            totals = np.bincount(label, weights=weight, minlength=len(classes)).astype(np.float64)
            factor = np.divide(totals.sum() / len(classes), totals, out=np.zeros(len(classes)), where=totals > 0)
        else:
            factor = compute_class_weight(self.class_weight, classes=classes, y=y)
        return np.asarray(factor[label] if weight is None else weight * factor[label], dtype=np.float64)

    def decision_function(self, X: Any) -> Any:
        """Margins, (n,), above 0 for ``classes_[1]``; (n, classes) for more than two."""
        margin = self._margin(X)
        return margin[:, 0] if margin.shape[1] == 1 else margin

    def predict(self, X: Any) -> Any:
        """The likeliest labels, (n,)."""
        margin = self.decision_function(X)
        return self.classes_[(margin > 0).astype(np.intp) if margin.ndim == 1 else margin.argmax(axis=1)]

    def predict_proba(self, X: Any) -> Any:
        """Probabilities, (n, classes), in the order of ``classes_``."""
        margin = self.decision_function(X)
        return np.column_stack([expit(-margin), expit(margin)]) if margin.ndim == 1 else softmax(margin, axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """Their logarithms, finite where the probabilities underflow, too."""
        margin = self.decision_function(X)
        if margin.ndim == 1:
            return np.column_stack([log_expit(-margin), log_expit(margin)])
        return log_softmax(margin, axis=1)


class PoissonRegressor(RegressorMixin, _GlmEstimator):
    """Poisson regression with the logarithm as link: scikit-learn's, by :func:`raphson.fit_glm`.

    Minimises the weighted mean of e^m − y m of the margins m, + alpha/2 ‖coef‖².

    Parameters
    ----------
    alpha : float
        The penalty: ``ridge`` of :func:`raphson.fit_glm`.
    fit_intercept : bool
    tol : float, optional
        Of the gradient's norm, relative to that at 0 (scikit-learn's bounds its largest entry); by default 1e-8, for
        float32 data 1e-4.
    random_state : int, RandomState or None
        Key of the sketches; None is 0. Results differ within ``tol``.
    solver : str
        ``method`` of :func:`raphson.fit_glm`.
    max_iter : int
    warm_start : bool
        Start from the last solution, if it has this problem's shape.

    Attributes
    ----------
    coef_ : array (d,)
        In X's dtype.
    intercept_ : float
    n_iter_ : int
    n_features_in_, feature_names_in_
    result_ : GlmResult
        The certificate, as that of :class:`LogisticRegression`.

    Warns
    -----
    ConvergenceWarning
        Of :mod:`raphson.sklearn`: scikit-learn's class and raphson's.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        tol: float | None = None,
        random_state: Any = None,
        solver: str = "auto",
        max_iter: int = 200,
        warm_start: bool = False,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.random_state = random_state
        self.solver = solver
        self.max_iter = max_iter
        self.warm_start = warm_start

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PoissonRegressor:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)
        y : array-like (n,)
            Not negative.
        sample_weight : array-like (n,), optional
            Not negative.

        Returns
        -------
        self
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, y_numeric=True)
        if (y < 0).any():
            raise ValueError(f"{self._name}: y must not be negative")
        weight = self._weights(sample_weight, len(y))
        found = self._fit(X, y, weight, "poisson", self._not_negative(self.alpha, "alpha"), 1)
        self.coef_, self.intercept_ = found.coef, found.intercept
        self.n_iter_ = found.iterations
        self.result_ = found
        return self

    def predict(self, X: Any) -> Any:
        """Expected counts, (n,)."""
        return np.exp(self._margin(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """D², the share of the deviance that is explained: 1 − deviance / that of the weighted mean of y."""
        margin = np.asarray(self._margin(X), dtype=np.float64)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if y.shape != margin.shape or (y < 0).any():
            raise ValueError(f"PoissonRegressor.score: y must have shape {margin.shape} and no negative entries")
        weight = self._weights(sample_weight, len(y))
        mean = np.average(y, weights=weight)
        saturated = xlogy(y, y) - y
        left = np.average(np.exp(margin) - y * margin + saturated, weights=weight)
        null = np.average(mean - xlogy(y, mean) + saturated, weights=weight)
        return float(1 - left / null) if null > 0 else float(left <= 0)
