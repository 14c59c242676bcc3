"""Slow truths of matrix completion: alternating least squares by numpy.linalg.lstsq, and what results must satisfy."""

from __future__ import annotations

import numpy as np


def problem(m, n, rank, fraction, noise=0.0, seed=0):
    """A matrix of given rank, and the places of a random part of its entries."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))
    rows, cols = np.nonzero(rng.random((m, n)) < fraction)
    order = rng.permutation(len(rows))
    rows, cols = rows[order], cols[order]
    return matrix, rows, cols, matrix[rows, cols] + noise * rng.standard_normal(len(rows))


def half_step(index, other, values, size, factor, ridge):
    """Row by row: min ‖values − factor u‖² + ridge‖u‖², of least norm."""
    k = factor.shape[1]
    out = np.zeros((size, k))
    for i in range(size):
        mine = index == i
        stacked = np.vstack([factor[other[mine]], np.sqrt(ridge) * np.eye(k)])
        out[i] = np.linalg.lstsq(stacked, np.concatenate([values[mine], np.zeros(k)]), rcond=None)[0]
    return out


def als(rows, cols, values, shape, right, ridge, iterations):
    for _ in range(iterations):
        left = half_step(rows, cols, values, shape[0], right, ridge)
        right = half_step(cols, rows, values, shape[1], left, ridge)
    return left, right


def objective(rows, cols, values, left, right, ridge):
    errors = values - (left[rows] * right[cols]).sum(1)
    return errors @ errors + ridge * ((left**2).sum() + (right**2).sum())


def optimality(rows, cols, values, left, right, ridge):
    """As CompletionResult says it."""
    errors = values - (left[rows] * right[cols]).sum(1)

    def of(mine, here, other, factor):
        gradient = -ridge * here
        np.add.at(gradient, mine, errors[:, None] * factor[other])
        scale = np.bincount(mine, values**2, len(here)) @ np.bincount(mine, (factor[other] ** 2).sum(1), len(here))
        scale += ridge * (values @ values)
        return np.linalg.norm(gradient) / np.sqrt(scale) if gradient.any() else 0.0

    return max(of(rows, left, cols, right), of(cols, right, rows, left))
