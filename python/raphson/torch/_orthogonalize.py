"""The differentiable twin of :func:`raphson.orthogonalize`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from raphson import newton_schulz
from raphson.torch._opaque import opaque

__all__ = ["orthogonalize"]

Settings = dict[str, Any]


def _batch_first(x: Tensor, axis: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if axis is None else x.movedim(axis, 0)


class _Orthogonalize(Function):
    """Q = orthogonalize(x)."""

    @staticmethod
    def forward(x: Tensor, settings: Settings) -> Tensor:
        return newton_schulz.orthogonalize(x.detach(), **settings)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Settings], output: Tensor) -> None:
        x, ctx.settings = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _pull_back(x, cotangent, ctx.settings), None

    @staticmethod
    def vmap(info: Any, axes: tuple[int, None], x: Tensor, settings: Settings) -> tuple[Tensor, int]:
        return _apply(_batch_first(x, axes[0], info.batch_size), settings), 0


class _PullBack(Function):
    """The vector-Jacobian product, a function of its own so that ``torch.func`` can batch it; not differentiable."""

    @staticmethod
    def forward(x: Tensor, cotangent: Tensor, settings: Settings) -> Tensor:
        kept = {
            k: v for k, v in settings.items() if k != "method"
        }  # it changes how the polynomial is evaluated, not which
        result: Tensor = newton_schulz.orthogonalize_vjp(x.detach(), cotangent.detach(), **kept)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Settings], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> None:
        raise RuntimeError("orthogonalize: second derivatives are not supported")

    @staticmethod
    def vmap(
        info: Any, axes: tuple[int | None, int | None, None], x: Tensor, cotangent: Tensor, settings: Settings
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        return _pull_back(_batch_first(x, axes[0], size), _batch_first(cotangent, axes[1], size), settings), 0


def _apply(x: Tensor, settings: Settings) -> Tensor:
    result: Tensor = _Orthogonalize.apply(x, settings)  # type: ignore[no-untyped-call]
    return result


def _pull_back(x: Tensor, cotangent: Tensor, settings: Settings) -> Tensor:
    result: Tensor = _PullBack.apply(x, cotangent, settings)  # type: ignore[no-untyped-call]
    return result


@opaque
def orthogonalize(
    x: Tensor,
    *,
    schedule: Any = "polar_express",
    steps: int | None = None,
    normalize: str | None = None,
    method: str = "auto",
    precision: str | None = None,
    eps: float = 1e-7,
    check_finite: bool | None = None,
    out: Tensor | None = None,
    comm: None = None,
) -> Tensor:
    """:func:`raphson.orthogonalize` for torch tensors, differentiable in x.

    The derivative is that of the polynomial iteration that is computed, normalisation included, not that of the exact
    polar factor. Also for ``torch.func.grad``, ``vjp`` and ``vmap``.

    Parameters
    ----------
    x : Tensor (..., m, n)
        float64, float32 or bfloat16, on CUDA float16 too; any strides; may require grad.
    out : Tensor, optional
        Written and returned; same shape and dtype as x, ``out=x`` works in place. Only where nothing is recorded for
        differentiation: x does not require grad, or under ``torch.no_grad()``.
    schedule, steps, normalize, method, precision, eps, check_finite, comm
        As for :func:`raphson.orthogonalize`.

    Returns
    -------
    Tensor (..., m, n)
        In x's dtype; requires grad if x does.

    Raises
    ------
    TypeError
        x is no tensor; a dtype that is not taken.
    ValueError
        As :func:`raphson.orthogonalize`; ``out`` where x requires grad.
    RuntimeError
        In a second differentiation, which is not supported, and for devices that this build does not serve.

    Notes
    -----
    The backward pass recomputes the iteration from x and reverses it (:func:`raphson.newton_schulz.orthogonalize_vjp`):
    only x is kept from the forward pass.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"orthogonalize: x must be a torch.Tensor, got {type(x).__name__}; raphson.orthogonalize takes others"
        )
    if comm is not None:
        raise ValueError("orthogonalize: comm= is reserved for sharded matrices and must be None in this version")
    settings = {
        "schedule": schedule,
        "steps": steps,
        "normalize": normalize,
        "method": method,
        "precision": precision,
        "eps": eps,
        "check_finite": check_finite,
    }
    if out is None:
        return _apply(x, settings)
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise ValueError("orthogonalize: out= cannot be differentiated; leave it out, or work under torch.no_grad()")
    newton_schulz.orthogonalize(x.detach(), **settings, out=out.detach())
    return out
