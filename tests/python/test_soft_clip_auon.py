"""soft_clip against numpy.quantile, auon against its formula."""

from __future__ import annotations

import numpy as np
import pytest

import raphson
import reference
from agreement import BF16, DTYPES, dtype_id
from outlier_reference import HARD, QUANTILES, auon_truth, split_truth
from raphson.newton_schulz import auon, orthogonalize, soft_clip

# Below and above the size from which a sample brackets the quantile; one task and several.
SHAPES = [(1, 1), (1, 2), (3, 5), (17, 1), (1, 20000), (20000, 1), (64, 65), (150, 100), (300, 257), (3, 2, 40, 30)]


def assert_split(x: np.ndarray, quantile: float) -> None:
    for got, truth in zip(soft_clip(x, quantile=quantile), split_truth(x, quantile), strict=True):
        assert got.dtype == x.dtype
        assert got.shape == x.shape
        assert np.array_equal(got, truth)


# ---- soft_clip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", QUANTILES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clips_at_numpys_quantile(rng, shape, dtype, quantile):
    assert_split(rng.standard_normal(shape).astype(dtype), quantile)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("make", HARD.values(), ids=HARD)
def test_the_sample_never_decides_the_result(rng, make, dtype):
    x = make(rng, 30000).reshape(200, 150).astype(dtype)
    for quantile in [0.0, 0.5, 0.89999, 0.9, 0.90001, 1.0]:
        assert_split(x, quantile)


@pytest.mark.parametrize("sampled_are", ["small", "large"])
def test_a_sample_that_misleads(rng, sampled_are):
    """The positions that soft_clip samples in 200 × 150 entries hold other values than all the rest."""
    turn = (np.arange(512) + 0.5) * 0.61803398874989485
    sampled = ((turn - np.floor(turn)) * 30000).astype(int)
    x = 2 + rng.random(30000)
    x[sampled] = rng.random(512) + (5 if sampled_are == "large" else 0)
    x = x.reshape(200, 150)
    ranks = np.arange(0, 700) if sampled_are == "small" else np.arange(29300, 30000)
    ordered = np.sort(x, axis=None)
    for rank in [*ranks, *range(0, 30000, 1499)]:
        quantile = (min(rank, 29998) + 0.25) / 29999  # between two ranks, so that both count
        clipped = soft_clip(x, quantile=quantile)[0]
        first = min(rank, 29998)
        assert ordered[first] <= clipped.max() <= ordered[first + 1]
        assert abs(clipped.max() - (0.75 * ordered[first] + 0.25 * ordered[first + 1])) <= 1e-9


def test_every_rank_can_be_asked_for(rng):
    x = rng.standard_normal((3, 7))
    for quantile in np.linspace(0, 1, 101):
        assert_split(x, quantile)
    large = rng.standard_normal((120, 90)).astype(np.float32)
    for rank in [*range(0, 10800, 977), 1, 10798, 10799]:
        assert_split(large, rank / 10799)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_layouts_of_the_split(rng, dtype):
    base = rng.standard_normal((2, 140, 260)).astype(dtype)
    for x in [
        base[0].T,
        base.transpose(0, 2, 1),
        base[:, ::-1, ::3],
        base[0, ::2, ::-1],
        base[:, :, :1],
        base[:1, :5, 7:8],
    ]:
        assert_split(x, 0.9)
    assert_split(np.broadcast_to(base[0, :1], (150, 260)), 0.9)


def test_parts_add_up_and_keep_their_signs(rng):
    x = rng.standard_normal((100, 100))
    clipped, outliers = soft_clip(x)
    assert 900 <= np.count_nonzero(outliers) <= 1001
    assert np.all(outliers * x >= 0)
    # |x| - ε is exact where |x| ≤ 2ε; beyond, one rounding.
    assert np.abs(clipped + outliers - x).max() <= np.spacing(np.abs(x).max())
    assert np.signbit(soft_clip(np.array([[-0.0, 1.0]]), quantile=0.0)[0][0, 0])


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (0, 3, 4), (3, 0, 4)], ids=str)
def test_empty_arrays(shape, dtype):
    x = np.empty(shape, dtype)
    for got in (*soft_clip(x), auon(x), auon(x, hybrid_steps=2)):
        assert got.shape == shape
        assert got.dtype == dtype


@pytest.mark.parametrize("quantile", [-0.1, 1.0000001, np.nan, np.inf])
def test_quantiles_out_of_range(quantile):
    with pytest.raises(ValueError, match=r"^soft_clip: quantile must be 0 to 1, got"):
        soft_clip(np.eye(3), quantile=quantile)


# ---- auon -----------------------------------------------------------------------------------------------------------


#: One rounding to the dtype; float64: a dozen operations, and what cosh makes of the last digit of γz ≤ γ.
AUON = {"float64": 5e-15, "float32": 2.0**-24, "bfloat16": 2.0**-8}


def assert_auon(x: np.ndarray, gamma: float = 1.5) -> None:
    got, truth = auon(x, gamma=gamma), auon_truth(x, gamma)
    assert got.dtype == x.dtype
    assert got.shape == x.shape
    bound = AUON[x.dtype.name] * 1.001 + 1e-15 * gamma
    tiny = np.finfo(np.float64 if x.dtype == np.float64 else np.float32).tiny
    assert np.all(np.abs(got.astype(np.float64) - truth) <= bound * np.abs(truth) + tiny)


# 2γ·max|z| reaches into each of the three ways to evaluate cosh.
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.5, 1.99, 4.0, 50.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5), (33, 31), (300, 200), (2, 3, 12, 11)], ids=str)
def test_auon_is_its_formula(rng, shape, dtype, gamma):
    assert_auon(rng.standard_normal(shape).astype(dtype), gamma)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_auon_of_spikes(rng, dtype):
    x = 1e-3 * rng.standard_normal((40, 50))
    x[3, 4] = -1
    for gamma in [1.0, 1.5, 1.99, 2.01, 10.0, 300.0]:
        assert_auon(x.astype(dtype), gamma)


@pytest.mark.parametrize("scale", [1e-310, 1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter(rng, scale):
    x = rng.standard_normal((9, 12)) * scale
    assert np.allclose(auon(x), auon_truth(x), rtol=1e-13 if scale > 1e-308 else 1e-9, atol=0)
    if 1e-38 < scale < 1e38:
        assert_auon(x.astype(np.float32))
    assert np.array_equal(auon(np.ldexp(x, 3)), auon(x)) or scale < 1e-308


def test_the_brake_keeps_its_digits():
    """r² - 1 = γ²/mn + …, 4e-6 here: float64 sums of cosh² would leave ten digits of it."""
    x = np.ones((512, 1024))
    z = 1 / np.sqrt(x.size)
    brake = z / auon(x)[0, 0] - 1
    assert abs(brake / np.expm1(0.5 * np.log1p(np.sinh(1.5 * z) ** 2)) - 1) <= 1e-9


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (3, 12, 12)], ids=str)
def test_hybrid_scales_what_newton_schulz_gives(rng, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    for steps in (1, 5):
        assert np.array_equal(auon(x, hybrid_steps=steps), auon(orthogonalize(x, schedule="muon", steps=steps)))
    assert np.allclose(
        auon(x.astype(np.float64), gamma=2.0, hybrid_steps=5),
        auon_truth(reference.named(x.astype(np.float64), "muon"), 2.0),
        rtol=0,
        atol=1e-12,
    )


def test_zero_matrices_stay_zero(rng):
    x = rng.standard_normal((3, 4, 5))
    x[1] = 0
    for hybrid in (0, 3):
        got = auon(x, hybrid_steps=hybrid)
        assert not got[1].any()
        assert np.array_equal(got[2], auon(x[2], hybrid_steps=hybrid))


def test_layouts_of_auon(rng):
    base = rng.standard_normal((2, 70, 90))
    for x in [base[0].T, base.transpose(0, 2, 1), base[:, ::-1, ::3], base[0, ::2, ::-1], base[:, :, :1]]:
        assert_auon(x)
        assert_auon(x.astype(np.float32))


@pytest.mark.parametrize("gamma", [-1.0, 300.5, np.nan, np.inf])
def test_gamma_out_of_range(gamma):
    with pytest.raises(ValueError, match=r"^auon: gamma must be 0 to 300, got"):
        auon(np.eye(3), gamma=gamma)


@pytest.mark.parametrize("steps", [-1, 101])
def test_hybrid_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=rf"^auon: hybrid_steps must be 0 to 100, got {steps}"):
        auon(np.eye(3), hybrid_steps=steps)


# ---- both -----------------------------------------------------------------------------------------------------------

BOTH = [soft_clip, auon, lambda x: auon(x, hybrid_steps=2)]
BOTH_NAMES = ["soft_clip", "auon", "hybrid"]


@pytest.mark.parametrize("function", BOTH, ids=BOTH_NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_nan_and_inf_are_refused(rng, function, dtype, bad):
    for shape, where in [((4, 5), (2, 3)), ((200, 150), (199, 149)), ((3, 4, 5), (1, 0, 0))]:
        x = rng.standard_normal(shape).astype(dtype)
        x[where] = bad
        with pytest.raises(ValueError, match=r"^(soft_clip|auon): x contains NaN or Inf") as error:
            function(x)
        assert ("matrix 1 of the batch" in str(error.value)) == (len(shape) == 3)


@pytest.mark.parametrize("function", BOTH, ids=BOTH_NAMES)
def test_misuse(function):
    for shape in [(), (3,)]:
        with pytest.raises(ValueError, match=r"^(soft_clip|auon): x must have at least 2 axes .*, got shape") as error:
            function(np.zeros(shape))
        assert str(shape) in str(error.value)
    for x in [np.eye(3, dtype=np.int64), np.eye(3, dtype=bool), np.eye(3, dtype=complex), np.eye(3, dtype=np.float16)]:
        with pytest.raises(TypeError, match=r"^(soft_clip|auon): x must be float64, float32 or bfloat16"):
            function(x)


@pytest.mark.parametrize("function", BOTH, ids=BOTH_NAMES)
@pytest.mark.parametrize("shape", [(400, 300), (5, 90, 120), (3, 300, 257)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_thread_count_changes_no_bit(rng, threads, function, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)

    def bits() -> bytes:
        result = function(x)
        return b"".join(r.tobytes() for r in (result if isinstance(result, tuple) else (result,)))

    threads(1)
    truth = bits()
    for count in (2, 3, 8):
        raphson.set_num_threads(count)
        assert bits() == truth


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_torch_in_torch_out(torch, rng, dtype):
    values = rng.standard_normal((2, 30, 20))
    t = torch.from_numpy(values).to(getattr(torch, dtype))
    x = t.to(torch.float64).numpy().astype(BF16 if dtype == "bfloat16" else dtype)
    pairs = [
        *zip(soft_clip(t), soft_clip(x), strict=True),
        (auon(t), auon(x)),
        (auon(t.mT, gamma=2), auon(x.mT, gamma=2)),
    ]
    for got, truth in pairs:
        assert type(got) is torch.Tensor
        assert got.dtype == t.dtype
        assert np.array_equal(got.to(torch.float64).numpy(), truth.astype(np.float64))
    with pytest.raises(TypeError, match="requires grad"):
        auon(t.float().requires_grad_())
