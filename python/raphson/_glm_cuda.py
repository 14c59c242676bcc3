"""Generalized linear models where X lies on a CUDA device: what the host reads beside it, and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core

__all__ = ["beside", "labels", "predict"]

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


def predict(
    X: Any,
    parameters: npt.NDArray[np.float64],
    intercept: bool,
    family: str,
    classes: npt.NDArray[Any] | None,
    offset: Any,
    kind: str,
    function: str,
) -> Any:
    """As :meth:`raphson.newton.GlmResult.predict`: float64 in X's framework, on its device; one read of X."""
    shape, _ = _core._describe(X, function, "X")
    outputs, width = parameters.shape
    if len(shape) != 2 or shape[1] != width - intercept:
        raise ValueError(f"{function}: X must have shape (m, {width - intercept}), got {shape}")
    if kind == "label" and family not in ("logistic", "multinomial"):
        raise ValueError(f"{function}: kind='label' is for labels, not for the {family} family")
    if offset is not None:
        added, _ = _core._describe(offset, function, "offset")
        if added != (shape[0], outputs) and (classes is not None or added != (shape[0],)):
            raise ValueError(f"{function}: offset must have shape {(shape[0], outputs)}, got {added}")
    rows = _core.CudaRows(function, "X", X)
    if classes is None:
        link = {"margin": "identity", "label": "positive"}.get(kind) or _MEANS[family]
        return _core.glm_predict(rows, np.ascontiguousarray(parameters[0]), offset, _LINKS[link])
    if offset is not None:
        offset = np.ascontiguousarray(beside(offset, X, function, "offset"), dtype=np.float64)
    found = _core.glm_predict_classes(rows, np.ascontiguousarray(parameters.ravel()), outputs, offset, kind == "mean")
    return found if kind != "label" else classes[_core._to_host(found, function, "X").argmax(axis=1)]
