"""Which arrays are taken and which outputs are written: NumPy, and frameworks side by side."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from raphson import orthogonalize


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((6, 9))


@pytest.fixture
def truth(x) -> np.ndarray:
    return orthogonalize(x)


# ---- NumPy dtypes ---------------------------------------------------------------------------------------------------

WRONG = [
    "f2",
    "g",
    ">f8",
    ">f4",
    "i1",
    "i4",
    "i8",
    "u1",
    "u8",
    "?",
    "c8",
    "c16",
    "O",
    "S8",
    "U2",
    "V8",
    "M8[s]",
    "m8[s]",
]


@pytest.mark.parametrize("code", WRONG)
def test_other_numpy_dtypes_are_refused_by_name(code):
    dtype = np.dtype(code)
    with pytest.raises(TypeError, match=r"^orthogonalize: x must be float64, float32 or bfloat16, got ") as error:
        orthogonalize(np.zeros((3, 4), dtype))
    assert str(dtype) in str(error.value)
    with pytest.raises(TypeError, match=r"^orthogonalize: out must be float64, float32 or bfloat16, got "):
        orthogonalize(np.zeros((3, 4)), out=np.zeros((3, 4), dtype))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int4", "float8_e3m4"])
def test_other_user_dtypes_are_refused_by_name(name):
    with pytest.raises(TypeError, match=rf"^orthogonalize: x must be .*, got {name}"):
        orthogonalize(np.zeros((3, 4), getattr(ml_dtypes, name)))


@pytest.mark.parametrize(
    "data", [[[1, 2], [3, 4]], [[True, False]], [[1j, 2.0]], [["a", "b"]], [[None, 1.0]]], ids=repr
)
def test_lists_are_not_promoted(data):
    with pytest.raises(TypeError, match=r"^orthogonalize: x must be .*, got "):
        orthogonalize(data)


@pytest.mark.parametrize("data", ["abc", None, {}, {1.0}, object(), b"12345678", bytearray(8), lambda: None], ids=type)
def test_what_is_no_array_is_refused(data):
    with pytest.raises(TypeError, match=r"^orthogonalize: x must be"):
        orthogonalize(data)


def test_ragged_lists_are_refused():
    with pytest.raises((TypeError, ValueError)):
        orthogonalize([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("mask", [False, True])
def test_masked_arrays_are_refused(x, mask):
    with pytest.raises(TypeError, match=r"^orthogonalize: x is a masked array"):
        orthogonalize(np.ma.array(x, mask=mask))
    with pytest.raises(TypeError, match=r"^orthogonalize: out is a masked array"):
        orthogonalize(x, out=np.ma.array(x, mask=mask))


def test_a_structured_array_is_refused():
    with pytest.raises(TypeError, match=r"^orthogonalize: x must be"):
        orthogonalize(np.zeros((3, 4), [("a", "f8"), ("b", "f8")]))


# ---- outputs: read-only, overlapping --------------------------------------------------------------------------------


def test_a_read_only_array_is_input_but_no_output(x, truth):
    x.flags.writeable = False
    assert np.array_equal(orthogonalize(x), truth)
    with pytest.raises(ValueError, match=r"^orthogonalize: out cannot be written"):
        orthogonalize(x, out=x)
    with pytest.raises(ValueError, match=r"^orthogonalize: out cannot be written"):
        orthogonalize(np.ones((6, 9)), out=x)
    with pytest.raises((ValueError, TypeError), match=r"^orthogonalize: out"):
        orthogonalize(np.ones((6, 9)), out=memoryview(x))


def test_an_unaligned_output_is_refused(x):
    records = np.zeros((6, 9), [("a", "f8"), ("b", "i1")])
    with pytest.raises(ValueError, match=r"^orthogonalize: out must be aligned"):
        orthogonalize(x, out=records["a"])
    inplace = records["a"]
    inplace[...] = x
    with pytest.raises(ValueError, match=r"^orthogonalize: out"):
        orthogonalize(inplace, out=inplace)
    assert np.array_equal(inplace, x)


SQUARE = {
    "shifted by a column": lambda b: (b[:8, :8], b[:8, 1:9]),
    "shifted by a row": lambda b: (b[:8, :8], b[1:9, :8]),
    "the transpose": lambda b: (b[:8, :8], b[:8, :8].T),
    "rows reversed": lambda b: (b[:8, :8], b[7::-1, :8]),
    "columns reversed": lambda b: (b[:8, :8], b[:8, 7::-1]),
    "crossing strides": lambda b: (b[:8, :8:2], b[:8, :4]),
    "one common element": lambda b: (b[:4, :4], b[3:7, 3:7]),
}


@pytest.mark.parametrize("case", SQUARE)
def test_partial_overlap_is_refused_and_nothing_is_written(rng, case):
    buffer = rng.standard_normal((16, 16))
    before = buffer.copy()
    given, out = SQUARE[case](buffer)
    with pytest.raises(ValueError, match=r"^orthogonalize: out overlaps x"):
        orthogonalize(given, out=out)
    assert np.array_equal(buffer, before)


DISJOINT = {
    "every second column": lambda b: (b[:, ::2], b[:, 1::2]),
    "every second row, reversed": lambda b: (b[::2], b[15::-2]),
    "halves": lambda b: (b[:, :8], b[:, 8:]),
    "checkered": lambda b: (b[::2, ::2], b[1::2, 1::2]),
}


@pytest.mark.parametrize("case", DISJOINT)
def test_disjoint_views_of_one_buffer_are_no_overlap(rng, case):
    buffer = rng.standard_normal((16, 16))
    given, out = DISJOINT[case](buffer)
    truth = orthogonalize(given.copy())
    before = given.copy()
    assert orthogonalize(given, out=out) is out
    assert np.allclose(out, truth, rtol=0, atol=1e-12)
    assert np.array_equal(given, before)


def test_another_view_of_the_same_elements_works_in_place(x, truth):
    view = x[:]
    assert orthogonalize(x, out=view) is view
    assert np.array_equal(x, truth)


@pytest.mark.parametrize("strides", [(0, 8), (8, 0), (0, 0), (8, 8), (16, 8)], ids=str)
def test_an_output_that_overlaps_itself_is_refused(strides):
    base = np.ones(64)
    before = base.copy()
    shared = np.lib.stride_tricks.as_strided(base, (4, 6), strides, writeable=True)
    with pytest.raises(ValueError, match=r"^orthogonalize: out has elements that share memory"):
        orthogonalize(np.eye(4, 6), out=shared)
    with pytest.raises(ValueError, match=r"^orthogonalize: out has elements that share memory"):
        orthogonalize(shared, out=shared)
    assert np.array_equal(base, before)


# ---- several frameworks at once -------------------------------------------------------------------------------------


def test_frameworks_are_not_mixed(torch, jax, x):
    x = x.astype(np.float32)
    arrays = {"numpy": x, "torch": torch.from_numpy(x.copy()), "jax": jax.numpy.asarray(x)}
    for given in arrays:
        for out in arrays:
            if given == out:
                continue
            with pytest.raises(TypeError, match=r"^orthogonalize: ") as error:
                orthogonalize(arrays[given], out=arrays[out])
            assert given in str(error.value)
            assert out in str(error.value)


def test_dtypes_are_not_mixed_in_torch(torch, x):
    t = torch.from_numpy(x.astype(np.float32))
    with pytest.raises(TypeError, match="x is float32 and out is float64"):
        orthogonalize(t, out=torch.empty(6, 9, dtype=torch.float64))
    with pytest.raises(TypeError, match="x is float32 and out is bfloat16"):
        orthogonalize(t, out=torch.empty(6, 9, dtype=torch.bfloat16))
