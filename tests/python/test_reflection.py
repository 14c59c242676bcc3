"""The reflection by which raphson.sklearn takes intercepts and weights out of least squares, on the core itself."""

from __future__ import annotations

import numpy as np
import pytest

import raphson
from raphson import _core


def reflected(X, row, weight):
    """Householder's matrix itself, on √w·[X, 1]."""
    root = np.sqrt(np.ones(len(X)) if weight is None else weight)
    A = root[:, None] * np.column_stack([X, np.ones(len(X))]).astype(np.float64)
    normal = root.copy()
    normal[row] += np.linalg.norm(root)
    A -= np.outer(normal, 2 / (normal @ normal) * (normal @ A))
    np.testing.assert_allclose(np.delete(A[:, -1], row), 0, atol=1e-12 * np.abs(root).max())
    return np.delete(A[:, :-1], row, axis=0)


@pytest.mark.parametrize(
    ("n", "d"), [(1, 3), (2, 1), (9, 4), (1024, 3), (1025, 3), (5000, 2), (300, 700), (3, 70000), (6, 0)]
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_is_householders(n, d, weighted, dtype):
    rng = np.random.default_rng(n + d)
    wide = (rng.standard_normal((n, d + 3)) + 2).astype(dtype)
    X = wide[:, 1 : d + 1]  # rows with a stride
    weight = rng.integers(0, 4, n).astype(float) if weighted else None
    for row in {0, n // 2, n - 1}:
        if weight is not None:
            weight[row] = 5.0
        total = float(n) if weight is None else weight.sum()
        out = np.full((n - 1, d), np.nan, dtype)
        mean = _core.reflect_rows(_core.Rows.dense(X), row, weight, total, out)
        atol = 2e-12 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(out, reflected(X, row, weight), atol=atol)
        np.testing.assert_allclose(mean, (np.ones(n) if weight is None else weight) @ X / total, atol=1e-12)


def test_weights_alone():
    X = np.random.default_rng(0).standard_normal((3000, 5))
    weight = np.arange(3000.0)
    out = np.full(X.shape, np.nan)
    mean = _core.reflect_rows(_core.Rows.dense(X), -1, weight, 1.0, out)
    np.testing.assert_array_equal(out, np.sqrt(weight)[:, None] * X)
    np.testing.assert_array_equal(mean, np.zeros(5))


def test_constant_columns_are_exactly_zero_and_threads_change_nothing():
    X = np.random.default_rng(0).standard_normal((5000, 40)) * 1e3
    X[:, 7] = 0.1
    weight = np.random.default_rng(1).random(5000)
    before, made = raphson.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            raphson.set_num_threads(threads)
            out = np.empty((4999, 40))
            made.append((out, _core.reflect_rows(_core.Rows.dense(X), 17, weight, weight.sum(), out)))
    finally:
        raphson.set_num_threads(before)
    assert (made[0][0][:, 7] == 0).all()
    assert made[0][1][7] == 0.1
    for out, mean in made[1:]:
        np.testing.assert_array_equal(out, made[0][0])
        np.testing.assert_array_equal(mean, made[0][1])
