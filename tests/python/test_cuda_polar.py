"""Polar factors of CUDA arrays against the singular value decomposition: on a GPU, or emulated (see cuda_arrays.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cuda_arrays
import raphson
from reference import polar_by_svd, with_singular_values

device = cuda_arrays.device()
put, get = device.put, device.get


def matrix(shape: tuple[int, int], cond: float) -> np.ndarray:
    values = np.logspace(0, -np.log10(cond), min(shape))
    return with_singular_values(np.random.default_rng(3), *shape, values) * 7.0


def check_polar(
    x: np.ndarray, result: Any, tol: float = 1e-14, orthogonality: float = 1e-13
) -> tuple[np.ndarray, np.ndarray]:
    u, h = get(result.unitary), get(result.hermitian)
    assert u.dtype == h.dtype == x.dtype
    tall, k = x.shape[0] >= x.shape[1], min(x.shape)
    wide = [m.astype(np.float64) for m in (x, u, h)]
    product = wide[1] @ wide[2] if tall else wide[2] @ wide[1]
    gram = wide[1].T @ wide[1] if tall else wide[1] @ wide[1].T
    size = np.linalg.norm(wide[0])
    error = np.linalg.norm(product - wide[0]) / size if size > 0 else 0.0
    off = np.linalg.norm(gram - np.eye(k)) / np.sqrt(k)
    assert result.converged
    assert result.status == "converged"
    assert result.side == ("right" if tall else "left")
    assert error <= tol
    assert off <= orthogonality
    assert np.array_equal(h, h.T)
    assert np.linalg.eigvalsh(wide[2])[0] >= -tol * size
    # what is reported is what is returned
    assert result.residual == pytest.approx(error, rel=0.5, abs=1e-15)
    assert result.orthogonality == pytest.approx(off, rel=0.5, abs=1e-15)
    return u, h


@pytest.mark.parametrize("cond", [1, 1e1, 1e6, 1e12, 1e15])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 3), (40, 40), (65, 64), (90, 33), (33, 90), (150, 5), (1, 7), (131, 131)]
)
def test_polar_is_backward_stable(shape, cond):
    k = min(shape)
    x = matrix(shape, cond)
    result = raphson.polar(put(x))
    u, h = check_polar(x, result)
    assert 1 <= result.iterations <= 50
    if cond < 1e12:
        assert result.cond >= 0.99 * np.linalg.cond(x)
        assert result.cond <= 1.1 * k * np.linalg.cond(x)
        expected_u, expected_h = polar_by_svd(x)
        np.testing.assert_allclose(u, expected_u, atol=2e-15 * cond * k)
        np.testing.assert_allclose(h, expected_h, atol=1e-13)


@pytest.mark.parametrize(
    "x",
    [
        np.ones((6, 6)),
        np.diag([1.0, 0.0, 0.0, 2.0]),
        np.ones((3, 8)),
        np.eye(5, 4, k=2),
        np.outer([0, 1.0], [1.0, 0]),
        np.random.default_rng(1).standard_normal((40, 7)) @ np.random.default_rng(2).standard_normal((7, 40)),
        np.random.default_rng(1).standard_normal((50, 1)) @ np.random.default_rng(2).standard_normal((1, 20)),
    ],
)
def test_polar_of_singular_matrices_is_completed(x):
    result = raphson.polar(put(x))
    _, h = check_polar(x, result)
    assert result.cond == np.inf
    np.testing.assert_allclose(h, polar_by_svd(x)[1], atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (5, 5)])
def test_polar_of_zeros(shape):
    result = raphson.polar(put(np.zeros(shape)))
    assert result.converged
    assert result.residual == 0
    assert result.cond == np.inf
    np.testing.assert_array_equal(get(result.unitary), np.eye(*shape))
    np.testing.assert_array_equal(get(result.hermitian), np.zeros((min(shape),) * 2))


def test_polar_in_float32_is_rounded_once():
    x = matrix((60, 40), 1e4).astype(np.float32)
    result = raphson.polar(put(x))
    u, _ = check_polar(x, result, tol=2e-7, orthogonality=2e-7)
    wide = get(raphson.polar(put(x.astype(np.float64))).unitary)
    np.testing.assert_allclose(u, wide, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**-30, 2.0**900])
def test_powers_of_two_change_no_digit(scale):
    x = np.random.default_rng(2).standard_normal((9, 6))
    expected, scaled = raphson.polar(put(x)), raphson.polar(put(x * scale))
    np.testing.assert_array_equal(get(scaled.unitary), get(expected.unitary))
    np.testing.assert_array_equal(get(scaled.hermitian), get(expected.hermitian) * scale)
    assert scaled.residual == expected.residual
