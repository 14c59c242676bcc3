"""Newton-type solvers: generalized linear models on tall data, smooth minimisation, saddle-point systems."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core, _glm_cuda
from raphson._frameworks import back, like_of, require_one_framework
from raphson._kkt import KktResult, solve_kkt
from raphson._minimize import Equality, MinimizeResult, MinimizeState, minimize
from raphson._results import Progress, warn_not_converged
from raphson._rows import Tall, is_blocks, is_sparse, tall
from raphson._seed import Seed, as_key

__all__ = [
    "Equality",
    "GlmResult",
    "GlmState",
    "KktResult",
    "MinimizeResult",
    "MinimizeState",
    "fit_glm",
    "minimize",
    "solve_kkt",
]

Doubles = npt.NDArray[np.float64]

_FAMILIES = {"logistic": 0, "multinomial": 1, "poisson": 2, "gaussian": 3}
_METHODS = {"auto": 0, "sketch_pcg": 1, "newton_cg": 2, "newton": 3, "newton_sketch": 4, "quasi_newton": 5}
_LEVEL = {"float64": 1e-8, "float32": 1e-4}
_HISTORY = np.dtype([("gradient_norm", "f8"), ("objective", "f8"), ("seconds", "f8"), ("sweeps", "i8")])
_HINTS = {
    "infeasible": "No finite minimiser exists: the labels are separable, or one never occurs; add a ridge.",
    "max_iter": "Raise max_iter, or scale the columns.",
    "precision_floor": "The data's precision does not reach it; ask for a larger tol.",
    "breakdown": "X has NaN or Inf, or its squares overflow.",
    "stalled": "Add a ridge, or scale the columns.",
    "stopped": "The callback ended the run.",
}


@dataclass(frozen=True)
class GlmState:
    """What a callback sees after every step; ``gradient_norm`` is relative to that at 0, ``sweeps`` counts reads."""

    iteration: int
    gradient_norm: float
    objective: float
    seconds: float
    sweeps: int


@dataclass(frozen=True, eq=False, repr=False)
class GlmResult:
    """A fitted model, and how small the gradient is there.

    Attributes
    ----------
    coef : array (d,), or (classes, d) for the multinomial family
        In X's framework and dtype. Multinomial with ridge = 0: sums to 0 over the classes.
    intercept : float, or array (classes,)
        0 without ``fit_intercept``.
    classes : array or None
        Sorted labels of the multinomial family.
    objective : float
        Weighted mean loss + ridge/2 ‖coef‖².
    gradient_norm : float
        ‖∇‖ / ‖∇ at 0‖ of the objective, measured on coef and intercept as they are here.
    deviance : float
        2 Σ weight·(loss − loss of the saturated model).
    converged, status : bool, str
        Whether ``gradient_norm`` is within ``tol``; one of :data:`raphson._results.STATUSES`. ``"infeasible"``: the
        labels are strictly separated by these coefficients and ridge = 0, or a label never occurs: no minimiser exists.
    iterations, hessian_products, factorisations, sweeps : int
        Steps; products with the Hessian (a read of X each); factored preconditioners or Hessians; all reads of X.
    method : str
        The one that ran.
    history : structured array
        ``gradient_norm``, ``objective``, ``seconds``, ``sweeps`` after every step.

    Notes
    -----
    ``covariance`` and ``standard_errors`` read X when they are called: it must not be modified meanwhile.
    """

    coef: Any
    intercept: Any
    classes: npt.NDArray[Any] | None
    family: str
    objective: float
    gradient_norm: float
    deviance: float
    converged: bool
    status: str
    iterations: int
    hessian_products: int
    factorisations: int
    sweeps: int
    method: str
    history: npt.NDArray[np.void]
    tol: float
    ridge: float
    fit_intercept: bool
    _parameters: Doubles = field(repr=False)  # (outputs, d [+ 1])
    _data: tuple[Any, Doubles, Doubles | None, Doubles | None] | None = field(repr=False, default=None)
    _like: Any = field(repr=False, default=None)

    def predict(self, X: Any, *, offset: Any = None, kind: str = "mean") -> Any:
        """The mean response at the rows of X.

        Parameters
        ----------
        X : array (m, d) or SciPy CSR or CSC
            A CUDA array gives one, and has its offset on its device.
        offset : array (m,) or (m, classes), optional
            Added to the margins.
        kind : str
            ``"mean"``: probability of 1 (logistic), probabilities (m, classes), expected count, or expected value;
            ``"margin"``: before the inverse link; ``"label"``: the likelier label (logistic: 0.0 or 1.0).

        Returns
        -------
        array (m,), or (m, classes) for the multinomial family
            float64, in X's framework (NumPy for SciPy matrices). Labels of the multinomial family are a NumPy array of
            the dtype of :attr:`classes`.

        Raises
        ------
        ValueError
            Shapes that do not fit, NaN or Inf (not on CUDA), or an unknown ``kind``.
        """
        function = "GlmResult.predict"
        if kind not in ("mean", "margin", "label"):
            raise ValueError(f"{function}: kind must be mean, margin or label, got {kind!r}")
        if _core._is_cuda(X):
            model = (self._parameters, self.fit_intercept, self.family, self.classes)
            return _glm_cuda.predict(X, *model, offset, kind, function)
        rows, like = (X, None) if is_sparse(X) else (_core._as_numpy(X, function, "X"), like_of(X))
        d = self._parameters.shape[1] - self.fit_intercept
        if rows.ndim != 2 or rows.shape[1] != d:
            raise ValueError(f"{function}: X must have shape (m, {d}), got {rows.shape}")
        if not np.isfinite(rows.data if is_sparse(X) else rows).all():
            raise ValueError(f"{function}: X has NaN or Inf")
        margin = np.asarray(rows @ self._parameters[:, :d].T, dtype=np.float64)
        if self.fit_intercept:
            margin += self._parameters[:, d]
        if offset is not None:
            added = _counted(offset, X, function, "offset")
            if added.shape not in (margin.shape, (len(margin),)) or (added.ndim == 1 and margin.shape[1] != 1):
                raise ValueError(f"{function}: offset must have shape {margin.shape}, got {added.shape}")
            if not np.isfinite(added).all():
                raise ValueError(f"{function}: offset has NaN or Inf")
            margin += added.reshape(margin.shape)
        if self.family == "multinomial":
            assert self.classes is not None
            if kind == "label":
                return self.classes[margin.argmax(axis=1)]
            if kind == "mean":
                margin -= margin.max(axis=1, keepdims=True)
                np.exp(margin, out=margin)
                margin /= margin.sum(axis=1, keepdims=True)
            return back(margin, like)
        single = margin[:, 0]
        if kind == "label":
            if self.family != "logistic":
                raise ValueError(f"{function}: kind='label' is for labels, not for the {self.family} family")
            single = (single > 0).astype(np.float64)
        elif kind == "mean" and self.family == "logistic":
            small = np.exp(-np.abs(single))
            single = np.where(single >= 0, 1.0, small) / (1 + small)
        elif kind == "mean" and self.family == "poisson":
            single = np.exp(single)
        return back(single, like)

    @cached_property
    def _covariance(self) -> Doubles:
        if self._data is None:
            raise ValueError("GlmResult.covariance: the data is gone: blocks, when pickled, or by detach()")
        given, y, weight, offset = self._data
        matrix = tall(given, "GlmResult.covariance", "X", len(y))
        outputs = len(self._parameters)
        information = _core.glm_information(
            matrix.core,
            y,
            weight,
            offset,
            outputs,
            _FAMILIES[self.family],
            self.ridge,
            self.fit_intercept,
            np.ascontiguousarray(self._parameters.ravel()),
        )
        # The inverse does not care how columns are scaled, its rounding does; the pseudo-inverse does care.
        scale = np.ones(len(information))
        if self.family != "multinomial":
            scale = np.sqrt(np.maximum(np.diag(information), np.finfo(float).tiny))
        found = np.linalg.pinv(information / scale / scale[:, None], rcond=1e-12, hermitian=True)
        found = found / scale / scale[:, None]
        if self.family == "gaussian":  # its dispersion is not 1
            total = float(len(y) if weight is None else np.count_nonzero(weight))
            free = total - self._parameters.size
            found *= self.deviance / free if free > 0 else math.nan
        return np.asarray(found)

    def covariance(self) -> Any:
        """Inverse of the observed information, (p, p) float64.

        The order is coefficients, then the intercept; for the multinomial family class after class, and the
        pseudo-inverse on the space of coefficients that sum to 0 (ridge = 0). Weights count repetitions. The gaussian
        dispersion is deviance / (rows of positive weight − parameters). With a ridge: of the penalised Hessian.
        Cost: two reads of X and p² flops a row; multinomial: 1 + k(k + 1)/2 reads for k classes.
        """
        return back(self._covariance, self._like)

    @property
    def standard_errors(self) -> Any:
        """Square roots of the covariance's diagonal, (p,), or (classes, p): coefficients, then the intercept."""
        roots = np.sqrt(np.maximum(np.diag(self._covariance), 0.0))
        return back(roots if self.family != "multinomial" else roots.reshape(len(self._parameters), -1), self._like)

    def detach(self) -> GlmResult:
        """The result without the data, which ``covariance`` and ``standard_errors`` need."""
        return replace(self, _data=None)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._data is not None and is_blocks(self._data[0]):
            state["_data"] = None  # a generator of blocks does not travel
        return state

    def __repr__(self) -> str:
        return (
            f"GlmResult({self.family}, coef of shape {tuple(self.coef.shape)}, {self.status}, "
            f"gradient_norm={self.gradient_norm:.2g}, deviance={self.deviance:.6g}, sweeps={self.sweeps}, "
            f"method={self.method!r})"
        )


def fit_glm(
    X: Any,
    y: Any,
    *,
    family: str = "logistic",
    ridge: float = 0.0,
    sample_weight: Any = None,
    offset: Any = None,
    fit_intercept: bool = True,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    seed: Seed = 0,
    callback: Callable[[GlmState], bool | None] | None = None,
    progress: bool = False,
) -> GlmResult:
    """Fit a generalized linear model: minimise the weighted mean loss + ridge/2 ‖coef‖².

    Parameters
    ----------
    X : array (n, d), SciPy CSR or CSC, memory map, or a callable
        float64 or float32. A callable returns a fresh iterator of blocks of consecutive rows each time it is called.
        Of a CUDA array, y, weights and offsets are its device's or the host's.
    y : array (n,)
        Logistic: labels in [0, 1], bool, or fractions. Multinomial: labels of any kind, sorted into ``classes``.
        Poisson: counts ≥ 0. Gaussian: anything finite.
    family : str
        ``"logistic"``: log(1 + eᵐ) − y m of the margin m = x·coef + intercept + offset; ``"multinomial"``:
        log Σ e^{m_c} − m_y; ``"poisson"``: eᵐ − y m; ``"gaussian"``: ½(y − m)².
    ridge : float
        The intercept is not penalised. scikit-learn's C is 1/(ridge·n), its alpha for PoissonRegressor is ridge, and
        for Ridge ridge·n.
    sample_weight : array (n,), optional
        Not negative; only ratios matter to coef.
    offset : array (n,), or (n, classes), optional
        Added to the margins.
    fit_intercept : bool
    method : str
        ``"quasi_newton"``: L-BFGS in the metric of a sketched Hessian, one read of X a step. ``"sketch_pcg"``: inexact
        Newton, conjugate gradients preconditioned by it, a read a step of theirs. Both start from the fit to a sample
        where X is dense and long, take the exact Hessian (once) where that is cheap, and make a new sketch of more rows
        when progress is slow. ``"newton_cg"``: preconditioned by the Hessian's diagonal. ``"newton"``: the Hessian
        factored in every step. ``"newton_sketch"``: a fresh sketched Hessian in every step, which converges linearly
        and is here to compare. ``"auto"``: newton for small and narrow problems, quasi_newton (many outputs:
        sketch_pcg) where a d×d triangle is worth it, else newton_cg.
    tol : float, optional
        Of ‖∇‖ / ‖∇ at 0‖; by default 1e-8, for float32 data 1e-4.
    max_iter : int, optional
        Steps; by default 200 (newton_cg: Newton's, not those of conjugate gradients).
    init : array (d + 1,) or (classes, d + 1), optional
        Coefficients, then the intercept (d without one) to start from, unless the objective is lower at 0.
    seed : int or numpy.random.Generator
    callback : callable, optional
        Gets a :class:`GlmState` after every step; True stops.
    progress : bool
        A tqdm bar, if tqdm is installed: decades of the gradient.

    Returns
    -------
    GlmResult

    Raises
    ------
    ValueError
        Shapes that do not fit, labels outside the family's range, NaN or Inf (in X on CUDA: they give NaNs and
        ``status="breakdown"``), negative weights or ridge.
    TypeError
        Integer or complex X.

    Warns
    -----
    ConvergenceWarning
        ``gradient_norm`` is above ``tol``, or no minimiser exists.

    Notes
    -----
    A read of X costs 4 flops an entry and output (margin, loss, residual and Xᵀ residual together). Metric: d² flops
    for each of 40 d sampled rows (of all where d < 144), or 16 flops an entry for a sketch of 10 d rows and 10 d³.
    Memory beyond X: about six numbers a row and output; the sample, 40 d²; 3 d².

    CUDA: margins, curvatures and the rows' numbers stay on the device; a read of X sends up and takes back d numbers, a
    metric d², which the host factors.

    Sources: Pilanci and Wainwright 2017 (Newton sketch); Nocedal and Wright, Numerical Optimization, 7.1 and 7.2;
    Hager and Zhang 2005 (acceptance of steps near the rounding of the loss).
    """
    function = "fit_glm"
    if family not in _FAMILIES:
        raise ValueError(f"{function}: family must be one of {', '.join(_FAMILIES)}, got {family!r}")
    if method not in _METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(_METHODS)}, got {method!r}")
    beside = {"y": y, "sample_weight": sample_weight, "offset": offset, "init": init}
    require_one_framework(function, "X", X, beside_cuda=True, **beside)
    response, classes = _response(y, X, family, function)
    n = len(response)
    matrix = tall(X, function, "X", n)
    outputs = len(classes) if classes is not None else 1
    if n == 0 or matrix.shape[1] + bool(fit_intercept) == 0:
        raise ValueError(f"{function}: X must have at least one row and one column, got shape {matrix.shape}")
    penalty, level = float(ridge), _LEVEL[matrix.dtype] if tol is None else float(tol)
    if not penalty >= 0 or math.isinf(penalty):
        raise ValueError(f"{function}: ridge must be finite and not negative, got {ridge!r}")
    if not level > 0:
        raise ValueError(f"{function}: tol must be positive, got {tol!r}")
    most = 200 if max_iter is None else operator.index(max_iter)
    if most < 1:
        raise ValueError(f"{function}: max_iter must be at least 1, got {max_iter!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"{function}: callback must be callable, got {type(callback).__name__}")
    weight = _vector(sample_weight, X, "sample_weight", (n,), function)
    if weight is not None and not (weight >= 0).all():
        raise ValueError(f"{function}: sample_weight must not be negative")
    added = _vector(offset, X, "offset", (n,) if outputs == 1 and family != "multinomial" else (n, outputs), function)
    width = matrix.shape[1] + bool(fit_intercept)
    start = _vector(init, X, "init", (width,) if family != "multinomial" else (outputs, width), function)
    key = as_key(seed, function=function)
    bar = Progress(progress, "fit_glm", round(-math.log10(level), 2))
    try:
        found = _core.fit_glm(
            matrix.core,
            response,
            weight,
            added,
            outputs,
            _FAMILIES[family],
            _METHODS[method],
            penalty,
            bool(fit_intercept),
            level,
            most,
            None if start is None else start.ravel(),
            key,
            matrix.dtype == "float32",
            None if callback is None and bar.silent else _hook(callback, bar, level),
        )
    finally:
        bar.close()
    result = _result(found, matrix, (X, response, weight, added), classes, family, penalty, level, bool(fit_intercept))
    if not result.converged:
        warn_not_converged(function, result.status, result.gradient_norm, level, _HINTS.get(result.status, ""))
    return result


def _response(y: Any, X: Any, family: str, function: str) -> tuple[Doubles, npt.NDArray[Any] | None]:
    if _core._is_cuda(y):
        given = _glm_cuda.labels(y, X, function)
    else:
        try:
            given = np.asarray(y)
        except (TypeError, RuntimeError):
            given = _core._as_numpy(y, function, "y")
    if given.ndim != 1:
        raise ValueError(f"{function}: y must have shape (n,), got {given.shape}")
    if family == "multinomial":
        if given.dtype.kind == "f" and not np.isfinite(given).all():
            raise ValueError(f"{function}: y has NaN or Inf")
        classes, number = np.unique(given, return_inverse=True)
        return number.astype(np.float64), classes
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{function}: y must be numbers for the {family} family, got {given.dtype}")
    values = np.ascontiguousarray(given, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{function}: y has NaN or Inf")
    return values, None


def _vector(given: Any, X: Any, name: str, shape: tuple[int, ...], function: str) -> Doubles | None:
    if given is None:
        return None
    view = _counted(given, X, function, name)
    if view.shape != shape:
        raise ValueError(f"{function}: {name} must have shape {shape}, got {view.shape}")
    if not np.isfinite(view).all():
        raise ValueError(f"{function}: {name} has NaN or Inf")
    return np.ascontiguousarray(view, dtype=np.float64)


def _counted(given: Any, X: Any, function: str, name: str) -> npt.NDArray[Any]:
    """As an array of floats; counts may be integers."""
    if not hasattr(given, "__dlpack__") or isinstance(given, np.ndarray):
        view = np.asarray(given)
        given = view.astype(np.float64) if view.dtype.kind in "iub" else view
    return _glm_cuda.beside(given, X, function, name)


def _hook(callback: Callable[[GlmState], bool | None] | None, bar: Progress, tol: float) -> Callable[..., bool]:
    def hook(iteration: int, gradient_norm: float, objective: float, seconds: float, sweeps: int) -> bool:
        state = GlmState(iteration, gradient_norm, objective, seconds, sweeps)
        if gradient_norm > 0:
            bar.left(max(math.log10(gradient_norm / tol), 0.0))
        return False if callback is None else bool(callback(state))

    return hook


def _result(
    found: dict[str, Any],
    matrix: Tall,
    data: tuple[Any, Doubles, Doubles | None, Doubles | None],
    classes: npt.NDArray[Any] | None,
    family: str,
    ridge: float,
    tol: float,
    fit_intercept: bool,
) -> GlmResult:
    d = matrix.shape[1]
    parameters = found["coef"].reshape(-1, d + fit_intercept)
    coef = np.ascontiguousarray(parameters[:, :d])
    intercept = parameters[:, d] if fit_intercept else np.zeros(len(parameters))
    if family == "multinomial":
        level: Any = back(np.ascontiguousarray(intercept), matrix.like, matrix.dtype)
    else:
        coef, level = coef[0], back(float(intercept[0]), matrix.like, matrix.dtype)
    return GlmResult(
        coef=back(coef, matrix.like, matrix.dtype),
        intercept=level,
        classes=classes,
        family=family,
        objective=found["objective"],
        gradient_norm=found["gradient_norm"],
        deviance=found["deviance"],
        converged=found["status"] == "converged",
        status=found["status"],
        iterations=found["iterations"],
        hessian_products=found["hessian_products"],
        factorisations=found["factorisations"],
        sweeps=found["sweeps"],
        method=found["method"],
        history=np.array(found["history"], dtype=_HISTORY),
        tol=tol,
        ridge=ridge,
        fit_intercept=fit_intercept,
        _parameters=parameters,
        _data=data,
        _like=matrix.like,
    )
