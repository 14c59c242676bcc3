"""Tall matrices as solvers take them: arrays (CUDA's too), memory maps, SciPy CSR or CSC, callables of row blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import like_of

Blocks = Callable[[], Iterable[Any]]
ENTRIES_AT_A_TIME = 1 << 22  # of a dense matrix that is made piece by piece

__all__ = ["ENTRIES_AT_A_TIME", "Blocks", "Tall", "compressed", "dense_view", "is_blocks", "is_sparse", "tall"]


@dataclass(frozen=True)
class Tall:
    """A tall matrix in the core's hands, and what its results should look like."""

    core: Any  # _core.Rows, or _core.CudaRows of an array on a CUDA device
    shape: tuple[int, int]
    dtype: str
    like: Any  # an array of the caller's framework, or None for NumPy

    @property
    def on_device(self) -> bool:
        return isinstance(self.core, _core.CudaRows)


def is_sparse(given: Any) -> bool:
    return hasattr(given, "tocsr") and hasattr(given, "nnz")


def is_blocks(given: Any) -> bool:
    return callable(given) and not hasattr(given, "__dlpack__") and not hasattr(given, "__array__")


def dense_view(given: Any, function: str, name: str) -> npt.NDArray[Any]:
    """Two axes, contiguous along the columns; read where it lies if it can be."""
    view = _core._as_numpy(given, function, name)
    if view.ndim != 2:
        raise ValueError(f"{function}: {name} must have two axes, got shape {view.shape}")
    packed = view.shape[1] <= 1 or view.strides[1] == view.itemsize
    if packed and view.strides[0] >= 0 and view.strides[0] % view.itemsize == 0:
        return view
    return np.ascontiguousarray(view)


def compressed(given: Any, function: str, name: str) -> tuple[_core.Rows, str]:
    if given.ndim != 2:
        raise ValueError(f"{function}: {name} must have two axes, got shape {given.shape}")
    if given.dtype not in (np.float64, np.float32):
        raise TypeError(f"{function}: {name} must be float64 or float32, got {given.dtype}")
    if given.shape[1] >= 2**31:
        raise ValueError(f"{function}: {name} must have fewer than 2**31 columns, got {given.shape[1]}")
    rows = given.tocsr()
    starts, index = rows.indptr.astype(np.int64, copy=False), rows.indices
    inside = index.size == 0 or (index.min() >= 0 and index.max() < given.shape[1])
    short = starts[-1] > min(index.size, rows.data.size)
    if not inside or starts[0] != 0 or short or (np.diff(starts) < 0).any():
        raise ValueError(f"{function}: {name} is not a valid CSR matrix")
    values = np.ascontiguousarray(rows.data)
    return _core.Rows.compressed(values, starts, index.astype(np.int32, copy=False), given.shape[1]), given.dtype.name


def tall(given: Any, function: str, name: str, rows: int) -> Tall:
    """The matrix behind an argument; ``rows`` is what the responses have."""
    made: Any
    if is_sparse(given):
        made, dtype = compressed(given, function, name)
        shape, like = (int(given.shape[0]), int(given.shape[1])), None
    elif is_blocks(given):
        return _blocks(given, function, name, rows)
    elif _core._is_cuda(given):
        axes, dtype = _core._describe(given, function, name)
        if len(axes) != 2:
            raise ValueError(f"{function}: {name} must have two axes, got shape {axes}")
        made, shape, like = _core.CudaRows(function, name, given), (axes[0], axes[1]), given
    else:
        view = dense_view(given, function, name)
        made, shape, dtype = _core.Rows.dense(view), (view.shape[0], view.shape[1]), view.dtype.name
        like = like_of(given)
    if shape[0] != rows:
        raise ValueError(f"{function}: {name} must have {rows} rows, as many as the response, got shape {shape}")
    return Tall(made, shape, dtype, like)


def _blocks(make: Blocks, function: str, name: str, rows: int) -> Tall:
    first = next(iter(make()), None)
    if first is None:
        raise ValueError(f"{function}: {name} gave no blocks")
    sparse = is_sparse(first)
    shape = first.shape if sparse else dense_view(first, function, name).shape
    dtype = first.dtype.name if sparse else dense_view(first, function, name).dtype.name
    cols = int(shape[1])

    def fresh() -> Iterator[_core.Rows]:
        seen = 0
        for block in make():
            if is_sparse(block):
                made, kind = compressed(block, function, name)
                here = block.shape
            else:
                view = dense_view(block, function, name)
                made, kind, here = _core.Rows.dense(view), view.dtype.name, view.shape
            if kind != dtype:
                raise TypeError(f"{function}: blocks of {name} must have one dtype, got {dtype} and {kind}")
            if here[1] != cols:
                raise ValueError(f"{function}: blocks of {name} must agree in columns, got {cols} and {here[1]}")
            seen += here[0]
            if seen > rows:
                raise ValueError(f"{function}: the blocks of {name} have more than {rows} rows")
            yield made
        if seen != rows:
            raise ValueError(f"{function}: the blocks of {name} must have {rows} rows together, got {seen}")

    like = None if sparse else like_of(first)
    return Tall(_core.Rows.blocks(fresh, rows, cols), (rows, cols), dtype, like)
