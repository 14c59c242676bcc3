"""Results of several transport problems at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._frameworks import back
from raphson._point_cloud import host
from raphson._transport import Problem, TransportResult, start_of


def _numbers(value: Any, like: Any) -> npt.NDArray[Any]:
    """A result's array or number in NumPy, also from a CUDA device."""
    if like is not None and _core._is_cuda(like):
        return host(value, "sinkhorn_batch", "result")
    return np.asarray(value)


@dataclass(frozen=True, eq=False, repr=False)
class BatchTransportResult:
    """Results of :func:`raphson.ot.sinkhorn_batch`: ``result[k]`` is the k-th, attributes are arrays over the batch.

    Of CUDA arrays they are put together on the host, plans too.
    """

    results: tuple[TransportResult, ...]
    _like: Any = field(default=None, repr=False)
    _shape: tuple[int, int] = field(default=(0, 0), repr=False)  # (n, m)

    def _stack(self, name: str) -> Any:
        values = [_numbers(getattr(r, name), self._like) for r in self.results]
        shape = {"f": self._shape[:1], "g": self._shape[1:], "plan": self._shape}.get(name, ())
        return back(np.stack(values) if values else np.empty((0, *shape)), self._like)

    @property
    def f(self) -> Any:
        """(B, n)"""
        return self._stack("f")

    @property
    def g(self) -> Any:
        """(B, m)"""
        return self._stack("g")

    @property
    def plan(self) -> Any:
        """(B, n, m)"""
        return self._stack("plan")

    @property
    def cost(self) -> Any:
        """(B,)"""
        return self._stack("cost")

    @property
    def objective(self) -> Any:
        """(B,)"""
        return self._stack("objective")

    @property
    def dual_objective(self) -> Any:
        """(B,)"""
        return self._stack("dual_objective")

    @property
    def duality_gap(self) -> Any:
        """(B,)"""
        return self._stack("duality_gap")

    @property
    def marginal_error(self) -> Any:
        """(B,)"""
        return self._stack("marginal_error")

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """(B,)"""
        return np.array([r.converged for r in self.results], dtype=bool)

    @property
    def status(self) -> npt.NDArray[np.str_]:
        """(B,)"""
        return np.array([r.status for r in self.results], dtype=str)

    @property
    def iterations(self) -> npt.NDArray[np.int64]:
        """(B,)"""
        return np.array([r.iterations for r in self.results], dtype=np.int64)

    @property
    def newton_iterations(self) -> npt.NDArray[np.int64]:
        """(B,)"""
        return np.array([r.newton_iterations for r in self.results], dtype=np.int64)

    @property
    def all_converged(self) -> bool:
        return all(r.converged for r in self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, k: int) -> TransportResult:
        return self.results[k]

    def __iter__(self) -> Iterator[TransportResult]:
        return iter(self.results)

    def __repr__(self) -> str:
        done = sum(r.converged for r in self.results)
        worst = max((float(r.marginal_error) for r in self.results), default=0.0)
        return f"BatchTransportResult({done} of {len(self)} converged, worst marginal error {worst:.2e})"


@dataclass(frozen=True, eq=False)
class DivergenceResult:
    """A Sinkhorn divergence and the three transports it is made of; ``converged`` when all of them are."""

    value: Any
    xy: TransportResult
    xx: TransportResult
    yy: TransportResult

    @property
    def converged(self) -> bool:
        return self.xy.converged and self.xx.converged and self.yy.converged

    @property
    def marginal_error(self) -> float:
        """The largest of the three."""
        return max(float(r.marginal_error) for r in (self.xy, self.xx, self.yy))

    @property
    def status(self) -> str:
        """Of the transport with the largest marginal error, of those that did not converge if there are any."""
        return self._worst.status

    @property
    def iterations(self) -> int:
        """Of the three together."""
        return sum(r.iterations for r in (self.xy, self.xx, self.yy))

    @property
    def _worst(self) -> TransportResult:
        return max((self.xy, self.xx, self.yy), key=lambda r: (not r.converged, float(r.marginal_error)))

    def __float__(self) -> float:
        return float(self.value)


def starts_of(init: Any, problems: list[Problem], function: str) -> list[tuple[Any, Any]]:
    """f and g that each problem of a batch starts from, None where there are none."""
    count = len(problems)
    if init is None:
        return [(None, None)] * count
    if isinstance(init, BatchTransportResult):
        if len(init.results) != count:
            raise ValueError(f"{function}: init must have {count} results, got {len(init.results)}")
        return [start_of(one, problem, function) for one, problem in zip(init.results, problems, strict=True)]
    if not isinstance(init, (tuple, list)) or len(init) != 2:
        raise TypeError(f"{function}: init must be (f, g) or a BatchTransportResult, got {type(init).__name__}")
    pair = [
        None if given is None else host(given, function, f"init {name}") for name, given in zip("fg", init, strict=True)
    ]
    for name, given in zip("fg", pair, strict=True):
        if given is not None and (given.ndim not in (1, 2) or (given.ndim == 2 and len(given) != count)):
            raise ValueError(f"{function}: init {name} must have {count} rows or be shared, got shape {given.shape}")
    return [
        start_of(tuple(given if given is None or given.ndim == 1 else given[k] for given in pair), problem, function)
        for k, problem in enumerate(problems)
    ]
