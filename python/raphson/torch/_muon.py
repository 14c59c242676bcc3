"""The Muon optimizer, with all matrices of a step orthogonalised in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import Optimizer, ParamsT

from raphson import newton_schulz
from raphson.torch._opaque import opaque

__all__ = ["Muon"]

Group = dict[str, Any]
Table = tuple[tuple[float, ...], ...]

VARIANTS = ("muon", "turbo", "root", "auon", "adamw")
PRECISIONS = ("bfloat16", "float32", "float64")
LEARNING_RATES = (None, "original", "match_rms_adamw")
CLIPPED_ABOVE = 0.9  # the quantile of |momentum| that ROOT clips at
# What a group from elsewhere (a checkpoint of torch.optim.Muon) does not have.
ADDED: Group = {
    "schedule": None,
    "variant": "muon",
    "precision": "bfloat16",
    "aux": "error",
    "adamw_betas": (0.9, 0.999),
    "adamw_eps": 1e-8,
}


@dataclass
class _Matrix:
    """A parameter on its way through a step."""

    group: Group
    name: str
    param: Tensor
    grad: Tensor
    buffer: Tensor
    update: Tensor  # (..., m, n)


class Muon(Optimizer):
    r"""Muon: momentum, orthogonalised by Newton–Schulz steps. A drop-in for ``torch.optim.Muon``.

    With gradient G, parameter W and :math:`\gamma` the learning rate, a step is

    .. math::
        B &\leftarrow \mu B + (1 - \mu) G \\
        U &= \mathrm{orthogonalize}(\mu B + (1 - \mu) G \text{ with nesterov, else } B) \\
        W &\leftarrow (1 - \gamma \lambda) W - \gamma\, r(m, n)\, U

    where :math:`r` is :math:`\sqrt{\max(1, m/n)}` (``adjust_lr_fn`` None or "original") or
    :math:`0.2 \sqrt{\max(m, n)}` ("match_rms_adamw"). All matrices of a step go through one
    :func:`raphson.orthogonalize_many`, so that equal shapes run as one batch and small ones share the threads.

    Parameters
    ----------
    params : iterable
        Of parameters, of (name, parameter) pairs or of dicts that define groups. float64, float32, bfloat16 or float16,
        also mixed, with two or more axes:

        ============== ========================================================================================
        axes           taken as
        ============== ========================================================================================
        2  (m, n)      one matrix
        3  (b, m, n)   b matrices: a batch of experts, say. The weight of a ``Conv1d`` has three axes as well, and
                       is taken as ``out`` matrices (in, k); pass it reshaped if that is not meant
        4+ (o, i, ...) one matrix (o, i·...): the kernels of ``Conv2d`` and ``Conv3d``
        ============== ========================================================================================
    lr : float or Tensor of one element
    weight_decay : float
        Decoupled, with the unadjusted learning rate.
    momentum, nesterov : float, bool
    ns_coefficients, ns_steps : (a, b, c), int
        The polynomial and how often; without ``schedule``, and for the variant "muon".
    eps : float
        The Frobenius norm that a matrix is divided by is never less than this, so that the updates of a parameter whose
        gradient has vanished fade out. Without effect on "turbo" and "auon".
    adjust_lr_fn : {None, "original", "match_rms_adamw"}
    schedule : str or array (steps, 3), optional
        Replaces ``ns_coefficients`` and ``ns_steps`` by any schedule of :func:`raphson.orthogonalize`, for example
        "polar_express".
    variant : {"muon", "turbo", "root", "auon", "adamw"}
        "turbo": schedule "turbo" with AOL normalisation (arXiv 2512.04632): four steps instead of five. "root":
        schedule "root" on the Nesterov momentum clipped at the 0.9-quantile of its magnitudes
        (:func:`raphson.newton_schulz.soft_clip`; arXiv 2511.20626). "auon": :func:`raphson.newton_schulz.auon` in
        place of the iteration. "adamw", meant for single groups: every parameter of the group is updated by AdamW, as
        is wanted for embeddings and output layers, matrices though they are.
    precision : {"bfloat16", "float32", "float64"}, optional
        Arithmetic of the iteration, whatever the parameters' dtype; None is the parameter's own.
    aux : {"error", "adamw"}
        Parameters with fewer than two axes raise, or are updated by AdamW with the group's ``lr`` and ``weight_decay``
        and its entries ``adamw_betas`` (0.9, 0.999) and ``adamw_eps`` (1e-8).
    comm : None
        Reserved for parameters sharded over processes.

    Every argument but ``comm`` may also be an entry of a group.

    Raises
    ------
    ValueError
        On construction and from ``add_param_group``: a parameter of fewer than two axes with ``aux="error"``, an
        argument out of range. From ``step``: NaN or Inf in the gradient or momentum of a matrix; no parameter and no
        state has been changed then.
    RuntimeError
        From ``step``: complex parameters, sparse gradients, devices that this build does not serve.

    Notes
    -----
    State: ``momentum_buffer`` for matrices as in torch.optim.Muon, whose checkpoints load here and the other way round;
    ``step``, ``exp_avg``, ``exp_avg_sq`` for parameters under AdamW, as in torch.optim.AdamW.

    Cost: 3m²n + m³ flops a matrix and Newton–Schulz step, m ≤ n, besides a few passes over parameters, gradients and
    momentum. The updates of all matrices exist at once: as much memory as the parameters take, during ``step``.

    Differences from torch.optim.Muon: matrices are normalised in float64 rather than in bfloat16, and the Nesterov
    momentum is rounded once rather than twice, both below the noise of a bfloat16 iteration; NaN or Inf raise instead
    of spreading into the parameters; an empty parameter is skipped instead of dividing by zero; a gradient of zeros
    with ``eps=0`` gives zeros, not NaN.

    Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/; learning rates of arXiv 2502.16982.

    Examples
    --------
    >>> hidden = [p for p in model.blocks.parameters()]
    >>> others = [*model.embedding.parameters(), *model.head.parameters()]
    >>> optimizer = Muon(
    ...     [{"params": hidden}, {"params": others, "variant": "adamw", "lr": 3e-4}], lr=0.02, aux="adamw"
    ... )
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        schedule: Any = None,
        variant: str = "muon",
        precision: str | None = "bfloat16",
        aux: str = "error",
        comm: None = None,
    ) -> None:
        if comm is not None:
            raise ValueError("Muon: comm= is reserved for sharded parameters and must be None in this version")
        defaults = ADDED | {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "schedule": _plain(schedule),
            "variant": variant,
            "precision": precision,
            "aux": aux,
        }
        _check(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Adds a group of parameters; as ``torch.optim.Optimizer.add_param_group``.

        Raises
        ------
        ValueError
            As the constructor. The optimizer is left as it was.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            group["schedule"] = _plain(group["schedule"])
            _check(group)
            for param, name in zip(group["params"], _names(group, len(self.param_groups) - 1), strict=True):
                if param.ndim < 2 and not _by_adamw(param, group):
                    raise ValueError(
                        f"Muon: {name} has shape {tuple(param.shape)}, which is no matrix: aux='adamw' updates such "
                        "parameters by AdamW"
                    )
        except Exception:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in ADDED.items():
                group.setdefault(key, value)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @opaque
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates every parameter that has a gradient.

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
            See :class:`Muon`. No parameter and no state has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        matrices: list[_Matrix] = []
        others: list[tuple[Group, list[Tensor]]] = []
        for number, group in enumerate(self.param_groups):
            _check(group)
            named = [
                (param, name)
                for param, name in zip(group["params"], _names(group, number), strict=True)
                if param.grad is not None
            ]
            for param, name in named:
                if param.is_complex():
                    raise RuntimeError(f"Muon: {name} is complex, which is not supported")
                if param.grad.layout != torch.strided:
                    raise RuntimeError(f"Muon: the gradient of {name} is sparse, which is not supported")
            others.append((group, [param for param, _ in named if _by_adamw(param, group)]))
            matrices += self._momentum(group, [item for item in named if not _by_adamw(item[0], group)])

        _orthogonalize(matrices)

        for group, params in others:
            self._adamw(group, params)
        for group in self.param_groups:
            self._apply(group, [entry for entry in matrices if entry.group is group])
        return loss

    def _momentum(self, group: Group, named: Iterable[tuple[Tensor, str]]) -> list[_Matrix]:
        """What is to be orthogonalised; the momentum buffers themselves stay as they are until all has succeeded."""
        entries = []
        for param, name in named:
            assert param.grad is not None
            buffer = self.state[param].get("momentum_buffer")
            if buffer is None:
                buffer = torch.zeros_like(param.grad, memory_format=torch.preserve_format)
            entries.append(_Matrix(group, name, param, param.grad, buffer, buffer))
        entries = [entry for entry in entries if entry.param.numel() > 0]
        if not entries:
            return []
        momentum = group["momentum"]
        grads = [entry.grad for entry in entries]
        buffers = [entry.buffer for entry in entries]
        if group["nesterov"]:  # lerp(grad, lerp(buffer, grad, 1 - momentum), momentum), in one
            updates = torch._foreach_lerp(grads, buffers, momentum * momentum)
        else:
            updates = torch._foreach_lerp(buffers, grads, 1 - momentum)
        for entry, update in zip(entries, updates, strict=True):
            matrix = update.flatten(1) if update.ndim > 3 else update
            entry.update = matrix.float() if matrix.dtype == torch.float16 else matrix
        return entries

    def _apply(self, group: Group, entries: list[_Matrix]) -> None:
        if not entries:
            return
        lr = float(group["lr"])
        for entry in entries:
            self.state[entry.param].setdefault("momentum_buffer", entry.buffer)
        torch._foreach_lerp_([e.buffer for e in entries], [e.grad for e in entries], 1 - group["momentum"])
        if group["weight_decay"] != 0:
            torch._foreach_mul_([entry.param for entry in entries], 1 - lr * group["weight_decay"])
        by_rate: dict[float, list[_Matrix]] = {}
        for entry in entries:
            rows, cols = entry.update.shape[-2:]
            by_rate.setdefault(lr * _ratio(group["adjust_lr_fn"], rows, cols), []).append(entry)
        for rate, same in by_rate.items():
            updates = [entry.update.reshape(entry.param.shape) for entry in same]
            torch._foreach_add_([entry.param for entry in same], updates, alpha=-rate)

    def _adamw(self, group: Group, params: list[Tensor]) -> None:
        if not params:
            return
        for param in params:
            state = self.state[param]
            if "exp_avg" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        states = [self.state[param] for param in params]
        beta1, beta2 = group["adamw_betas"]
        adamw(
            params,
            [param.grad for param in params if param.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["adamw_eps"],
            maximize=False,
        )


def _names(group: Group, number: int) -> list[str]:
    """How to call the parameters of a group in a message."""
    if "param_names" in group:
        return [f"parameter {name!r}" for name in group["param_names"]]
    return [f"parameter {index} of group {number}" for index in range(len(group["params"]))]


def _by_adamw(param: Tensor, group: Group) -> bool:
    return group["variant"] == "adamw" or (group["aux"] == "adamw" and param.ndim < 2)


def _plain(schedule: Any) -> str | Table | None:
    """A table as tuples of floats, which are plain data in a state_dict."""
    if schedule is None or isinstance(schedule, str):
        return schedule
    table = np.asarray(schedule, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 3 or len(table) == 0:
        raise ValueError(f"Muon: schedule must be a name or an array (steps, 3), got shape {table.shape}")
    return tuple(tuple(row) for row in table.tolist())


def _check(group: Group) -> None:
    """Arguments out of range."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Muon: lr must have one element, got shape {tuple(lr.shape)}")
    for key in ("lr", "momentum", "weight_decay", "eps", "ns_steps", "adamw_eps"):
        if not group[key] >= 0:
            raise ValueError(f"Muon: {key} must be at least 0, got {group[key]}")
    if group["ns_steps"] >= 100:
        raise ValueError(f"Muon: ns_steps must be less than 100, got {group['ns_steps']}")
    if len(group["ns_coefficients"]) != 3:
        raise ValueError(f"Muon: ns_coefficients must be three numbers, got {group['ns_coefficients']}")
    if len(group["adamw_betas"]) != 2 or not all(0 <= beta < 1 for beta in group["adamw_betas"]):
        raise ValueError(f"Muon: adamw_betas must be two numbers in [0, 1), got {group['adamw_betas']}")
    choices: dict[str, Sequence[Any]] = {
        "adjust_lr_fn": LEARNING_RATES,
        "variant": VARIANTS,
        "precision": (*PRECISIONS, None),
        "aux": ("error", "adamw"),
    }
    for key, known in choices.items():
        if group[key] not in known:
            raise ValueError(f"Muon: {key} must be one of {', '.join(map(repr, known))}, got {group[key]!r}")
    if isinstance(group["schedule"], str):
        newton_schulz.schedule(group["schedule"])


def _ratio(adjust: str | None, rows: int, cols: int) -> float:
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, cols))
    return math.sqrt(max(1.0, rows / cols))


def _schedule(group: Group) -> str | Table:
    """Name or table for :func:`raphson.orthogonalize`."""
    if group["schedule"] is not None:
        return group["schedule"] if isinstance(group["schedule"], str) else _plain(group["schedule"]) or ()
    if group["variant"] in ("turbo", "root"):
        return str(group["variant"])
    row = tuple(float(value) for value in group["ns_coefficients"])
    return (row,) * group["ns_steps"] or ((1.0, 0.0, 0.0),)


def _orthogonalize(entries: list[_Matrix]) -> None:
    """Replaces the updates by what the variants make of them, all of one dtype and one iteration in one call."""
    batches: dict[Any, list[_Matrix]] = {}
    try:
        for entry in entries:
            variant = entry.group["variant"]
            if variant == "auon":
                entry.update = newton_schulz.auon(entry.update)
                continue
            if variant == "root":
                entry.update = newton_schulz.soft_clip(entry.update, quantile=CLIPPED_ABOVE)[0]
            normalize = "aol" if variant == "turbo" else None
            key = (_schedule(entry.group), normalize, entry.group["precision"], entry.update.dtype)
            batches.setdefault(key, []).append(entry)
        for (schedule, normalize, precision, _), batch in batches.items():
            keywords = {"schedule": schedule, "normalize": normalize, "precision": precision}
            given = [entry.update if (padded := _padded(entry, keywords)) is None else padded for entry in batch]
            newton_schulz.orthogonalize_many(given, **keywords, out=given)
            for entry, result in zip(batch, given, strict=True):
                rows, cols = entry.update.shape[-2:]
                entry.update = result[..., :rows, :cols]
    except ValueError as error:
        for entry in entries:
            if not bool(entry.grad.isfinite().all() & entry.buffer.isfinite().all()):
                raise ValueError(
                    f"Muon: the gradient or momentum of {entry.name}, shape {tuple(entry.param.shape)}, contains NaN "
                    "or Inf; nothing has been updated"
                ) from error
        raise


def _padded(entry: _Matrix, keywords: dict[str, Any]) -> Tensor | None:
    """diag(X, d) of Frobenius norm eps for a matrix X of less: its iteration contains that of X / eps. A rarity."""
    update, eps = entry.update, entry.group["eps"]
    bound = torch.linalg.vector_norm(update[..., 0, :], dim=-1, dtype=torch.float64)  # from below, at little cost
    if bool((bound >= eps).all()):
        return None
    norm = torch.linalg.vector_norm(update, dim=(-2, -1), dtype=torch.float64)
    if bool(((norm >= eps) | (norm == 0)).all()):
        return None
    if newton_schulz.plan(update.shape, dtype=update.dtype, **keywords).normalize != "frobenius":
        return None
    padded = torch.nn.functional.pad(update, (0, 1, 0, 1))
    padded[..., -1, -1] = (eps * eps - norm * norm).clamp(min=0).sqrt()
    return padded
