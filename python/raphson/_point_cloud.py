"""A cost between two clouds of points, never formed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core

METRICS = ("sqeuclidean", "euclidean", "cityblock")
Doubles = npt.NDArray[np.float64]


def host(array: Any, function: str, argument: str) -> npt.NDArray[Any]:
    """An array's numbers for NumPy: where they lie, or copied from a CUDA device (which waits for its stream)."""
    if _core._is_cuda(array):
        return _core._to_host(array, function, argument)
    return _core._as_numpy(array, function, argument)


@dataclass(frozen=True, eq=False)
class PointCloud:
    """The cost c(xᵢ, yⱼ) of two clouds of points, computed in tiles when it is needed.

    Parameters
    ----------
    x, y : array (n, d), (m, d)
        Points, float64 or float32, of one framework; distances are computed in float64.
    metric : {"sqeuclidean", "euclidean", "cityblock"}
        ‖x − y‖₂² (no ½), ‖x − y‖₂, ‖x − y‖₁.
    scale : float
        Multiplies the cost; positive.

    Raises
    ------
    ValueError
        Shapes that are not (n, d) and (m, d), NaN or Inf, an unknown metric, scale ≤ 0.
    TypeError
        Integer points, or x and y of different frameworks or dtypes.

    Notes
    -----
    Memory O((n + m)·d); a sweep computes every cost once, 2d to 3d flops each. Costs of up to 2²¹ pairs (16 MiB) are
    kept during a solve on the CPU; points on a CUDA device are checked and brought to float64 on the host, in copies.
    The points are read when a solve or a result needs them: do not modify them meanwhile.
    """

    x: Any
    y: Any
    metric: str = "sqeuclidean"
    scale: float = 1.0

    def __init__(self, x: Any, y: Any, *, metric: str = "sqeuclidean", scale: float = 1.0) -> None:
        if metric not in METRICS:
            raise ValueError(f"PointCloud: metric must be one of {', '.join(METRICS)}, got {metric!r}")
        scale = float(scale)
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"PointCloud: scale must be positive and finite, got {scale}")
        for name, value in (("x", x), ("y", y), ("metric", metric), ("scale", scale)):
            object.__setattr__(self, name, value)
        _core._require_same(x, y, "PointCloud", "x", "y", same_dtype=True)
        left, right = self._describe("x")[0], self._describe("y")[0]
        if len(left) != 2 or len(right) != 2 or left[1] != right[1] or left[1] == 0:
            raise ValueError(f"PointCloud: x and y must have shapes (n, d) and (m, d), got {left} and {right}")
        for label in ("x", "y"):
            if not np.isfinite(self._read(label)).all():
                raise ValueError(f"PointCloud: {label} has NaN or Inf")

    def _read(self, name: str) -> npt.NDArray[Any]:
        return host(getattr(self, name), "PointCloud", name)

    def _describe(self, name: str) -> tuple[tuple[int, ...], str]:
        return _core._describe(getattr(self, name), "PointCloud", name)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self._describe("x")[0][0], self._describe("y")[0][0]

    @property
    def dtype(self) -> str:
        """Of x: plans, maps and gradients have it too."""
        return self._describe("x")[1]

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self._describe("x")[0][1]

    def _core_arguments(self) -> tuple[Doubles, Doubles, int, float]:
        x = np.ascontiguousarray(self._read("x"), dtype=np.float64)
        y = np.ascontiguousarray(self._read("y"), dtype=np.float64)
        return x, y, METRICS.index(self.metric), self.scale

    def rows(self, begin: int, end: int, *, x: npt.NDArray[Any] | None = None) -> Doubles:
        """Costs of rows begin … end-1, (end - begin, m), in NumPy; of other points ``x`` (k, d) when they are given."""
        from_x = (self._read("x") if x is None else x)[begin:end].astype(np.float64)
        to_y = self._read("y").astype(np.float64)
        if self.metric == "cityblock":
            costs: Doubles = self.scale * np.abs(from_x[:, None] - to_y[None]).sum(axis=2)
            return costs
        squares: Doubles = np.zeros((len(from_x), len(to_y)))
        for k in range(to_y.shape[1]):
            squares += np.subtract.outer(from_x[:, k], to_y[:, k]) ** 2
        return self.scale * (squares if self.metric == "sqeuclidean" else np.sqrt(squares))

    def __deepcopy__(self, memo: dict[int, Any]) -> PointCloud:
        import copy

        return PointCloud(
            copy.deepcopy(self.x, memo), copy.deepcopy(self.y, memo), metric=self.metric, scale=self.scale
        )

    def __repr__(self) -> str:
        n, m = self.shape
        scale = "" if self.scale == 1 else f", scale={self.scale:g}"
        return f"PointCloud({n} × {m} points in {self.dim} dimensions, {self.metric}{scale})"
