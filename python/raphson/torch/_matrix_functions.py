"""Differentiable twins of the matrix functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function

from raphson import newton_schulz
from raphson.torch._opaque import opaque

__all__ = ["inverse", "inverse_root", "polar", "sqrt"]


def _tensor(function: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{function}: expected a torch.Tensor, got {type(x).__name__}; "
            f"raphson.newton_schulz.{function} takes others"
        )
    return x


class _PullBack(Function):
    """A vector-Jacobian product of results and cotangents; it says that it has no derivative of its own."""

    @staticmethod
    def forward(ctx: Any, vjp: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return vjp(*(tensor.detach() for tensor in tensors))

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> None:
        raise RuntimeError("raphson.torch: second derivatives of matrix functions are not supported")


def _pull_back(vjp: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    gradient: Tensor = _PullBack.apply(vjp, *tensors)  # type: ignore[no-untyped-call]
    return gradient


class _Polar(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
        result = newton_schulz.polar(x.detach(), **settings)
        ctx.save_for_backward(result.unitary, result.hermitian)
        return result.unitary, result.hermitian

    @staticmethod
    def backward(ctx: Any, unitary_bar: Tensor, hermitian_bar: Tensor) -> tuple[Tensor, None]:
        unitary, hermitian = ctx.saved_tensors
        return _pull_back(newton_schulz.polar_vjp, unitary, hermitian, unitary_bar, hermitian_bar), None


class _Sqrt(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, settings: dict[str, Any]) -> Tensor:
        value: Tensor = newton_schulz.sqrt(a.detach(), **settings).value
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return _pull_back(newton_schulz.sqrt_vjp, value, value_bar), None


class _Inverse(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, settings: dict[str, Any]) -> Tensor:
        value: Tensor = newton_schulz.inverse(a.detach(), **settings).value
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return _pull_back(newton_schulz.inverse_vjp, value, value_bar), None


class _InverseRoot(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, p: int, settings: dict[str, Any]) -> Tensor:
        value: Tensor = newton_schulz.inverse_root(a.detach(), p, **settings).value
        ctx.save_for_backward(value)
        ctx.p, ctx.relative_ridge = p, settings["relative_ridge"]
        return value

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        gradient = _pull_back(
            lambda x, bar: newton_schulz.inverse_root_vjp(x, ctx.p, bar, relative_ridge=ctx.relative_ridge),
            value,
            value_bar,
        )
        return gradient, None, None


def _apply(function: Any, *arguments: Any) -> Any:
    return function.apply(*arguments)


@opaque
def polar(
    x: Tensor, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`raphson.polar` for torch tensors, differentiable in x: (unitary, hermitian).

    Parameters
    ----------
    x : Tensor (..., m, n)
        float64 or float32; may require grad.
    tol, max_steps, errors
        As for :func:`raphson.polar`.

    Returns
    -------
    (Tensor (..., m, n), Tensor (..., k, k))
        U and H; both are differentiable. Certificates: :func:`raphson.polar`.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As :func:`raphson.polar`; the backward pass raises LinAlgError where x is rank-deficient.

    Notes
    -----
    Backward: :func:`raphson.newton_schulz.polar_vjp`. Second derivatives are not supported.
    """
    settings = {"tol": tol, "max_steps": max_steps, "errors": errors}
    factors: tuple[Tensor, Tensor] = _apply(_Polar, _tensor("polar", x), settings)
    return factors


@opaque
def sqrt(a: Tensor, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> Tensor:
    """:func:`raphson.newton_schulz.sqrt` for torch tensors, differentiable in a: the root alone.

    Parameters
    ----------
    a : Tensor (..., n, n)
        float64 or float32; may require grad.
    tol, max_steps, errors
        As there.

    Returns
    -------
    Tensor (..., n, n)

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there; the backward pass raises LinAlgError where a is singular.

    Notes
    -----
    Backward: :func:`raphson.newton_schulz.sqrt_vjp`, stable at repeated eigenvalues. No second derivatives.
    """
    value: Tensor = _apply(_Sqrt, _tensor("sqrt", a), {"tol": tol, "max_steps": max_steps, "errors": errors})
    return value


@opaque
def inverse(a: Tensor, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> Tensor:
    """:func:`raphson.newton_schulz.inverse` for torch tensors, differentiable in a.

    Parameters
    ----------
    a : Tensor (..., n, n)
        float64 or float32; may require grad.
    tol, max_steps, errors
        As there.

    Returns
    -------
    Tensor (..., n, n)

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there.
    """
    value: Tensor = _apply(_Inverse, _tensor("inverse", a), {"tol": tol, "max_steps": max_steps, "errors": errors})
    return value


@opaque
def inverse_root(
    a: Tensor,
    p: int,
    *,
    ridge: float = 0.0,
    relative_ridge: float = 0.0,
    tol: float | None = None,
    max_steps: int = 100,
    errors: str | None = None,
) -> Tensor:
    """:func:`raphson.newton_schulz.inverse_root` for torch tensors, differentiable in a.

    Parameters
    ----------
    a : Tensor (..., n, n)
        Symmetric, float64 or float32; may require grad. The gradient is symmetric: that of the function of (a + aᵀ)/2.
    p, ridge, relative_ridge, tol, max_steps, errors
        As there; λmax of the relative ridge moves with a.

    Returns
    -------
    Tensor (..., n, n)

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there.

    Notes
    -----
    Backward: :func:`raphson.newton_schulz.inverse_root_vjp`, stable at repeated eigenvalues. No second derivatives.
    """
    settings = {
        "ridge": ridge,
        "relative_ridge": relative_ridge,
        "tol": tol,
        "max_steps": max_steps,
        "errors": errors,
    }
    value: Tensor = _apply(_InverseRoot, _tensor("inverse_root", a), p, settings)
    return value
