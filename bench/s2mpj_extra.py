"""Problems of the AdaSketch paper that S2MPJ does not hold: square systems of equations, written from their formulas.

Five of six. The sixth, BA-L1, is a bundle adjustment whose data we have not got; its quadratic twin BAmL1SP is in
S2MPJ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


class System:
    """c(x) = 0 with derivatives, in the shape of an S2MPJ problem."""

    def __init__(
        self, x0: Any, c: Callable[[Doubles], Any], jac: Callable[[Doubles], Any], hess: Callable[[Doubles], Any]
    ) -> None:
        self.x0 = np.asarray(x0, dtype=float)
        self._c, self._jac, self._hess = c, jac, hess
        self.m = len(np.asarray(c(self.x0)))
        self.cupper = np.zeros(self.m)

    def cx(self, x: Doubles) -> Doubles:
        return np.asarray(self._c(x.ravel()), dtype=float)

    def cJx(self, x: Doubles) -> tuple[Doubles, Doubles]:
        return self.cx(x), np.asarray(self._jac(x.ravel()), dtype=float)

    def cJHx(self, x: Doubles) -> tuple[Doubles, Doubles, list[Doubles]]:
        return (*self.cJx(x), [np.asarray(h, dtype=float) for h in self._hess(x.ravel())])


def _sinval() -> System:
    """100 (x₂ − sin x₁)² + x₁²/4 as its two residuals."""
    return System(
        [4.712389, -1.0],
        lambda x: [10 * (x[1] - np.sin(x[0])), 0.5 * x[0]],
        lambda x: [[-10 * np.cos(x[0]), 10.0], [0.5, 0.0]],
        lambda x: [np.diag([10 * np.sin(x[0]), 0.0]), np.zeros((2, 2))],
    )


def _himmelbe() -> System:
    return System(
        [-1.2, 2.0, 0.0],
        lambda x: [x[0] - 0.25 * (x[1] + x[2]), x[1] - 0.25 * (x[0] + x[2]), x[2] ** 2 - 1],
        lambda x: [[1.0, -0.25, -0.25], [-0.25, 1.0, -0.25], [0.0, 0.0, 2 * x[2]]],
        lambda x: [np.zeros((3, 3)), np.zeros((3, 3)), np.diag([0.0, 0.0, 2.0])],
    )


def _denschnc() -> System:
    return System(
        [2.0, 3.0],
        lambda x: [x[0] ** 2 + x[1] ** 2 - 2, np.exp(x[0] - 1) + x[1] ** 3 - 2],
        lambda x: [[2 * x[0], 2 * x[1]], [np.exp(x[0] - 1), 3 * x[1] ** 2]],
        lambda x: [2 * np.eye(2), np.diag([np.exp(x[0] - 1), 6 * x[1]])],
    )


def _morebv(n: int = 10) -> System:
    """Moré, Garbow and Hillstrom's problem 28."""
    h = 1 / (n + 1)
    t = h * np.arange(1, n + 1)
    second = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    unit = np.eye(n)
    return System(
        t * (t - 1),
        lambda x: second @ x + 0.5 * h**2 * (x + t + 1) ** 3,
        lambda x: second + np.diag(1.5 * h**2 * (x + t + 1) ** 2),
        lambda x: [3 * h**2 * (x[i] + t[i] + 1) * np.outer(unit[i], unit[i]) for i in range(n)],
    )


def _trigon1(n: int = 10) -> System:
    """Residuals of S2MPJ's TRIGON1: Σⱼ cos xⱼ + i (cos xᵢ + sin xᵢ) − n − i."""
    i = np.arange(1, n + 1)

    def hess(x: Doubles) -> list[Doubles]:
        parts = []
        for k in range(n):
            part = np.diag(-np.cos(x))
            part[k, k] -= (k + 1) * (np.cos(x[k]) + np.sin(x[k]))
            parts.append(part)
        return parts

    return System(
        np.full(n, 0.1),
        lambda x: np.cos(x).sum() + i * (np.cos(x) + np.sin(x)) - n - i,
        lambda x: -np.sin(x)[None, :] + np.diag(i * (np.cos(x) - np.sin(x))),
        hess,
    )


PROBLEMS: dict[str, Callable[[], System]] = {
    "SINVALNE": _sinval,
    "HIMMELBE": _himmelbe,
    "DENSCHNCNE": _denschnc,
    "MOREBVNE": _morebv,
    "TRIGON1NE": _trigon1,
}
