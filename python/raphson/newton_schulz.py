"""Newton–Schulz matrix iterations: orthogonalisation by products alone."""

from __future__ import annotations

from typing import Any, TypeVar

from raphson import _core

__all__ = ["orthogonalize"]

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
        float64, float32 or bfloat16 (NumPy users: ``ml_dtypes.bfloat16``); any strides, any number of batch axes; tall
        matrices are iterated on their transpose. Anything that speaks DLPack or the buffer protocol, or a list.
    schedule : str or array (steps, 3)
        The rows (a, b, c). ``"polar_express"`` (default): the five minimax quintics of Amsel et al. (arXiv 2505.16932),
        recomputed with safety 0.02 and cushion 0.02 from a smallest singular value of 1e-3 of the norm; singular values
        above that land in [0.85, 1.15]. ``"muon"``: Jordan's (3.4445, -4.7750, 2.0315) five times. ``"you"``: You
        Jiacheng's five. An array is used as it is, on X / ‖X‖_F.
    steps : int, optional
        Shortens the table or repeats its last row.
    normalize : {"frobenius"}, optional
        What X is divided by first; None is the schedule's own choice (``polar_express``: 1.02·‖X‖_F, the others ‖X‖_F).
        The norm is accumulated in float64 whatever the dtype.
    method : {"auto", "standard"}
        How the polynomial is evaluated.
    precision : {"float64", "float32", "bfloat16"}, optional
        Arithmetic of the iteration; None is the dtype of x. bfloat16 products accumulate in float32 and round once.
    eps : float
        The divisor is never less than ``eps``·max|X|. Relative, so that 1e-30·X and 1e30·X give the same answer.
    check_finite : bool, optional
        NaN or Inf in x raises (None and True), at no extra pass; False lets them through to the result.
    out : array, optional
        Written and returned; same framework, shape and dtype as x. ``out=x`` works in place.
    comm : None
        Reserved for matrices sharded over processes.

    Returns
    -------
    array (..., m, n)
        In x's framework and dtype. A zero matrix gives zeros; rank-deficient matrices stay finite, with their null space
        left at zero.

    Raises
    ------
    TypeError
        dtype, framework or device that is not taken; tensors that require grad (use ``raphson.torch``).
    ValueError
        Fewer than two axes, wrong shapes, unknown names, NaN or Inf, ``out`` that overlaps x in part. Nothing has been
        written then.

    Notes
    -----
    Cost: 3m²n + m³ flops a quintic step, one read of x for norm and finite check, one to load it, one write. Results are
    bitwise the same for any number of threads.

    A fixed number of steps is no certificate: singular values below about 1e-3·‖X‖_F are not lifted to 1.
    """
    if comm is not None:
        raise ValueError("orthogonalize: comm= is reserved for sharded matrices and must be None in this version")
    result: ArrayT = _core.orthogonalize(x, schedule, steps, normalize, method, precision, eps, check_finite, out)
    return result
