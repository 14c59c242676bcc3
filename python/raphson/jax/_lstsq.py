"""Least squares in jax programs, with gradients from the optimality conditions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from raphson import _lstsq
from raphson.jax._call import Arrays, call, code_of, dump, lanes, like, load, real, serves, traced

__all__ = ["LstsqResult", "lstsq"]

CERTIFICATE = ("residual_norm", "backward_error", "cond", "rank", "iterations", "converged", "status")


@dataclass(frozen=True, repr=False)
class LstsqResult:
    """A least-squares solution and how far it is from being one: a pytree of arrays.

    Attributes
    ----------
    x : array (n,) or (n, k)
        Differentiable in A and b.
    residual_norm : array () or (k,)
    backward_error, cond : array ()
        As in :class:`raphson.sketch.LstsqResult`.
    rank, iterations : array (), int32
    converged, status : array ()
        bool; int32, a place in ``raphson.jax.STATUSES``.
    """

    x: Any
    residual_norm: Any
    backward_error: Any
    cond: Any
    rank: Any
    iterations: Any
    converged: Any
    status: Any

    def __repr__(self) -> str:
        if traced(self):
            return f"LstsqResult(x of shape {tuple(self.x.shape)}, traced)"
        worst = np.max(self.backward_error, initial=0.0)
        return (
            f"LstsqResult(x of shape {tuple(self.x.shape)}, {np.count_nonzero(self.converged)} of "
            f"{np.size(self.converged)} converged, largest backward error {worst:.2g})"
        )


jax.tree_util.register_dataclass(LstsqResult, data_fields=["x", *CERTIFICATE], meta_fields=[])


def lstsq(
    A: Any,
    b: Any,
    *,
    ridge: float = 0.0,
    rcond: float | None = None,
    method: str = "auto",
    tol: float | None = None,
    seed: int = 0,
) -> LstsqResult:
    """:func:`raphson.lstsq` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    A : array (m, n)
        float64 or float32.
    b : array (m,) or (m, k)
    ridge, rcond, method, tol, seed
        As there; fixed when a program is compiled.

    Returns
    -------
    LstsqResult
        ``x`` in A's dtype.

    Raises
    ------
    TypeError, ValueError
        As there; of what the arrays hold only where they are concrete.

    Notes
    -----
    Inside of transformations nothing warns; NaN or Inf gives NaN and the status ``breakdown``. The derivative (reverse
    mode, once) takes two more solves: with w = A(AᵀA + λI)⁻¹x̄, b̄ = w and, m ≥ n, Ā = r zᵀ − w xᵀ with r = b − Ax and
    Az = w; m < n, Ā = y(x̄ − Aᵀw)ᵀ − w xᵀ with Aᵀy = x (Golub and Pereyra 1973). Where A is rank-deficient it is NaN.
    Problems of a mapped axis are solved one after another, all threads on each.
    """
    matrix, right = jnp.asarray(A), jnp.asarray(b)
    for name, array, dims in (("A", matrix, (2,)), ("b", right, (1, 2))):
        if array.dtype.name not in ("float64", "float32"):
            raise TypeError(f"lstsq: {name} must be float64 or float32, got {array.dtype.name}")
        if array.ndim not in dims:
            wanted = "(m, n)" if name == "A" else "(m,) or (m, k)"
            raise ValueError(f"lstsq: {name} must have shape {wanted}, got {array.shape}")
    if matrix.shape[0] != right.shape[0]:
        raise ValueError(f"lstsq: A and b must have as many rows, got shapes {matrix.shape} and {right.shape}")
    settings: dict[str, Any] = {"ridge": ridge, "rcond": rcond, "method": method, "tol": tol, "seed": seed}
    if not traced(matrix, right):
        found = _lstsq.lstsq(matrix, right, **settings)
        numbers = {name: jnp.asarray(getattr(found, name)) for name in ("rank", "iterations", "converged")}
        measured = {name: jnp.asarray(getattr(found, name), real()) for name in CERTIFICATE[:3]}
        return LstsqResult(x=found.x, **measured, **numbers, status=jnp.asarray(code_of(found.status)))
    _lstsq.solve(np.ones((1, 1)), np.ones(1), **settings)  # mistakes in the settings
    x, certificate = _solve(matrix, right, dump(**settings))
    return LstsqResult(x=x, **certificate)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _solve(A: jax.Array, b: jax.Array, settings: str) -> tuple[jax.Array, dict[str, jax.Array]]:
    columns = b.shape[1:]
    kinds = (real(), real(), real(), jnp.int32, jnp.int32, bool, jnp.int32)
    shapes = (columns, *((),) * 6)
    certificate = tuple(like(shape, kind) for shape, kind in zip(shapes, kinds, strict=True))
    x, *found = call(f"lstsq{b.ndim}", settings, (like((A.shape[1], *columns), A.dtype), *certificate), A, b)
    return x, dict(zip(CERTIFICATE, found, strict=True))


def _forward(A: jax.Array, b: jax.Array, settings: str) -> tuple[Any, tuple[jax.Array, ...]]:
    x, certificate = _solve(A, b, settings)
    return (x, certificate), (A, b, x, certificate["rank"])


def _backward(settings: str, kept: tuple[jax.Array, ...], bars: Any) -> tuple[jax.Array, jax.Array]:
    A, b, x, rank = kept
    columns = [array if array.ndim == 2 else array[:, None] for array in (b.astype(A.dtype), x, bars[0])]
    right, solution, bar = columns
    plain = dump(**{**load(settings), "ridge": 0.0})
    w, _ = _solve(A.T, bar, settings)
    if A.shape[0] >= A.shape[1]:
        z, _ = _solve(A, w, plain)
        a_bar = (right - A @ solution) @ z.T - w @ solution.T
    else:
        y, _ = _solve(A.T, solution, plain)
        a_bar = y @ (bar - A.T @ w).T - w @ solution.T
    full = rank == min(A.shape)
    return jnp.where(full, a_bar, jnp.nan), jnp.where(full, w.reshape(b.shape).astype(b.dtype), jnp.nan)


_solve.defvjp(_forward, _backward)


@serves("lstsq1")
def _serve_vector(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    _serve(settings, inputs, outputs, 1)


@serves("lstsq2")
def _serve_columns(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    _serve(settings, inputs, outputs, 2)


def _serve(settings: dict[str, Any], inputs: Arrays, outputs: Arrays, rank: int) -> None:
    ranks = (2, rank, rank, rank - 1, *(0,) * 6)
    for A, b, *out in lanes(ranks, inputs + outputs, outputs[-1].shape):
        if np.isfinite(A).all() and np.isfinite(b).all():
            found = _lstsq.solve(A, b, **settings)
            values = [getattr(found, name) for name in ("x", *CERTIFICATE[:-1])]
            values.append(code_of(found.status))
        else:
            values = [np.nan] * 4 + [0, 0, False, code_of("breakdown")]
        for array, value in zip(out, values, strict=True):
            array[...] = value
