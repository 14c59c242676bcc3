"""The rest of :mod:`raphson.newton_schulz`: the outlier split, AuON's scaling, and the derivative of the iteration."""

from __future__ import annotations

from typing import Any, TypeVar

from raphson import _core

ArrayT = TypeVar("ArrayT")


def soft_clip(x: ArrayT, *, quantile: float = 0.9) -> tuple[ArrayT, ArrayT]:
    r"""Split every matrix into a part clipped at a quantile of its magnitudes, and the outliers.

    With ε the ``quantile`` of \|x\| over the matrix: outliers = sign(x)·max(\|x\| − ε, 0), clipped = x − outliers,
    which is clip(x, −ε, ε). ROOT applies it to the momentum and orthogonalises the clipped part.

    Parameters
    ----------
    x : array (..., m, n)
        float64, float32 or bfloat16, on CUDA float16 too; any strides; every matrix has an ε of its own.
    quantile : float
        In [0, 1]: 1 leaves no outliers, 0 clips at the smallest magnitude. Linear interpolation as in
        :func:`numpy.quantile`, in float64, rounded to the dtype of x.

    Returns
    -------
    (clipped, outliers) : arrays (..., m, n)
        In x's framework and dtype. ``clipped`` is exact, ``outliers`` is x − clipped rounded once. Empty in, empty out.

    Raises
    ------
    TypeError
        dtype, framework or device that is not taken; tensors that require grad.
    ValueError
        Fewer than two axes, ``quantile`` out of range, NaN or Inf in x. On CUDA nothing looks for those: the results of
        such a matrix are NaN.

    Notes
    -----
    Source: ROOT (arXiv 2511.20626); its code adds 1e-9 to ε. Cost: three reads and two writes of memory.
    ε is selected and not sorted for: a small sample brackets it, one read counts what lies outside of the bracket,
    one collects what lies inside. The sample decides the time alone, never the result. On CUDA ε is found digit by
    digit, eleven bits of the magnitudes a read: four, five or eight reads of 16-, 32- and 64-bit numbers in all.
    """
    result: tuple[ArrayT, ArrayT] = _core.soft_clip(x, quantile)
    return result


def auon(x: ArrayT, *, gamma: float = 1.5, hybrid_steps: int = 0) -> ArrayT:
    r"""AuON: every matrix over its Frobenius norm, then over the root mean square of a hyperbolic cosine.

    .. math:: Z = X / \|X\|_F, \qquad U = Z / r, \qquad r^2 = \mathrm{mean}_{ij} \cosh^2(\gamma Z_{ij})

    The norm is 1 to begin with, and r is a brake on matrices whose weight sits in few entries: 1 + γ²/(2mn) at least,
    and 0.43 is left of a single entry with γ = 1.5. Nothing is orthogonalised unless ``hybrid_steps`` asks for it.

    Parameters
    ----------
    x : array (..., m, n)
        float64, float32 or bfloat16, on CUDA float16 too; any strides; every matrix is scaled by itself.
    gamma : float
        From 0 (no brake) to 300.
    hybrid_steps : int
        From 0 to 100. Hybrid-AuON: that many Newton–Schulz steps of the ``"muon"`` schedule first, in the dtype of x,
        and the same scaling of what they give.

    Returns
    -------
    array (..., m, n)
        In x's framework and dtype. A zero matrix gives zeros. The scale of x does not matter, from the smallest
        numbers of its dtype to the largest: there is no absolute ε to be drowned by.

    Raises
    ------
    TypeError
        dtype, framework or device that is not taken; tensors that require grad.
    ValueError
        Fewer than two axes, parameters out of range, NaN or Inf in x. On CUDA nothing looks for those: the result of
        such a matrix is NaN.

    Notes
    -----
    Source: AuON (arXiv 2509.24320), as its abstract and secondary descriptions give it. The public code does something
    else: it computes r as here, but divides the *unnormalised* X by it, so that, r being close to 1 for matrices of any
    size, its update is plain momentum. γ = 1.5 is the code's; the paper's formula has none (γ = 1). Hybrid-AuON takes 5
    steps in the code, 1 in a secondary description. A factor √max(1, m/n) that some descriptions add is in neither the
    code nor here; and the code adds 1e-7 to the norm and 1e-8 to r.

    Cost: three reads and a write of memory. cosh² is (1 + cosh 2γz)/2 and cosh - 1 an even polynomial where 2γ·max|z|
    ≤ 4, accurate to the last digits of the float64 sum, so that r - 1 keeps its digits however small it is.
    """
    result: ArrayT = _core.auon(x, gamma, hybrid_steps)
    return result


def orthogonalize_vjp(
    x: ArrayT,
    cotangent: ArrayT,
    *,
    schedule: Any = "polar_express",
    steps: int | None = None,
    normalize: str | None = None,
    precision: str | None = None,
    eps: float = 1e-7,
    check_finite: bool | None = None,
    out: Any = None,
) -> ArrayT:
    r"""The gradient of ⟨cotangent, orthogonalize(x)⟩ with respect to x.

    Through the iteration itself, normalisation included: the derivative of what :func:`orthogonalize` computes by its
    standard method, not of the polar factor that it approximates.

    Parameters
    ----------
    x : array (..., m, n)
        float64, float32 or bfloat16, on CUDA float16 too; any strides, any number of batch axes.
    cotangent : array (..., m, n)
        Of x's shape, framework and dtype; the gradient of a loss with respect to ``orthogonalize(x)``.
    schedule, steps, normalize, eps
        As for :func:`orthogonalize`; pass what it was given.
    precision : {"float64", "float32", "bfloat16"}, optional
        Arithmetic of both passes; None is the dtype of x. float32 at least: 16-bit dtypes are iterated in float32.
    check_finite : bool, optional
        NaN or Inf in x or cotangent raises (None and True); False lets them through. On CUDA None does not look, and
        True waits for the device.
    out : array, optional
        Written and returned; same framework, shape and dtype as x. It may be x or cotangent.

    Returns
    -------
    array (..., m, n)
        In x's framework and dtype. A zero matrix, where the iteration is not differentiable, gets a zero gradient.
        Where a norm has a corner (``"gram"`` and ``"aol"``: signs of the Gram matrix at 0, equal row sums) it is a
        subgradient.

    Raises
    ------
    TypeError
        dtype, framework or device that is not taken; cotangent of another framework or dtype than x; tensors that
        require grad (use ``raphson.torch``).
    ValueError
        Fewer than two axes, wrong shapes, unknown names, NaN or Inf, ``out`` that overlaps an input in part. Nothing
        has been written then.

    Notes
    -----
    A step X' = aX + BX with B = bA + cA², A = XXᵀ is undone by K = GXᵀ, S = K + Kᵀ,
    G ← aG + BG + (bS + c(SA + (SA)ᵀ))X: 6m²n + 3m³ flops, on the wide side, after the forward pass of 3m²n + m³. X and
    A of every step are kept meanwhile: steps·m(m + n) numbers for each matrix in work. ``"gram"`` and ``"aol"`` add
    a product. On CUDA as many matrices are in work as 4 GiB hold.
    Results are bitwise the same for any number of threads.

    The gradient of small singular values is large: each step magnifies by up to its slope at 0, all of
    ``polar_express`` by about 1000 over the norm of x.
    """
    result: ArrayT = _core.orthogonalize_vjp(
        x, cotangent, schedule, steps, normalize, precision, eps, check_finite, out
    )
    return result
