"""CUDA arrays in, CUDA arrays out: on a GPU, or with the kernels emulated on the CPU (see cuda_arrays.py)."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import cuda_arrays
import dlpack
import raphson
from raphson.newton_schulz import orthogonalize, orthogonalize_many
from raphson.sketch import polynomial_preconditioner

device = cuda_arrays.device()
emulated = pytest.mark.skipif(not device.emulated, reason="asks what only hand-made arrays tell")

DTYPES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}


def put(x: np.ndarray, name: str):
    return device.put(x if name == "bfloat16" else x.astype(name), bfloat16=name == "bfloat16")


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (3, 20, 12), (2, 2, 6, 9)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cuda_array_comes_back_as_one(rng, dtype, shape):
    x = rng.standard_normal(shape).astype(np.float32)
    result = orthogonalize(put(x, dtype), schedule="muon")
    assert type(result) is type(put(x, dtype))
    expected = orthogonalize(x.astype(np.float64), schedule="muon")
    found = device.get(result).astype(np.float64)
    assert found.shape == shape
    assert np.linalg.norm(found - expected) <= DTYPES[dtype] * np.linalg.norm(expected)


def test_every_stride_is_read(rng):
    x = rng.standard_normal((3, 9, 14))
    expected = orthogonalize(x)
    for array in (np.asfortranarray(x), np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, 2)), 2, 0)):
        np.testing.assert_allclose(device.get(orthogonalize(device.put(array))), expected, atol=1e-11)


@emulated
def test_a_reversed_view_is_read(rng):
    x = rng.standard_normal((6, 10))
    np.testing.assert_allclose(
        device.get(orthogonalize(device.put(x[::-1, ::-1]))), orthogonalize(x)[::-1, ::-1], atol=1e-11
    )


def test_a_list_is_one_call(rng):
    xs = [rng.standard_normal(s).astype(np.float32) for s in [(4, 6), (8, 3), (4, 6), (5, 5)]]
    results = orthogonalize_many([device.put(x) for x in xs])
    for x, result in zip(xs, results, strict=True):
        np.testing.assert_array_equal(device.get(result), device.get(orthogonalize(device.put(x))))


def test_in_place_and_out(rng):
    x = rng.standard_normal((7, 12)).astype(np.float32)
    expected = device.get(orthogonalize(device.put(x)))
    here, out = device.put(x.copy()), device.put(np.full_like(x, np.nan))
    assert orthogonalize(here, out=here) is here
    np.testing.assert_array_equal(device.get(here), expected)
    assert orthogonalize(device.put(x), out=out) is out
    np.testing.assert_array_equal(device.get(out), expected)


def test_nan_is_looked_for_only_when_asked(rng):
    x = rng.standard_normal((2, 4, 5)).astype(np.float32)
    x[1, 2, 3] = np.nan
    found = device.get(orthogonalize(device.put(x)))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).any()
    with pytest.raises(ValueError, match=r"^orthogonalize: x contains NaN or Inf \(matrix 1 of the batch\)$"):
        orthogonalize(device.put(x), check_finite=True)
    assert np.isfinite(device.get(orthogonalize(device.put(x[:1]), check_finite=True))).all()


def test_zeros_and_nothing():
    assert (device.get(orthogonalize(device.put(np.zeros((2, 3, 4), np.float32)))) == 0).all()
    assert device.get(orthogonalize(device.put(np.zeros((0, 3, 4), np.float32)))).shape == (0, 3, 4)


def test_arrays_of_one_call_share_a_device(rng):
    x = rng.standard_normal((3, 4))
    with pytest.raises(TypeError, match=r"^orthogonalize: x is .*out"):
        orthogonalize(device.put(x), out=np.empty((3, 4)))
    with pytest.raises(TypeError, match="orthogonalize"):
        orthogonalize_many([device.put(x), x])


@emulated
def test_another_device_is_named(rng):
    x = rng.standard_normal((3, 4))
    elsewhere = cuda_arrays.DeviceArray(np.empty((3, 4)), device=1)
    with pytest.raises(
        TypeError, match=r"^orthogonalize: x is on CUDA device 0 and out is on CUDA device 1; they must be on one"
    ):
        orthogonalize(device.put(x), out=elsewhere)


def test_functions_without_kernels_say_so(rng):
    x = device.put(rng.standard_normal((4, 4)))
    with pytest.raises(
        RuntimeError, match=r"^polynomial_preconditioner: A is a CUDA array, but this function has no CUDA kernels yet"
    ):
        polynomial_preconditioner(x, 2)


@emulated
def test_the_producer_is_told_our_stream(rng):
    x = device.put(rng.standard_normal((4, 4)))
    orthogonalize(x)
    assert x.streams == [1]


@emulated
def test_a_bare_capsule_is_refused(rng):
    with pytest.raises(TypeError, match="capsule of CUDA memory"):
        orthogonalize(device.put(rng.standard_normal((4, 4))).__dlpack__())


@emulated
def test_a_result_speaks_dlpack(rng):
    kept = []

    class Keeping(cuda_arrays.DeviceArray):
        def __array_namespace__(self):
            return type("Space", (), {"from_dlpack": staticmethod(lambda exporter: kept.append(exporter) or exporter)})

    x = rng.standard_normal((4, 6))
    exporter = orthogonalize(Keeping(x))
    assert exporter.__dlpack_device__() == (dlpack.CUDA, 0)
    with pytest.raises(ValueError, match="stream must not be 0"):
        exporter.__dlpack__(stream=0)
    with pytest.raises(BufferError):
        exporter.__dlpack__(copy=True)
    for stream in (None, -1, 1, 2, 12345):
        assert dlpack.capsule_name(exporter.__dlpack__(stream=stream)) == "dltensor"
    np.testing.assert_allclose(cuda_arrays.from_dlpack(exporter).array, orthogonalize(x), atol=1e-12)
    kept.clear()
    del exporter
    gc.collect()


def test_a_call_of_nothing_is_no_error():
    assert orthogonalize_many([]) == []
    assert raphson.build_info()["cuda_available"]


@pytest.mark.skipif(device.emulated, reason="needs a GPU: the emulation has no streams to capture")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 128), (300, 200), (3, 100, 400)], ids=str)
@pytest.mark.parametrize("method", ["standard", "gram"])
def test_a_cuda_graph_replays(rng, method, shape, dtype):
    """Fixed steps and out=: nothing waits, and memory is taken in the order of the stream, so torch can capture it."""
    torch = device.torch
    x, other = put(rng.standard_normal(shape), dtype), put(rng.standard_normal(shape), dtype)
    out = torch.full_like(x, float("nan"))

    def work() -> None:
        orthogonalize(x, schedule="muon", steps=5, method=method, out=out)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()  # what is made once is made here: the pool, cuBLAS's choices
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    for values in (other, x.clone()):
        x.copy_(values)
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, orthogonalize(x, schedule="muon", steps=5, method=method))
