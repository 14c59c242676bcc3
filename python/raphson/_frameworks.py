"""The way back to the caller's framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core

__all__ = ["as_array", "back", "doubles", "like_of", "require_one_framework"]


def _framework(given: Any) -> str | None:
    if isinstance(given, np.ndarray):
        return "numpy"
    return type(given).__module__.partition(".")[0].removesuffix("lib") if hasattr(given, "__dlpack__") else None


def require_one_framework(function: str, name: str, given: Any, *, beside_cuda: bool = False, **others: Any) -> None:
    """TypeError unless all arrays come from one library; lists, SciPy matrices and the like go with any.

    ``beside_cuda``: where one lies on a CUDA device, what may lie beside it is the caller's to say.
    """
    if beside_cuda and any(_core._is_cuda(array) for array in (given, *others.values())):
        return
    mine = _framework(given)
    for other, array in others.items():
        theirs = _framework(array)
        if mine is not None and theirs is not None and theirs != mine:
            raise TypeError(f"{function}: {name} comes from {mine}, {other} from {theirs}; they must share a framework")


def as_array(given: Any) -> Any:
    """Lists and ``__array__`` objects (a DataFrame) as NumPy arrays; arrays as they are."""
    return given if hasattr(given, "__dlpack__") else np.asarray(given)


def doubles(given: Any, shape: tuple[int, ...], function: str, name: str) -> npt.NDArray[np.float64]:
    """A float64 copy of a vector or small array of any floating-point dtype and framework, checked."""
    values = _core._widened(given, function, name)
    if values.shape != shape:
        raise ValueError(f"{function}: {name} must have shape {shape}, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{function}: {name} has NaN or Inf")
    return values


def like_of(given: Any) -> Any:
    """What :func:`back` takes for results that are to look like ``given``: None for NumPy."""
    return None if given is None or _core._is_numpy(given) else given


def back(value: Any, like: Any, dtype: str = "float64") -> Any:
    """In the caller's framework: NumPy arrays (of the dtype) and floats as they are, else a copy (0-d for numbers)."""
    if like is None:
        return value.astype(dtype, copy=False) if isinstance(value, np.ndarray) else value
    return _core._like(like, np.asarray(value, dtype=dtype))
