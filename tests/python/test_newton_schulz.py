"""orthogonalize: the numbers, for every dtype, shape, schedule and option."""

from __future__ import annotations

import numpy as np
import pytest

import reference
import tolerance
from agreement import BF16, DTYPES, NAMES, assert_close, dtype_id, relative, singular_values
from raphson import orthogonalize

SMALL = [
    (1, 1),
    (1, 2),
    (2, 1),
    (1, 17),
    (17, 1),
    (2, 2),
    (3, 5),
    (5, 3),
    (7, 7),
    (13, 9),
    (15, 16),
    (16, 17),
    (33, 31),
]
GAUSSIAN = [(24, 24), (24, 40), (40, 24), (64, 64), (65, 63), (96, 200), (200, 97), (31, 500), (129, 257)]

# ---- agreement with the transcription -------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", GAUSSIAN, ids=str)
def test_gaussian_agrees_with_the_float64_transcription(rng, shape, dtype, schedule):
    x = rng.standard_normal(shape).astype(dtype)
    got = orthogonalize(x, schedule=schedule)
    assert got.dtype == dtype
    assert got.shape == shape
    assert relative(got, reference.named(x, schedule)) <= tolerance.GAUSSIAN[dtype.name]


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=dtype_id)
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_and_odd_shapes_are_within_the_rounding_bound(rng, shape, dtype, schedule):
    table, factor, _ = reference.SCHEDULES[schedule]
    for _ in range(5):
        x = rng.standard_normal(shape).astype(dtype)
        bound = tolerance.rounding_bound(table, singular_values(x, factor), dtype.name)
        error = np.linalg.norm(orthogonalize(x, schedule=schedule) - reference.named(x, schedule), 2)
        assert error <= bound


@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("shape", [*SMALL, *GAUSSIAN], ids=str)
def test_bfloat16_rounds_where_it_says_and_nowhere_else(rng, shape, schedule):
    x = rng.standard_normal(shape).astype(BF16)
    assert_close(orthogonalize(x, schedule=schedule, method="standard"), x, schedule)


@pytest.mark.parametrize("shape", [(40, 40), (30, 90), (90, 30)], ids=str)
@pytest.mark.parametrize("schedule", NAMES)
def test_large_singular_values_end_near_one(rng, shape, schedule):
    sigma = np.geomspace(1.0, 0.05, 30)
    x = reference.with_singular_values(rng, *shape, sigma)
    got = orthogonalize(x, schedule=schedule)
    ends = np.linalg.svd(got, compute_uv=False)[:30]
    assert ends.max() <= 1.21
    assert ends.min() >= 0.67
    if min(shape) == len(sigma):  # of full rank, so that the polar factor is unique: the singular vectors stay
        assert np.linalg.norm(got - reference.polar_factor(x), 2) <= 0.33


@pytest.mark.parametrize("shape", [(40, 40), (24, 60), (61, 23)], ids=str)
def test_many_cubic_steps_give_the_polar_factor(rng, shape):
    x = rng.standard_normal(shape)
    got = orthogonalize(x, schedule=[[1.5, -0.5, 0.0]], steps=60)
    assert np.linalg.norm(got - reference.polar_factor(x), 2) <= 1e-12


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    "shape", [(3, 24, 30), (2, 3, 30, 24), (2, 1, 3, 26, 26), (1, 1, 1, 1, 1, 1, 2, 1, 24, 25), (11, 5, 3)], ids=str
)
def test_a_batch_is_the_loop_over_its_matrices_bit_for_bit(rng, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    got = orthogonalize(x)
    assert got.shape == shape
    for index in np.ndindex(shape[:-2]):
        assert got[index].tobytes() == orthogonalize(x[index]).tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (0, 3, 4), (3, 0, 4), (3, 4, 0), (2, 0, 2, 3)], ids=str)
def test_empty_arrays_give_empty_arrays(shape, dtype):
    x = np.empty(shape, dtype)
    got = orthogonalize(x)
    assert got.shape == shape
    assert got.dtype == dtype
    assert orthogonalize(x, out=x) is x


@pytest.mark.parametrize("shape", [(), (3,), (0,)], ids=str)
def test_fewer_than_two_axes_are_refused(shape):
    with pytest.raises(ValueError, match=r"^orthogonalize: x must have at least 2 axes.*got shape \(") as error:
        orthogonalize(np.zeros(shape))
    assert str(shape) in str(error.value)


# ---- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("schedule", NAMES)
def test_steps_shorten_the_table_or_repeat_its_last_row(rng, schedule, steps):
    x = rng.standard_normal((24, 40))
    got = orthogonalize(x, schedule=schedule, steps=steps)
    assert relative(got, reference.named(x, schedule, steps)) <= tolerance.GAUSSIAN["float64"]


CUSTOM = np.array([[2.0, -1.5, 0.5], [1.75, -1.0, 0.25], [1.5, -0.5, 0.0]])  # exact in float32 too


@pytest.mark.parametrize(
    "given_as",
    [lambda t: t, lambda t: t.astype(np.float32), np.ndarray.tolist, lambda t: np.asfortranarray(t)[::-1][::-1], tuple],
    ids=["float64", "float32", "list", "strided", "tuple of rows"],
)
@pytest.mark.parametrize("steps", [None, 2, 3, 5])
@pytest.mark.parametrize("shape", [(24, 40), (41, 24), (30, 30)], ids=str)
def test_a_table_is_used_as_it_is(rng, given_as, steps, shape):
    x = rng.standard_normal(shape)
    got = orthogonalize(x, schedule=given_as(CUSTOM), steps=steps)
    table = CUSTOM if steps is None else reference.with_steps(CUSTOM, steps)
    assert relative(got, reference.newton_schulz(x, table)) <= tolerance.GAUSSIAN["float64"]


def test_integers_make_a_table_too(rng):
    x = rng.standard_normal((24, 40))
    truth = reference.newton_schulz(x, np.array([[2.0, -1.0, 0.0]]))
    assert relative(orthogonalize(x, schedule=[[2, -1, 0]]), truth) <= tolerance.GAUSSIAN["float64"]


def test_a_table_means_the_same_as_its_name(rng):
    x = rng.standard_normal((24, 40))
    assert np.array_equal(orthogonalize(x, schedule=reference.MUON), orthogonalize(x, schedule="muon"))
    assert np.array_equal(orthogonalize(x, schedule=reference.MUON[:1], steps=5), orthogonalize(x, schedule="muon"))


def test_names_are_compared_by_value(rng):
    x = rng.standard_normal((5, 8))
    computed = "".join(["mu", "on"])
    assert np.array_equal(orthogonalize(x, schedule=computed), orthogonalize(x, schedule="muon"))
    assert not np.array_equal(orthogonalize(x, schedule="you"), orthogonalize(x, schedule="muon"))


@pytest.mark.parametrize("schedule", [np.ones((2, 2)), np.ones(3), np.ones((1, 2, 3)), [[1, 2, 3, 4]], 5.0], ids=repr)
def test_tables_of_another_shape_are_refused(schedule):
    with pytest.raises((ValueError, TypeError), match=r"^orthogonalize: schedule.*\(steps, 3\).*got") as error:
        orthogonalize(np.eye(3), schedule=schedule)
    shape = np.shape(schedule)
    assert shape == () or ", ".join(map(str, shape)) in str(error.value)


@pytest.mark.parametrize("schedule", [np.ones((0, 3)), [[1, 2, np.nan]], [[np.inf, 0, 0]]], ids=["empty", "nan", "inf"])
def test_tables_that_hold_no_steps_are_refused(schedule):
    with pytest.raises(ValueError, match="schedule"):
        orthogonalize(np.eye(3), schedule=schedule)


@pytest.mark.parametrize(
    "schedule", [object(), [[1, 2, 3], [1]], [["a", "b", "c"]], [["1", "2", "3"]], [[1j, 2, 3]]], ids=repr
)
def test_tables_that_are_no_numbers_are_refused(schedule):
    with pytest.raises(TypeError, match=r"^orthogonalize: schedule must be a name or a"):
        orthogonalize(np.eye(3), schedule=schedule)


@pytest.mark.parametrize("name", ["", "Muon", "newton", "muon "])
def test_unknown_names_are_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match="schedule") as error:
        orthogonalize(np.eye(3), schedule=name)
    message = str(error.value)
    assert all(f"'{known}'" in message for known in NAMES)
    assert f"'{name}'" in message


@pytest.mark.parametrize("schedule", ["muon", CUSTOM], ids=["name", "table"])
@pytest.mark.parametrize("steps", [0, -1, 101, 10**6])
def test_steps_out_of_range(steps, schedule):
    with pytest.raises(ValueError, match=rf"steps.*{steps}"):
        orthogonalize(np.eye(3), schedule=schedule, steps=steps)


@pytest.mark.parametrize("schedule", ["muon", CUSTOM], ids=["name", "table"])
@pytest.mark.parametrize("steps", ["3", 2.5, 10**30, [3]], ids=repr)
def test_steps_of_the_wrong_type(steps, schedule):
    with pytest.raises((TypeError, ValueError), match=r"^orthogonalize: steps"):
        orthogonalize(np.eye(3), schedule=schedule, steps=steps)


# ---- normalisation, method, precision -------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["frobenius", "gram", "aol"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(24, 40), (41, 24), (48, 48), (2, 25, 60)], ids=str)
def test_normalisations(rng, shape, dtype, normalize):
    x = rng.standard_normal(shape).astype(dtype)
    truth = reference.newton_schulz(x, reference.YOU, 1.0, normalize)
    got = orthogonalize(x, schedule="you", normalize=normalize)
    assert relative(got, truth) <= tolerance.GAUSSIAN[dtype.name]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(24, 40), (41, 24), (48, 48)], ids=str)
def test_turbo_is_four_steps_on_the_aol_scaled_matrix(rng, shape, dtype):
    x = (rng.lognormal(size=(shape[0], 1)) * rng.standard_normal(shape)).astype(dtype)
    assert relative(orthogonalize(x, schedule="turbo"), reference.named(x, "turbo")) <= tolerance.GAUSSIAN[dtype.name]


@pytest.mark.parametrize("normalize", ["frobenius", "gram", "aol"])
def test_the_factor_of_a_schedule_goes_with_it(rng, normalize):
    x = rng.standard_normal((24, 40))
    truth = reference.newton_schulz(x, reference.POLAR_EXPRESS, 1.02, normalize)
    assert relative(orthogonalize(x, normalize=normalize), truth) <= tolerance.GAUSSIAN["float64"]


@pytest.mark.parametrize("normalize", ["gram", "aol"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_normalisations_of_awkward_matrices(rng, dtype, normalize):
    x = rng.standard_normal((3, 24, 40)).astype(dtype)
    x[0] = 0
    x[1, 5] = 0
    x[2] = x[2, :1]
    for scale in (1.0, 2.0**-100, 2.0**100):
        got = orthogonalize((x.astype(np.float64) * scale).astype(dtype), normalize=normalize).astype(np.float64)
        assert np.isfinite(got).all()
        assert not got[0].any()
        assert np.linalg.norm(got[2], 2) <= 1.2


@pytest.mark.parametrize("method", ["auto", "standard", "gram"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(24, 24), (24, 40), (24, 100), (100, 30), (2, 26, 80)], ids=str)
def test_methods_agree(rng, shape, dtype, method):
    x = rng.standard_normal(shape).astype(dtype)
    for schedule in NAMES:
        got = orthogonalize(x, schedule=schedule, method=method)
        bound = tolerance.GRAM if method == "gram" else tolerance.GAUSSIAN  # auto keeps the general promise
        assert relative(got, reference.named(x, schedule)) <= bound[dtype.name]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("table", [reference.MUON, CUSTOM], ids=["quintic", "with a cubic row"])
def test_the_gram_method_for_any_number_of_steps(rng, steps, table):
    x = rng.standard_normal((24, 100))
    truth = reference.newton_schulz(x, reference.with_steps(table, steps))
    assert (
        relative(orthogonalize(x, schedule=table, steps=steps, method="gram"), truth) <= tolerance.GAUSSIAN["float64"]
    )


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(24, 40), (41, 24), (2, 30, 30)], ids=str)
def test_precision_is_that_of_the_iteration_alone(rng, shape, dtype, precision):
    x = rng.standard_normal(shape).astype(dtype)
    got = orthogonalize(x, schedule="muon", precision=precision)
    assert got.dtype == dtype
    truth = reference.named(x, "muon")
    assert relative(got, truth) <= max(tolerance.GAUSSIAN[precision], tolerance.UNIT[dtype.name])
    if precision == "bfloat16" and dtype != BF16:
        assert np.array_equal(got, got.astype(BF16).astype(dtype))  # stored from bfloat16


@pytest.mark.parametrize(("dtype", "precision"), [(d, d.name) for d in DTYPES], ids=str)
def test_precision_none_is_the_dtype(rng, dtype, precision):
    x = rng.standard_normal((24, 30)).astype(dtype)
    assert orthogonalize(x).tobytes() == orthogonalize(x, precision=precision).tobytes()


@pytest.mark.parametrize(
    ("argument", "value", "known"),
    [
        ("normalize", "spectral", ["frobenius", "gram", "aol"]),
        ("normalize", 3, ["frobenius"]),
        ("method", "fast", ["auto", "standard", "gram"]),
        ("precision", "float16", ["float64", "float32", "bfloat16"]),
        ("precision", "FLOAT32", ["float32"]),
    ],
    ids=str,
)
def test_unknown_options_are_answered_with_the_known_ones(argument, value, known):
    with pytest.raises((ValueError, TypeError), match=f"^orthogonalize: {argument} must be") as error:
        orthogonalize(np.eye(3), **{argument: value})
    assert all(f"'{name}'" in str(error.value) for name in known)
    assert repr(value) in str(error.value)
