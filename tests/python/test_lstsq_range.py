"""raphson.lstsq at the ends: no columns, numbers that leave the dtype, many right-hand sides, exact solutions by cg."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import raphson
from lstsq_reference import backward_error
from raphson import lstsq

METHODS = ["auto", "direct", "gram", "sketch", "fossils", "cg"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("m", [0, 1, 5, 9000])
def test_without_columns_the_residual_is_b(m, method):
    b = np.random.default_rng(m).standard_normal((m, 3))
    for a in (np.zeros((m, 0)), sparse.csr_array((m, 0))):
        result = lstsq(a, b, method=method, ridge=0.5)
        assert result.x.shape == (0, 3)
        assert result.converged
        np.testing.assert_allclose(result.residual_norm, np.linalg.norm(b, axis=0), rtol=1e-13)


# ---- the certificate is that of the numbers that come back -------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e45, 1e200])
def test_float32_that_the_solution_leaves_upwards(size, method):
    a = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    with pytest.raises(ValueError, match="x leaves the range of A's dtype, float32"):
        lstsq(a, a.astype(float) @ np.ones(5) * size, method=method)


@pytest.mark.parametrize("shape", [(300, 5), (4, 9)])
def test_float32_that_an_underdetermined_solution_leaves(shape):
    a = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with pytest.raises(ValueError, match="float32; scale A or b"):
        lstsq(a, np.full(shape[0], 1e90), ridge=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-44, 1e-90, 1e-200])
def test_float32_that_the_solution_leaves_downwards(size, method):
    a = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    b = a.astype(float) @ np.ones(5) * size
    with pytest.warns(raphson.ConvergenceWarning):
        result = lstsq(a, b, method=method)
    assert not result.converged
    left = b / size - a.astype(float) @ (result.x.astype(float) / size)
    assert result.residual_norm == pytest.approx(np.linalg.norm(left) * size, rel=1e-6)


def test_float32_at_the_end_of_its_range():
    a = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    for size in (1e-36, 1e37):
        assert lstsq(a, size * a.astype(float) @ np.ones(5)).converged


def test_float64_that_the_solution_leaves():
    a = np.random.default_rng(0).standard_normal((300, 5))
    with pytest.raises(ValueError, match="x leaves the range of A's dtype, float64"):
        lstsq(a * 1e-200, a @ np.ones(5) * 1e200)
    result = lstsq(a * 1e-300, a @ np.ones(5) * 1e-300)  # on the way it does not
    np.testing.assert_allclose(result.x, 1, rtol=1e-12)


# ---- conjugate gradients where b is within reach: Aᵀr is as large as ‖A‖‖r‖ when r is rounding -------------
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cg_certifies_an_exact_solution(dtype):
    a = np.random.default_rng(0).standard_normal((300, 8)).astype(dtype)
    b = a.astype(float) @ np.arange(1.0, 9)
    result = lstsq(a, b, method="cg")
    assert result.converged
    assert backward_error(a.astype(float), b, result.x.astype(float)) <= max(result.backward_error, 1e-16)
    regular = lstsq(a, b, method="cg", ridge=2.0)
    expected = np.linalg.solve(a.T.astype(float) @ a + 2 * np.eye(8), a.T.astype(float) @ b)
    assert regular.converged
    np.testing.assert_allclose(regular.x, expected, rtol=1e-12 if dtype == np.float64 else 1e-6)


# ---- right-hand sides by the thousand: neither their square nor their cube ---------------------------------
@pytest.mark.parametrize("method", ["direct", "sketch", "gram"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(60, 30, 8000), (5000, 3, 400), (33, 33, 34), (3000, 17, 18), (40, 20, 17), (9, 1, 17)]
)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_many_right_hand_sides(m, n, k, method, ridge):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, n)), rng.standard_normal((m, k))
    result = lstsq(a, b, method=method, ridge=ridge)
    expected = np.linalg.lstsq(
        np.vstack([a, np.sqrt(ridge) * np.eye(n)]), np.vstack([b, np.zeros((n, k))]), rcond=None
    )[0]
    assert result.converged
    np.testing.assert_allclose(result.x, expected, rtol=1e-9, atol=1e-11)


def test_many_right_hand_sides_of_a_cut_rank():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 30)), rng.standard_normal((200, 500))
    result = lstsq(a, b)
    assert result.rank == 12
    np.testing.assert_allclose(result.x, np.linalg.pinv(a) @ b, atol=1e-12)
