"""Orthogonalisation in jax programs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from raphson import newton_schulz
from raphson.jax._call import Arrays, call, dump, like, matrices, serves, traced

__all__ = ["orthogonalize", "orthogonalize_many"]

DTYPES = ("float64", "float32", "bfloat16")


def orthogonalize(
    x: Any,
    *,
    schedule: Any = "polar_express",
    steps: int | None = None,
    normalize: str | None = None,
    method: str = "auto",
    precision: str | None = None,
    eps: float = 1e-7,
    check_finite: bool | None = None,
) -> jax.Array:
    """:func:`raphson.orthogonalize` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    x : array (..., m, n)
        float64, float32 or bfloat16.
    schedule, steps, normalize, method, precision, eps
        As for :func:`raphson.orthogonalize`; fixed when a program is compiled.
    check_finite : bool, optional
        None: NaN or Inf raises where x is a concrete array, and gives NaN inside of transformations. True: there it
        ends the program with ``jax.errors.JaxRuntimeError``.

    Returns
    -------
    jax.Array (..., m, n)
        In x's dtype.

    Raises
    ------
    TypeError, ValueError
        As :func:`raphson.orthogonalize`, of shapes and settings when the program is traced.

    Notes
    -----
    The derivative (reverse mode, once) is that of the polynomial iteration, normalisation included
    (:func:`raphson.newton_schulz.orthogonalize_vjp`); only x is kept for it. Mapped axes are batch axes: one call.
    Compiled calls work on XLA's buffers, without copies, on the CPU.
    """
    array = matrices("orthogonalize", "x", x, DTYPES)
    settings = {
        "schedule": schedule,
        "steps": steps,
        "normalize": normalize,
        "method": method,
        "precision": precision,
        "eps": eps,
    }
    if not traced(array):
        found: jax.Array = newton_schulz.orthogonalize(array, **settings, check_finite=check_finite)
        return found
    (result,) = _traced([array], settings, check_finite)
    return result


def orthogonalize_many(arrays: Iterable[Any], **settings: Any) -> list[jax.Array]:
    """:func:`orthogonalize` of matrices of any shapes in one dispatch.

    Parameters
    ----------
    arrays : iterable of arrays (..., m, n)
        One dtype; shapes may differ.
    **settings
        As for :func:`orthogonalize`, for all of them.

    Returns
    -------
    list of jax.Array
    """
    given = [matrices("orthogonalize_many", f"arrays[{k}]", x, DTYPES) for k, x in enumerate(arrays)]
    if not given:
        return []
    if not traced(given):
        return newton_schulz.orthogonalize_many(given, **settings)
    if len({array.dtype for array in given}) > 1:
        raise TypeError("orthogonalize_many: arrays must share a dtype")
    check_finite = settings.pop("check_finite", None)
    return _traced(given, settings, check_finite)


def _traced(arrays: list[jax.Array], settings: dict[str, Any], check_finite: bool | None) -> list[jax.Array]:
    # settings are looked at now: inside of the program a mistake would end it
    newton_schulz.orthogonalize(np.zeros((1, 1), arrays[0].dtype), **settings)
    return list(_many(tuple(arrays), dump(**settings, check_finite=bool(check_finite))))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _many(arrays: tuple[jax.Array, ...], settings: str) -> tuple[jax.Array, ...]:
    results: tuple[jax.Array, ...] = call(
        "orthogonalize", settings, tuple(like(x.shape, x.dtype) for x in arrays), *arrays
    )
    return results


def _forward(arrays: tuple[jax.Array, ...], settings: str) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    return _many(arrays, settings), arrays


def _backward(settings: str, arrays: tuple[jax.Array, ...], bars: tuple[Any, ...]) -> tuple[tuple[jax.Array, ...]]:
    return (
        tuple(
            call("orthogonalize_vjp", settings, like(x.shape, x.dtype), x, jnp.asarray(bar, x.dtype))
            for x, bar in zip(arrays, bars, strict=True)
        ),
    )


_many.defvjp(_forward, _backward)


@serves("orthogonalize")
def _serve(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    given = [np.broadcast_to(x, out.shape) for x, out in zip(inputs, outputs, strict=True)]
    newton_schulz.orthogonalize_many(given, **settings, out=outputs)


@serves("orthogonalize_vjp")
def _serve_vjp(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    x, bar = (np.broadcast_to(array, outputs[0].shape) for array in inputs)
    kept = {key: value for key, value in settings.items() if key != "method"}  # how it is evaluated, not what
    newton_schulz.orthogonalize_vjp(x, bar, **kept, out=outputs[0])
