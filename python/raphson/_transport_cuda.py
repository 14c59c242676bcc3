"""A transport problem whose cost, or whose points, lie on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raphson import _core
from raphson._frameworks import back
from raphson._point_cloud import PointCloud
from raphson._transport import Doubles, Matrix, Problem, require_vectors


@dataclass(frozen=True, eq=False)
class CudaProblem(Problem):
    """As :class:`raphson._transport.Problem`; ``cost`` is the caller's array, and what is computed comes back as one.

    Weights and potentials are the host's: n + m numbers beside n·m.
    """

    cost: Any
    part: int = -1  # of a batch of costs, which ``cost`` is then

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
                self.part,
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

    def solve(
        self, method: int, tol: float, most: int, start: tuple[Any, Any], hook: Callable[..., bool] | None
    ) -> dict[str, Any]:
        found: dict[str, Any] = self.core().solve(method, tol, most, *start, hook)
        return found

    @staticmethod
    def solve_batch(
        problems: Sequence[Problem], method: int, tol: float, most: int, starts: list[tuple[Any, Any]]
    ) -> list[dict[str, Any]]:
        cores: list[Any] = [problem.core() for problem in problems]
        return _core.CudaTransport.solve_batch(cores, method, tol, most, starts)

    def dense(self, f: Doubles, g: Doubles, like: Any) -> Any:
        return self.core().plan(f, g)

    def apply(self, f: Doubles, g: Doubles, transpose: bool, v: Any) -> Any:
        require_vectors(_core._describe(v, "apply", "v")[0], self.shape[0 if transpose else 1])
        return self.core().apply(f, g, transpose, v)

    def map(self, g: Doubles, points: Matrix) -> Doubles:
        mapped: Doubles = self.core().map(g, np.ascontiguousarray(points, dtype=np.float64))
        return mapped

    def rounded(self, f: Doubles, g: Doubles, like: Any) -> tuple[Any, float, tuple[int, int] | None]:
        plan, missing, i, j = self.core().rounded(f, g)
        return plan, missing, (i, j) if plan is None else None

    def plan_weights(self, cost_weight: float, plan_bar: Any) -> CudaPlanWeights:
        return CudaPlanWeights(self.core(), cost_weight, plan_bar)


class CudaPlanWeights:
    """As :class:`raphson._transport_vjp.PlanWeights`."""

    def __init__(self, core: _core.CudaTransport, cost_weight: float, plan_bar: Any) -> None:
        self._core, self._cost_weight, self._plan_bar = core, cost_weight, plan_bar

    def sums(self, f: Doubles, g: Doubles) -> tuple[Doubles, Doubles]:
        return self._core.weighted_sums(f, g, self._cost_weight, self._plan_bar)

    def gradient(
        self, f: Doubles, g: Doubles, direct: float, adjoints: tuple[Doubles, Doubles] | None, like: Any
    ) -> dict[str, Any]:
        found = self._core.gradient(f, g, self._cost_weight, direct, self._plan_bar, *(adjoints or (None, None)))
        if not isinstance(found, tuple):
            return {"cost": found}
        dtype = _core._describe(like, "vjp", "x")[1]
        return {name: back(value, like, dtype) for name, value in zip("xy", found, strict=True)}
