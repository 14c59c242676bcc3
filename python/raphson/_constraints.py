"""Equality constraints and derivatives as users write them, as the core calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson._kkt import as_rows
from raphson._rows import is_sparse

__all__ = ["Derivatives", "Equality", "check_derivatives", "gather"]

Doubles = npt.NDArray[np.float64]
Function = Callable[..., Any]

_STEP = float(np.sqrt(np.finfo(np.float64).eps))


@dataclass(frozen=True)
class Equality:
    """Constraints fun(x) = 0.

    Parameters
    ----------
    fun : callable
        x (n,) → (m,), or a number for a single one.
    jac : callable
        x → (m, n), dense or SciPy sparse; (n,) for a single constraint.
    hess : callable, optional
        (x, multipliers (m,)) → Σ multipliersᵢ ∇²funᵢ, (n, n); without it, central differences of ``jac``ᵀ multipliers:
        2n calls of jac.
    """

    fun: Function
    jac: Function
    hess: Function | None = None

    def __post_init__(self) -> None:
        for name in ("fun", "jac"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Equality: {name} must be callable, got {type(getattr(self, name)).__name__}")
        if self.hess is not None and not callable(self.hess):
            raise TypeError(f"Equality: hess must be callable or None, got {type(self.hess).__name__}")


def gather(constraints: Any, x0: Doubles, function: str) -> list[Equality]:
    """Every form that is allowed, as :class:`Equality`."""
    given = list(constraints) if isinstance(constraints, (list, tuple)) else [constraints]
    found = []
    for item in given:
        if isinstance(item, Equality):
            found.append(item)
        elif isinstance(item, dict):
            found.append(_from_dict(item, function))
        elif hasattr(item, "A") and hasattr(item, "lb") and hasattr(item, "ub"):
            found.append(_linear(item, function, len(x0)))
        elif hasattr(item, "fun") and hasattr(item, "lb") and hasattr(item, "ub"):
            found.append(_nonlinear(item, function))
        elif hasattr(item, "lb") and hasattr(item, "ub"):
            raise TypeError(f"{function}: bounds on the variables are not supported, only equality constraints")
        else:
            raise TypeError(
                f"{function}: constraints must be Equality, or SciPy's LinearConstraint or NonlinearConstraint with"
                f" lb == ub, got {type(item).__name__}"
            )
    return found


def _target(item: Any, function: str) -> Doubles:
    lower, upper = np.asarray(item.lb, dtype=np.float64), np.asarray(item.ub, dtype=np.float64)
    if not np.all(lower == upper) or not np.isfinite(lower).all():
        raise ValueError(f"{function}: inequalities are not supported: a constraint must have lb == ub, finite")
    return lower


def _linear(item: Any, function: str, n: int) -> Equality:
    matrix, target = item.A, _target(item, function)
    if not is_sparse(matrix):
        matrix = np.atleast_2d(np.asarray(matrix, dtype=np.float64))
    if matrix.shape[1] != n:
        raise ValueError(f"{function}: a LinearConstraint's A must have {n} columns, got shape {matrix.shape}")

    def nothing(x: Doubles, multipliers: Doubles) -> Any:
        if not is_sparse(matrix):
            return np.zeros((n, n))
        from scipy.sparse import csr_array  # type: ignore[import-untyped]

        return csr_array((n, n))

    return Equality(lambda x: matrix @ x - target, lambda x: matrix, nothing)


def _nonlinear(item: Any, function: str) -> Equality:
    target, fun = _target(item, function), item.fun
    jac = item.jac if callable(item.jac) else _differences(fun)
    hess = item.hess if callable(item.hess) else None
    return Equality(lambda x: np.asarray(fun(x), dtype=np.float64) - target, jac, hess)


def _from_dict(item: dict[str, Any], function: str) -> Equality:
    if item.get("type") != "eq" or "fun" not in item:
        raise TypeError(f"{function}: of SLSQP's dictionaries only those with type 'eq' are supported, got {item!r}")
    fun, args = item["fun"], tuple(item.get("args", ()))
    jac = item.get("jac") or _differences(lambda x: fun(x, *args))
    return Equality(lambda x: fun(x, *args), lambda x: jac(x, *args) if item.get("jac") else jac(x))


def _differences(fun: Function) -> Function:
    """Forward differences: n more calls of fun."""

    def jacobian(x: Doubles) -> Doubles:
        base = np.atleast_1d(np.asarray(fun(x), dtype=np.float64))
        found = np.empty((len(base), len(x)))
        for j in range(len(x)):
            moved = x.copy()
            moved[j] += _STEP * max(1.0, abs(x[j]))
            found[:, j] = (np.atleast_1d(fun(moved)) - base) / (moved[j] - x[j])
        return found

    return jacobian


class Derivatives:
    """The functions that the core calls, and what they need to know of one another."""

    def __init__(self, n: int, jac: Function, hess: Function | None, equalities: list[Equality]) -> None:
        self._n, self._jac, self._hess, self._equalities = n, jac, hess, equalities
        self._sizes: list[int] = []
        self._sparse = False

    def measure(self, x0: Doubles) -> int:
        """How many constraints there are: one call of each."""
        self._sizes = [int(np.asarray(e.fun(x0.copy())).size) for e in self._equalities]
        return sum(self._sizes)

    def values(self, x: Doubles) -> Any:
        if len(self._equalities) == 1:
            return self._equalities[0].fun(x)
        return np.concatenate([np.atleast_1d(np.asarray(e.fun(x), dtype=np.float64)) for e in self._equalities])

    def _ready(self, matrix: Any, name: str) -> Any:
        """Dense matrices as they are, until one was sparse: from then on all are compressed."""
        if not is_sparse(matrix):
            if not self._sparse:
                return matrix
            from scipy.sparse import csr_array

            matrix = csr_array(np.asarray(matrix))
        self._sparse = True
        return as_rows(matrix, "minimize", name)[0]

    def jacobian(self, x: Doubles) -> Any:
        if len(self._equalities) == 1:
            return self._ready(self._equalities[0].jac(x), "the constraints' jac")
        parts = []
        for e, size in zip(self._equalities, self._sizes, strict=True):
            part = e.jac(x)
            if not is_sparse(part):
                part = np.asarray(part, dtype=np.float64)
                part = part.reshape(1, -1) if part.ndim == 1 else part
            if part.shape != (size, self._n):
                raise ValueError(
                    f"minimize: a constraint's jac must return shape {(size, self._n)}, got {tuple(part.shape)}"
                )
            parts.append(part)
        if any(is_sparse(part) for part in parts):
            from scipy.sparse import csr_array, vstack

            return self._ready(vstack([csr_array(part) for part in parts], format="csr"), "the constraints' jac")
        return self._ready(np.concatenate(parts), "the constraints' jac")

    def hessian(self, x: Doubles, factor: float, multipliers: Doubles | None) -> Any:
        terms = []
        if factor != 0:
            own = self._hess(x) if self._hess is not None else _symmetric_differences(self._jac, x)
            terms.append(own if factor == 1 else factor * own)
        begin = 0
        for e, size in zip(self._equalities, self._sizes, strict=True):
            part = np.zeros(0) if multipliers is None else multipliers[begin : begin + size]
            begin += size
            if e.hess is not None:
                terms.append(e.hess(x, part))
            else:
                terms.append(_symmetric_differences(lambda y, e=e, v=part: _transposed_times(e.jac(y), v), x))
        if len(terms) == 1:
            return self._ready(terms[0], "hess")
        sparse = any(is_sparse(term) for term in terms)
        if sparse:
            from scipy.sparse import csr_array

            terms = [csr_array(term) for term in terms]
        else:
            terms = [np.asarray(term) for term in terms]
        for term in terms:
            if term.shape != (self._n, self._n):
                raise ValueError(f"minimize: hess must return shape {(self._n, self._n)}, got {tuple(term.shape)}")
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return self._ready(total, "hess")


def _transposed_times(jacobian: Any, v: Doubles) -> Doubles:
    if not is_sparse(jacobian):
        jacobian = np.asarray(jacobian, dtype=np.float64)
        jacobian = jacobian.reshape(1, -1) if jacobian.ndim == 1 else jacobian
    return np.asarray(jacobian.T @ v, dtype=np.float64).ravel()


def _symmetric_differences(gradient: Function, x: Doubles) -> Doubles:
    """The Hessian from central differences of a gradient: 2n calls."""
    n = len(x)
    found = np.empty((n, n))
    for j in range(n):
        step = np.cbrt(np.finfo(np.float64).eps) * max(1.0, abs(x[j]))
        ahead, behind = x.copy(), x.copy()
        ahead[j] += step
        behind[j] -= step
        found[j] = (np.asarray(gradient(ahead)).ravel() - np.asarray(gradient(behind)).ravel()) / (ahead[j] - behind[j])
    symmetric: Doubles = (found + found.T) / 2
    return symmetric


def check_derivatives(
    fun: Function, jac: Function, hess: Function | None, hessp: Function | None, equalities: list[Equality], x: Doubles
) -> None:
    """ValueError, naming the entry, where a derivative differs from central differences near x."""
    rng = np.random.default_rng(0)
    at = x + 1e-3 * np.maximum(1.0, np.abs(x)) * rng.standard_normal(len(x))  # a start is often a special point
    step = np.cbrt(np.finfo(np.float64).eps) * np.maximum(1.0, np.abs(at))

    def compare(name: str, given: Any, of: Function) -> None:
        dense = np.asarray(given.toarray() if is_sparse(given) else given, dtype=np.float64)
        columns = []
        for j in range(len(at)):
            ahead, behind = at.copy(), at.copy()
            ahead[j] += step[j]
            behind[j] -= step[j]
            columns.append((np.atleast_1d(of(ahead)) - np.atleast_1d(of(behind))) / (ahead[j] - behind[j]))
        expected = np.stack(columns, axis=-1)
        if dense.size != expected.size:
            raise ValueError(f"minimize: {name} must return shape {expected.shape}, got {dense.shape}")
        dense = dense.reshape(expected.shape)
        apart = np.abs(dense - expected) - 1e-5 * (np.abs(expected).max(initial=0.0) + np.abs(expected))
        if expected.size and not apart.max() <= 1e-7:
            worst = tuple(int(i) for i in np.unravel_index(np.argmax(np.nan_to_num(apart, nan=np.inf)), apart.shape))
            raise ValueError(
                f"minimize: {name} differs from finite differences at index {worst}: it gives {dense[worst]:.6g},"
                f" differences give {expected[worst]:.6g}"
            )

    def flat(g: Function) -> Function:
        return lambda y: np.asarray(g(y), dtype=np.float64).ravel()

    compare("jac", np.atleast_2d(np.asarray(jac(at.copy()), dtype=np.float64).ravel()), fun)
    if hess is not None:
        compare("hess", hess(at.copy()), flat(jac))
    if hessp is not None:
        v = rng.standard_normal(len(at))
        difference = (flat(jac)(at + 1e-6 * v) - flat(jac)(at - 1e-6 * v)) / 2e-6
        given = np.asarray(hessp(at.copy(), v.copy()), dtype=np.float64).ravel()
        if given.shape != difference.shape or np.abs(given - difference).max() > 1e-4 * (1 + np.abs(difference).max()):
            raise ValueError("minimize: hessp differs from finite differences of jac")
    for number, e in enumerate(equalities):
        part = e.fun
        compare(f"constraint {number}'s jac", e.jac(at.copy()), flat(part))
        if e.hess is not None:
            v = rng.standard_normal(np.asarray(part(at.copy())).size)
            compare(
                f"constraint {number}'s hess",
                e.hess(at.copy(), v),
                lambda y, e=e, v=v: _transposed_times(e.jac(y), v),
            )
