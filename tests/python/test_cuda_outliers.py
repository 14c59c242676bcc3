"""soft_clip and auon of CUDA arrays against numpy.quantile, a formula and the CPU: on a GPU, or emulated."""

from __future__ import annotations

import numpy as np
import pytest

import cuda_arrays
from agreement import BF16
from outlier_reference import HARD, QUANTILES, auon_truth, split_truth
from raphson.newton_schulz import auon, orthogonalize, soft_clip

device = cuda_arrays.device()
get = device.get
emulated = pytest.mark.skipif(not device.emulated, reason="asks what only hand-made arrays tell")

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": BF16,
}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)

# Rows and columns around a tile's, sizes around a block's part.
SHAPES = [(1, 1), (1, 2), (3, 5), (17, 1), (1, 40000), (40000, 1), (33, 65), (200, 257), (3, 2, 20, 30), (300, 2, 3)]


def put(x: np.ndarray):
    return device.put(x.astype(np.float32), bfloat16=True) if x.dtype == BF16 else device.put(x)


def assert_split(x: np.ndarray, quantile: float) -> None:
    for got, truth in zip(soft_clip(put(x), quantile=quantile), split_truth(x, quantile), strict=True):
        assert type(got) is type(put(x))
        np.testing.assert_array_equal(get(got), truth.astype(get(got).dtype), strict=True)


@pytest.mark.parametrize("quantile", QUANTILES)
@every_dtype
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clips_at_numpys_quantile(rng, shape, dtype, quantile):
    assert_split(rng.standard_normal(shape).astype(dtype), quantile)


@every_dtype
@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
def test_ties_and_ranges(rng, make, dtype):
    with np.errstate(over="ignore"):
        x = make(rng, 3000).reshape(60, 50).astype(dtype)
    if not np.isfinite(x.astype(np.float64)).all():
        pytest.skip("these leave float16")
    for quantile in [0.0, 0.5, 0.89999, 0.9, 0.90001, 1.0]:
        assert_split(x, quantile)


def test_every_rank_can_be_asked_for(rng):
    x = rng.standard_normal((3, 7))
    for quantile in np.linspace(0, 1, 101):
        assert_split(x, quantile)
        assert_split(np.round(x), quantile)


@every_dtype
def test_every_stride_is_read(rng, dtype):
    x = rng.standard_normal((3, 140, 70)).astype(dtype)
    turned = np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, 2)), 2, 0)
    for a in (turned, last):
        assert_split(a, 0.9)
        np.testing.assert_allclose(get(auon(put(a))), get(auon(put(x))), rtol=2.0**-7 if dtype.itemsize == 2 else 1e-6)
    assert_auon(turned.astype(np.float64))


@emulated
def test_views_of_all_kinds(rng):
    base = rng.standard_normal((2, 140, 260))
    for x in [base[:, ::-1, ::3], base[0, ::2, ::-1], base[:, :, :1], np.broadcast_to(base[0, :1], (150, 260))]:
        assert_split(x, 0.9)
        assert_auon(x)


#: Of the largest entry: one rounding to the dtype; float64: a dozen operations.
AUON = {"float64": 5e-15, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def assert_auon(x: np.ndarray, gamma: float = 1.5) -> None:
    result = auon(put(x), gamma=gamma)
    assert type(result) is type(put(x))
    got, truth = get(result), auon_truth(x, gamma)
    assert got.dtype == (np.float32 if x.dtype == BF16 else x.dtype)
    assert got.shape == x.shape
    tiny = 2.0**-24 if x.dtype == np.float16 else np.finfo(got.dtype).tiny
    bound = AUON[x.dtype.name] * 1.001 + 1e-15 * gamma
    assert np.all(np.abs(got.astype(np.float64) - truth) <= bound * np.abs(truth) + tiny)


# 2γ·max|z| lies on both sides of where the series ends.
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.5, 4.0, 50.0])
@every_dtype
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (33, 31), (300, 200), (2, 3, 12, 11)], ids=str)
def test_auon_is_its_formula(rng, shape, dtype, gamma):
    assert_auon(rng.standard_normal(shape).astype(dtype), gamma)


@every_dtype
def test_auon_of_spikes(rng, dtype):
    x = 1e-3 * rng.standard_normal((40, 50))
    x[3, 4] = -1
    for gamma in [1.0, 1.5, 2.01, 10.0, 300.0]:
        assert_auon(x.astype(dtype), gamma)


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter(rng, scale):
    x = rng.standard_normal((9, 12)) * scale
    assert np.allclose(get(auon(put(x))), auon_truth(x), rtol=1e-13 if scale > 1e-308 else 1e-9, atol=0)


def test_the_brake_keeps_its_digits():
    """r² - 1 = γ²/mn + …, 4e-5 here: float64 sums of cosh² would leave nine digits of it."""
    x = np.ones((256, 200))
    z = 1 / np.sqrt(x.size)
    brake = z / get(auon(put(x)))[0, 0] - 1
    assert abs(brake / np.expm1(0.5 * np.log1p(np.sinh(1.5 * z) ** 2)) - 1) <= 1e-10


@every_dtype
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (3, 12, 12)], ids=str)
def test_hybrid_scales_what_newton_schulz_gives(rng, shape, dtype):
    x = put(rng.standard_normal(shape).astype(dtype))
    for steps in (1, 5):
        whole, parts = auon(x, hybrid_steps=steps), auon(orthogonalize(x, schedule="muon", steps=steps))
        np.testing.assert_array_equal(get(whole), get(parts))
    if dtype == np.float64:
        np.testing.assert_allclose(get(whole), auon(get(x), hybrid_steps=5), rtol=0, atol=1e-12)


def test_zeros_and_batches(rng):
    x = rng.standard_normal((3, 4, 5))
    x[1] = 0
    for hybrid in (0, 3):
        got = get(auon(put(x), hybrid_steps=hybrid))
        assert not got[1].any()
        np.testing.assert_array_equal(got[2], get(auon(put(x[2]), hybrid_steps=hybrid)))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (0, 3, 4), (3, 0, 4)], ids=str)
def test_empty_arrays(shape):
    x = put(np.empty(shape))
    for got in (*soft_clip(x), auon(x), auon(x, hybrid_steps=2)):
        assert get(got).shape == shape


@every_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_make_nan_of_their_matrix(rng, bad, dtype):
    for shape, where in [((3, 40, 50), (1, 0, 0)), ((3, 200, 180), (1, 199, 179))]:
        x = rng.standard_normal(shape).astype(dtype)
        x[where] = bad
        for quantile in (0.5, 1.0):
            for got, truth in zip(soft_clip(put(x), quantile=quantile), split_truth(x[::2], quantile), strict=True):
                assert np.isnan(get(got)[1]).all()
                np.testing.assert_array_equal(get(got)[::2], truth.astype(get(got).dtype))
        got = get(auon(put(x)))
        assert np.isnan(got[1]).all()
        np.testing.assert_array_equal(got[::2], get(auon(put(x[::2].copy()))))


def test_misuse():
    x = put(np.eye(3))
    for quantile in (-0.1, 1.0000001, np.nan):
        with pytest.raises(ValueError, match=r"^soft_clip: quantile must be 0 to 1, got"):
            soft_clip(x, quantile=quantile)
    with pytest.raises(ValueError, match=r"^auon: gamma must be 0 to 300, got"):
        auon(x, gamma=-1.0)
    with pytest.raises(ValueError, match=r"^auon: hybrid_steps must be 0 to 100, got 101"):
        auon(x, hybrid_steps=101)
    for function in (soft_clip, auon):
        with pytest.raises(ValueError, match=r"^(soft_clip|auon): x must have at least 2 axes .*, got shape \(3,\)"):
            function(put(np.zeros(3)))
