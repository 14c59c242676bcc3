"""Costs of a bandit's arms as functions of a number, by regressions on Chebyshev polynomials."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["ChebyshevCosts"]

Doubles = npt.NDArray[np.float64]


class ChebyshevCosts:
    """ChebCB's regressions and its inverse-gap probabilities (Khodak et al. 2024; Foster and Rakhlin 2020)."""

    def __init__(self, arms: int, degree: int, low: float, high: float) -> None:
        self.low, self.high = low, high
        self._degree = degree
        self._coefficients = np.zeros((arms, degree))
        self._gram = np.zeros((arms, degree, degree))  # of the features, with costs, and squared costs
        self._moments = np.zeros((arms, degree))
        self._squares = np.zeros(arms)
        self._errors: list[tuple[float, float]] = []  # predictions as fractions of the scale they had, and costs
        self._most, self._least = -math.inf, math.inf
        self._scale = 0.0
        self._gamma = 0.0

    def _features(self, shift: float) -> Doubles:
        angle = math.acos(min(max((2 * shift - self.low - self.high) / (self.high - self.low), -1.0), 1.0))
        return np.asarray(np.cos(angle * np.arange(self._degree)))

    def probabilities(self, shift: float) -> Doubles:
        costs = self._coefficients @ self._features(shift)
        best = int(np.argmin(costs))
        chances = 1 / (len(costs) + self._gamma * (costs - costs[best]))
        chances[best] = 0.0
        chances[best] = 1 - chances.sum()
        return np.asarray(chances)

    def update(self, arm: int, shift: float, cost: float) -> None:
        features = self._features(shift)
        self._errors.append((float(self._coefficients[arm] @ features), cost))
        self._gram[arm] += np.outer(features, features)
        self._moments[arm] += cost * features
        self._squares[arm] += cost * cost
        self._most, self._least = max(self._most, cost), min(self._least, cost)
        if not self._most > 0:
            return
        m, d, t = self._degree, len(self._coefficients), len(self._errors)
        width = self.high - self.low
        slope = (self._most - self._least) / width
        factor = 2 + 4 * width * slope / self._most * (1 + math.log(m))
        changed = self._scale != self._most * factor
        self._scale = self._most * factor
        bounds = np.full(m, 1 / factor)
        bounds[1:] = 2 * width * slope / self._scale / np.arange(1, m)
        for i in range(d) if changed else (arm,):
            if self._gram[i, 0, 0] > 0:
                self._coefficients[i] = _bounded(self._gram[i], self._moments[i] / self._scale, bounds)
        # The regret of the predictions, measured against the fits that are there now, sets how sharply to choose.
        left = 0.0
        for i in range(d):
            c = self._coefficients[i]
            left += max(
                self._squares[i] / self._scale**2 - 2 * c @ self._moments[i] / self._scale + c @ self._gram[i] @ c, 0.0
            )
        predictions, costs = np.array(self._errors).T
        regret = max(float(np.square(predictions - costs / self._scale).sum()) - left, 0.0)
        bias = (math.pi + 2 / math.pi * math.log(2 * m + 1)) / (2 * self._scale * (m + 1)) * width * slope
        below = regret + 2 * bias**2 * t
        self._gamma = 2 * t * math.sqrt(d * t / below) if below > 0 else 2.0 * t


def _bounded(gram: Doubles, moments: Doubles, bounds: Doubles) -> Doubles:
    """min cᵀ gram c − 2 momentsᵀ c, |c| ≤ bounds: the least-norm minimiser if it fits, else by coordinates."""
    found = np.linalg.lstsq(gram, moments, rcond=1e-12)[0]
    if (np.abs(found) <= bounds).all():
        return np.asarray(found)
    c = np.clip(found, -bounds, bounds)
    for _ in range(500):
        moved = 0.0
        for j in range(len(c)):
            if not gram[j, j] > 0:
                continue
            to = np.clip(c[j] + (moments[j] - gram[j] @ c) / gram[j, j], -bounds[j], bounds[j])
            moved = max(moved, abs(to - c[j]))
            c[j] = to
        if moved <= 1e-12 * bounds[0]:
            break
    return np.asarray(c)
