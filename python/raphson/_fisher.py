"""The static side of :mod:`raphson.ihvp`: Fisher inverses of fixed gradients, pruning by them, and their relatives."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import back, doubles, like_of

ArrayT = TypeVar("ArrayT")
Doubles = npt.NDArray[np.float64]


class OutOfRangeError(IndexError, ValueError):
    """An index that does not exist: both what Python and what this library raise for it."""


def positive(value: Any, function: str, name: str = "damping") -> float:
    number = float(value)
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{function}: {name} must be positive and finite, got {value!r}")
    return number


def block_width(block_size: Any, function: str) -> int:
    if block_size is None:
        return 0
    width = operator.index(block_size)
    if width < 1:
        raise ValueError(f"{function}: block_size must be at least 1, got {width}")
    return width


@dataclass(frozen=True, eq=False)
class PruneResult:
    """What :meth:`FisherInverse.obs_prune` decided.

    Attributes
    ----------
    weights : array (dim,)
        In w's framework and dtype: zero where pruned, the others moved to make up for it.
    mask : ndarray of bool (dim,)
        True = kept. NumPy's, wherever the weights lie.
    loss_increase : float
        ½(λ‖δ‖² + ‖Gδ‖²/m) of the whole change δ = weights − w: what the quadratic model predicts.
    """

    weights: Any
    mask: npt.NDArray[np.bool_]
    loss_increase: float

    def __repr__(self) -> str:
        kept = int(self.mask.sum())
        return f"PruneResult({kept} of {self.mask.size} weights kept, predicted loss increase {self.loss_increase:.4g})"


class FisherInverse:
    r"""The inverse of F = λI + (1/m) Σ gᵢgᵢᵀ for m fixed gradients (static M-FAC).

    Parameters
    ----------
    grads : array (m, d)
        float64, float32, bfloat16 or float16, on the CPU or a CUDA device; read in place when rows are contiguous, else
        copied once. It must not be modified while this object lives.
    damping : float
        λ > 0.
    block_size : int, optional
        F is block-diagonal over this many columns each.

    Raises
    ------
    TypeError, ValueError
        dtype or framework that is not taken, wrong rank, no rows or columns, NaN or Inf (on the CPU), λ ≤ 0.

    Notes
    -----
    Everything is widened to and computed in float64: K = GGᵀ in one read of G (m²d flops), K + mλI = LLᵀ (m³/3).
    With V = L⁻¹G, F⁻¹ = (I − VᵀV)/λ, and V is M-FAC's recursion (arXiv 2107.03356, algorithm 1) row for row:
    V_i = √(λ/q_i)·v_i up to rounding. V is formed tile by tile where it is needed and never stored. Memory beside G:
    16·m² bytes a block.

    On CUDA, x and w are arrays of the same library and device, and what comes back is too; calls run on the stream of
    their array (of grads, where there is none) and return before the work is done, but for what answers with Python
    numbers or a mask. Nothing is scanned there: NaN or Inf gives NaN in what it counts for, in grads (or a row whose
    square leaves float64) all of its block. L⁻¹ is formed (2·m³/3) and takes the place of the factor, and ``solve``
    reads G twice for each of up to two right-hand sides and for every 1,024 of more (fewer where their float64 copies
    would pass 2 GB).
    """

    def __init__(self, grads: Any, damping: float, *, block_size: int | None = None) -> None:
        self._damping = positive(damping, "FisherInverse")
        self._block_size = block_width(block_size, "FisherInverse")
        self._grads = grads
        shape = getattr(grads, "shape", None)
        if shape is not None and len(shape) == 2 and 0 in tuple(shape):
            raise ValueError(f"FisherInverse: grads must have rows and columns, got shape {tuple(shape)}")
        self._core: _core.FisherInverse | _core.CudaFisherInverse
        kind = _core.CudaFisherInverse if _core._is_cuda(grads) else _core.FisherInverse
        self._core = kind(grads, self._damping, self._block_size)
        self._count, self._dim = self._core.shape

    @property
    def dim(self) -> int:
        """Length d of a gradient."""
        return self._dim

    @property
    def damping(self) -> float:
        """λ."""
        return self._damping

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        more = f", block_size={self._block_size}" if self._block_size else ""
        return f"FisherInverse(dim={self._dim}, damping={self._damping!r}{more}): {self._count} gradients"

    def __getstate__(self) -> dict[str, Any]:
        return {"grads": self._grads, "damping": self._damping, "block_size": self._block_size or None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FisherInverse.__init__(self, state["grads"], state["damping"], block_size=state["block_size"])

    def solve(self, x: ArrayT) -> ArrayT:
        """F⁻¹x of a vector (dim,) or of every row of x (k, dim).

        In x's framework and dtype; float64 inside. Two reads of G for up to seven right-hand sides and for every
        256 of more: 4·m·d flops each.
        """
        result: ArrayT = self._core.solve(x)
        return result

    def diagonal(self) -> Any:
        """The diagonal of F⁻¹, (1 − Σᵢ Vᵢₖ²)/λ: float64 (dim,) in the framework of the gradients.

        m²·d flops, one read of G.
        """
        return self._back(self._core.diagonal())

    def _indices(self, indices: Any, name: str) -> npt.NDArray[np.int64]:
        values = np.asarray(indices)
        if values.size == 0:
            return np.zeros(0, dtype=np.int64)
        if values.ndim != 1 or values.dtype.kind not in "iu":
            raise TypeError(f"submatrix: {name} must be a sequence of integers, got {values.dtype} {values.shape}")
        if values.min() < 0 or values.max() >= self._dim:
            raise OutOfRangeError(f"submatrix: {name} is out of range for dim {self._dim}")
        return values.astype(np.int64)

    def element(self, i: int, j: int) -> float:
        """(F⁻¹)ᵢⱼ; 2m² flops."""
        i, j = operator.index(i), operator.index(j)
        for index in (i, j):
            if not 0 <= index < self._dim:
                raise OutOfRangeError(f"element: index {index} is out of range for dim {self._dim}")
        return self._core.element(i, j)

    def submatrix(self, rows: Any, cols: Any) -> Any:
        """F⁻¹[rows, cols]: float64 (len(rows), len(cols)) in the framework of the gradients.

        m²(r + c) + 2m·r·c flops for r rows and c columns.
        """
        values = self._core.submatrix(self._indices(rows, "rows"), self._indices(cols, "cols"))
        return self._back(values)

    def logdet(self) -> float:
        """log det F."""
        return self._core.logdet()

    # ---- optimal brain surgeon -------------------------------------------------------------------

    def _back(self, values: Any) -> Any:
        """In the gradients' framework; what a device answered is there already."""
        return back(values, like_of(self._grads)) if isinstance(values, np.ndarray) else values

    def _group(self, group: Any, function: str) -> int:
        size = operator.index(group)
        if size < 1 or self._dim % size != 0:
            raise ValueError(f"{function}: group must divide dim {self._dim}, got {size}")
        if self._block_size and self._block_size % size != 0:
            raise ValueError(f"{function}: group {size} must divide block_size {self._block_size}")
        return size

    def obs_scores(self, w: Any, *, group: int = 1) -> Any:
        """What removing each group of neighbouring weights costs: ½ w_Qᵀ((F⁻¹)_QQ)⁻¹w_Q.

        Parameters
        ----------
        w : array (dim,)
            The weights; floating-point.
        group : int
            Weights that go together; divides dim and block_size. 1: w²/(2(F⁻¹)ₖₖ).

        Returns
        -------
        array (dim / group,)
            float64, in the framework of the gradients.
        """
        size = self._group(group, "obs_scores")
        if isinstance(self._core, _core.CudaFisherInverse):
            return self._core.scores(w, size)
        values = doubles(w, (self._dim,), "obs_scores", "w")
        return self._back(self._core.scores(values, size)[0])

    def obs_prune(
        self,
        w: Any,
        *,
        fraction: float | None = None,
        count: int | None = None,
        group: int = 1,
        joint: bool = False,
    ) -> PruneResult:
        """Remove the weights (groups of them) with the lowest scores and move the others to make up for it.

        Parameters
        ----------
        w : array (dim,)
            The weights; floating-point.
        fraction, count : float in [0, 1] or int
            How many weights go: one of the two; a fraction is rounded to the nearest number of groups.
        group : int
            As for :meth:`obs_scores`; count must be a multiple of it.
        joint : bool
            False: the updates of the single removals added up (optimal brain surgeon as M-FAC and WoodFisher apply it:
            exact for one group, cross terms ignored for more), δ = −F⁻¹z with z_Q = ((F⁻¹)_QQ)⁻¹w_Q. True: the exact
            minimiser for the whole set S, δ_K = G_Kᵀ(G_K G_Kᵀ + mλI)⁻¹G_S w_S on the columns K that stay, at the price
            of a second Gram matrix.

        Returns
        -------
        PruneResult
        """
        size = self._group(group, "obs_prune")
        if (fraction is None) == (count is None):
            raise ValueError("obs_prune: give one of fraction and count")
        if fraction is not None:
            if not 0 <= fraction <= 1:
                raise ValueError(f"obs_prune: fraction must lie in [0, 1], got {fraction}")
            groups = round(fraction * self._dim / size)
        else:
            number = operator.index(count if count is not None else 0)
            if not 0 <= number <= self._dim or number % size != 0:
                raise ValueError(f"obs_prune: count must be a multiple of {size} in [0, {self._dim}], got {number}")
            groups = number // size
        if isinstance(self._core, _core.CudaFisherInverse):
            return PruneResult(*self._core.prune(w, size, groups, joint))
        values = doubles(w, (self._dim,), "obs_prune", "w")
        scores, multipliers = self._core.scores(values, size)
        mask = np.ones((self._dim // size, size), dtype=bool)
        mask[np.argsort(scores, kind="stable")[:groups]] = False
        kept = mask.reshape(-1)
        if joint:
            change = self._core.remove(values, kept)
        else:
            change = -self._core.solve(np.where(kept, 0.0, multipliers))
            change[~kept] = -values[~kept]
        pruned = values + change
        pruned[~kept] = 0.0
        return PruneResult(_core._narrowed(w, pruned), kept, self._core.energy(change))
