"""Entropic transport with gradients: implicit differentiation of the fixed point, never through the iterations."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from raphson import ot
from raphson.torch._opaque import opaque

__all__ = ["PointCloud", "TransportResult", "sinkhorn"]


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Costs between two sets of points that may require grad: :class:`raphson.PointCloud` has the details.

    Attributes
    ----------
    x, y : Tensor (n, d), (m, d)
    metric : str
    scale : float
    """

    x: Tensor
    y: Tensor
    metric: str = "sqeuclidean"
    scale: float = 1.0


@dataclass(frozen=True, eq=False, repr=False)
class TransportResult(ot.TransportResult):
    """A :class:`raphson.ot.TransportResult` whose ``cost``, ``objective`` and ``plan`` carry gradients.

    They reach a, b and the cost, or the points, where those require grad. ``detach()``, pickling and copying give the
    plain result.
    """

    _plain: ot.TransportResult | None = field(repr=False, default=None)
    _inputs: tuple[Tensor | None, ...] = field(repr=False, default=())

    @property
    @opaque
    def plan(self) -> Tensor:
        """P, dense (n, m), in the cost's dtype, built on first use."""
        assert self._plain is not None
        if not torch.is_grad_enabled():
            bare: Tensor = self._plain.plan
            return bare
        kept = self.__dict__.get("_plan")
        if kept is None:
            kept = _Plan.apply(self._plain, *self._inputs)  # type: ignore[no-untyped-call]
            object.__setattr__(self, "_plan", kept)
        tensor: Tensor = kept
        return tensor

    def detach(self) -> ot.TransportResult:
        """The plain result without the cost."""
        assert self._plain is not None
        return replace(self._plain, _problem=None)

    def __repr__(self) -> str:
        return repr(self._plain)

    def __reduce__(self) -> tuple[Any, ...]:
        return _identity, (self._plain,)


def _identity(result: ot.TransportResult) -> ot.TransportResult:
    return result


@opaque
def sinkhorn(
    a: Tensor | None, b: Tensor | None, cost: Tensor | PointCloud | ot.PointCloud, reg: float, **options: Any
) -> TransportResult:
    """:func:`raphson.ot.sinkhorn` whose ``cost``, ``objective`` and ``plan`` are differentiable.

    Parameters
    ----------
    a, b : Tensor (n,), (m,), or None
        Weights; None is uniform.
    cost : Tensor (n, m), or PointCloud
        ``raphson.torch.PointCloud`` where the points require grad.
    reg, **options
        As in :func:`raphson.ot.sinkhorn`.

    Returns
    -------
    TransportResult

    Raises
    ------
    TypeError, ValueError
        As :func:`raphson.ot.sinkhorn`; RuntimeError for second derivatives.

    Warns
    -----
    ConvergenceWarning
        The transport, or in ``backward`` the adjoint system, did not reach its tolerance.

    Notes
    -----
    ``backward`` is one :meth:`raphson.ot.TransportResult.vjp` for cost and objective together and one for the plan; of
    the objective alone it needs no linear system. Balanced, gradients of a and b are free by opposite constants. The
    inputs are saved, not copied: to change one in place before ``backward`` is an error.
    """
    points = (cost.x, cost.y) if isinstance(cost, (PointCloud, ot.PointCloud)) else (cost, None)
    inputs = (a, b, *points)
    left, right, *bare = (x.detach() if isinstance(x, Tensor) else x for x in inputs)
    given: Any = bare[0]
    if isinstance(cost, (PointCloud, ot.PointCloud)):
        given = ot.PointCloud(*bare, metric=cost.metric, scale=cost.scale)
    plain = ot.sinkhorn(left, right, given, reg, **options)
    values = {entry.name: getattr(plain, entry.name) for entry in fields(plain)}
    values["cost"], values["objective"] = _Numbers.apply(plain, *inputs)  # type: ignore[no-untyped-call]
    return TransportResult(**values, _plain=plain, _inputs=inputs)


def _save(ctx: Any, plain: ot.TransportResult, inputs: tuple[Any, ...]) -> None:
    ctx.plain = plain
    ctx.given = [isinstance(x, Tensor) for x in inputs]
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))


def _gradients(ctx: Any, **bars: Any) -> tuple[Tensor | None, ...]:
    """None for the result, then what a, b, and the cost or x and y get."""
    saved = iter(ctx.saved_tensors)  # an input that was changed in place is found here
    inputs = [next(saved) if given else None for given in ctx.given]
    found = ctx.plain.vjp(**bars)
    names = ("a", "b", "cost", "") if "cost" in found else ("a", "b", "x", "y")
    return None, *(
        found[name].to(x.dtype) if x is not None and needed else None
        for name, x, needed in zip(names, inputs, ctx.needs_input_grad[1:], strict=True)
    )


class _Numbers(Function):
    @staticmethod
    def forward(ctx: Any, plain: ot.TransportResult, *inputs: Any) -> tuple[Tensor, Tensor]:
        _save(ctx, plain, inputs)
        return torch.as_tensor(plain.cost).clone(), torch.as_tensor(plain.objective).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cost_bar: Tensor, objective_bar: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, cost_bar=float(cost_bar), objective_bar=float(objective_bar))


class _Plan(Function):
    @staticmethod
    def forward(ctx: Any, plain: ot.TransportResult, *inputs: Any) -> Tensor:
        _save(ctx, plain, inputs)
        plan: Tensor = plain.dense()
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, plan_bar: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, plan_bar=plan_bar.detach())
