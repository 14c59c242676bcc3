"""Newton–Schulz matrix iterations: orthogonalisation by products alone, and matrix functions with a certificate."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._matrix_derivatives import inverse_root_vjp, inverse_vjp, polar_vjp, sqrt_vjp
from raphson._matrix_functions import (
    MatrixResult,
    PolarResult,
    inverse,
    inverse_root,
    polar,
    sign,
    sqrt,
)
from raphson._newton_schulz_extra import auon, orthogonalize_vjp, soft_clip

__all__ = [
    "MatrixResult",
    "Plan",
    "PolarResult",
    "auon",
    "inverse",
    "inverse_root",
    "inverse_root_vjp",
    "inverse_vjp",
    "minimax_schedule",
    "orthogonalize",
    "orthogonalize_many",
    "orthogonalize_vjp",
    "plan",
    "polar",
    "polar_vjp",
    "schedule",
    "sign",
    "soft_clip",
    "sqrt",
    "sqrt_vjp",
]

ArrayT = TypeVar("ArrayT")


def orthogonalize(
    x: ArrayT,
    *,
    schedule: Any = "polar_express",
    steps: int | None = None,
    normalize: str | None = None,
    method: str = "auto",
    precision: str | None = None,
    eps: float = 1e-7,
    check_finite: bool | None = None,
    out: Any = None,
    comm: None = None,
) -> ArrayT:
    r"""Approximate the polar factor :math:`UV^\top` of every matrix by a fixed number of Newton–Schulz steps.

    One step on the wide side of a matrix, :math:`m \le n`, is :math:`X \leftarrow aX + b(XX^\top)X + c(XX^\top)^2X`,
    computed as :math:`A = XX^\top`, :math:`B = bA + cA^2` (both symmetric: one triangle is computed and mirrored) and
    :math:`X \leftarrow aX + BX`. It moves singular values and leaves singular vectors alone.

    Parameters
    ----------
    x : array (..., m, n)
        float64, float32 or bfloat16 (NumPy users: ``ml_dtypes.bfloat16``), on CUDA float16 too; any strides, any number
        of batch axes; tall matrices are iterated on their transpose. Anything that speaks DLPack or the buffer
        protocol, or a list. CUDA arrays are worked on where they lie, on their stream.
    schedule : str or array (steps, 3)
        The rows (a, b, c), or a name; :func:`schedule` gives the table behind a name.

        ============== ===== ============================================================ =====================
        name           steps singular values of X / norm end in                           normalisation
        ============== ===== ============================================================ =====================
        polar_express  5     [0.85, 1.15] from 1e-3 on (Amsel et al., arXiv 2505.16932)   Frobenius x 1.02
        muon           5     [0.68, 1.20], one fixed quintic (Jordan)                     Frobenius
        you            5     [0.69, 1.15] (You Jiacheng)                                  Frobenius
        cans           5     [0.86, 1.14] from 1e-3 on (arXiv 2506.10935), safety 0.02    Frobenius
        turbo          4     [0.69, 1.15], of the row-scaled matrix (arXiv 2512.04632)    AOL
        root           5     up to 1.25, one quintic by shape (arXiv 2511.20626)          Frobenius
        cubic          20    1, from below (Newton-Schulz proper)                         Frobenius
        kovarik        13    1, from below                                                Frobenius
        ============== ===== ============================================================ =====================

        An array is used as it is, on X / ‖X‖_F.
    steps : int, optional
        Shortens the table or repeats its last row.
    normalize : {"frobenius", "gram", "aol"}, optional
        What X is divided by first; None is the schedule's own choice. ``"gram"``: √min(‖A‖_∞, ‖A‖_F) of the Gram matrix
        A, which bounds the spectral norm far better than ‖X‖_F on flat spectra. ``"aol"``: row i by √Σⱼ|Aᵢⱼ|; the
        answer is then the polar factor of the row-scaled matrix, not of X. Norms are accumulated in float64 and cost no
        extra product.
    method : {"auto", "standard", "gram"}
        How the polynomial is evaluated. ``"gram"`` iterates on the m×m Gram matrix with restarts, which saves flops on
        matrices that are not square; it runs in float32 or float64 only (16-bit input is widened). ``"auto"`` takes it
        from m ≥ 64 and n ≥ 3 m on, where it is as accurate, except in 16 bits. :func:`plan` tells.
    precision : {"float64", "float32", "bfloat16"}, optional
        Arithmetic of the iteration; None is the dtype of x. bfloat16 products accumulate in float32 and round once.
    eps : float
        The divisor is never less than ``eps``·max|X|. Relative, so that 1e-30·X and 1e30·X give the same answer.
    check_finite : bool, optional
        NaN or Inf in x raises (None and True), at no extra pass; False lets them through to the result. On CUDA None
        does not look, and True waits for the device.
    out : array, optional
        Written and returned; same framework, shape and dtype as x. ``out=x`` works in place.
    comm : None
        Reserved for matrices sharded over processes.

    Returns
    -------
    array (..., m, n)
        In x's framework and dtype. A zero matrix gives zeros; rank-deficient matrices stay finite, with their null
        space left at zero.

    Raises
    ------
    TypeError
        dtype, framework or device that is not taken; tensors that require grad (use ``raphson.torch``).
    ValueError
        Fewer than two axes, wrong shapes, unknown names, NaN or Inf, ``out`` that overlaps x in part. Nothing has been
        written then.

    Notes
    -----
    Cost: 3m²n + m³ flops a quintic step (``gram``: see :func:`plan`), one read of x for norm and finite check,
    one to load it, one write. Results are bitwise the same for any number of threads.

    A fixed number of steps is no certificate: singular values below about 1e-3·‖X‖_F are not lifted to 1.
    """
    if comm is not None:
        raise ValueError("orthogonalize: comm= is reserved for sharded matrices and must be None in this version")
    result: ArrayT = _core.orthogonalize(x, schedule, steps, normalize, method, precision, eps, check_finite, out)
    return result


def orthogonalize_many(
    arrays: Iterable[ArrayT],
    *,
    schedule: Any = "polar_express",
    steps: int | None = None,
    normalize: str | None = None,
    method: str = "auto",
    precision: str | None = None,
    eps: float = 1e-7,
    check_finite: bool | None = None,
    out: Sequence[Any] | None = None,
    comm: None = None,
) -> list[ArrayT]:
    """:func:`orthogonalize` of a list of matrices of any shapes, in one dispatch.

    All matrices are spread over the threads together, the largest first; each gives bitwise what it gives alone.

    Parameters
    ----------
    arrays : iterable of arrays (..., m, n)
        One framework, one dtype; shapes may differ. An empty list gives an empty list.
    out : sequence of arrays, optional
        One for each input (or None for a fresh one); an input may be its own output.
    schedule, steps, normalize, method, precision, eps, check_finite, comm
        As for :func:`orthogonalize`, for all of them.

    Returns
    -------
    list of arrays
        In the order of the input.

    Raises
    ------
    TypeError, ValueError
        As :func:`orthogonalize`; NaN or Inf names the array. Nothing has been written then.
    """
    if comm is not None:
        raise ValueError("orthogonalize_many: comm= is reserved for sharded matrices and must be None in this version")
    results: list[ArrayT] = _core.orthogonalize_many(
        list(arrays), schedule, steps, normalize, method, precision, eps, check_finite, out
    )
    return results


def minimax_schedule(
    lower: float, steps: int, *, degree: int = 5, safety: float = 0.02, cushion: float = 0.02
) -> npt.NDArray[np.float64]:
    """The table whose every step is the odd polynomial nearest to 1 on the interval that the steps before it leave.

    Parameters
    ----------
    lower : float
        Smallest singular value to be lifted to 1, in (0, 1).
    steps : int
        From 1 to 100.
    degree : {5, 3}
        Of the polynomials; degree 3 has c = 0.
    safety : float
        Every step but the last takes inputs up to 1 + safety times above its interval: p(x / (1 + safety)).
    cushion : float
        In [0, 1): the polynomial is fitted on [max(l, cushion·u), u] and centred on 1 again.

    Returns
    -------
    ndarray (steps, 3), float64

    Notes
    -----
    Amsel et al., Polar Express (arXiv 2505.16932), algorithm 1. ``minimax_schedule(1e-3, 5)`` is ``"polar_express"``.
    """
    return _core.minimax_schedule(lower, steps, degree, safety, cushion)


def schedule(name: str, *, steps: int | None = None, shape: tuple[int, int] | None = None) -> npt.NDArray[np.float64]:
    """The table behind a name.

    Parameters
    ----------
    name : str
        See :func:`orthogonalize`.
    steps : int, optional
        Shortens the table or repeats its last row.
    shape : (int, int), optional
        Of the matrices, for ``"root"``, whose polynomial depends on it (None: 2048×2048).

    Returns
    -------
    ndarray (steps, 3), float64

    Raises
    ------
    ValueError
        Unknown name (the message lists the known ones), ``steps`` below 1.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"schedule: steps must be at least 1, got {steps}")
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f"schedule: shape must be (m, n) with m, n ≥ 1, got {tuple(shape)}")
    rows, cols = (0, 0) if shape is None else (operator.index(n) for n in shape)
    return _core.schedule(name, 0 if steps is None else steps, rows, cols)


@dataclass(frozen=True)
class Plan:
    """What :func:`orthogonalize` does for a shape."""

    #: ``"standard"`` or ``"gram"``.
    method: str
    #: ``"frobenius"``, ``"gram"`` or ``"aol"``, and the factor on that norm.
    normalize: str
    norm_factor: float
    #: Arithmetic of the iteration.
    precision: str
    #: Tall matrices are iterated on their transpose.
    transposed: bool
    #: The rows (a, b, c).
    steps: npt.NDArray[np.float64]
    #: Of one matrix; multiply and add counted as two, symmetric products at half.
    flops: float

    def __repr__(self) -> str:
        return (
            f"Plan(method={self.method!r}, normalize={self.normalize!r}, precision={self.precision!r}, "
            f"steps={len(self.steps)}, transposed={self.transposed}, flops={self.flops:.4g})"
        )


def plan(
    shape: Sequence[int],
    *,
    dtype: Any = "float32",
    schedule: Any = "polar_express",
    steps: int | None = None,
    normalize: str | None = None,
    method: str = "auto",
    precision: str | None = None,
) -> Plan:
    """What :func:`orthogonalize` would do for matrices of this shape and dtype, and what it costs.

    Parameters
    ----------
    shape : sequence of int
        Of the array; the last two are the matrix.
    dtype : dtype or str
        ``"float64"``, ``"float32"`` or ``"bfloat16"``.
    schedule, steps, normalize, method, precision
        As for :func:`orthogonalize`.
    """
    name = str(dtype).rpartition(".")[2] if not isinstance(dtype, type) else np.dtype(dtype).name
    if name not in ("float64", "float32", "bfloat16"):
        raise TypeError(f"plan: dtype must be float64, float32 or bfloat16, got {name}")
    if len(shape) < 2:
        raise ValueError(f"plan: shape must have at least 2 axes (..., m, n), got {tuple(shape)}")
    sizes = [operator.index(n) for n in shape]
    if min(sizes) < 0:
        raise ValueError(f"plan: shape must not be negative, got {tuple(shape)}")
    rows, cols = sizes[-2:]
    return Plan(**_core.plan(rows, cols, name, schedule, steps, normalize, method, precision))
