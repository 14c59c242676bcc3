"""A transport problem whose cost, or whose points, lie on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from raphson import _core
from raphson._point_cloud import PointCloud
from raphson._transport import Doubles, Matrix, Problem, require_vectors


@dataclass(frozen=True, eq=False)
class CudaProblem(Problem):
    """As :class:`raphson._transport.Problem`; ``cost`` is the caller's array, and what is computed comes back as one.

    Weights and potentials are the host's: n + m numbers beside n·m.
    """

    cost: Any

    def core(self) -> Any:
        made: _core.CudaTransport | None = self.__dict__.get("_made")
        if made is None:
            cloud = self.cost if isinstance(self.cost, PointCloud) else None
            made = _core.CudaTransport(
                self.function,
                self.a,
                self.b,
                self.cost if cloud is None else cloud.x,
                None if cloud is None else cloud._core_arguments(),
                self.reg,
                *self.rho,
                self.mass_tolerance,
                self.check_finite,
            )
            object.__setattr__(self, "_made", made)
        return made

    @property
    def dtype(self) -> str:
        cost = self.cost
        return cost.dtype if isinstance(cost, PointCloud) else _core._describe(cost, self.function, "cost")[1]

    def span(self) -> float:
        largest: float = self.core().span()
        return largest

    def need_cpu(self, what: str) -> None:
        raise RuntimeError(
            f"TransportResult.{what}: the cost is a CUDA array, but this method has no CUDA kernels yet; use plan or"
            " apply(), or solve on the CPU"
        )

    def solve(
        self, method: int, tol: float, most: int, start: tuple[Any, Any], hook: Callable[..., bool] | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = self.core().solve(method, tol, most, *start, hook)
        return found

    def dense(self, f: Doubles, g: Doubles, like: Any) -> Any:
        return self.core().plan(f, g)

    def apply(self, f: Doubles, g: Doubles, transpose: bool, v: Any) -> Any:
        require_vectors(_core._describe(v, "apply", "v")[0], self.shape[0 if transpose else 1])
        return self.core().apply(f, g, transpose, v)

    def map(self, g: Doubles, points: Matrix) -> Doubles:
        mapped: Doubles = self.core().map(g, np.ascontiguousarray(points, dtype=np.float64))
        return mapped
