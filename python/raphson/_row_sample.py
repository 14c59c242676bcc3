"""Row sampling as an embedding, with uniform or given probabilities, and leverage scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._embedding import Doubles, Embedding
from raphson._rows import ENTRIES_AT_A_TIME, dense_view
from raphson._seed import Seed

if TYPE_CHECKING:
    from scipy.sparse import csc_array  # type: ignore[import-untyped]


class RowSample(Embedding):
    """Rows picked at random and scaled so that E[SᵀS] = I: one entry in every row of S.

    Parameters
    ----------
    rows, cols : int
        S is (rows, cols): it picks ``rows`` of ``cols`` rows.
    probabilities : array (cols,), optional
        Not negative, with a positive sum; uniform by default. :meth:`leverage` takes those of a matrix.
    replace : bool
        With replacement: ``rows`` draws, scaled by 1/√(rows·p). Without: row i is picked with probability
        π = min(1, c·p), Σπ = rows, and scaled by 1/√π (systematic sampling in random order).
    seed : int or numpy.random.Generator
        Key of Philox4x32-10.

    Raises
    ------
    ValueError
        Sizes out of range; without replacement, more rows than there are positive probabilities.

    Notes
    -----
    Methods as those of :class:`SparseSign`. S A reads the picked rows alone; others may hold anything.
    What a uniform sample does to coherent data no number of rows mends: see docs/sketch.md.
    """

    _name = "RowSample"

    def __init__(
        self, rows: int, cols: int, *, probabilities: Any = None, replace: bool = True, seed: Seed = 0
    ) -> None:
        self._replace = bool(replace)
        self._probabilities: Doubles | None = None
        if probabilities is not None:
            given = _core._as_numpy(probabilities, self._name, "probabilities")
            if given.shape != (cols,):
                raise ValueError(f"{self._name}: probabilities must have shape ({cols},), got {given.shape}")
            p = np.array(given, dtype=np.float64)
            if not np.isfinite(p).all() or (p < 0).any() or not p.sum() > 0:
                raise ValueError(f"{self._name}: probabilities must be finite and not negative, with a positive sum")
            self._probabilities = p / p.sum()
        super().__init__(rows, cols, seed)

    @classmethod
    def leverage(cls, A: Any, rows: int, *, replace: bool = True, seed: Seed = 0) -> RowSample:
        """Rows of A, with probabilities in proportion to their leverage scores.

        Parameters
        ----------
        A : array (n, d)
            float64 or float32, n ≥ d.
        rows : int
            How many to draw.
        replace, seed
            As for the class; the seed draws the sketch as well.

        Raises
        ------
        TypeError, ValueError
            n < d, another dtype or rank, ``rows`` out of range.

        Notes
        -----
        ‖aᵢᵀVΣ⁻¹‖² with the singular values and right vectors of a SparseSign sketch of 8 d rows: the scores of A within
        the sketch's distortion. Two reads of A, 2·n·d² flops.
        """
        from raphson.sketch import SparseSign

        view = dense_view(A, f"{cls._name}.leverage", "A")
        n, d = view.shape
        if n < d:
            raise ValueError(f"{cls._name}.leverage: A must have at least as many rows as columns, got {view.shape}")
        sketch = SparseSign(min(max(8 * d, 1), n), n, nnz=min(8, min(max(8 * d, 1), n)), seed=seed)
        _, s, vt = np.linalg.svd(sketch.apply(view).astype(np.float64), full_matrices=False)
        kept = s > s.max(initial=0.0) * np.finfo(float).eps * max(30, d)
        basis = vt[kept].T / s[kept]
        scores = np.empty(n)
        step = max(1, ENTRIES_AT_A_TIME // max(d, 1))
        for first in range(0, n, step):
            scores[first : first + step] = np.square(view[first : first + step] @ basis).sum(axis=1)
        return cls(rows, n, probabilities=scores, replace=replace, seed=seed)

    def _make(self) -> None:
        if self._rows < 1:
            raise ValueError(f"{self._name}: rows must be at least 1, got {self._rows}")
        if self._cols < 1:
            raise ValueError(f"{self._name}: cols must be at least 1, got {self._cols}")
        p = np.full(self._cols, 1 / self._cols) if self._probabilities is None else self._probabilities
        if not self._replace and self._rows > np.count_nonzero(p):
            raise ValueError(
                f"{self._name}: without replacement rows must be at most {np.count_nonzero(p)}, got {self._rows}"
            )
        if self._replace:
            ends = np.cumsum(p)
            draws = _core._uniforms(self._seed, 0, self._rows) * ends[-1]
            picked = np.searchsorted(ends, draws, side="right")
            picked = np.minimum(picked, np.flatnonzero(p)[-1])  # the last end may be rounded
            scale = 1 / np.sqrt(self._rows * p[picked])
        else:
            picked, scale = self._systematic(p)
        self._picked: npt.NDArray[np.int64] = picked.astype(np.int64)
        self._scale: Doubles = scale

    def _systematic(self, p: Doubles) -> tuple[npt.NDArray[Any], Doubles]:
        share = np.zeros_like(p)
        certain = np.zeros(len(p), dtype=bool)
        while True:  # probabilities above 1 are certainties; the rest share what is left
            left, mass = self._rows - certain.sum(), p[~certain].sum()
            share[certain] = 1.0
            share[~certain] = p[~certain] * (left / mass) if mass > 0 else 0.0
            above = (share >= 1) & ~certain
            if not above.any() or left == 0:
                break
            certain |= above
        order = np.argsort(_core._uniforms(self._seed, 1, self._cols), kind="stable")
        ends = np.cumsum(share[order])
        ends *= self._rows / ends[-1]
        start = _core._uniforms(self._seed, 2, 1)[0]
        picked = order[np.minimum(np.searchsorted(ends, np.arange(self._rows) + start, side="right"), len(p) - 1)]
        return picked, 1 / np.sqrt(share[picked])

    def _parameters(self) -> dict[str, Any]:
        return {"replace": self._replace}

    def _key(self) -> tuple[Any, ...]:
        own = None if self._probabilities is None else self._probabilities.tobytes()
        return (*super()._key(), own)

    @property
    def picked(self) -> npt.NDArray[np.int64]:
        """The rows that are picked, (rows,), in the order of S's rows."""
        return np.array(self._picked)

    def _add(self, rows: npt.NDArray[Any], first: int, weights: Doubles | None, sums: Doubles) -> None:
        here = np.flatnonzero((self._picked >= first) & (self._picked < first + len(rows)))
        local = self._picked[here] - first
        scale = self._scale[here] if weights is None else self._scale[here] * weights[local]
        sums[here] += scale[:, None] * rows[local]

    def _entries(self, first: int, n: int) -> Doubles:
        entries = np.zeros((self._rows, n))
        here = np.flatnonzero((self._picked >= first) & (self._picked < first + n))
        entries[here, self._picked[here] - first] = self._scale[here]
        return entries

    def _adjoint(self, columns: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        out[:] = 0
        np.add.at(out, self._picked, (self._scale[:, None] * columns).astype(out.dtype))

    def _times_sparse(self, A: Any, w: Doubles | None) -> Any:
        scale = self._scale if w is None else self._scale * w[self._picked]
        return A.tocsr()[self._picked].multiply(scale[:, None]).tocsr()

    def to_scipy(self) -> csc_array:
        """S as a SciPy CSC array, float64."""
        from scipy.sparse import csc_array

        return csc_array((self._scale, (np.arange(self._rows), self._picked)), shape=self.shape)
