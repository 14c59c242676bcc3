"""Generalized linear models where X lies on a CUDA device: what the host reads beside it, and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core

__all__ = ["beside", "labels", "predict", "require_one_output"]

_LINKS = {"identity": 0, "probability": 1, "exponential": 2, "positive": 3}
_MEANS = {"logistic": "probability", "poisson": "exponential", "gaussian": "identity"}


def beside(given: Any, X: Any, function: str, name: str) -> npt.NDArray[Any]:
    """y, weights and offsets in NumPy, where they are checked: one number a row; they may lie on X's device."""
    if not (_core._is_cuda(given) and _core._is_cuda(X)):
        return _core._as_numpy(given, function, name)
    _core._require_same(X, given, function, "X", name)
    return _core._to_host(given, function, name)


def labels(y: Any, X: Any, function: str) -> npt.NDArray[Any]:
    """The same of a response, which may be integers: those come by the library's own copy."""
    try:
        return beside(y, X, function, "y")
    except TypeError as error:
        try:
            found = np.from_dlpack(y, device="cpu")
        except (TypeError, BufferError, RuntimeError, ValueError):
            raise error from None
        if found.dtype.kind not in "iub" or not _core._is_cuda(X):
            raise
        return found


def require_one_output(family: str, function: str) -> None:
    if family == "multinomial":
        raise RuntimeError(
            f"{function}: X is a CUDA array, but the multinomial family has no CUDA kernels yet; copy it to the CPU"
            " first"
        )


def predict(
    X: Any, parameters: npt.NDArray[np.float64], intercept: bool, family: str, offset: Any, kind: str, function: str
) -> Any:
    """As :meth:`raphson.newton.GlmResult.predict`: float64 in X's framework, on its device; one read of X."""
    require_one_output(family, function)
    if kind == "label" and family != "logistic":
        raise ValueError(f"{function}: kind='label' is for labels, not for the {family} family")
    shape, _ = _core._describe(X, function, "X")
    d = parameters.shape[1] - intercept
    if len(shape) != 2 or shape[1] != d:
        raise ValueError(f"{function}: X must have shape (m, {d}), got {shape}")
    if offset is not None:
        added, _ = _core._describe(offset, function, "offset")
        if added not in ((shape[0],), (shape[0], 1)):
            raise ValueError(f"{function}: offset must have shape {(shape[0],)}, got {added}")
    link = {"margin": "identity", "label": "positive"}.get(kind) or _MEANS[family]
    rows = _core.CudaRows(function, "X", X)
    return _core.glm_predict(rows, np.ascontiguousarray(parameters[0]), offset, _LINKS[link])
