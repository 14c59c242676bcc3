"""What all embeddings share: products, adjoints, SciPy's form, and being an object."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import back, like_of, require_one_framework
from raphson._rows import ENTRIES_AT_A_TIME, Blocks, is_blocks, is_sparse
from raphson._seed import Seed, as_key

if TYPE_CHECKING:
    from scipy.sparse import csc_array  # type: ignore[import-untyped]

Doubles = npt.NDArray[np.float64]


def _check_finite(values: npt.NDArray[Any], function: str, name: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()  # half the price of asking every number
    if not np.isfinite(total) and not np.isfinite(values).all():
        raise ValueError(f"{function}: {name} has NaN or Inf")


class Embedding:
    """A random matrix S (rows, cols) with E[SᵀS] = I. Subclasses say what its entries are."""

    _name = "Embedding"
    #: Entries a column of the kind that CUDA kernels make: 0 is Gaussian, None has none.
    _cuda_nnz: int | None = None

    def __init__(self, rows: int, cols: int, seed: Seed) -> None:
        self._rows, self._cols = operator.index(rows), operator.index(cols)
        self._seed = as_key(seed, function=self._name)
        self._core = self._make()

    def _make(self) -> Any:
        raise NotImplementedError

    def _parameters(self) -> dict[str, Any]:
        """What makes two embeddings of one class different, shape and seed aside; shown by repr."""
        return {}

    def _srht(self) -> _core.SRHT | None:
        """Whose picked rows CUDA kernels take."""
        return None

    def _add(self, rows: npt.NDArray[Any], first: int, weights: Doubles | None, sums: Doubles) -> None:
        """sums += S[:, first : first + len(rows)] diag(weights) rows."""
        self._core.add(rows, first, weights, sums)

    def _adjoint(self, columns: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        """out = Sᵀ columns."""
        step = max(1, ENTRIES_AT_A_TIME // self._rows)
        for first in range(0, self._cols, step):
            last = min(first + step, self._cols)
            out[first:last] = self._entries(first, last - first).T @ columns

    def _entries(self, first: int, n: int) -> Doubles:
        """S[:, first : first + n], dense."""
        entries: Doubles = self._core.entries(first, n)
        return entries

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self._rows, self._cols

    @property
    def seed(self) -> int:
        """The key."""
        return self._seed

    # ---- products ------------------------------------------------------------------------------------------
    def apply(self, A: Any, *, weights: Any = None, out: Any = None) -> Any:
        """S diag(weights) A, without the weighted matrix.

        Parameters
        ----------
        A : array (cols, d) or (cols,), SciPy CSR or CSC, or a callable
            float64 or float32. A callable returns a fresh iterator of blocks of consecutive rows, for data that does
            not fit in memory; a memory map is read in place. SciPy matrices give SciPy matrices where S is sparse.
            CUDA arrays (not RowSample): contiguous rows, ``weights`` a float64 CUDA array, and the
            result is written on their stream; the order of additions is fixed, NaN is not looked for.
        weights : array (cols,), optional
            Row weights; for the sketch of √D A pass the square roots.
        out : array (rows, d), optional
            Of A's framework and dtype; not for SciPy matrices.

        Returns
        -------
        array (rows, d) or (rows,), in A's framework and dtype

        Raises
        ------
        ValueError
            Shapes that do not fit, blocks that do not add up to cols rows, NaN or Inf in weights or A (looked for in
            the sums, which spares a read: sums that overflow are refused too, rows that S does not take are not seen).
        TypeError
            Integer or complex data.
        """
        function = f"{self._name}.apply"
        if self._cuda_nnz is not None and _core._is_cuda(A):
            return _core._cuda_sketch(function, self._seed, *self.shape, self._cuda_nnz, self._srht(), A, weights, out)
        require_one_framework(function, "A", A, weights=weights)
        w = None if weights is None else self._weights(weights, function)
        if is_sparse(A):
            return self._apply_sparse(A, w, out, function)
        if is_blocks(A):
            return self._apply_blocks(A, w, out, function)
        view = self._rows_of(A, function)
        if view.shape[0] != self._cols:
            raise ValueError(f"{function}: A must have {self._cols} rows, got shape {view.shape}")
        target = self._target(out, A, view, function)
        if target is not None and np.may_share_memory(view, target):
            raise ValueError(f"{function}: out overlaps A")
        sums = np.zeros((self._rows, math.prod(view.shape[1:])))
        self._add(view.reshape(self._cols, sums.shape[1]), 0, w, sums)
        return self._finish(sums.reshape(self._rows, *view.shape[1:]), view.dtype, A, out, target, function)

    __matmul__ = apply

    def _rows_of(self, given: Any, function: str, name: str = "A", rows: int | None = None) -> npt.NDArray[Any]:
        view = _core._as_numpy(given, function, name)
        if view.ndim not in (1, 2):
            raise ValueError(f"{function}: {name} must have shape ({rows or self._cols}, d), got {view.shape}")
        if (
            view.ndim == 2
            and view.shape[1] > 1
            and (view.strides[1] != view.itemsize or view.strides[0] % view.itemsize)
        ):
            view = np.ascontiguousarray(view)
        return np.ascontiguousarray(view) if view.ndim == 1 else view

    def _weights(self, given: Any, function: str) -> Doubles:
        view = _core._as_numpy(given, function, "weights")
        if view.shape != (self._cols,):
            raise ValueError(f"{function}: weights must have shape ({self._cols},), got {view.shape}")
        _check_finite(view, function, "weights")
        return np.ascontiguousarray(view, dtype=np.float64)

    def _target(self, out: Any, like: Any, rows: npt.NDArray[Any], function: str) -> npt.NDArray[Any] | None:
        """A view of out, which must be like the result for such rows of A: asked before there is any work."""
        if out is None:
            return None
        target = _core._as_numpy(out, function, "out", write=True)
        _core._require_same(like, out, function, "A", "out")
        if target.dtype != rows.dtype:
            raise TypeError(f"{function}: out must be {rows.dtype} as A is, got {target.dtype}")
        if target.shape != (self._rows, *rows.shape[1:]):
            raise ValueError(f"{function}: out must have shape {(self._rows, *rows.shape[1:])}, got {target.shape}")
        return target

    def _finish(
        self, sums: Doubles, dtype: Any, like: Any, out: Any, target: npt.NDArray[Any] | None, function: str
    ) -> Any:
        _check_finite(sums, function, "A")
        with np.errstate(over="ignore"):
            result = sums.astype(dtype, copy=False)
        _check_finite(result, function, "S A")
        if target is None:
            return back(result, like_of(like), dtype.name)
        target[...] = result
        return out

    def _apply_blocks(self, blocks: Blocks, w: Doubles | None, out: Any, function: str) -> Any:
        sums, first, dtype, like, target = None, 0, None, None, None
        for block in blocks():
            view = self._rows_of(block, function)
            if sums is None:
                sums, dtype, like = np.zeros((self._rows, math.prod(view.shape[1:]))), view.dtype, block
                tail = view.shape[1:]
                target = self._target(out, block, view, function)
            if view.dtype != dtype:
                raise TypeError(f"{function}: blocks must have one dtype, got {dtype} and {view.dtype}")
            if view.shape[1:] != tail:
                raise ValueError(f"{function}: blocks must agree in columns, got {tail} and {view.shape[1:]}")
            if first + len(view) > self._cols:
                raise ValueError(f"{function}: the blocks have more than {self._cols} rows")
            part = None if w is None else w[first : first + len(view)]
            self._add(view.reshape(len(view), sums.shape[1]), first, part, sums)
            first += len(view)
        if sums is None or first != self._cols:
            raise ValueError(f"{function}: the blocks must have {self._cols} rows together, got {first}")
        return self._finish(sums.reshape(self._rows, *tail), dtype, like, out, target, function)

    def _apply_sparse(self, A: Any, w: Doubles | None, out: Any, function: str) -> Any:
        if A.shape[0] != self._cols or A.ndim != 2:
            raise ValueError(f"{function}: A must have {self._cols} rows, got shape {A.shape}")
        if A.dtype not in (np.float64, np.float32):
            raise TypeError(f"{function}: A must be float64 or float32, got {A.dtype}")
        if out is not None:
            raise ValueError(f"{function}: out is not for SciPy matrices")
        _check_finite(A.data, function, "A")
        return self._times_sparse(A, w).astype(A.dtype)

    def _times_sparse(self, A: Any, w: Doubles | None) -> Any:
        rows, sums = A.tocsr(), np.zeros((self._rows, A.shape[1]))
        step = max(1, ENTRIES_AT_A_TIME // self._rows)
        for first in range(0, self._cols, step):
            last = min(first + step, self._cols)
            entries = self._entries(first, last - first)
            sums += (entries if w is None else entries * w[first:last]) @ rows[first:last]
        return sums

    def adjoint(self, B: Any) -> Any:
        """Sᵀ B of B (rows, d) or (rows,): (cols, d), in B's framework and dtype."""
        function = f"{self._name}.adjoint"
        if self._cuda_nnz is not None and _core._is_cuda(B):
            return _core._cuda_adjoint(function, self._seed, *self.shape, self._cuda_nnz, self._srht(), B)
        view = self._rows_of(B, function, "B", self._rows)
        if view.shape[0] != self._rows:
            raise ValueError(f"{function}: B must have {self._rows} rows, got shape {view.shape}")
        _check_finite(view, function, "B")
        out = np.empty((self._cols, math.prod(view.shape[1:])), view.dtype)
        self._adjoint(view.reshape(self._rows, out.shape[1]), out)
        return back(out.reshape(self._cols, *view.shape[1:]), like_of(B), view.dtype.name)

    def to_scipy(self) -> csc_array:
        """S as a SciPy CSC array, float64: rows·cols numbers where S is dense."""
        from scipy.sparse import csc_array

        return csc_array(self._entries(0, self._cols))

    # ---- as an object --------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_core"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._core = self._make()

    def _key(self) -> tuple[Any, ...]:
        return self.shape, self._seed, tuple(self._parameters().items())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Embedding) or not (isinstance(other, type(self)) or isinstance(self, type(other))):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        inside = "".join(f", {k}={v!r}" for k, v in self._parameters().items())
        return f"{self._name}({self._rows}, {self._cols}{inside}, seed={self._seed})"
