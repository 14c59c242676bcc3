"""M-FAC as a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from raphson.ihvp import GradientWindow
from raphson.torch._opaque import opaque

__all__ = ["MFAC"]

Group = dict[str, Any]
ParamsT = Iterable[Tensor] | Iterable[Group] | Iterable[tuple[str, Tensor]]


def _check(group: Group) -> None:
    def require(good: bool, name: str, what: str) -> None:
        if not good:
            raise ValueError(f"MFAC: {name} must be {what}, got {group[name]!r}")

    require(0 <= float(group["lr"]) < math.inf, "lr", "finite and not negative")
    require(0 <= group["momentum"] < 1, "momentum", "in [0, 1)")
    require(0 <= group["weight_decay"] < math.inf, "weight_decay", "finite and not negative")


def _as_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """Arrays as tensors, so that ``torch.save`` and ``torch.load(weights_only=True)`` take them."""
    return {
        key: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value for key, value in state.items()
    }


def _as_arrays(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.numpy() if isinstance(value, Tensor) else value for key, value in state.items()}


class MFAC(Optimizer):
    r"""M-FAC: every gradient times the inverse of the damped empirical Fisher matrix of the newest ones.

    With g the group's gradients as one vector (+ ``weight_decay``·θ), the window holding the newest ``ngrads`` of them
    and F = damp·I + (1/ngrads) Σ gᵢgᵢᵀ, g among them:

    .. math:: u = F^{-1} g, \qquad v \leftarrow \beta v + (1 - \beta) u, \qquad \theta \leftarrow \theta - lr \cdot v

    Parameters
    ----------
    params : iterable of Tensors, of (name, Tensor), or of groups
        float32 or float64, on the CPU. Each group has a window of its own.
    lr : float
        Not negative.
    momentum : float
        β in [0, 1); of the preconditioned gradients. 0: v = u.
    weight_decay : float
        Coupled: added to the gradient before it is stored, as in the reference.
    ngrads : int
        Gradients kept.
    damp : float or ("relative", float)
        λ, as :class:`raphson.GradientWindow` takes it; may be changed in the group.
    window_dtype : {"float32", "float64", "bfloat16", "float16", "int8"}
        Of the stored gradients. "float64" keeps float64 gradients as they are; else they pass through float32.
    block_size : int, optional
        F is block-diagonal over that many consecutive entries each.

    Raises
    ------
    ValueError
        On construction: arguments out of range, an empty group. From ``step``: NaN or Inf in a gradient; nothing has
        been changed then.
    MemoryError
        A window that does not fit.
    RuntimeError
        From ``step``: complex parameters, sparse gradients, parameters that are not on the CPU.

    Notes
    -----
    Memory: ngrads·d stored entries. A step reads them twice and costs 3·ngrads² flops besides
    (:meth:`raphson.GradientWindow.precondition`). A parameter without a gradient counts as one of zeros and stays.
    ``state_dict`` carries the windows as tensors under ``"windows"``; loading one goes on bit for bit.

    Source: Frantar, Kurtic, Alistarh, M-FAC (arXiv 2107.03356) and its public optimizer, whose arguments and defaults
    these are; computed by the equivalent formula that does not cancel.

    Examples
    --------
    >>> optimizer = MFAC(model.parameters(), lr=1e-3, ngrads=64, damp=1e-4)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        ngrads: int = 1024,
        damp: float | tuple[str, float] = 1e-5,
        *,
        window_dtype: str = "float32",
        block_size: int | None = None,
    ) -> None:
        self._windows: list[GradientWindow] = []
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "ngrads": ngrads,
            "damp": damp,
            "window_dtype": window_dtype,
            "block_size": block_size,
        }
        _check(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of parameters, with a window of its own.

        Raises
        ------
        ValueError, MemoryError
            As the constructor. The optimizer is left as it was.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check(group)
            count = sum(param.numel() for param in group["params"])
            if count == 0:
                raise ValueError("MFAC: a group of parameters has no entries")
            self._windows.append(
                GradientWindow(
                    count,
                    group["ngrads"],
                    group["damp"],
                    dtype=group["window_dtype"],
                    block_size=group["block_size"],
                )
            )
        except Exception:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @opaque
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Stores the gradients, and moves every parameter that has one.

        Parameters
        ----------
        closure : callable, optional
            Called first, with gradients enabled: evaluates the model, calls ``backward`` and returns the loss.

        Returns
        -------
        What the closure returned, or None.

        Raises
        ------
        ValueError, RuntimeError
            See :class:`MFAC`. No parameter has moved then; windows of earlier groups may hold the new gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _check(group)
        flat = [self._flat(group) for group in self.param_groups]
        work = [(g, w, f) for g, w, f in zip(self.param_groups, self._windows, flat, strict=True) if f is not None]
        for group, window, _ in work:
            if group["damp"] != window.damping:
                window.damping = group["damp"]
        for _, window, gradient in work:
            window.precondition(gradient, out=gradient)
        for group, _, gradient in work:
            self._move(group, gradient)
        return loss

    def _flat(self, group: Group) -> Tensor | None:
        """The group's gradients as one vector; None where there is none at all."""
        params = group["params"]
        if all(param.grad is None for param in params):
            return None
        dtype = torch.float64 if group["window_dtype"] == "float64" else torch.float32
        parts = []
        for param in params:
            if param.is_complex() or param.device.type != "cpu":
                raise RuntimeError(f"MFAC: a parameter of shape {tuple(param.shape)} is complex or not on the CPU")
            if param.grad is None:
                parts.append(torch.zeros(param.numel(), dtype=dtype))
                continue
            if param.grad.layout != torch.strided:
                raise RuntimeError("MFAC: sparse gradients are not supported")
            gradient = param.grad
            if group["weight_decay"] != 0:
                gradient = gradient.add(param, alpha=group["weight_decay"])
            parts.append(gradient.reshape(-1).to(dtype))
        flat = torch.cat(parts)
        if not torch.isfinite(flat).all():
            raise ValueError("MFAC: a gradient contains NaN or Inf; nothing has been changed")
        return flat

    def _move(self, group: Group, flat: Tensor) -> None:
        lr, momentum, first = float(group["lr"]), group["momentum"], 0
        for param in group["params"]:
            part = flat[first : first + param.numel()].view(param.shape).to(param.dtype)
            first += param.numel()
            if param.grad is None:
                continue
            if momentum != 0:
                buffer = self.state[param].get("momentum_buffer")
                if buffer is None:
                    buffer = self.state[param]["momentum_buffer"] = torch.zeros_like(param)
                part = buffer.lerp_(part, 1 - momentum)
            param.sub_(part, alpha=lr)

    # ---- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As torch's, and the windows as plain tensors and numbers under ``"windows"``."""
        state: dict[str, Any] = super().state_dict()
        state["windows"] = [_as_tensors(window.state_dict()) for window in self._windows]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a :meth:`state_dict`.

        Raises
        ------
        ValueError
            A state without windows, or of other groups, sizes or dtypes. Nothing has been changed then.
        """
        saved = state_dict.get("windows")
        if saved is None or len(saved) != len(self._windows):
            raise ValueError(
                f"MFAC: load_state_dict: the state has {0 if saved is None else len(saved)} windows, "
                f"this optimizer {len(self._windows)}"
            )
        fresh = []
        for window, state in zip(self._windows, saved, strict=True):
            kind = {name: getattr(window, name) for name in ("dtype", "scale", "block_size", "error_feedback")}
            copy = GradientWindow(window.dim, window.capacity, window.damping, **kind)
            copy.load_state_dict(_as_arrays(state))
            fresh.append(copy)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "windows"})
        self._windows = fresh

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"_windows": self._windows}
