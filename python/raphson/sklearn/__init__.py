"""raphson as scikit-learn estimators: :class:`LogisticRegression`, :class:`PoissonRegressor`, :class:`Ridge` and
:class:`LinearRegression`, with scikit-learn's names and conventions and a measured certificate in ``result_``.

Importing this package imports scikit-learn (1.6 or later); ``import raphson`` alone never does.
"""

from raphson.sklearn._base import ConvergenceWarning
from raphson.sklearn._glm import LogisticRegression, PoissonRegressor
from raphson.sklearn._linear import LinearRegression, Ridge

__all__ = ["ConvergenceWarning", "LinearRegression", "LogisticRegression", "PoissonRegressor", "Ridge"]
