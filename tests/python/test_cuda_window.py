"""GradientWindow(device="cuda") beside the CPU's, through Python: arrays in and out, states, refusals."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import cuda_arrays
from raphson.ihvp import GradientWindow

device = cuda_arrays.device()

DIM = 70


def pair(**options) -> tuple[GradientWindow, GradientWindow]:
    return GradientWindow(DIM, 5, 0.1, **options), GradientWindow(DIM, 5, 0.1, device="cuda", **options)


def gradients(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def fill(*windows: GradientWindow) -> None:
    for g in gradients(7):
        for window in windows:
            window.push(g if window.device == "cpu" else device.put(g))


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("block_size", [None, 32])
def test_it_answers_as_the_cpu_does(dtype, block_size):
    cpu, cuda = pair(dtype=dtype, block_size=block_size, error_feedback=True)
    for g in gradients(8):
        np.testing.assert_allclose(
            device.get(cuda.precondition(device.put(g))), cpu.precondition(g), rtol=2e-6, atol=1e-6
        )
    x = gradients(1, 5)[0].astype(np.float64)
    np.testing.assert_allclose(device.get(cuda.solve(device.put(x))), cpu.solve(x), atol=1e-11)
    assert cuda.quadratic(device.put(x)) == pytest.approx(cpu.quadratic(x), rel=1e-11)
    assert cuda.quadratic(2) == pytest.approx(cpu.quadratic(2), rel=1e-11)
    assert cuda.logdet() == pytest.approx(cpu.logdet(), rel=1e-11)
    influence = device.get(cuda.influence())
    np.testing.assert_allclose(influence, cpu.influence(), atol=1e-11)
    assert np.array_equal(influence, influence.T)
    recent, expected = device.get(cuda.solve_recent([1.0, 0.5])), cpu.solve_recent([1.0, 0.5])
    np.testing.assert_allclose(recent, expected, rtol=1e-6, atol=1e-7)
    assert recent.dtype == expected.dtype
    assert len(cuda) == len(cpu) == 5
    assert "5 gradients" in repr(cuda)


def test_damping_and_clear():
    cpu, cuda = pair()
    fill(cpu, cuda)
    for damping in (0.5, ("relative", 0.01)):
        cpu.damping = cuda.damping = damping
        assert cuda.damping_in_use == pytest.approx(cpu.damping_in_use, rel=1e-12)
        assert cuda.logdet() == pytest.approx(cpu.logdet(), rel=1e-11)
    cuda.clear()
    assert len(cuda) == 0


def test_out_is_written_and_returned():
    cpu, cuda = pair()
    fill(cpu, cuda)
    x = gradients(1, 3)[0]
    out, here = device.put(np.zeros(DIM, np.float32)), device.put(x.copy())
    assert cuda.solve(device.put(x), out=out) is out
    assert cuda.solve(here, out=here) is here
    np.testing.assert_allclose(device.get(out), cpu.solve(x), rtol=1e-6)
    np.testing.assert_array_equal(device.get(here), device.get(out))


def test_states_travel():
    cpu, cuda = pair(dtype="int8", error_feedback=True)
    fill(cpu, cuda)
    g = gradients(1, 9)[0]
    other = GradientWindow(DIM, 5, 0.7, dtype="int8", error_feedback=True)
    other.load_state_dict(cuda.state_dict())
    again, copied = pickle.loads(pickle.dumps(cuda)), copy.deepcopy(cuda)
    assert again.device == copied.device == "cuda:0"
    expected = device.get(cuda.precondition(device.put(g)))
    for window in (again, copied):
        np.testing.assert_array_equal(device.get(window.precondition(device.put(g))), expected)
    np.testing.assert_allclose(other.precondition(g), expected, rtol=1e-6, atol=1e-6)


def test_a_window_that_has_seen_no_array_answers_in_numpy():
    cpu, cuda = pair()
    fill(cpu)
    cuda.load_state_dict(cpu.state_dict())
    np.testing.assert_allclose(cuda.influence(), cpu.influence(), atol=1e-11)
    np.testing.assert_allclose(cuda.solve_recent([1.0]), cpu.solve_recent([1.0]), rtol=1e-6, atol=1e-7)
    assert cuda.solve_recent([1.0]).dtype == np.float32
    cuda.push(device.put(gradients(1)[0]))
    cpu.push(gradients(1)[0])
    np.testing.assert_allclose(device.get(cuda.influence()), cpu.influence(), atol=1e-11)


def test_nan_enters_as_zeros():
    cpu, cuda = pair()
    fill(cpu, cuda)
    bad = gradients(1)[0]
    bad[3] = np.inf
    assert np.isnan(device.get(cuda.precondition(device.put(bad)))).all()
    cpu.push(np.zeros(DIM, np.float32))
    assert cuda.logdet() == pytest.approx(cpu.logdet(), rel=1e-11)


def test_what_is_wrong_is_said():
    _, cuda = pair()
    g = gradients(1)[0]
    with pytest.raises(ValueError, match="solve: the window is empty"):
        cuda.solve(device.put(g))
    fill(cuda)
    with pytest.raises(TypeError, match="precondition: g must be on the window's device, CUDA device 0"):
        cuda.precondition(g)
    with pytest.raises(ValueError, match=r"push: g must have shape \(70,\), got \(69,\)"):
        cuda.push(device.put(g[:-1]))
    with pytest.raises(TypeError, match="push: g must be"):
        cuda.push(device.put(g.astype(np.float64)))
    with pytest.raises(IndexError):
        cuda.quadratic(5)
    with pytest.raises(ValueError, match="6 weights for a window of 5"):
        cuda.solve_recent(np.ones(6))
    with pytest.raises(ValueError, match="weights must be finite"):
        cuda.solve_recent([np.nan])
    with pytest.raises(ValueError, match="damping must be positive"):
        cuda.damping = -1.0
    state = cuda.state_dict()
    with pytest.raises(ValueError, match="length or head"):
        cuda.load_state_dict(state | {"length": 99})
    assert len(cuda) == 5
    with pytest.raises(RuntimeError, match="g is a CUDA array, but this function has no CUDA kernels"):
        GradientWindow(DIM, 3, 0.1).push(device.put(g))


@pytest.mark.parametrize("given", ["gpu", "cuda:", "cuda:x", "cuda:-1", 0, None])
def test_a_device_has_a_name(given):
    if given == "cuda:":
        assert GradientWindow(2, 2, 0.1, device=given).device == "cuda:0"
        return
    with pytest.raises(ValueError, match="device must be"):
        GradientWindow(2, 2, 0.1, device=given)


def test_parameters_are_checked_first():
    with pytest.raises(ValueError, match="CUDA device 99 was asked for, but there are"):
        GradientWindow(2, 2, 0.1, device="cuda:99")
    with pytest.raises(ValueError, match="dim must be at least 1"):
        GradientWindow(0, 2, 0.1, device="cuda")
    with pytest.raises(ValueError, match="capacity must be at most"):
        GradientWindow(1, 20000, 0.1, device="cuda")
    with pytest.raises(ValueError, match="comm= works on the CPU only"):
        GradientWindow(2, 2, 0.1, device="cuda", comm=object())
