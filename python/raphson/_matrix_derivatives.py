"""Derivatives of the matrix functions, from their results.

CUDA arrays are worked on where they lie, on their stream, in float64 as on the CPU.
"""

from __future__ import annotations

from typing import Any

from raphson import _core

__all__ = ["inverse_root_vjp", "inverse_vjp", "polar_vjp", "sqrt_vjp"]


def polar_vjp(unitary: Any, hermitian: Any, unitary_bar: Any = None, hermitian_bar: Any = None) -> Any:
    r"""Gradient of ⟨unitary_bar, U⟩ + ⟨hermitian_bar, H⟩ with respect to X, from the factors of :func:`polar`.

    Parameters
    ----------
    unitary, hermitian : array (..., m, n), array (..., k, k)
        What :func:`polar` returned.
    unitary_bar, hermitian_bar : arrays of the same shapes, optional
        Cotangents; None is zero. Of ``hermitian_bar`` the symmetric part counts.

    Returns
    -------
    array (..., m, n)

    Raises
    ------
    ValueError
        Shapes that differ, NaN or Inf (on CUDA those make NaN of the gradient).
    numpy.linalg.LinAlgError
        X is rank-deficient (a square X: by more than one): not differentiable there.

    Notes
    -----
    UᵀdU = K is skew and solves HK + KH = UᵀdX − dXᵀU; in H's eigenbasis that is a division by λᵢ + λⱼ, which has no
    trouble with repeated eigenvalues. About 13k³ + 8k²·max(m, n) flops, in float64.
    """
    return _core.matrix_function_vjp("polar", unitary, hermitian, unitary_bar, hermitian_bar, 1, 0.0)


def sqrt_vjp(value: Any, value_bar: Any) -> Any:
    r"""Gradient of ⟨value_bar, A^½⟩ with respect to A, from ``value`` = A^½.

    Parameters
    ----------
    value, value_bar : arrays (..., n, n)
        What :func:`sqrt` returned, and its cotangent.

    Returns
    -------
    array (..., n, n)
        Ā with ValueᵀĀ + ĀValueᵀ = value_bar.

    Raises
    ------
    ValueError
        Shapes that differ, NaN or Inf (on CUDA those make NaN of the gradient).
    numpy.linalg.LinAlgError
        A is singular: not differentiable there.

    Notes
    -----
    Symmetric: a division by √λᵢ + √λⱼ in the eigenbasis, about 13n³ flops. Else Roberts' sign iteration.
    """
    return _core.matrix_function_vjp("sqrt", value, None, value_bar, None, 1, 0.0)


def inverse_vjp(value: Any, value_bar: Any) -> Any:
    r"""Gradient of ⟨value_bar, A⁻¹⟩ with respect to A, −A⁻ᵀ value_bar A⁻ᵀ, from ``value`` = A⁻¹. 4n³ flops.

    Parameters
    ----------
    value, value_bar : arrays (..., n, n)

    Returns
    -------
    array (..., n, n)

    Raises
    ------
    ValueError
        Shapes that differ, NaN or Inf (on CUDA those make NaN of the gradient).
    """
    return _core.matrix_function_vjp("inverse", value, None, value_bar, None, 1, 0.0)


def inverse_root_vjp(value: Any, p: int, value_bar: Any, *, relative_ridge: float = 0.0) -> Any:
    r"""Gradient of ⟨value_bar, inverse_root(A, p)⟩ with respect to symmetric A, from ``value``.

    Parameters
    ----------
    value, value_bar : arrays (..., n, n)
        What :func:`inverse_root` returned, and its cotangent, of which the symmetric part counts.
    p : int
        As it was.
    relative_ridge : float
        As it was: λmax moves with A. An absolute ridge leaves no trace.

    Returns
    -------
    array (..., n, n)
        Symmetric. With a relative ridge and a repeated λmax a subgradient.

    Raises
    ------
    ValueError
        Shapes that differ, NaN or Inf (on CUDA those make NaN of the gradient), p < 1.
    numpy.linalg.LinAlgError
        ``value`` is not positive definite.

    Notes
    -----
    Löwner's form: in the eigenbasis a multiplication by −1/(aᵢaⱼ Σₖ aᵢᵏ aⱼ^(p−1−k)), a = λ^(1/p), which is the divided
    difference of λ^(−1/p) without a difference. About 13n³ flops, in float64.
    """
    return _core.matrix_function_vjp("inverse_root", value, None, value_bar, None, p, relative_ridge)
