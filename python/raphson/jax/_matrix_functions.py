"""Matrix functions with a certificate, in jax programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from raphson import _core, newton_schulz
from raphson._results import STATUSES
from raphson.jax._call import Arrays, call, code_of, dump, like, load, matrices, real, serves, traced

__all__ = ["MatrixResult", "PolarResult", "inverse", "inverse_root", "polar", "sqrt"]

DTYPES = ("float64", "float32")
BREAKDOWN = STATUSES.index("breakdown")


class _Certified:
    """What the results share."""

    status: Any
    residual: Any

    @property
    def all_converged(self) -> Any:
        """Whether every matrix of the batch converged: a bool array without axes."""
        return jnp.all(self.status == 0)

    def __repr__(self) -> str:
        shape = tuple(jax.tree.leaves(self)[0].shape)
        name = f"{type(self).__name__}({shape}, "
        if traced(self):
            return name + "traced)"
        return (
            name
            + f"{int(np.sum(self.status == 0))} of {np.size(self.status)} converged, largest residual "
            + (f"{np.max(self.residual, initial=0.0):.2g})")
        )


@dataclass(frozen=True, repr=False)
class PolarResult(_Certified):
    """A polar decomposition and what was measured on it: a pytree of arrays.

    Attributes
    ----------
    unitary, hermitian : array (..., m, n), (..., k, k)
        U and H with X = U H (m ≥ n) or X = H U (m < n). Both are differentiable.
    residual, orthogonality : array (...)
        ‖UH − X‖_F / ‖X‖_F and ‖UᵀU − I‖_F / √k, of the arrays as they are here.
    converged, status, iterations : array (...)
        bool; int32, a place in ``raphson.jax.STATUSES``; int32.
    cond : array (...)
        ‖X‖_F ‖X⁻¹‖_F.
    """

    unitary: Any
    hermitian: Any
    residual: Any
    orthogonality: Any
    converged: Any
    status: Any
    iterations: Any
    cond: Any

    @property
    def side(self) -> str:
        """ "right": X = U H; "left": X = H U."""
        rows, cols = self.unitary.shape[-2:]
        return "right" if rows >= cols else "left"


@dataclass(frozen=True, repr=False)
class MatrixResult(_Certified):
    """A matrix function's value and what was measured on it: a pytree of arrays.

    Attributes
    ----------
    value : array (..., n, n)
    inverse_sqrt : array (..., n, n) or None
        :func:`sqrt` only: the inverse of ``value``, NaN where there is none. Both are differentiable.
    residual : array (...)
        As in :mod:`raphson.newton_schulz`, of ``value`` as it is here.
    converged, status, iterations : array (...)
        bool; int32, a place in ``raphson.jax.STATUSES``; int32.
    cond : array (...)
    """

    value: Any
    inverse_sqrt: Any
    residual: Any
    converged: Any
    status: Any
    iterations: Any
    cond: Any


for _result in (PolarResult, MatrixResult):
    jax.tree_util.register_dataclass(
        _result, data_fields=[name for name in _result.__dataclass_fields__], meta_fields=[]
    )


def polar(x: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> PolarResult:
    """:func:`raphson.polar` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    x : array (..., m, n)
        float64 or float32.
    tol, max_steps
        As for :func:`raphson.polar`; fixed when a program is compiled.
    errors : {None, "raise", "status"}
        As there for concrete arrays; inside of transformations nothing can raise: see the status.

    Returns
    -------
    PolarResult

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As :func:`raphson.polar`; of what the arrays hold only where they are concrete.

    Notes
    -----
    Inside of transformations nothing warns; NaN or Inf gives NaN and the status ``breakdown``, in a batch for that
    matrix alone. The derivative (:func:`raphson.newton_schulz.polar_vjp`; reverse mode, once) is NaN where X is
    rank-deficient.
    """
    array = matrices("polar", "x", x, DTYPES)
    settings: dict[str, Any] = {"tol": tol, "max_steps": max_steps, "errors": errors}
    if not traced(array):
        found = newton_schulz.polar(array, **settings)
        return PolarResult(unitary=found.unitary, hermitian=found.hermitian, **_measured(found, "orthogonality"))
    (unitary, hermitian), certificate = _evaluate(array, _text("polar", settings, 1))
    return PolarResult(unitary=unitary, hermitian=hermitian, **certificate)


def sqrt(a: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> MatrixResult:
    """:func:`raphson.newton_schulz.sqrt` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    a : array (..., n, n)
        float64 or float32.
    tol, max_steps, errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult
        ``value`` and ``inverse_sqrt`` are differentiable; NaN gradients where a is singular.

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there; inside of transformations see :func:`polar`.
    """
    return _function("sqrt", a, {"tol": tol, "max_steps": max_steps, "errors": errors})


def inverse(a: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> MatrixResult:
    """:func:`raphson.newton_schulz.inverse` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    a : array (..., n, n)
        float64 or float32.
    tol, max_steps, errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there; inside of transformations see :func:`polar`.
    """
    return _function("inverse", a, {"tol": tol, "max_steps": max_steps, "errors": errors})


def inverse_root(
    a: Any,
    p: int,
    *,
    ridge: float = 0.0,
    relative_ridge: float = 0.0,
    tol: float | None = None,
    max_steps: int = 100,
    errors: str | None = None,
) -> MatrixResult:
    """:func:`raphson.newton_schulz.inverse_root` for ``jit``, ``vmap`` and ``grad``.

    Parameters
    ----------
    a : array (..., n, n)
        Symmetric, float64 or float32. The gradient is symmetric: that of the function of (a + aᵀ)/2.
    p : int
    ridge, relative_ridge
        Numbers, fixed when a program is compiled; λmax of the relative ridge moves with a.
    tol, max_steps, errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult

    Raises
    ------
    TypeError, ValueError, numpy.linalg.LinAlgError
        As there; inside of transformations see :func:`polar`.
    """
    settings = {"tol": tol, "max_steps": max_steps, "errors": errors}
    return _function("inverse_root", a, settings, p, ridge=ridge, relative_ridge=relative_ridge)


def _function(function: str, a: Any, settings: dict[str, Any], *p: int, **ridges: float) -> MatrixResult:
    array = matrices(function, "a", a, DTYPES, square=True)
    work = getattr(newton_schulz, function)
    if not traced(array):
        found = work(array, *p, **ridges, **settings)
        second = found.inverse_sqrt
        if function == "sqrt" and second is None:
            second = jnp.full_like(array, jnp.nan)
        return MatrixResult(value=found.value, inverse_sqrt=second, **_measured(found))
    (value, *second), certificate = _evaluate(array, _text(function, settings, p[0] if p else 1, **ridges))
    certificate.pop("orthogonality")
    return MatrixResult(value=value, inverse_sqrt=second[0] if second else None, **certificate)


def _measured(found: Any, *more: str) -> dict[str, Any]:
    """The certificate of a result of the array functions, as arrays."""
    numbers = {name: jnp.asarray(getattr(found, name), real()) for name in ("residual", "cond", *more)}
    return {
        **numbers,
        "converged": jnp.asarray(found.converged),
        "status": jnp.asarray(code_of(found.status)),
        "iterations": jnp.asarray(found.iterations, jnp.int32),
    }


def _text(function: str, settings: dict[str, Any], p: int, ridge: float = 0.0, relative_ridge: float = 0.0) -> str:
    """Settings of a program; mistakes in them are found before it is compiled."""
    errors = settings["errors"]
    if errors not in (None, "raise", "status"):
        raise ValueError(f"{function}: errors must be None, 'raise' or 'status', got {errors!r}")
    if errors == "raise":
        raise ValueError(f"{function}: errors='raise' needs concrete arrays; inside of transformations see the status")
    named = {"p": p, "ridge": ridge, "relative_ridge": relative_ridge}
    _run(function, np.eye(1), {**named, **settings})
    return dump(function=function, **named, **settings)


def _run(function: str, a: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """What the array function finds, without its warning."""
    names = ("p", "tol", "max_steps", "ridge", "relative_ridge")
    (found,) = _core.matrix_function(function, [a], *(settings[name] for name in names))
    return found


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _evaluate(a: jax.Array, settings: str) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
    function = load(settings)["function"]
    batch, (rows, cols) = a.shape[:-2], a.shape[-2:]
    small = (min(rows, cols),) * 2
    values = [like(a.shape, a.dtype)]
    if function in ("polar", "sqrt"):
        values.append(like((*batch, *small), a.dtype))
    kinds = {
        "residual": real(),
        "orthogonality": real(),
        "cond": real(),
        "converged": bool,
        "status": jnp.int32,
        "iterations": jnp.int32,
    }
    found = call("matrix_function", settings, (*values, *(like(batch, kind) for kind in kinds.values())), a)
    return tuple(found[: len(values)]), dict(zip(kinds, found[len(values) :], strict=True))


def _forward(a: jax.Array, settings: str) -> tuple[Any, tuple[jax.Array, ...]]:
    found = _evaluate(a, settings)
    return found, found[0]


def _backward(settings: str, kept: tuple[jax.Array, ...], bars: Any) -> tuple[jax.Array]:
    function = load(settings)["function"]
    value, value_bar = kept[0], bars[0][0]
    operands: tuple[Any, ...] = (value, value_bar)
    if function == "polar":
        operands = (value, kept[1], value_bar, bars[0][1])
    elif function == "sqrt":  # dZ = −Z d(A^½) Z
        turned = jnp.swapaxes(kept[1], -1, -2)
        used = jnp.any(bars[0][1] != 0, axis=(-2, -1), keepdims=True)  # a singular A has no Z, but a root
        operands = (value, value_bar - jnp.where(used, turned @ bars[0][1] @ turned, 0))
    return (call("matrix_function_vjp", settings, like(value.shape, value.dtype), *operands),)


_evaluate.defvjp(_forward, _backward)


@serves("matrix_function")
def _serve(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    (a,) = inputs
    bad = ~np.isfinite(a).all(axis=(-2, -1))
    if bad.any():  # there it is an error; here the others of the batch are wanted
        a = a.copy()
        a[bad] = np.eye(*a.shape[-2:])
    values, certificate = outputs[:-6], outputs[-6:]
    found = _run(settings["function"], a, settings)
    status = np.where(bad, BREAKDOWN, found["status"])
    for out, name in zip(values, ("value", "second"), strict=False):
        out[...] = found[name] if found[name] is not None else np.nan
        out[bad] = np.nan
    for out, value in zip(
        certificate,
        (
            np.where(bad, np.nan, found["residual"]),
            np.where(bad, np.nan, found["orthogonality"] if settings["function"] == "polar" else 0.0),
            np.where(bad, np.nan, found["cond"]),
            status == 0,
            status,
            np.where(bad, 0, found["iterations"]),
        ),
        strict=True,
    ):
        out[...] = value


@serves("matrix_function_vjp")
def _serve_vjp(settings: dict[str, Any], inputs: Arrays, outputs: Arrays) -> None:
    (out,) = outputs
    lead = out.shape[:-2]
    given = [np.broadcast_to(array, (*lead, *array.shape[-2:])) for array in inputs]

    def gradient(parts: Arrays) -> Any:
        value, second, value_bar, second_bar = parts if len(parts) == 4 else (parts[0], None, parts[1], None)
        return _core.matrix_function_vjp(
            settings["function"],
            value,
            second,
            value_bar,
            second_bar,
            settings["p"],
            settings["relative_ridge"],
        )

    try:
        out[...] = gradient(given)
        return
    except (ValueError, np.linalg.LinAlgError):  # NaN, or not differentiable there: find out where
        for index in np.ndindex(lead):
            parts = [array[index] for array in given]
            try:
                out[index] = gradient(parts)
            except np.linalg.LinAlgError:
                out[index] = np.nan
            except ValueError:
                if all(np.isfinite(part).all() for part in parts):
                    raise
                out[index] = np.nan
