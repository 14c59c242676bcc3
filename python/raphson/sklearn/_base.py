"""What the estimators share: scikit-learn's rules for their arguments, and its class of warning."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _results
from raphson._seed import as_key

try:
    import sklearn.exceptions
    from sklearn.base import BaseEstimator
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("raphson.sklearn needs scikit-learn 1.6 or later: pip install scikit-learn") from error

__all__ = ["FLOATS", "ConvergenceWarning", "LinearEstimator"]

FLOATS = [np.float64, np.float32]  # what is kept as it is; the rest becomes float64


class ConvergenceWarning(_results.ConvergenceWarning, sklearn.exceptions.ConvergenceWarning):
    """A solver stopped before its residual reached the tolerance: raphson's class and scikit-learn's in one."""


class LinearEstimator(BaseEstimator):
    """coef_, intercept_, and X @ coef_ᵀ + intercept_."""

    coef_: npt.NDArray[Any]
    intercept_: Any
    random_state: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _margin(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc", "coo"], dtype=FLOATS, reset=False)
        return X @ self.coef_.T + self.intercept_

    def _weights(self, given: Any, n: int) -> npt.NDArray[np.float64] | None:
        """As float64, checked; a number stands for itself in every row."""
        if given is None:
            return None
        if isinstance(given, Real):
            given = np.full(n, given)
        weight: npt.NDArray[np.float64] = check_array(
            given, ensure_2d=False, dtype=np.float64, input_name="sample_weight", ensure_min_samples=0
        )
        if weight.shape != (n,):
            raise ValueError(f"{self._name}: sample_weight must have shape ({n},), got {weight.shape}")
        if not (weight >= 0).all():
            raise ValueError(f"{self._name}: sample_weight must not be negative")
        if not weight.any():
            raise ValueError(f"{self._name}: sample_weight must have a positive sum, all are zero")
        return weight

    @property
    def _name(self) -> str:
        return f"{type(self).__name__}.fit"

    @property
    def _seed(self) -> int:
        """None is 0: estimators without a random_state repeat their results, too."""
        state = self.random_state
        if state is None:
            return 0
        if isinstance(state, (Integral, np.random.Generator)):
            return as_key(state, function=self._name)  # type: ignore[arg-type]
        return int(check_random_state(state).randint(2**31 - 1))

    def _not_negative(self, value: Any, name: str) -> float:
        number = float(value)
        if not number >= 0 or math.isinf(number):
            raise ValueError(f"{self._name}: {name} must be finite and not negative, got {value!r}")
        return number

    def _require_solver(self, solver: str, known: Iterable[str]) -> str:
        if solver not in known:
            raise ValueError(f"{self._name}: solver must be one of {', '.join(known)}, got {solver!r}")
        return solver
