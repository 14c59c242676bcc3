"""orthogonalize on every memory layout and container NumPy users have."""

from __future__ import annotations

import array
import inspect

import numpy as np
import pytest

import raphson
import reference
import tolerance
from agreement import DTYPES, NAMES, assert_close, dtype_id, relative
from raphson import orthogonalize

# ---- layouts --------------------------------------------------------------------------------------------------------


def unaligned(x: np.ndarray) -> np.ndarray:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def field_of_a_record(x: np.ndarray) -> np.ndarray:
    """Strides that are no multiple of the item size."""
    records = np.zeros(x.shape, np.dtype([("a", x.dtype), ("b", np.int8)]))
    records["a"] = x
    return records["a"]


def widened(x: np.ndarray, axis: int, step: int) -> np.ndarray:
    index = [slice(None)] * x.ndim
    index[axis] = slice(None, None, step)
    return np.repeat(x, step, axis)[tuple(index)]


LAYOUTS = {
    "fortran": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "rows reversed": lambda x: np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :],
    "columns reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "all reversed": lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    "every second column": lambda x: widened(x, -1, 2),
    "every third row": lambda x: widened(x, -2, 3),
    "batch innermost": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
    "unaligned": unaligned,
    "field of a record": field_of_a_record,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 24, 40), (3, 40, 25)], ids=str)
def test_every_layout_is_read_right(rng, shape, layout, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    view = LAYOUTS[layout](x)
    assert np.array_equal(view.astype(np.float64), x.astype(np.float64))
    before = view.tobytes()
    got = orthogonalize(view)
    assert view.tobytes() == before
    assert got.flags.c_contiguous
    assert got.dtype == dtype
    assert_close(got, x)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    "layout", [name for name in LAYOUTS if name not in {"unaligned", "field of a record", "read-only"}]
)
def test_every_layout_is_written_right(rng, layout, dtype):
    x = rng.standard_normal((3, 24, 40)).astype(dtype)
    out = LAYOUTS[layout](np.zeros_like(x))
    assert orthogonalize(x, out=out) is out
    assert out.tobytes() == orthogonalize(x).tobytes()
    inplace = LAYOUTS[layout](x)
    assert orthogonalize(inplace, out=inplace) is inplace
    assert_close(inplace, x)


def test_writing_a_slice_touches_nothing_beside_it(rng):
    x = rng.standard_normal((24, 40))
    frame = np.full((60, 120), 7.0)
    out = frame[10:58:2, 100:20:-2]
    assert orthogonalize(x, out=out) is out
    assert np.array_equal(out, orthogonalize(x))
    out[...] = 7.0
    assert np.all(frame == 7.0)


@pytest.mark.parametrize("schedule", NAMES)
def test_broadcast_input(rng, schedule):
    row = rng.standard_normal(30)
    x = np.broadcast_to(row, (4, 20, 30))
    table, factor, _ = reference.SCHEDULES[schedule]
    bound = tolerance.rounding_bound(table, np.array([1 / factor]), "float64")
    # All 19 null directions start at exactly zero in truth, at rounding here, and are multiplied by the slope at 0.
    bound += 4 * tolerance.UNIT["float64"] * float(np.prod(table[:, 0]))
    got = orthogonalize(x, schedule=schedule)
    for matrix in got:
        assert np.linalg.norm(matrix - reference.named(x[0], schedule), 2) <= bound


def test_more_than_eight_axes_with_strides(rng):
    x = rng.standard_normal((2, 1, 2, 1, 1, 2, 1, 1, 1, 24, 50))[..., ::2].transpose(2, 1, 0, 3, 8, 5, 6, 7, 4, 10, 9)
    assert x.shape == (2, 1, 2, 1, 1, 2, 1, 1, 1, 25, 24)
    assert relative(orthogonalize(x), reference.named(x)) <= tolerance.GAUSSIAN["float64"]


# ---- other containers -----------------------------------------------------------------------------------------------


class Frame:
    """Like a DataFrame: nothing but __array__."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.values


def as_memoryview(x: np.ndarray) -> memoryview:
    return memoryview(array.array("d", x.ravel())).cast("B").cast("d", list(x.shape))


@pytest.mark.parametrize(
    "container", [np.ndarray.tolist, Frame, as_memoryview, memoryview], ids=["list", "frame", "array", "view"]
)
def test_containers_are_converted_and_give_numpy(rng, container):
    x = rng.standard_normal((2, 5, 8))
    got = orthogonalize(container(x))
    assert type(got) is np.ndarray
    assert np.array_equal(got, orthogonalize(x))


def test_a_list_of_arrays_is_a_batch(rng):
    x = rng.standard_normal((3, 5, 8))
    assert np.array_equal(orthogonalize(list(x)), orthogonalize(x))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_subclasses_of_ndarray(rng, tmp_path):
    x = rng.standard_normal((5, 8))
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=x.shape)
    mapped[...] = x
    assert np.array_equal(orthogonalize(mapped), orthogonalize(x))
    assert orthogonalize(mapped, out=mapped) is mapped
    assert np.array_equal(np.fromfile(tmp_path / "x").reshape(x.shape), orthogonalize(x))
    assert np.array_equal(orthogonalize(np.matrix(x)), orthogonalize(x))


def test_writing_through_a_memoryview(rng):
    x = rng.standard_normal((5, 8))
    view = as_memoryview(x)
    assert orthogonalize(view, out=view) is view
    assert np.array_equal(np.asarray(view), orthogonalize(x))


@pytest.mark.parametrize("out", [[[1.0]], (1.0,), Frame(np.zeros((2, 2))), "x", 3.0, object()], ids=type)
def test_what_cannot_be_written_is_no_out(out):
    with pytest.raises(TypeError, match=r"^orthogonalize: out must be"):
        orthogonalize(np.eye(2), out=out)


@pytest.mark.parametrize("make", [lambda: [[1.0, 2.0], [3.0, 5.0]], lambda: Frame(np.eye(2))], ids=["list", "frame"])
def test_converted_input_cannot_be_written_in_place(make):
    x = make()
    with pytest.raises((ValueError, TypeError), match=r"^orthogonalize: out"):
        orthogonalize(x, out=x)


# ---- out and comm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(5, 8), (30, 24), (3, 7, 7), (200, 300)], ids=str)
def test_out_is_written_and_returned(rng, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    truth = orthogonalize(x)
    out = np.full_like(x, 3.0)
    assert orthogonalize(x, out=out) is out
    assert out.tobytes() == truth.tobytes()
    assert orthogonalize(x, out=x) is x
    assert x.tobytes() == truth.tobytes()


@pytest.mark.parametrize("shape", [(5, 8), (8, 4), (4, 8, 1), (8,), (1, 4, 8), (4, 9), ()], ids=str)
def test_out_of_another_shape_is_refused_naming_both(shape):
    x = np.ones((4, 8))
    with pytest.raises(ValueError, match=r"^orthogonalize: out ") as error:
        orthogonalize(x, out=np.zeros(shape))
    assert "(4, 8)" in str(error.value)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_out_of_another_dtype_is_refused_naming_both(dtype):
    other = DTYPES[(DTYPES.index(dtype) + 1) % 3]
    with pytest.raises(TypeError, match=rf"x is {dtype.name} and out is {other.name}"):
        orthogonalize(np.ones((4, 8), dtype), out=np.ones((4, 8), other))


def test_comm_is_reserved():
    with pytest.raises(ValueError, match=r"^orthogonalize: comm"):
        orthogonalize(np.eye(3), comm=object())


def test_the_signature_is_the_contract():
    first, *others = inspect.signature(orthogonalize).parameters.values()
    assert first.name == "x"
    assert first.kind is first.POSITIONAL_OR_KEYWORD
    assert all(p.kind is p.KEYWORD_ONLY for p in others)
    assert [(p.name, p.default) for p in others] == [
        ("schedule", "polar_express"),
        ("steps", None),
        ("normalize", None),
        ("method", "auto"),
        ("precision", None),
        ("eps", 1e-7),
        ("check_finite", None),
        ("out", None),
        ("comm", None),
    ]
    assert raphson.orthogonalize is orthogonalize
