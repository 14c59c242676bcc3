"""Random embeddings: matrices S with E[SᵀS] = I that shorten tall matrices, and least squares by them.

Beside them, for sequences of linear systems and regressions: completion of low-rank matrices, polynomials of a matrix
as preconditioners, and a bandit that learns the parameter of SOR and SSOR.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._completion import CompletionResult, CompletionState, complete_matrix
from raphson._embedding import Doubles, Embedding
from raphson._lstsq import LstsqResult, lstsq
from raphson._polynomial import PolynomialPreconditioner, polynomial_preconditioner
from raphson._row_sample import RowSample
from raphson._seed import Seed
from raphson._sor_bandit import SorBandit, SorResult

if TYPE_CHECKING:
    from scipy.sparse import csc_array  # type: ignore[import-untyped]

__all__ = [
    "SRHT",
    "CompletionResult",
    "CompletionState",
    "CountSketch",
    "Gaussian",
    "LstsqResult",
    "PolynomialPreconditioner",
    "RowSample",
    "SorBandit",
    "SorResult",
    "SparseSign",
    "complete_matrix",
    "lstsq",
    "polynomial_preconditioner",
]


class SparseSign(Embedding):
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
        self._nnz = operator.index(nnz)
        super().__init__(rows, cols, seed)

    def _make(self) -> _core.SparseSign:
        if self._nnz > 2**31 - 1:
            raise ValueError(f"{self._name}: nnz must be from 1 to rows ({self._rows}), got {self._nnz}")
        return _core.SparseSign(self._rows, self._cols, self._nnz, self._seed)

    def _parameters(self) -> dict[str, Any]:
        return {"nnz": self._nnz}

    @property
    def nnz(self) -> int:
        """Entries in a column."""
        return self._nnz

    @property
    def _cuda_nnz(self) -> int:  # type: ignore[override]
        return self._nnz

    def _adjoint(self, columns: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        self._core.adjoint(columns, 0, out)

    def _entries(self, first: int, n: int) -> Doubles:
        dense: Doubles = self.to_scipy()[:, first : first + n].toarray()
        return dense

    def _times_sparse(self, A: Any, w: Doubles | None) -> Any:
        operator_ = self.to_scipy()
        if w is not None:
            operator_.data *= np.repeat(w, self._nnz)
        return operator_ @ A

    def to_scipy(self) -> csc_array:
        """S as a SciPy CSC array, float64."""
        from scipy.sparse import csc_array

        row, sign = self._core.entries(0, self._cols)
        starts = np.arange(0, self._cols * self._nnz + 1, self._nnz)
        values = sign.ravel() / math.sqrt(self._nnz)
        return csc_array((values, row.ravel(), starts), shape=self.shape)


class CountSketch(SparseSign):
    """One entry ±1 in every column: :class:`SparseSign` with nnz = 1, and equal to it.

    Parameters, methods and cost as there. Source: Clarkson and Woodruff 2013.
    """

    _name = "CountSketch"

    def __init__(self, rows: int, cols: int, *, seed: Seed = 0) -> None:
        super().__init__(rows, cols, nnz=1, seed=seed)

    def __repr__(self) -> str:
        return f"CountSketch({self._rows}, {self._cols}, seed={self._seed})"


class Gaussian(Embedding):
    """Entries N(0, 1/rows), made where they are used: the best distortion, and the dearest.

    Parameters
    ----------
    rows, cols : int
        S is (rows, cols).
    seed : int or numpy.random.Generator
        Key of Philox4x32-10; entry (r, i) depends on the seed, r and i alone.

    Raises
    ------
    ValueError
        Sizes out of range.

    Notes
    -----
    Methods as those of :class:`SparseSign`. S A costs 2·rows flops an entry of A, on the packed products, and 12 ns a
    number of S. Memory: 256·(rows + d) float64. Numbers by Box and Muller 1958 from 32 bits each: up to 6.7 standard
    deviations.
    """

    _name = "Gaussian"
    _cuda_nnz = 0

    def __init__(self, rows: int, cols: int, *, seed: Seed = 0) -> None:
        super().__init__(rows, cols, seed)

    def _make(self) -> _core.Gaussian:
        return _core.Gaussian(self._rows, self._cols, self._seed)


class SRHT(Embedding):
    """Subsampled randomised Hadamard transform √(N/rows)·R·(H/√N)·D: signs, transform, rows without repetition.

    Parameters
    ----------
    rows, cols : int
        S is (rows, cols), rows at most N, which is cols rounded up to a power of two.
    seed : int or numpy.random.Generator
        Key of Philox4x32-10.

    Raises
    ------
    ValueError
        Sizes out of range.

    Notes
    -----
    Methods as those of :class:`SparseSign`. S A reads A once, in groups of 16 columns and chunks of up to 4096 rows:
    the transform of the whole is the sum of the chunks' with signs, so nothing of A's size is kept. log₂(chunk) +
    rows/chunk additions an entry of A. On CUDA groups have 8 columns and chunks up to 2048 rows. Source: Ailon and
    Chazelle 2006; Tropp 2011.
    """

    _name = "SRHT"
    _cuda_nnz = 0

    def __init__(self, rows: int, cols: int, *, seed: Seed = 0) -> None:
        super().__init__(rows, cols, seed)

    def _make(self) -> _core.SRHT:
        return _core.SRHT(self._rows, self._cols, self._seed)

    def _srht(self) -> _core.SRHT:
        core: _core.SRHT = self._core
        return core
