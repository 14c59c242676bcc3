"""Muon as a gradient transformation in optax's manner, without optax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from raphson import newton_schulz
from raphson.jax._call import Arrays, call, dump, like, serves

__all__ = ["GradientTransformation", "MuonState", "muon"]

VARIANTS = ("muon", "turbo", "root", "auon")
LEARNING_RATES = (None, "original", "match_rms_adamw")
PRECISIONS = ("bfloat16", "float32", "float64", None)
LAYOUTS = ("in_out", "out_in")
CLIPPED_ABOVE = 0.9  # the quantile of |momentum| that ROOT clips at


class GradientTransformation(NamedTuple):
    """``init(params) -> state`` and ``update(gradients, state, params) -> (updates, state)``, as optax's."""

    init: Callable[[Any], MuonState]
    update: Callable[..., tuple[Any, MuonState]]


class MuonState(NamedTuple):
    """What :func:`muon` keeps.

    Attributes
    ----------
    count : array (), int32
        Steps taken.
    momentum : like the parameters
        The momentum of matrices, the first moment of what AdamW updates.
    second_moment : like the parameters
        Of what AdamW updates; empty arrays for matrices.
    """

    count: Any
    momentum: Any
    second_moment: Any


def muon(
    learning_rate: float | Callable[[Any], Any] = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: Sequence[float] = (3.4445, -4.775, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    *,
    schedule: Any = None,
    variant: str = "muon",
    precision: str | None = "bfloat16",
    aux: str = "error",
    adamw_betas: tuple[float, float] = (0.9, 0.999),
    adamw_eps: float = 1e-8,
    layout: str = "in_out",
) -> GradientTransformation:
    r"""Muon: momentum, orthogonalised by Newton–Schulz steps. For ``optax.chain``, ``optax.multi_transform``, or alone.

    The steps of :class:`raphson.torch.Muon` with its settings; all matrices of a step go through one
    :func:`raphson.orthogonalize_many`.

    Parameters
    ----------
    learning_rate : float or callable
        A callable gets the number of steps taken, as optax's schedules do.
    weight_decay : float
        Decoupled, with the unadjusted learning rate: ``update`` needs ``params`` unless it is 0.
    momentum, nesterov, ns_coefficients, eps, ns_steps, schedule, precision
        As for :class:`raphson.torch.Muon`.
    adjust_lr_fn : {None, "original", "match_rms_adamw"}
        Matrices from i inputs to o outputs are scaled by √max(1, o/i), or 0.2 √max(o, i).
    variant : {"muon", "turbo", "root", "auon"}
        As there.
    aux : {"error", "adamw"}
        Parameters with fewer than two axes raise in ``init``, or are updated by AdamW with ``adamw_betas`` and
        ``adamw_eps``. Embeddings and output layers belong to another transformation (``optax.multi_transform``).
    layout : {"in_out", "out_in"}
        How matrices are stored: (inputs, outputs), as flax, haiku and equinox' convolutions do not all agree on.
        Parameters of three axes are batches of matrices; of four and more the last axis ("in_out": kernels of flax'
        convolutions) or the first one ("out_in": torch's) counts as one side.

    Returns
    -------
    GradientTransformation
        Updates are to be added to the parameters; they have the parameters' dtype.

    Raises
    ------
    ValueError
        Settings out of range; parameters that are no matrices with ``aux="error"``.
    TypeError
        Parameters that are not float64, float32, bfloat16 or float16.

    Notes
    -----
    NaN or Inf in a gradient gives NaN in that parameter's update (``optax.apply_if_finite`` skips such steps). The CPU
    only.
    """
    if not callable(learning_rate) and not float(learning_rate) >= 0:
        raise ValueError(f"muon: learning_rate must be at least 0, got {learning_rate}")
    checked = {"weight_decay": weight_decay, "momentum": momentum, "eps": eps, "adamw_eps": adamw_eps}
    for name, value in {**checked, "ns_steps": ns_steps}.items():
        if not value >= 0:
            raise ValueError(f"muon: {name} must be at least 0, got {value}")
    choices: dict[str, tuple[Any, Sequence[Any]]] = {
        "adjust_lr_fn": (adjust_lr_fn, LEARNING_RATES),
        "variant": (variant, VARIANTS),
        "precision": (precision, PRECISIONS),
        "aux": (aux, ("error", "adamw")),
        "layout": (layout, LAYOUTS),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"muon: {name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    if len(ns_coefficients) != 3:
        raise ValueError(f"muon: ns_coefficients must be three numbers, got {ns_coefficients}")
    if len(adamw_betas) != 2 or not all(0 <= beta < 1 for beta in adamw_betas):
        raise ValueError(f"muon: adamw_betas must be two numbers in [0, 1), got {adamw_betas}")
    settings = {
        "schedule": _table(schedule, variant, ns_coefficients, ns_steps),
        "normalize": "aol" if variant == "turbo" else None,
        "precision": precision,
    }
    newton_schulz.orthogonalize(np.zeros((1, 1), np.float32), **settings)
    text = dump(**settings, variant=variant, eps=float(eps))

    def init(params: Any) -> MuonState:
        tree: Any
        paths, tree = jax.tree_util.tree_flatten_with_path(params)
        for path, leaf in paths:
            where = jax.tree_util.keystr(path)
            if jnp.result_type(leaf).name not in ("float64", "float32", "bfloat16", "float16"):
                raise TypeError(f"muon: parameter {where} has dtype {jnp.result_type(leaf).name}")
            if jnp.ndim(leaf) < 2 and aux == "error":
                raise ValueError(
                    f"muon: parameter {where} has shape {jnp.shape(leaf)}, but only matrices can be orthogonalised; "
                    "aux='adamw' updates others by AdamW"
                )
        zeros = [jnp.zeros_like(leaf) for _, leaf in paths]
        second = [jnp.zeros(0, leaf.dtype) if leaf.ndim >= 2 else leaf for leaf in zeros]
        return MuonState(jnp.zeros((), jnp.int32), tree.unflatten(zeros), tree.unflatten(second))

    def update(updates: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        tree: Any
        gradients, tree = jax.tree.flatten(updates)
        if weight_decay != 0 and params is None:
            raise ValueError("muon: weight_decay needs the parameters: update(gradients, state, params)")
        weights: list[Any] = [None] * len(gradients) if params is None else tree.flatten_up_to(params)
        first, second = tree.flatten_up_to(state.momentum), tree.flatten_up_to(state.second_moment)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        count = state.count + 1
        given: dict[int, Any] = {}
        steps: list[Any] = [None] * len(gradients)
        for k, gradient in enumerate(gradients):
            if gradient.ndim >= 2:
                first[k] = _lerp(gradient, first[k], momentum)
                given[k] = _matrix(_lerp(gradient, first[k], momentum) if nesterov else first[k], layout)
                continue
            beta1, beta2 = adamw_betas
            first[k] = _lerp(gradient, first[k], beta1)
            second[k] = _lerp(gradient * gradient, second[k], beta2)
            mean, square = first[k] / (1 - beta1**count), second[k] / (1 - beta2**count)
            steps[k] = mean / (jnp.sqrt(square) + adamw_eps)
        for k, direction in zip(given, _directions(list(given.values()), text), strict=True):
            rows, cols = direction.shape[-2:]
            ratio = _ratio(adjust_lr_fn, *((cols, rows) if layout == "in_out" else (rows, cols)))
            steps[k] = ratio * direction.reshape(gradients[k].shape).astype(gradients[k].dtype)
        for k, step in enumerate(steps):
            if weight_decay != 0:
                step = step + weight_decay * weights[k]
            steps[k] = (-rate * step).astype(gradients[k].dtype)
        return tree.unflatten(steps), MuonState(count, tree.unflatten(first), tree.unflatten(second))

    return GradientTransformation(init, update)


def _lerp(new: Any, old: Any, weight: float) -> Any:
    return (weight * old + (1 - weight) * new).astype(old.dtype)


def _ratio(adjust: str | None, outputs: int, inputs: int) -> float:
    if adjust == "match_rms_adamw":
        return 0.2 * math.sqrt(max(outputs, inputs))
    return math.sqrt(max(1.0, outputs / max(inputs, 1)))


def _matrix(x: Any, layout: str) -> Any:
    if x.dtype == jnp.float16:
        x = x.astype(jnp.float32)
    if x.ndim < 4 or x.size == 0:
        return x
    return x.reshape(-1, x.shape[-1]) if layout == "in_out" else x.reshape(x.shape[0], -1)


def _table(schedule: Any, variant: str, coefficients: Sequence[float], steps: int) -> Any:
    """Name or table for :func:`raphson.orthogonalize`."""
    if schedule is not None:
        return schedule if isinstance(schedule, str) else np.asarray(schedule, dtype=np.float64).tolist()
    if variant in ("turbo", "root"):
        return variant
    return [[float(value) for value in coefficients]] * steps or [[1.0, 0.0, 0.0]]


def _directions(matrices: list[Any], settings: str) -> list[Any]:
    """One call for the matrices of one dtype."""
    found: list[Any] = [None] * len(matrices)
    for dtype in {x.dtype for x in matrices}:
        which = [k for k, x in enumerate(matrices) if x.dtype == dtype]
        same = [matrices[k] for k in which]
        results = call("muon", settings, tuple(like(x.shape, x.dtype) for x in same), *same)
        for k, result in zip(which, results, strict=True):
            found[k] = result
    return found


@serves("muon")
def _serve(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    keywords = {name: settings[name] for name in ("schedule", "normalize", "precision")}
    variant, eps = settings["variant"], settings["eps"]
    given, targets, places = [], [], []
    for x, out in zip(inputs, outputs, strict=True):
        x = np.broadcast_to(x, out.shape)
        if variant in ("root", "auon") and not np.isfinite(x).all():
            out[...] = np.nan
        elif variant == "auon":
            out[...] = newton_schulz.auon(x)
        else:
            x = newton_schulz.soft_clip(x, quantile=CLIPPED_ABOVE)[0] if variant == "root" else x
            padded = _padded(x, eps, keywords)
            given.append(x if padded is None else padded)
            targets.append(out if padded is None else padded)
            places.append(out)
    newton_schulz.orthogonalize_many(given, **keywords, check_finite=False, out=targets)
    for target, out in zip(targets, places, strict=True):
        if target is not out:
            out[...] = target[..., :-1, :-1]


def _padded(x: npt.NDArray[Any], eps: float, keywords: dict[str, Any]) -> npt.NDArray[Any] | None:
    """diag(X, d) of Frobenius norm eps for a matrix X of less: its iteration contains that of X / eps. A rarity."""
    if x.size == 0 or (np.abs(x[..., 0, :]).max(axis=-1) >= eps).all():  # a bound from below, at little cost
        return None
    squares = (x.astype(np.float64) ** 2).sum(axis=(-2, -1))
    if ((squares >= eps * eps) | (squares == 0)).all():
        return None
    if newton_schulz.plan(x.shape, dtype=x.dtype.name, **keywords).normalize != "frobenius":
        return None
    wide = np.zeros((*x.shape[:-2], x.shape[-2] + 1, x.shape[-1] + 1), x.dtype)
    wide[..., :-1, :-1] = x
    wide[..., -1, -1] = np.sqrt(np.maximum(eps * eps - squares, 0))
    return wide
