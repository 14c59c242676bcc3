"""jax arrays in and out; they are never written."""

from __future__ import annotations

import importlib

import ml_dtypes
import numpy as np
import pytest

from raphson import orthogonalize

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((6, 9))


@pytest.fixture
def truth(x) -> np.ndarray:
    return orthogonalize(x)


def bits(array: object) -> bytes:
    return np.asarray(array).tobytes()


@pytest.fixture
def j(jax, x):
    return jax.numpy.asarray(x.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (2, 3, 4, 5), (0, 3, 4), (5, 0), (80, 90)], ids=str)
def test_jax_in_jax_out(jax, rng, dtype, shape):
    values = rng.standard_normal(shape).astype(BF16 if dtype == "bfloat16" else dtype)
    j = jax.numpy.asarray(values)
    got = orthogonalize(j)
    assert isinstance(got, jax.Array)
    assert got.dtype == j.dtype
    assert got.shape == j.shape
    assert got.devices() == j.devices()
    assert bits(got) == bits(orthogonalize(values))
    assert bits(got + 0) == bits(orthogonalize(values))
    assert bits(j) == bits(values)


@pytest.mark.parametrize("outside", [False, True])
def test_jax_float64_stays_float64(jax, x, truth, outside):
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with home.enable_x64(True):
        j = jax.numpy.asarray(x)
        if not outside:
            got = orthogonalize(j)
    assert j.dtype == np.float64
    if outside:  # made where 64 bits are enabled, used where they are not
        got = orthogonalize(j)
    assert got.dtype == np.float64
    assert np.array_equal(np.asarray(got), truth)


def test_jax_arrays_are_no_output(jax, j, x):
    before = bits(j)
    for given in (j, jax.numpy.ones((6, 9), np.float32)):
        with pytest.raises(ValueError, match=r"^orthogonalize: out cannot be written"):
            orthogonalize(given, out=j)
    assert bits(j) == before


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
def test_jax_tracers_are_told_so_by_jax(jax, j, transform):
    call = {
        "jit": lambda: jax.jit(orthogonalize)(j),
        "grad": lambda: jax.grad(lambda y: orthogonalize(y).sum())(j),
        "vmap": lambda: jax.vmap(orthogonalize)(jax.numpy.stack([j, j])),
    }[transform]
    with pytest.raises(jax.errors.JAXTypeError, match=r"[Tt]race"):
        call()


def test_jax_callbacks_work_under_jit(jax, j):
    def host(y: object) -> np.ndarray:
        return orthogonalize(np.asarray(y))

    traced = jax.jit(lambda y: jax.pure_callback(host, jax.ShapeDtypeStruct(y.shape, y.dtype), y))
    assert bits(traced(j)) == bits(orthogonalize(j))


@pytest.mark.parametrize("dtype", ["float16", "int32", "bool", "complex64"])
def test_other_jax_dtypes_are_refused(jax, dtype):
    with pytest.raises(TypeError, match=r"^orthogonalize: x must be "):
        orthogonalize(jax.numpy.ones((3, 4), dtype))
