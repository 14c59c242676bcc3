"""Random embeddings: matrices S with E[SᵀS] = I that shorten tall matrices, and least squares by them."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._lstsq import LstsqResult, lstsq
from raphson._rows import Blocks, is_blocks, is_sparse
from raphson._seed import Seed, as_key
from raphson._transport import _back

if TYPE_CHECKING:
    from scipy.sparse import csc_array  # type: ignore[import-untyped]

__all__ = ["CountSketch", "LstsqResult", "SparseSign", "lstsq"]

Doubles = npt.NDArray[np.float64]


class SparseSign:
    """A sparse sign embedding: nnz entries ±1/√nnz in every column, one in each of nnz bands of rows.

    Parameters
    ----------
    rows, cols : int
        S is (rows, cols): it takes ``cols`` rows of data to ``rows``.
    nnz : int
        Entries in a column, 1 to rows. Incoherent data needs 1 (:class:`CountSketch`), any data 8 or so.
    seed : int or numpy.random.Generator
        Key of Philox4x32-10 (a generator gives one uint64). The entries of column i depend on the seed and i alone:
        sketches of equal parameters are equal, and blocks of rows can be sketched apart and added.

    Raises
    ------
    ValueError
        Sizes out of range.

    Notes
    -----
    S A costs 2·nnz flops an entry of A and one read of A; sums are float64, in the same order for any number of
    threads. Memory: 4·nnz bytes for each of up to 2¹⁸ rows at a time, and rows·64 float64 a thread.

    Source: Cohen 2016 (sparse embeddings by bands); Clarkson and Woodruff 2013 (nnz = 1).
    """

    _name = "SparseSign"

    def __init__(self, rows: int, cols: int, *, nnz: int = 8, seed: Seed = 0) -> None:
        self._rows, self._cols, self._nnz = operator.index(rows), operator.index(cols), operator.index(nnz)
        self._seed = as_key(seed, function=self._name)
        self._core = self._make()

    def _make(self) -> _core.SparseSign:
        if self._nnz > 2**31 - 1:
            raise ValueError(f"{self._name}: nnz must be from 1 to rows ({self._rows}), got {self._nnz}")
        return _core.SparseSign(self._rows, self._cols, self._nnz, self._seed)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self._rows, self._cols

    @property
    def nnz(self) -> int:
        """Entries in a column."""
        return self._nnz

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
            not fit in memory; a memory map is read in place. SciPy matrices give SciPy matrices.
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
            Shapes that do not fit, blocks that do not add up to cols rows, weights with NaN or Inf.
        TypeError
            Integer or complex data.
        """
        function = f"{self._name}.apply"
        w = None if weights is None else self._weights(weights, function)
        if is_sparse(A):
            return self._apply_sparse(A, w, out, function)
        if is_blocks(A):
            return self._apply_blocks(A, w, out, function)
        view = self._rows_of(A, function)
        if view.shape[0] != self._cols:
            raise ValueError(f"{function}: A must have {self._cols} rows, got shape {view.shape}")
        sums = np.zeros((self._rows, math.prod(view.shape[1:])))
        self._core.add(view.reshape(self._cols, -1), 0, w, sums)
        return self._finish(sums.reshape(self._rows, *view.shape[1:]), view.dtype, A, out, function)

    __matmul__ = apply

    def _rows_of(self, given: Any, function: str) -> npt.NDArray[Any]:
        view = _core._as_numpy(given, function, "A")
        if view.ndim not in (1, 2):
            raise ValueError(f"{function}: A must have shape ({self._cols}, d), got {view.shape}")
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
        if not np.isfinite(view).all():
            raise ValueError(f"{function}: weights has NaN or Inf")
        return np.ascontiguousarray(view, dtype=np.float64)

    def _finish(self, sums: Doubles, dtype: Any, like: Any, out: Any, function: str) -> Any:
        if out is None:
            return _back(sums, None if like is None or _core._is_numpy(like) else like, dtype.name)
        target = np.asarray(out)
        if not isinstance(out, np.ndarray):
            raise TypeError(f"{function}: out must be a NumPy array, got {type(out).__name__}")
        if target.shape != sums.shape or target.dtype != dtype:
            raise ValueError(
                f"{function}: out must be {dtype} with shape {sums.shape}, got {target.dtype} with {target.shape}"
            )
        out[...] = sums
        return out

    def _apply_blocks(self, blocks: Blocks, w: Doubles | None, out: Any, function: str) -> Any:
        sums, first, dtype, like = None, 0, None, None
        for block in blocks():
            view = self._rows_of(block, function)
            if sums is None:
                sums, dtype, like = np.zeros((self._rows, math.prod(view.shape[1:]))), view.dtype, block
                tail = view.shape[1:]
            if view.shape[1:] != tail or view.dtype != dtype:
                raise ValueError(f"{function}: blocks must agree in columns and dtype, got {tail} and {view.shape[1:]}")
            if first + len(view) > self._cols:
                raise ValueError(f"{function}: the blocks have more than {self._cols} rows")
            part = None if w is None else w[first : first + len(view)]
            self._core.add(view.reshape(len(view), -1), first, part, sums)
            first += len(view)
        if sums is None or first != self._cols:
            raise ValueError(f"{function}: the blocks must have {self._cols} rows together, got {first}")
        return self._finish(sums.reshape(self._rows, *tail), dtype, like, out, function)

    def _apply_sparse(self, A: Any, w: Doubles | None, out: Any, function: str) -> Any:
        if A.shape[0] != self._cols or A.ndim != 2:
            raise ValueError(f"{function}: A must have {self._cols} rows, got shape {A.shape}")
        if A.dtype not in (np.float64, np.float32):
            raise TypeError(f"{function}: A must be float64 or float32, got {A.dtype}")
        if out is not None:
            raise ValueError(f"{function}: out is not for SciPy matrices")
        operator_ = self.to_scipy()
        if w is not None:
            operator_.data *= np.repeat(w, self._nnz)
        return (operator_ @ A).astype(A.dtype)

    def adjoint(self, B: Any) -> Any:
        """Sᵀ B of B (rows, d) or (rows,): (cols, d), in B's framework and dtype."""
        function = f"{self._name}.adjoint"
        view = self._rows_of(B, function)
        if view.shape[0] != self._rows:
            raise ValueError(f"{function}: B must have {self._rows} rows, got shape {view.shape}")
        out = np.empty((self._cols, math.prod(view.shape[1:])), view.dtype)
        self._core.adjoint(view.reshape(self._rows, -1), 0, out)
        return _back(out.reshape(self._cols, *view.shape[1:]), None if _core._is_numpy(B) else B, view.dtype.name)

    def to_scipy(self) -> csc_array:
        """S as a SciPy CSC array, float64."""
        from scipy.sparse import csc_array

        row, sign = self._core.entries(0, self._cols)
        starts = np.arange(0, self._cols * self._nnz + 1, self._nnz)
        values = sign.ravel() / math.sqrt(self._nnz)
        return csc_array((values, row.ravel(), starts), shape=self.shape)

    # ---- as an object --------------------------------------------------------------------------------------
    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_core"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._core = self._make()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseSign):
            return NotImplemented
        return (self.shape, self._nnz, self._seed) == (other.shape, other._nnz, other._seed)

    def __hash__(self) -> int:
        return hash((self.shape, self._nnz, self._seed))

    def __repr__(self) -> str:
        return f"SparseSign({self._rows}, {self._cols}, nnz={self._nnz}, seed={self._seed})"


class CountSketch(SparseSign):
    """One entry ±1 in every column: :class:`SparseSign` with nnz = 1, and equal to it.

    Parameters, methods and cost as there. Source: Clarkson and Woodruff 2013.
    """

    _name = "CountSketch"

    def __init__(self, rows: int, cols: int, *, seed: Seed = 0) -> None:
        super().__init__(rows, cols, nnz=1, seed=seed)

    def __repr__(self) -> str:
        return f"CountSketch({self._rows}, {self._cols}, seed={self._seed})"
