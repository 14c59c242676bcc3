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


POINT = (-0.6120001572, 0.57175904776, -1.847081276)
CAMERAS = (  # rotation, translation, two of distortion, focal length; what each saw
    (
        0.01574151594,
        -0.0127909362,
        -0.0044008498,
        -0.0340938396,
        -0.107513871,
        1.1202240291,
        -3.177064e-7,
        5.882049e-13,
        399.75152639,
        -332.65,
        262.09,
    ),
    (
        0.01597732412,
        -0.0252244646,
        -0.0094001416,
        -0.0085667661,
        -0.1218804907,
        0.7190133075,
        -3.780477e-7,
        9.307431e-13,
        402.01753386,
        -199.76,
        166.7,
    ),
    (
        0.01484625118,
        -0.0210628994,
        -0.001166948,
        -0.0249509707,
        -0.1139847055,
        0.92166020737,
        -3.295265e-7,
        6.732885e-13,
        400.40175368,
        -253.06,
        202.27,
    ),
    (
        0.01991666998,
        -1.22433082,
        0.0119988756,
        -1.411897512,
        -0.1148065151,
        0.44915582738,
        5.95875e-8,
        -2.48391e-13,
        407.03024568,
        58.13,
        271.89,
    ),
    (
        0.02082242153,
        -1.238434791,
        0.01389314763,
        -1.049686225,
        -0.1299513286,
        0.33798380231,
        4.5673127e-8,
        -1.79243e-13,
        405.91764962,
        238.22,
        237.37,
    ),
    (
        0.01658816461,
        -1.247226838,
        0.01846788123,
        -0.8617315756,
        -0.1321089362,
        0.28256800868,
        4.7465711e-8,
        -1.50881e-13,
        404.73590637,
        317.55,
        221.15,
    ),
)


def _project(v: Any) -> Any:
    """Where a camera sees a point (Snavely): v = point, Rodrigues rotation, translation, k₁, k₂, f; complex v too."""
    x, r, t = v[:3], v[3:6], v[6:9]
    angle = np.sqrt((r * r).sum())
    axis = r / angle
    turned = x * np.cos(angle) + np.cross(axis, x) * np.sin(angle) + axis * (axis * x).sum() * (1 - np.cos(angle)) + t
    p = -turned[:2] / turned[2]
    square = (p * p).sum()
    return v[11] * (1 + v[9] * square + v[10] * square * square) * p


def _project_jacobian(v: Any) -> Any:
    """By complex steps: exact to rounding."""
    step = 1e-30
    return np.stack([_project(v + 1j * step * unit).imag / step for unit in np.eye(12)], axis=1)


def _ba_l1() -> System:
    seen = np.array([camera[9:] for camera in CAMERAS])
    start = np.concatenate([POINT, *(camera[:9] for camera in CAMERAS)])
    places = [np.r_[0:3, 3 + 9 * k : 12 + 9 * k] for k in range(6)]

    def c(x: Doubles) -> Doubles:
        return np.concatenate([_project(x[at]) - seen[k] for k, at in enumerate(places)])

    def jac(x: Doubles) -> Doubles:
        found = np.zeros((12, 57))
        for k, at in enumerate(places):
            found[2 * k : 2 * k + 2, at] = _project_jacobian(x[at])
        return found

    def hess(x: Doubles) -> list[Doubles]:  # central differences of the exact Jacobian
        found = [np.zeros((57, 57)) for _ in range(12)]
        for k, at in enumerate(places):
            v = x[at]
            steps = 6e-6 * np.maximum(np.abs(v), 1e-3)
            columns = [
                (_project_jacobian(v + h * e) - _project_jacobian(v - h * e)) / (2 * h)
                for h, e in zip(steps, np.eye(12), strict=True)
            ]
            for row in range(2):
                part = np.stack([column[row] for column in columns])
                found[2 * k + row][np.ix_(at, at)] = (part + part.T) / 2
        return found

    return System(start, c, jac, hess)


PROBLEMS: dict[str, Callable[[], System]] = {
    "SINVALNE": _sinval,
    "HIMMELBE": _himmelbe,
    "DENSCHNCNE": _denschnc,
    "MOREBVNE": _morebv,
    "TRIGON1NE": _trigon1,
    "BA-L1": _ba_l1,
}
