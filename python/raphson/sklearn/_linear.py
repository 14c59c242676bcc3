"""Linear regression on :func:`raphson.lstsq`: how intercepts and weights become plain least squares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from raphson import _core
from raphson._lstsq import _METHODS, LstsqResult, lstsq
from raphson._results import warnings_as
from raphson._rows import dense_view, is_sparse
from raphson.sklearn._base import FLOATS, ConvergenceWarning, LinearEstimator

__all__ = ["LinearRegression", "Ridge"]

Doubles = npt.NDArray[np.float64]
# The column of ones counts for this many times the largest other column, so that of several solutions the one with
# the smallest coefficients is near that with the smallest coefficients and intercept (to its square).
_ONES = 2.0**15


class _LeastSquares(MultiOutputMixin, RegressorMixin, LinearEstimator):
    fit_intercept: bool
    tol: float | None
    solver: str

    def _fit(self, X: Any, y: Any, sample_weight: Any, alpha: Any) -> list[LstsqResult]:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, y_numeric=True, multi_output=True)
        right = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        weight = self._weights(sample_weight, len(right))
        penalties = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
        if penalties.ndim > 1 or len(penalties) not in (1, right.shape[1]):
            raise ValueError(f"{self._name}: alpha must be a number or one for each of {right.shape[1]} targets")
        if not (penalties >= 0).all() or np.isinf(penalties).any():
            raise ValueError(f"{self._name}: alpha must be finite and not negative, got {alpha!r}")
        method = self._require_solver(self.solver, _METHODS)
        seed, results = self._seed, []
        coef = np.empty((right.shape[1], X.shape[1]), dtype=X.dtype)
        intercept = np.zeros(len(coef))
        reduced = None if is_sparse(X) else _reduced(X, right, weight, self.fit_intercept)
        for penalty in np.unique(penalties):
            mine = np.broadcast_to(penalties == penalty, len(coef))
            if reduced is None:
                A, b, scale = _extended(X, right[:, mine], weight, penalty, self.fit_intercept)
                ridge = 0.0 if self.fit_intercept else penalty
            else:
                A, b, x_mean, y_mean = reduced
                b, ridge = b[:, mine], penalty
            with warnings_as(ConvergenceWarning, above=2):
                shaped = b if np.ndim(y) == 2 else np.ascontiguousarray(b[:, 0])
                result = lstsq(A, shaped, ridge=ridge, method=method, tol=self.tol, seed=seed)
            results.append(result)
            coef[mine] = result.x[: X.shape[1]].T
            if self.fit_intercept:
                intercept[mine] = scale * result.x[-1] if reduced is None else y_mean[mine] - coef[mine] @ x_mean
        self.coef_ = coef if np.ndim(y) == 2 else coef[0]
        self.intercept_ = 0.0 if not self.fit_intercept else intercept if np.ndim(y) == 2 else intercept[0]
        return results

    def predict(self, X: Any) -> Any:
        """X @ coef_ᵀ + intercept_, (n,) or (n, targets)."""
        return self._margin(X)


def _reduced(
    X: npt.NDArray[Any], y: Doubles, weight: Doubles | None, intercept: bool
) -> tuple[npt.NDArray[Any], Doubles, Doubles, Doubles]:
    """The least-squares problem that is left for the coefficients, in at most one copy of X; means of X and y.

    The intercept is taken out by a reflection (reflection.h) that takes √w to a multiple of one row.
    """
    row = -1 if not intercept else 0 if weight is None else int(weight.argmax())
    if row < 0 and weight is None:
        return X, y, np.zeros(X.shape[1]), np.zeros(y.shape[1])
    total = float(len(X)) if weight is None else float(weight.sum())
    made = []
    for given in (X, y):
        view = dense_view(given, "fit", "X")
        out = np.empty((len(view) - (row >= 0), view.shape[1]), dtype=view.dtype)
        made.append((out, _core.reflect_rows(_core.Rows.dense(view), row, weight, total, out)))
    return made[0][0], made[1][0], made[0][1], made[1][1]


def _extended(X: Any, y: Doubles, weight: Doubles | None, alpha: float, intercept: bool) -> tuple[Any, Doubles, float]:
    """Sparse X with a column for the intercept, and rows that penalise the others; what the intercept's unit is."""
    if weight is not None:
        root = np.sqrt(weight)
        X, y = (sparse.diags(root.astype(X.dtype)) @ X).tocsr(), y * root[:, None]
    if not intercept:
        return X, y, 1.0
    ones = np.ones(len(y)) if weight is None else root
    entry = float(np.abs(X.data).max(initial=0.0)) or 1.0
    squares = np.bincount(X.indices, (X.data / entry) ** 2, minlength=X.shape[1])
    largest = entry * math.sqrt(squares.max(initial=0.0) or 1.0)
    scale = 2.0 ** round(math.log2(_ONES * largest / np.linalg.norm(ones)))
    A = sparse.hstack([X, sparse.csr_matrix((scale * ones)[:, None].astype(X.dtype))], format="csr")
    if alpha > 0:
        d = X.shape[1]
        rows = sparse.diags(np.full(d, math.sqrt(alpha), dtype=X.dtype), shape=(d, d + 1))
        A, y = sparse.vstack([A, rows], format="csr"), np.concatenate([y, np.zeros((d, y.shape[1]))])
    return A, y, scale


class LinearRegression(_LeastSquares):
    """Ordinary least squares: scikit-learn's, by :func:`raphson.lstsq`.

    Parameters
    ----------
    fit_intercept : bool
    tol : float, optional
        Of the backward error; by default 1e-15, for float32 data 1e-6 (:func:`raphson.lstsq`).
    solver : str
        ``method`` of :func:`raphson.lstsq`.
    random_state : int, RandomState or None
        Key of the sketch; None is 0.

    Attributes
    ----------
    coef_ : array (d,), or (targets, d) if y has two axes
        In X's dtype; the smallest of several solutions (sparse X of more than 4096 columns: one of them).
    intercept_ : float, or array (targets,)
        0.0 without ``fit_intercept``.
    rank_ : int
        Of X, centred where there is an intercept.
    n_features_in_, feature_names_in_
    result_ : LstsqResult
        The certificate, of the problem for the coefficients that is left when the intercept is eliminated: its
        ``residual_norm`` is that of all rows, with weights. Sparse X: of X with a column for the intercept.

    Warns
    -----
    ConvergenceWarning
        Of :mod:`raphson.sklearn`: scikit-learn's class and raphson's.

    Notes
    -----
    Cost as :func:`raphson.lstsq`. Dense X is copied once where there is an intercept or weights, and never without;
    sparse X the same. Left out of scikit-learn's parameters: copy_X (X is never overwritten), n_jobs
    (:func:`raphson.set_num_threads`), positive.
    """

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        tol: float | None = None,
        solver: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.solver = solver
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegression:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)
        y : array-like (n,) or (n, targets)
        sample_weight : array-like (n,), optional
            Not negative.

        Returns
        -------
        self
        """
        self.result_ = self._fit(X, y, sample_weight, 0.0)[0]
        self.rank_ = self.result_.rank - (self.fit_intercept and len(self.result_.x) > self.n_features_in_)
        return self


class Ridge(_LeastSquares):
    """Least squares with an L2 penalty: scikit-learn's, by :func:`raphson.lstsq`.

    Minimises Σ weight·(y − x·coef − intercept)² + alpha ‖coef‖².

    Parameters
    ----------
    alpha : float, or array (targets,)
        ``ridge`` of :func:`raphson.lstsq`.
    fit_intercept, tol, solver, random_state
        As of :class:`LinearRegression`.

    Attributes
    ----------
    coef_, intercept_, n_features_in_, feature_names_in_
        As of :class:`LinearRegression`.
    n_iter_ : int
        Steps of the iteration; 0 where X was factored.
    result_ : LstsqResult, or list of them
        As of :class:`LinearRegression`; one for each value of alpha, ascending, if alpha is an array. Sparse X with an
        intercept: of X with a column for it, and with rows for the penalty, which ``residual_norm`` then has in it.

    Warns
    -----
    ConvergenceWarning
        Of :mod:`raphson.sklearn`: scikit-learn's class and raphson's.
    """

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        fit_intercept: bool = True,
        tol: float | None = None,
        solver: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.solver = solver
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Ridge:
        """Fit the model.

        Parameters
        ----------
        X : array-like or sparse matrix (n, d)
        y : array-like (n,) or (n, targets)
        sample_weight : array-like (n,), optional
            Not negative.

        Returns
        -------
        self
        """
        results = self._fit(X, y, sample_weight, self.alpha)
        self.result_ = results if np.ndim(self.alpha) else results[0]
        self.n_iter_ = max(result.iterations for result in results)
        return self
