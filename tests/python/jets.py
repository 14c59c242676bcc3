"""Exact second derivatives by forward mode, and the thirteen Hock–Schittkowski problems of the AdaSketch repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class Jet:
    """A value with its gradient and Hessian."""

    def __init__(self, value, gradient, hessian):
        self.v, self.g, self.h = float(value), gradient, hessian

    @staticmethod
    def variables(x):
        n = len(x)
        return [Jet(x[i], np.eye(n)[i], np.zeros((n, n))) for i in range(n)]

    def _of(self, value, first, second):
        outer = np.outer(self.g, self.g)
        return Jet(value, first * self.g, first * self.h + second * outer)

    def __add__(self, other):
        if not isinstance(other, Jet):
            return Jet(self.v + other, self.g, self.h)
        return Jet(self.v + other.v, self.g + other.g, self.h + other.h)

    def __mul__(self, other):
        if not isinstance(other, Jet):
            return Jet(self.v * other, self.g * other, self.h * other)
        cross = np.outer(self.g, other.g)
        return Jet(
            self.v * other.v, self.v * other.g + other.v * self.g, self.v * other.h + other.v * self.h + cross + cross.T
        )

    def __pow__(self, k):
        return self._of(self.v**k, k * self.v ** (k - 1), k * (k - 1) * self.v ** (k - 2) if k > 1 else 0.0)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return -self + other


def sin(x):
    return x._of(np.sin(x.v), np.cos(x.v), -np.sin(x.v))


def log(x):
    return x._of(np.log(x.v), 1 / x.v, -1 / x.v**2)


@dataclass
class Smooth:
    """min f(x) subject to c(x) = 0, written once; every derivative from jets."""

    f: Callable[..., Any]
    c: Callable[..., list[Any]]
    x0: tuple[float, ...]
    best: float
    outer: int  # iterations of the authors' code with Gaussian sketches
    calls: int = 0

    def fun(self, x):
        self.calls += 1
        return self.f(*Jet.variables(x)).v

    def grad(self, x):
        return self.f(*Jet.variables(x)).g

    def hess(self, x):
        return self.f(*Jet.variables(x)).h

    def cons(self, x):
        return np.array([c.v for c in self.c(*Jet.variables(x))])

    def jac(self, x):
        return np.array([c.g for c in self.c(*Jet.variables(x))])

    def cons_hess(self, x, v):
        return sum(w * c.h for w, c in zip(v, self.c(*Jet.variables(x)), strict=True))

    def residuals(self, x, multipliers):
        """What success promises, computed here: ‖∇L‖∞ / max(1, ‖λ‖∞), ‖c‖∞."""
        left = np.abs(self.grad(x) + self.jac(x).T @ multipliers).max() / max(1.0, np.abs(multipliers).max())
        return left, np.abs(self.cons(x)).max()


ROOT2 = float(np.sqrt(2))
HS = {
    6: Smooth(lambda a, b: (1 - a) ** 2, lambda a, b: [10 * (b - a**2)], (-1.2, 1), 0.0, 9),
    7: Smooth(lambda a, b: log(1 + a**2) - b, lambda a, b: [(1 + a**2) ** 2 + b**2 - 4], (2, 2), -(3**0.5), 10),
    28: Smooth(
        lambda a, b, c: (a + b) ** 2 + (b + c) ** 2, lambda a, b, c: [a + 2 * b + 3 * c - 1], (-4, 1, 1), 0.0, 1
    ),
    40: Smooth(
        lambda a, b, c, d: -(a * b * c * d),
        lambda a, b, c, d: [a**3 + b**2 - 1, a**2 * d - c, d**2 - b],
        (0.8,) * 4,
        -0.25,
        3,
    ),
    42: Smooth(
        lambda a, b, c, d: (a - 1) ** 2 + (b - 2) ** 2 + (c - 3) ** 2 + (d - 4) ** 2,
        lambda a, b, c, d: [a - 2, c**2 + d**2 - 2],
        (1,) * 4,
        28 - 10 * ROOT2,
        4,
    ),
    47: Smooth(
        lambda a, b, c, d, e: (a - b) ** 2 + (b - c) ** 3 + (c - d) ** 4 + (d - e) ** 4,
        lambda a, b, c, d, e: [a + b**2 + c**3 - 3, b - c**2 + d - 1, a * e - 1],
        (2, ROOT2, -1, 2 - ROOT2, 0.5),
        0.0,
        14,
    ),
    48: Smooth(
        lambda a, b, c, d, e: (a - 1) ** 2 + (b - c) ** 2 + (d - e) ** 2,
        lambda a, b, c, d, e: [a + b + c + d + e - 5, c - 2 * (d + e) + 3],
        (3, 5, -3, 2, -2),
        0.0,
        1,
    ),
    50: Smooth(
        lambda a, b, c, d, e: (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 2,
        lambda a, b, c, d, e: [a + 2 * b + 3 * c - 6, b + 2 * c + 3 * d - 6, c + 2 * d + 3 * e - 6],
        (35, -31, 11, 5, -5),
        0.0,
        8,
    ),
    51: Smooth(
        lambda a, b, c, d, e: (a - b) ** 2 + (b + c - 2) ** 2 + (d - 1) ** 2 + (e - 1) ** 2,
        lambda a, b, c, d, e: [a + 3 * b - 4, c + d - 2 * e, b - e],
        (2.5, 0.5, 2, -1, 0.5),
        0.0,
        1,
    ),
    52: Smooth(
        lambda a, b, c, d, e: (4 * a - b) ** 2 + (b + c - 2) ** 2 + (d - 1) ** 2 + (e - 1) ** 2,
        lambda a, b, c, d, e: [a + 3 * b, c + d - 2 * e, b - e],
        (2,) * 5,
        1859 / 349,
        2,
    ),
    77: Smooth(
        lambda a, b, c, d, e: (a - 1) ** 2 + (a - b) ** 2 + (c - 1) ** 2 + (d - 1) ** 4 + (e - 1) ** 6,
        lambda a, b, c, d, e: [a**2 * d + sin(d - e) - 2 * ROOT2, b + c**4 * d**2 - 8 - ROOT2],
        (2,) * 5,
        0.24150513,
        8,
    ),
    78: Smooth(
        lambda a, b, c, d, e: a * b * c * d * e,
        lambda a, b, c, d, e: [a**2 + b**2 + c**2 + d**2 + e**2 - 10, b * c - 5 * (d * e), a**3 + b**3 + 1],
        (-2, 1.5, 2, -1, -1),
        -2.91970041,
        4,
    ),
    79: Smooth(
        lambda a, b, c, d, e: (a - 1) ** 2 + (a - b) ** 2 + (b - c) ** 2 + (c - d) ** 4 + (d - e) ** 4,
        lambda a, b, c, d, e: [a + b**2 + c**3 - 2 - 3 * ROOT2, b - c**2 + d + 2 - 2 * ROOT2, a * e - 2],
        (2,) * 5,
        0.0787768209,
        4,
    ),
}
