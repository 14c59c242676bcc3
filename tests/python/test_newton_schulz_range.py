"""orthogonalize at the edges: scale, zeros, rank, NaN and Inf; and properties that hold for any matrix."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import tolerance
from agreement import DTYPES, NAMES, assert_close, dtype_id, relative, singular_values
from raphson import newton_schulz, orthogonalize

# ---- scale, zeros, rank ---------------------------------------------------------------------------------------------

SCALES = {
    "float64": [1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300],
    "float32": [1e-35, 1e-30, 1e30, 1e35],
    "bfloat16": [1e-35, 1e-30, 1e30, 1e35],
}


@pytest.mark.parametrize(("name", "scale"), [(n, s) for n, scales in SCALES.items() for s in scales], ids=str)
@pytest.mark.parametrize("shape", [(24, 40), (1, 9), (30, 24)], ids=str)
def test_the_scale_of_the_input_does_not_matter(rng, shape, name, scale):
    dtype = next(d for d in DTYPES if d.name == name)
    x = rng.standard_normal(shape)
    power = 2.0 ** round(np.log2(scale))  # exact, so that both inputs hold the same numbers
    x = (x.astype(dtype).astype(np.float64) * power).astype(dtype)
    assert np.isfinite(x.astype(np.float64)).all()
    unscaled = (x.astype(np.float64) / power).astype(dtype)
    assert orthogonalize(x).tobytes() == orthogonalize(unscaled).tobytes()


@pytest.mark.parametrize("name", list(SCALES))
def test_denormal_input(rng, name):
    dtype = next(d for d in DTYPES if d.name == name)
    smallest = {"float64": 2.0**-1074, "float32": 2.0**-149, "bfloat16": 2.0**-133}[name]
    x = rng.integers(-60, 60, (24, 40)).astype(np.float64)
    tiny = (x * smallest).astype(dtype)
    assert np.array_equal(tiny.astype(np.float64) / smallest, x)
    assert relative(orthogonalize(tiny, schedule="you"), reference.named(x, "you")) <= tolerance.GAUSSIAN[name]
    one = np.zeros((3, 4), dtype)
    one[1, 2] = smallest
    table, factor, _ = reference.SCHEDULES["you"]
    truth = reference.newton_schulz(np.array([[1.0]]), table, factor)[0, 0]
    bound = tolerance.rounding_bound(table, np.ones(1), name)
    assert abs(float(orthogonalize(one, schedule="you")[1, 2]) - truth) <= bound


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_the_largest_numbers_do_not_overflow(rng, dtype):
    largest = float(ml_dtypes.finfo(dtype).max)
    signs = rng.choice([-1.0, 1.0], (24, 40))
    x = (signs * largest).astype(dtype)
    assert np.isfinite(x.astype(np.float64)).all()
    assert_close(orthogonalize(x), signs.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (8, 5), (3, 20, 20), (200, 300)], ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-7])
def test_zeros_give_zeros(shape, dtype, eps):
    got = orthogonalize(np.zeros(shape, dtype), eps=eps)
    assert not got.astype(np.float64).any()


def test_a_zero_matrix_of_a_batch_does_not_touch_the_others(rng):
    x = rng.standard_normal((3, 5, 8))
    x[1] = 0
    got = orthogonalize(x)
    assert not got[1].any()
    assert np.array_equal(got[0], orthogonalize(x[0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("rank", [1, 2, 12])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50)], ids=str)
def test_rank_deficient_matrices_stay_finite(rng, shape, rank, dtype):
    x = reference.with_singular_values(rng, *shape, np.linspace(1, 0.5, rank)).astype(dtype)
    for schedule in NAMES:
        got = orthogonalize(x, schedule=schedule).astype(np.float64)
        assert np.isfinite(got).all()
        assert np.linalg.norm(got, 2) <= 1.25


CUBIC = np.array([[2.0, -1.5, 0.5], [1.5, -0.5, 0.0]])


def test_eps_bounds_the_divisor_relative_to_the_largest_entry(rng):
    x = rng.standard_normal((24, 40))
    for scale in (2.0**-90, 1.0, 2.0**90):
        got = orthogonalize(x * scale, schedule=CUBIC, eps=100.0)
        truth = reference.newton_schulz(x, CUBIC, eps=100.0)
        assert relative(got, truth) <= tolerance.GAUSSIAN["float64"]
    assert relative(truth, reference.newton_schulz(x, CUBIC)) > 0.1


@pytest.mark.parametrize("eps", [-1e-9, -1.0, np.nan, np.inf])
def test_eps_out_of_range(eps):
    with pytest.raises(ValueError, match=r"^orthogonalize: eps must be"):
        orthogonalize(np.eye(3), eps=eps)


@pytest.mark.parametrize("eps", ["1", None, 1j])
def test_eps_of_the_wrong_type(eps):
    with pytest.raises(TypeError, match=r"eps|incompatible function arguments"):
        orthogonalize(np.eye(3), eps=eps)


# ---- NaN and Inf ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [None, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("where", [(0, 0), (3, 7), (199, 299), (100, 33)], ids=str)
def test_nan_and_inf_are_refused_and_nothing_is_written(rng, where, dtype, bad, check):
    x = rng.standard_normal((200, 300)).astype(dtype)
    x[where] = bad
    before = x.tobytes()
    out = np.full_like(x, 5.0)
    with pytest.raises(ValueError, match=r"^orthogonalize: x contains NaN or Inf"):
        orthogonalize(x, out=out, check_finite=check)
    assert (out.astype(np.float64) == 5.0).all()
    for view in (x, x.T):
        with pytest.raises(ValueError, match="NaN or Inf"):
            orthogonalize(view, out=view, check_finite=check)
    assert x.tobytes() == before


def test_in_a_batch_the_error_says_which_and_no_matrix_is_written(rng):
    x = rng.standard_normal((2, 3, 5, 8))
    x[1, 1, 2, 2] = np.nan
    before = x.copy()
    with pytest.raises(ValueError, match="matrix 4 of the batch"):
        orthogonalize(x, out=x)
    assert np.array_equal(x, before, equal_nan=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("method", ["standard", "gram"])
def test_unchecked_they_spoil_their_own_matrix_alone(rng, dtype, bad, method):
    x = rng.standard_normal((5, 6, 20)).astype(dtype)
    x[2, 3, 4] = bad
    got = orthogonalize(x, check_finite=False, method=method)
    assert np.isnan(got[2].astype(np.float64)).any()
    for i in (0, 1, 3, 4):
        assert got[i].tobytes() == orthogonalize(x[i], method=method).tobytes()


def test_check_finite_of_the_wrong_type():
    with pytest.raises(TypeError, match="check_finite"):
        orthogonalize(np.eye(3), check_finite="yes")


# ---- heavy tails: rounding must not carry a singular value out of the interval that a step was made for --------------


def heavy_tailed(shape: tuple[int, int], seeds: int) -> np.ndarray:
    """Cauchy entries, Gaussian rows under Cauchy and lognormal scales, a power-law spectrum; for every seed."""
    batch = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(shape)
        left, right = (np.linalg.qr(rng.standard_normal((side, min(shape))))[0] for side in shape)
        batch += [
            rng.standard_cauchy(shape),
            rng.standard_cauchy((shape[0], 1)) * x,
            rng.lognormal(0.0, 3.0, (shape[0], 1)) * x,
            left * np.arange(1.0, min(shape) + 1) ** -1.5 @ right.T,
        ]
    stacked = np.stack(batch)
    return stacked / np.abs(stacked).max(axis=(1, 2), keepdims=True)


def greatest_value(answers: np.ndarray) -> float:
    assert np.isfinite(answers.astype(np.float64)).all()
    return float(np.linalg.norm(answers.astype(np.float64), 2, axis=(1, 2)).max())


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("name", ["muon", "you", "polar_express", "cans", "cubic", "kovarik", "turbo", "root"])
def test_heavy_tails_do_not_blow_up(name, dtype):
    for shape in [(64, 64), (48, 96)]:
        x = heavy_tailed(shape, 40).astype(dtype)
        assert greatest_value(orthogonalize(x, schedule=name)) <= 1.25


@pytest.mark.parametrize("name", ["cans", "root"])
def test_without_the_damping_heavy_tails_blow_up_in_bfloat16(name):
    table = newton_schulz.schedule(name, shape=(2048, 2048))
    x = heavy_tailed((64, 64), 40).astype(ml_dtypes.bfloat16)
    assert greatest_value(orthogonalize(x, schedule=table, normalize="frobenius")) <= 1.25
    published = table * np.array([1.02, 1.02**3, 1.02**5])  # p(1.02 x)
    assert greatest_value(orthogonalize(x, schedule=published, normalize="frobenius")) > 100


# ---- properties -----------------------------------------------------------------------------------------------------

properties = settings(max_examples=30, deadline=None, database=None)
sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)
names = st.sampled_from(NAMES)


@properties
@given(m=sides, n=sides, seed=seeds, name=names)
def test_orthogonal_factors_pass_through(m, n, seed, name):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, n))
    left = np.linalg.qr(rng.standard_normal((m, m)))[0]
    right = np.linalg.qr(rng.standard_normal((n, n)))[0]
    table, factor, _ = reference.SCHEDULES[name]
    # Both sides carry the rounding of an iteration, and the left one that of the products before it.
    bound = 3 * tolerance.rounding_bound(table, singular_values(x, factor), "float64")
    got = orthogonalize(left @ x @ right, schedule=name)
    assert np.linalg.norm(got - left @ orthogonalize(x, schedule=name) @ right, 2) <= bound


@properties
@given(m=sides, n=sides, seed=seeds, name=names, power=st.integers(-900, 900))
def test_a_power_of_two_changes_no_bit(m, n, seed, name, power):
    x = np.random.default_rng(seed).standard_normal((m, n))
    scaled = np.ldexp(x, power)
    assert orthogonalize(scaled, schedule=name).tobytes() == orthogonalize(x, schedule=name).tobytes()


@properties
@given(m=sides, n=sides, seed=seeds, name=names)
def test_the_transpose_gives_the_transpose(m, n, seed, name):
    x = np.random.default_rng(seed).standard_normal((m, n))
    table, factor, _ = reference.SCHEDULES[name]
    bound = 2 * tolerance.rounding_bound(table, singular_values(x, factor), "float64")
    straight, turned = orthogonalize(x, schedule=name), orthogonalize(x.T, schedule=name).T
    assert np.linalg.norm(straight - turned, 2) <= bound
    if m != n and min(m, n) > 1:
        assert np.array_equal(straight, turned)  # the same memory, iterated on the same side


@properties
@given(batch=st.integers(1, 9), m=sides, n=sides, seed=seeds, dtype=st.sampled_from(DTYPES))
def test_batches_of_any_size_are_loops_bit_for_bit(batch, m, n, seed, dtype):
    x = np.random.default_rng(seed).standard_normal((batch, m, n)).astype(dtype)
    got = orthogonalize(x)
    assert got.tobytes() == b"".join(orthogonalize(matrix).tobytes() for matrix in x)


@properties
@given(m=sides, n=sides, seed=seeds, dtype=st.sampled_from(DTYPES[:2]), name=names)
def test_any_shape_is_within_the_rounding_bound(m, n, seed, dtype, name):
    x = np.random.default_rng(seed).standard_normal((m, n)).astype(dtype)
    table, factor, _ = reference.SCHEDULES[name]
    bound = tolerance.rounding_bound(table, singular_values(x, factor), dtype.name)
    got = orthogonalize(x, schedule=name)
    assert np.linalg.norm(got - reference.named(x, name), 2) <= bound
