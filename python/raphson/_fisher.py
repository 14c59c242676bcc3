"""The static side of :mod:`raphson.ihvp`: Fisher inverses of fixed gradients, pruning by them, and their relatives."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raphson import _core

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


def _doubles(x: Any, shape: tuple[int, ...], function: str, name: str) -> Doubles:
    values = np.asarray(x)
    if values.dtype.kind not in "f" and values.dtype.name != "bfloat16":
        raise TypeError(f"{function}: {name} must be floating-point, got {values.dtype}")
    if values.shape != shape:
        raise ValueError(f"{function}: {name} must have shape {shape}, got {values.shape}")
    result = np.ascontiguousarray(values, dtype=np.float64)
    if not np.isfinite(result).all():
        raise ValueError(f"{function}: {name} has NaN or Inf")
    return result


@dataclass(frozen=True)
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
        return _in_framework(self._grads, self._core.diagonal())

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
        return _in_framework(self._grads, values)

    def logdet(self) -> float:
        """log det F."""
        return self._core.logdet()

    # ---- optimal brain surgeon -------------------------------------------------------------------

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
        values = _doubles(w, (self._dim,), "obs_scores", "w")
        return _in_framework(self._grads, self._core.scores(values, size)[0])

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
        values = _doubles(w, (self._dim,), "obs_prune", "w")
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
        return PruneResult(_like(w, pruned), kept, self._core.energy(change))


def _in_framework(given: Any, values: Any) -> Any:
    """A NumPy array as an array of the framework that ``given`` comes from; what is one already stays."""
    if not isinstance(values, np.ndarray):
        return values
    kind = type(given)
    if kind.__module__.split(".")[0] == "torch":
        import torch

        return torch.from_numpy(values)
    if isinstance(given, np.ndarray) or not hasattr(given, "__array_namespace__"):
        return values
    return given.__array_namespace__().asarray(values)


def _like(given: Any, values: Doubles) -> Any:
    """float64 values in the framework and dtype of a given vector."""
    if type(given).__module__.split(".")[0] == "torch":
        return _in_framework(given, values).to(given.dtype)
    return _in_framework(given, values.astype(np.asarray(given).dtype))


def _require_one_framework(function: str, **arrays: Any) -> None:
    """TypeError naming both unless all arrays that are given come from one framework (lists count as NumPy's)."""
    named = [(name, x) for name, x in arrays.items() if x is not None]
    frameworks = [
        "numpy" if isinstance(x, (list, tuple)) else type(x).__module__.split(".")[0].removesuffix("lib")
        for _, x in named
    ]
    for (name, _), framework in zip(named, frameworks, strict=True):
        if framework != frameworks[0]:
            raise TypeError(f"{function}: {named[0][0]} comes from {frameworks[0]}, {name} from {framework}")


def gauss_newton_step(
    jac: Any, residual: Any, *, loss_hessian: Any = None, loss_hessian_sqrt: Any = None, damping: float
) -> Any:
    r"""The damped Gauss–Newton direction d = −(JᵀQJ/b + λI)⁻¹Jᵀr/b from the rows of J (EGN).

    Parameters
    ----------
    jac : array (b, d) or (b, c, d)
        Jacobians of c outputs for each of b samples; float64, float32, bfloat16 or float16.
    residual : array (b,) or (b, c)
        Gradients of the loss with respect to the outputs.
    loss_hessian : array (b,) or (b, c, c), optional
        Q, the Hessians of the loss with respect to the outputs, symmetric positive semidefinite; None is the identity.
    loss_hessian_sqrt : array (b,) or (b, c, k), optional
        In place of Q a square root S of it, Q = S Sᵀ; k is any number of columns.
    damping : float
        λ > 0.

    Returns
    -------
    array (d,)
        In jac's framework and dtype.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not agree, NaN or Inf, λ ≤ 0, both Q and S given.

    Notes
    -----
    d = −Jᵀ(Q JJᵀ + bλI)⁻¹r (Duncan–Guttman), which stays accurate as λ → 0: two reads of J, (bc)²d flops, and a
    float64 LU factorisation of order bc.
    Source: Korbit, Adeoye, Bemporad, Zanon (arXiv 2405.14402).
    """
    name = "gauss_newton_step"
    lam = positive(damping, name)
    shape = tuple(jac.shape) if hasattr(jac, "shape") else np.shape(jac)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"{name}: jac must have shape (b, d) or (b, c, d), none of them 0, got {shape}")
    if loss_hessian is not None and loss_hessian_sqrt is not None:
        raise ValueError(f"{name}: give loss_hessian or loss_hessian_sqrt, not both")
    _require_one_framework(
        name, jac=jac, residual=residual, loss_hessian=loss_hessian, loss_hessian_sqrt=loss_hessian_sqrt
    )
    r = _doubles(residual, shape[:-1], name, "residual").reshape(-1)
    rows = jac if len(shape) == 2 else jac.reshape(-1, shape[-1])
    b, c = shape[0], 1 if len(shape) == 2 else shape[1]
    system = _core.gram(rows, name, "jac")
    if loss_hessian is not None or loss_hessian_sqrt is not None:
        if loss_hessian is not None:
            expected = (b,) if len(shape) == 2 else (b, c, c)
            q = _doubles(loss_hessian, expected, name, "loss_hessian").reshape(b, c, c)
        else:
            given = tuple(getattr(loss_hessian_sqrt, "shape", None) or np.shape(loss_hessian_sqrt))
            expected = (b,) if len(shape) == 2 else (b, c, given[-1] if len(given) == 3 else c)
            root = _doubles(loss_hessian_sqrt, expected, name, "loss_hessian_sqrt").reshape(b, c, -1)
            q = root @ root.swapaxes(1, 2)
        system = np.einsum("bij,bjk->bik", q, system.reshape(b, c, b * c)).reshape(b * c, b * c)
    system[np.diag_indices(b * c)] += b * lam
    return _core.combine_rows(rows, -np.linalg.solve(system, r).astype(np.float64, copy=False))


def rank_one_inverse_update(inv: ArrayT, v: Any, *, decay: float = 0.95, mode: str = "ema", out: Any = None) -> ArrayT:
    r"""The inverse of a Kronecker factor after one more statistic v.

    Parameters
    ----------
    inv : array (n, n)
        M, the inverse so far; float64, float32, bfloat16 or float16.
    v : array (n,)
        The statistic.
    decay : float
        γ in (0, 1).
    mode : {"ema", "mkor"}
        ``"ema"``: the exact inverse of γS + (1 − γ)vvᵀ with S = M⁻¹. ``"mkor"``: what MKOR's published code does,
        P = γM + (1 − γ)I, M ← P − (Pv)(vᵀP)/(1 + vᵀPv): no moving average of S, but bounded.
    out : array (n, n), optional
        Written and returned; inv itself is allowed. C-contiguous.

    Returns
    -------
    array (n, n)
        In inv's framework and dtype.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not agree, NaN or Inf, parameters out of range, M not positive along v. Nothing has been written.

    Notes
    -----
    Two reads and a write of M, 8n² flops in float64, rounded once. Source: MKOR (arXiv 2306.01685), whose printed
    formula for the moving average has another sign; this one is Sherman and Morrison's.

    On CUDA, v and out are arrays of inv's library and device. The call waits for one number, 1 + vᵀPv, to refuse what
    is not positive before anything is written. Nothing is scanned there: NaN or Inf makes NaN of the whole result, or
    is refused where it makes that number −Inf.
    """
    name = "rank_one_inverse_update"
    if not 0 < decay < 1:
        raise ValueError(f"{name}: decay must lie in (0, 1), got {decay}")
    if mode not in ("ema", "mkor"):
        raise ValueError(f"{name}: mode must be 'ema' or 'mkor', got {mode!r}")
    values = v
    if not _core._is_cuda(inv):
        values = np.asarray(v)
        if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
            raise TypeError(f"{name}: v must be floating-point, got {values.dtype}")
        values = np.array(values, dtype=np.float64, order="C")
    alpha, beta, weight = (1 / decay, 0.0, 1 - decay) if mode == "ema" else (decay, 1 - decay, 1.0)
    result: ArrayT = _core.rank_one_inverse(inv, values, alpha, beta, weight, out)
    return result


RowBlocks = Any | Callable[[], Iterable[Any]]


def _blocks(rows: RowBlocks) -> Iterator[Any]:
    if not callable(rows):
        yield rows
        return
    for block in rows():
        yield np.asarray(block)


def influence_scores(
    train_grads: RowBlocks, query_grads: RowBlocks, damping: float, *, block_size: int | None = None
) -> Any:
    r"""+q F⁻¹gᵀ of every query and training gradient, F = λI + (1/m) Σ gᵢgᵢᵀ over the training gradients.

    Parameters
    ----------
    train_grads, query_grads : arrays (m, d) and (q, d)
        float64, float32, bfloat16 or float16; a memmap, or a callable that returns a fresh iterator of row blocks
        (k, d), which is called once more for every block it gives.
    damping : float
        λ > 0.
    block_size : int, optional
        F is block-diagonal over this many columns each.

    Returns
    -------
    array (q, m)
        float64, in the framework of train_grads (NumPy for a callable).

    Raises
    ------
    TypeError, ValueError
        Rows of different lengths, nothing to read, NaN or Inf, λ ≤ 0.

    Notes
    -----
    Exact Woodbury as m·(QGᵀ)(GGᵀ + mλI)⁻¹, which does not cancel: m²d + 2qmd flops in float64 and (m + q)·m numbers a
    block of columns.
    """
    name = "influence_scores"
    lam, width = positive(damping, name), block_width(block_size, name)

    def products(left: RowBlocks, right: RowBlocks, names: tuple[str, str]) -> list[list[list[Doubles]]]:
        """[column block][row block of left][row block of right]"""
        table: list[list[list[Doubles]]] = []
        for a in _blocks(left):
            row: list[list[Doubles]] = []
            for b in _blocks(right):
                if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in (*a.shape, *b.shape):
                    raise ValueError(
                        f"{name}: {names[0]} and {names[1]} must have rows, all of one length, "
                        f"got {tuple(a.shape)} and {tuple(b.shape)}"
                    )
                step = width or a.shape[1]
                parts = range(0, a.shape[1], step)
                row.append([_core.cross(a[:, p : p + step], b[:, p : p + step], name, *names) for p in parts])
            table.append(row)
        if not table or not table[0]:
            raise ValueError(f"{name}: {names[0]} or {names[1]} holds no gradients")
        return [[[cell[p] for cell in row] for row in table] for p in range(len(table[0][0]))]

    total: Doubles | None = None
    grams = products(train_grads, train_grads, ("train_grads", "train_grads"))
    crosses = products(query_grads, train_grads, ("query_grads", "train_grads"))
    for inner, outer in zip(grams, crosses, strict=True):
        gram, mixed = np.block(inner), np.block(outer)
        m = gram.shape[0]
        gram[np.diag_indices(m)] += m * lam
        part = m * np.linalg.solve(gram, mixed.T).T
        total = part if total is None else total + part
    assert total is not None
    return total if callable(train_grads) else _in_framework(train_grads, total)
