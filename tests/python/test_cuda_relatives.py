"""The relatives of FisherInverse on CUDA arrays against the formulas in float64 and against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cuda_arrays
import ihvp_reference as truth
from ihvp_reference import UNIT, assert_near
from raphson.ihvp import rank_one_inverse_update

device = cuda_arrays.device()

DTYPES = ["float64", "float32", "bfloat16", "float16"]


def stored(x: np.ndarray, dtype: str) -> tuple[np.ndarray, Any]:
    return cuda_arrays.stored(device, x, dtype)


def unchanged(arrays: list[Any], call: Any) -> Any:
    """What a call gives that must leave its arguments alone."""
    before = [device.get(a).copy() for a in arrays]
    result = call(*arrays)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(device.get(a), b)
    return result


# ---- inverses of Kronecker factors ----------------------------------------------------------------------------------


def factor_inverse(rng: np.random.Generator, n: int) -> np.ndarray:
    """Positive definite, but not symmetric: rows and columns must not be mistaken for each other."""
    root = rng.standard_normal((n, n))
    return np.linalg.inv(root @ root.T / n + np.eye(n)) + 0.05 / n * rng.standard_normal((n, n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["ema", "mkor"])
@pytest.mark.parametrize("n", [1, 2, 37, 200, 300])
def test_rank_one_inverse_update(rng, n, mode, dtype):
    inv, there = stored(factor_inverse(rng, n), dtype)
    for kind in (dtype, "float64", "float32"):
        v, v_there = stored(rng.standard_normal(n), kind)
        for decay in (0.95, 0.5):

            def update(m: Any, v: Any, decay: float = decay) -> Any:
                return rank_one_inverse_update(m, v, decay=decay, mode=mode)

            got = unchanged([there, v_there], update)
            assert device.get(got).dtype == ("float32" if dtype == "bfloat16" else dtype)
            exact = truth.rank_one_update(inv, v, decay, mode)
            assert_near(device.get(got), exact, 1.01 * UNIT[dtype] + 2.0**-44)
            on_cpu = update(inv, v)
            np.testing.assert_allclose(
                device.get(got), on_cpu, rtol=1.01 * UNIT[dtype], atol=1e-13 if dtype != "float16" else 2.0**-25
            )
            np.testing.assert_array_equal(device.get(update(there, v_there)), device.get(got))
    default = rank_one_inverse_update(there, v_there)
    out = device.put(np.zeros((n, n)).astype("float32" if dtype == "bfloat16" else dtype), bfloat16=dtype == "bfloat16")
    assert rank_one_inverse_update(there, v_there, decay=0.95, mode="ema", out=out) is out
    np.testing.assert_array_equal(device.get(out), device.get(default))
    assert rank_one_inverse_update(there, v_there, out=there) is there
    np.testing.assert_array_equal(device.get(there), device.get(default))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_rank_one_update_of_any_layout(rng, dtype):
    n = 45
    inv, v = factor_inverse(rng, n).astype(dtype), rng.standard_normal(n).astype(dtype)
    expected = device.get(rank_one_inverse_update(device.put(inv), device.put(v), mode="mkor"))
    wide = np.full((n, 64), np.nan, dtype)
    wide[:, 7 : 7 + n] = inv
    apart = np.full((2 * n, 3 * n), np.nan, dtype)
    apart[::2, ::3] = inv
    spread = np.full(3 * n, np.nan, dtype)
    spread[::3] = v
    for layout in (wide[:, 7 : 7 + n], apart[::2, ::3], np.asfortranarray(inv)):
        for vector in (v, spread[::3]):
            got = rank_one_inverse_update(device.put(layout), device.put(vector), mode="mkor")
            np.testing.assert_array_equal(device.get(got), expected)


def test_rank_one_updates_in_place_stay_an_inverse(rng):
    n = 20
    covariance, inv = np.eye(n), device.put(np.eye(n))
    for _ in range(50):
        v = rng.standard_normal(n)
        covariance = 0.9 * covariance + 0.1 * np.outer(v, v)
        rank_one_inverse_update(inv, device.put(v), decay=0.9, out=inv)
    assert_near(device.get(inv), np.linalg.inv(covariance), 1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rank_one_nan_goes_through(rng, bad):
    for dtype in ("float64", "float32", "float16"):
        inv, v = np.eye(40).astype(dtype), rng.standard_normal(40).astype(dtype)
        lost = v.copy()
        lost[35] = bad
        for mode in ("ema", "mkor"):
            assert np.isnan(device.get(rank_one_inverse_update(device.put(inv), device.put(lost), mode=mode))).all()
            spoilt = inv.copy()
            spoilt[33, 33] = bad
            assert np.isnan(device.get(rank_one_inverse_update(device.put(spoilt), device.put(v), mode=mode))).all()


def test_rank_one_of_nothing():
    got = rank_one_inverse_update(device.put(np.ones((0, 0))), device.put(np.ones(0)))
    assert device.get(got).shape == (0, 0)


def test_rank_one_misuse():
    inv, v, out = device.put(np.eye(4)), device.put(np.ones(4)), device.put(np.full((4, 4), 7.0))
    for keywords in ({"decay": 0.0}, {"decay": 1.0}, {"decay": np.nan}, {"mode": "kfac"}):
        with pytest.raises(ValueError, match=r"decay|mode"):
            rank_one_inverse_update(inv, v, out=out, **keywords)
    for m_shape, v_shape in (((4, 3), (4,)), ((4, 4), (3,)), ((4, 4), (4, 1)), ((4, 4), ())):
        with pytest.raises(ValueError, match=r"inv must be \(n, n\) and v \(n,\)"):
            rank_one_inverse_update(device.put(np.ones(m_shape)), device.put(np.ones(v_shape)), out=out)
    with pytest.raises(ValueError, match="inv must have two axes"):
        rank_one_inverse_update(v, v)
    with pytest.raises(ValueError, match=r"out must have shape \(4, 4\), got \(4, 5\)"):
        rank_one_inverse_update(inv, v, out=device.put(np.ones((4, 5))))
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        rank_one_inverse_update(inv, v, out=device.put(np.asfortranarray(np.ones((4, 4)))))
    with pytest.raises(ValueError, match=r"not positive definite along v.*nothing was written"):
        rank_one_inverse_update(device.put(-100 * np.eye(4)), v, out=out)
    with pytest.raises(TypeError, match="out"):
        rank_one_inverse_update(inv, v, out=device.put(np.ones((4, 4), np.float32)))
    for other in (np.ones(4), [1.0] * 4):
        with pytest.raises(TypeError, match=r"inv is a .* array and v a numpy array"):
            rank_one_inverse_update(inv, other, out=out)
    with pytest.raises(TypeError, match=r"inv is a .* array and out a numpy array"):
        rank_one_inverse_update(inv, v, out=np.ones((4, 4)))
    with pytest.raises(TypeError, match=r"v .*|.*numpy"):
        rank_one_inverse_update(np.eye(4), v)
    assert (device.get(out) == 7).all()
    assert (device.get(inv) == np.eye(4)).all()
