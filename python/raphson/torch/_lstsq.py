"""Least squares with gradients, from the optimality conditions; every solve is the array function's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import raphson
from raphson.torch._opaque import opaque

__all__ = ["lstsq"]


@opaque
def lstsq(A: Tensor, b: Tensor, *, ridge: float = 0.0, **options: Any) -> raphson.sketch.LstsqResult:
    """:func:`raphson.lstsq` whose ``x`` is differentiable in A and b.

    Parameters
    ----------
    A : Tensor (m, n)
    b : Tensor (m,) or (m, k)
    ridge, **options
        As in :func:`raphson.lstsq`.

    Returns
    -------
    LstsqResult
        ``x`` carries gradients, the certificate does not.

    Raises
    ------
    TypeError, ValueError
        As :func:`raphson.lstsq`; RuntimeError in ``backward`` where A was rank-deficient, since x is not differentiable
        there, and for second derivatives.

    Notes
    -----
    With w = A(AᵀA + λI)⁻¹x̄, which is the least-squares solution of Aᵀw = x̄ under the same ridge λ: b̄ = w and, m ≥ n,
    Ā = r zᵀ − w xᵀ with r = b − Ax and Az = w; m < n, Ā = y(x̄ − Aᵀw)ᵀ − w xᵀ with Aᵀy = x. Two more solves, and
    nothing is squared but what the solver squares. Source: Golub and Pereyra 1973.
    """
    if not isinstance(A, Tensor) or not isinstance(b, Tensor):
        raise TypeError(
            f"lstsq: expected torch.Tensors, got {type(A).__name__} and {type(b).__name__}; raphson.lstsq takes others"
        )
    result = raphson.lstsq(A.detach(), b.detach(), ridge=ridge, **options)
    x: Tensor = _Solution.apply(A, b, result.x, result.rank, float(ridge), options)  # type: ignore[no-untyped-call]
    return replace(result, x=x)


class _Solution(Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, b: Tensor, x: Tensor, rank: int, ridge: float, options: dict[str, Any]) -> Tensor:
        ctx.save_for_backward(A, b, x)
        ctx.rank, ctx.ridge, ctx.options = rank, ridge, options
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, x_bar: Tensor) -> tuple[Tensor | None, ...]:
        A, b, x = (_columns(tensor.detach()) for tensor in ctx.saved_tensors)
        if ctx.rank < min(A.shape):
            raise RuntimeError(f"lstsq: A has rank {ctx.rank}, x is not differentiable there")
        bar = _columns(x_bar)

        def solve(matrix: Tensor, right: Tensor, ridge: float = 0.0) -> Tensor:
            found: Tensor = raphson.lstsq(matrix, right.contiguous(), ridge=ridge, **ctx.options).x
            return found

        w = solve(A.T.contiguous(), bar, ctx.ridge)
        a_bar = None
        if ctx.needs_input_grad[0]:
            if A.shape[0] >= A.shape[1]:
                a_bar = (b.to(A.dtype) - A @ x) @ solve(A, w).T - w @ x.T
            else:
                a_bar = solve(A.T.contiguous(), x) @ (bar - A.T @ w).T - w @ x.T
        shape, dtype = ctx.saved_tensors[1].shape, ctx.saved_tensors[1].dtype
        b_bar = w.reshape(shape).to(dtype) if ctx.needs_input_grad[1] else None
        return a_bar, b_bar, None, None, None, None


def _columns(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 2 else torch.unsqueeze(tensor, 1)
