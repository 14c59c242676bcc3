"""From XLA programs into raphson, on XLA's own buffers: what all functions of :mod:`raphson.jax` stand on.

A compiled program names the function and its settings in strings, not in numbers of this process: programs that jax
keeps on disk stay right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._results import STATUSES

__all__ = ["as_arrays", "call", "code_of", "dump", "lanes", "like", "load", "matrices", "real", "serves", "traced"]

Arrays = list[npt.NDArray[Any]]
Server = Callable[[dict[str, Any], Arrays, Arrays], None]

_TARGET = "raphson_call"
_SERVERS: dict[str, Server] = {}


def serves(name: str) -> Callable[[Server], Server]:
    """Registers ``server(settings, inputs, outputs)``, which writes every output; it runs on a thread of XLA's.

    An exception ends the program (``jax.errors.JaxRuntimeError``): for wrong use only, not for what data may hold.
    """

    def register(server: Server) -> Server:
        _SERVERS[name] = server
        return server

    return register


@lru_cache(maxsize=1024)
def load(settings: str) -> dict[str, Any]:
    """What :func:`dump` wrote; not to be changed."""
    found: dict[str, Any] = json.loads(settings)
    return found


def _serve(name: str, settings: str, inputs: Arrays, outputs: Arrays) -> None:
    _SERVERS[name](load(settings), inputs, outputs)


jax.ffi.register_ffi_target(_TARGET, _core._xla_handler(_serve), platform="cpu")


def call(name: str, settings: str, results: Any, *arrays: Any) -> Any:
    """Arrays of the shapes and dtypes ``results``, by the server of that name; CPU only.

    Under ``vmap`` every input and result has the mapped axes in front, an input that is not mapped with size 1.
    """
    run: Any = jax.ffi.ffi_call
    return run(_TARGET, results, vmap_method="expand_dims")(*arrays, call=name, settings=settings)


def dump(**settings: Any) -> str:
    """Settings as a string: what a program is compiled for. Arrays become lists; floats keep every bit."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        return np.asarray(value).tolist()

    return json.dumps(settings, sort_keys=True, default=plain)


def traced(*trees: Any) -> bool:
    """Whether a transformation of jax's is at work on one of the arrays: ``jit``, ``grad``, ``vmap``, …"""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def real() -> Any:
    """dtype of certificates: float64 where jax has it enabled, else float32."""
    return jnp.result_type(float)


def like(shape: Sequence[int], dtype: Any) -> jax.ShapeDtypeStruct:
    make: Any = jax.ShapeDtypeStruct
    made: jax.ShapeDtypeStruct = make(tuple(shape), dtype)
    return made


def as_arrays(*given: Any) -> tuple[Any, ...]:
    """As arrays of jax's; None stays None."""
    return tuple(None if x is None else jnp.asarray(x) for x in given)


def matrices(function: str, name: str, x: Any, dtypes: Sequence[str], *, square: bool = False) -> Any:
    """x as an array of jax's, checked to be matrices (..., m, n) of one of the dtypes."""
    array = jnp.asarray(x)
    if array.dtype.name not in dtypes:
        raise TypeError(f"{function}: {name} must be {' or '.join(dtypes)}, got {array.dtype.name}")
    if array.ndim < 2:
        raise ValueError(f"{function}: {name} must have at least 2 axes (..., m, n), got shape {array.shape}")
    if square and array.shape[-1] != array.shape[-2]:
        raise ValueError(f"{function}: {name} must be square, got shape {array.shape}")
    return array


def lanes(ranks: Sequence[int], arrays: Arrays, lead: tuple[int, ...]) -> Iterator[Arrays]:
    """The arrays of one problem after another: ``ranks`` are a problem's axes of each, ``lead`` the others."""
    for index in np.ndindex(lead):
        found = []
        for rank, array in zip(ranks, arrays, strict=True):
            sizes = array.shape[: array.ndim - rank]
            place = tuple(0 if size == 1 else i for size, i in zip(sizes, index, strict=True))
            found.append(array[place + (...,)])  # noqa: RUF005, an Ellipsis keeps scalars arrays
        yield found


def code_of(status: Any) -> npt.NDArray[np.int32]:
    """Statuses as places in :data:`raphson.jax.STATUSES`."""
    names = np.asarray(status)
    return np.array([STATUSES.index(name) for name in names.ravel()], dtype=np.int32).reshape(names.shape)
