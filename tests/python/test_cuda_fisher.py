"""FisherInverse of CUDA arrays against dense float64 matrices and the CPU's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cuda_arrays
import ihvp_reference as truth
from ihvp_reference import Fisher, assert_near, correlated, tolerance
from raphson.ihvp import FisherInverse

device = cuda_arrays.device()

DTYPES = ["float64", "float32", "bfloat16", "float16"]


def stored(rng: np.random.Generator, m: int, dim: int, dtype: str, norm: float = 1.0) -> tuple[np.ndarray, Any]:
    """Gradients in float64 as a dtype keeps them, and those on the device."""
    return cuda_arrays.stored(device, correlated(rng, m, dim, norm=norm), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 16, 17])
@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (20, 64), (70, 101)], ids=str)
def test_every_query(rng, shape, block_size, dtype):
    m, dim = shape
    g, there = stored(rng, m, dim, dtype)
    f, exact = FisherInverse(there, 0.01, block_size=block_size), Fisher(g, 0.01, block_size=block_size)
    assert len(f) == m
    assert f.dim == dim
    inverse, bound = exact.solve(np.eye(dim)), tolerance(exact)
    for kind in ("float64", "float32"):
        for x in (rng.standard_normal(dim), *(rng.standard_normal((k, dim)) for k in (1, 2, 5))):
            got = device.get(f.solve(device.put(x.astype(kind))))
            assert got.dtype == kind
            assert got.shape == x.shape
            assert_near(got, exact.solve(x.astype(kind)), tolerance(exact, kind))
    assert_near(device.get(f.diagonal()), np.diag(inverse).copy(), bound)
    i, j = dim // 3, dim - 1
    entry = 2 * bound * np.abs(inverse).max()
    assert f.element(i, j) == pytest.approx(inverse[i, j], rel=0, abs=entry)
    assert f.element(j, j) == pytest.approx(inverse[j, j], rel=0, abs=entry)
    rows, cols = rng.integers(0, dim, 6), rng.integers(0, dim, 3)
    for r, c in ((rows, cols), (np.arange(dim), np.arange(dim)), ([j, i, j], [i]), ([], [i])):
        part = device.get(f.submatrix(r, c))
        assert part.shape == (len(r), len(c))
        if part.size:
            assert np.abs(part - inverse[np.ix_(r, c)]).max() <= entry
    assert f.logdet() == pytest.approx(exact.logdet(), rel=0, abs=bound * (dim * 5 + abs(exact.logdet())))
    w = rng.standard_normal(dim)
    scores = truth.obs_scores(inverse, w)
    np.testing.assert_allclose(device.get(f.obs_scores(device.put(w))), scores, rtol=1e-9)


@pytest.mark.parametrize("damping", [1.0, 1e-4])
def test_more_gradients_than_a_tile(rng, damping):
    """Five panels, tiles of 128, more right-hand sides than a tile."""
    g, there = stored(rng, 150, 300, "float32")
    f, exact = FisherInverse(there, damping), Fisher(g, damping, wide=np.float64)
    bound = 2.0**-44 * exact.condition
    x = rng.standard_normal((70, 300))
    assert_near(device.get(f.solve(device.put(x))), exact.solve(x), bound)
    assert_near(device.get(f.solve(device.put(x[3]))), exact.solve(x[3]), bound)
    cpu = FisherInverse(g, damping)
    assert_near(device.get(f.diagonal()), cpu.diagonal(), bound)
    assert f.logdet() == pytest.approx(cpu.logdet(), rel=1e-11)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("group", [1, 5, 60])
@pytest.mark.parametrize("block_size", [None, 60])
def test_pruning(rng, block_size, group, dtype):
    dim = 180
    g, there = stored(rng, 25, dim, dtype)
    w = rng.standard_normal(dim)
    f, dense = FisherInverse(there, 0.05, block_size=block_size), truth.fisher_matrix(g, 0.05, block_size=block_size)
    inverse = np.linalg.inv(dense)
    np.testing.assert_allclose(
        device.get(f.obs_scores(device.put(w), group=group)), truth.obs_scores(inverse, w, group), rtol=1e-10
    )
    for joint in (False, True):
        for count in (0, group, 60):
            got = f.obs_prune(device.put(w), count=count, group=group, joint=joint)
            left, loss = truth.obs_prune(dense, w, count, group, joint)
            assert got.mask.dtype == bool
            assert np.array_equal(got.mask, ~truth.obs_removed(inverse, w, count, group))
            np.testing.assert_allclose(device.get(got.weights), left, rtol=0, atol=1e-11)
            assert (device.get(got.weights)[~got.mask] == 0).all()
            assert got.loss_increase == pytest.approx(loss, rel=1e-10, abs=1e-14)
    narrow = f.obs_prune(device.put(w.astype(np.float32)), fraction=0.5, group=group)
    assert device.get(narrow.weights).dtype == np.float32


def test_the_first_of_equal_scores_go(rng):
    """As a stable sort has it, over many blocks of threads; negative zeros are zeros."""
    dim = 2000
    f = FisherInverse(device.put(np.zeros((1, dim))), 0.5)
    w = rng.choice([0.0, -0.0, 1.0, -1.0, 3.0, 1e-200], dim)
    scores = 0.25 * w * w
    for count in (1, 700, 1001, 1999):
        expected = np.ones(dim, dtype=bool)
        expected[np.argsort(scores, kind="stable")[:count]] = False
        assert np.array_equal(f.obs_prune(device.put(w), count=count).mask, expected)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("block_size", [None, 16])
def test_any_layout_is_read(rng, block_size, dtype):
    """Rows apart, with NaN between them, that begin at odd places; columns apart; x of every stride."""
    g, there = stored(rng, 6, 46, dtype)
    x = rng.standard_normal((46, 4))
    cpu = FisherInverse(g, 0.1, block_size=block_size)
    expected = cpu.solve(np.ascontiguousarray(x.T))
    for first in (0, 7, None):
        if first is None:
            layout = np.asfortranarray(device.get(there))
        else:
            wide = np.full((6, 64), np.nan, dtype)
            layout = wide[:, first : first + 46]
            layout[:] = device.get(there)
        f = FisherInverse(device.put(layout), 0.1, block_size=block_size)
        for k in (1, 4):
            got = device.get(f.solve(device.put(x.T[:k])))
            np.testing.assert_allclose(got, expected[:k], rtol=0, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_allclose(device.get(f.diagonal()), cpu.diagonal(), rtol=1e-12)


def test_bfloat16_right_hand_sides(rng):
    g, there = stored(rng, 9, 70, "bfloat16")
    x = rng.standard_normal((3, 70)).astype(np.float32)
    f = FisherInverse(there, 0.1)
    rounded = (cuda_arrays.bits(x).astype(np.uint32) << 16).view(np.float32)
    for k in (1, 3):
        got = device.get(f.solve(device.put(rounded[:k], bfloat16=True)))
        assert_near(got, Fisher(g, 0.1).solve(rounded[:k]), 2.0**-8)


def test_float32_gradients_keep_float64_accuracy(rng):
    g, there = stored(rng, 50, 300, "float32", norm=30)
    f, exact = FisherInverse(there, 1e-5), Fisher(g, 1e-5)
    x = rng.standard_normal(300)
    assert_near(device.get(f.solve(device.put(x))), exact.solve(x), 1e-9)
    assert f.logdet() == pytest.approx(exact.logdet(), rel=1e-9)


def test_gradients_that_say_nothing_new(rng):
    for g in (np.zeros((40, 30)), np.repeat(rng.standard_normal((1, 30)), 40, axis=0)):
        for damping in (1e-10, 1.0, 1e3):
            f = FisherInverse(device.put(g), damping)
            x = rng.standard_normal(30)
            x -= g[0] * (g[0] @ x) / max(g[0] @ g[0], 1e-300)
            assert_near(device.get(f.solve(device.put(x))), x / damping, 2.0**-46 * (1 + (g[0] @ g[0]) / damping))
            assert (device.get(f.diagonal()) > 0).all()
            assert np.isfinite(f.logdet())


def test_copies_answer_alike(rng):
    _, there = stored(rng, 5, 20, "float64")
    f = FisherInverse(there, 0.1)
    x = device.put(rng.standard_normal(20))
    copies = [copy.deepcopy(f)] if device.emulated else [copy.deepcopy(f), pickle.loads(pickle.dumps(f))]
    for other in copies:
        np.testing.assert_array_equal(device.get(other.solve(x)), device.get(f.solve(x)))


def assert_nan(f: FisherInverse) -> None:
    assert np.isnan(f.logdet())
    assert np.isnan(f.element(3, 4))
    assert np.isnan(device.get(f.diagonal())).all()
    for shape in (30, (4, 30)):
        assert np.isnan(device.get(f.solve(device.put(np.ones(shape))))).all()
    assert np.isnan(device.get(f.obs_scores(device.put(np.ones(30)), group=2))).all()


def test_nan_goes_through(rng):
    g = rng.standard_normal((4, 30))
    f = FisherInverse(device.put(g), 0.1)
    x = rng.standard_normal((3, 30))
    x[1, 7] = np.nan
    got = device.get(f.solve(device.put(x)))
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()
    pruned = f.obs_prune(device.put(x[1]), count=10)
    assert pruned.mask.sum() == 20
    assert np.array_equal(np.isnan(device.get(pruned.weights)), np.isnan(x[1]))  # it has the last place: it stays
    for bad in (np.nan, np.inf, -np.inf):
        for dtype in (np.float64, np.float32, np.float16):
            spoilt = g.astype(dtype)
            spoilt[2, 11] = bad
            assert_nan(FisherInverse(device.put(spoilt), 0.1))
    long_row = g.copy()
    long_row[1] *= 1e200  # its square leaves float64, its products with the others do not
    assert_nan(FisherInverse(device.put(long_row), 0.1))
    halves = FisherInverse(device.put(spoilt), 0.1, block_size=15)  # the other block is well
    assert np.isnan(device.get(halves.diagonal())[:15]).all()
    assert np.isfinite(device.get(halves.diagonal())[15:]).all()


def test_what_is_wrong_is_said(rng):
    g = rng.standard_normal((4, 30))
    there = device.put(g)
    f = FisherInverse(there, 0.1)
    with pytest.raises(TypeError, match=r"grads is a .* array and x a numpy array"):
        f.solve(g[0])
    with pytest.raises(ValueError, match=r"solve: x must have shape \(30,\) or \(k, 30\), got \(29,\)"):
        f.solve(device.put(g[0, :29]))
    with pytest.raises(ValueError, match=r"obs_scores: w must have shape \(30,\), got \(4, 30\)"):
        f.obs_scores(there)
    with pytest.raises(TypeError, match=r"grads is a .* array and w a numpy array"):
        f.obs_prune(g[0], count=3)
    with pytest.raises(TypeError, match="obs_scores: w must be"):
        f.obs_scores([1] * 30)
    with pytest.raises(ValueError, match="group must divide"):
        f.obs_scores(device.put(g[0]), group=7)
    with pytest.raises(ValueError, match="give one of fraction and count"):
        f.obs_prune(device.put(g[0]))
    with pytest.raises(IndexError):
        f.element(0, 30)
    with pytest.raises(ValueError, match="grads must have two axes"):
        FisherInverse(device.put(g[0]), 0.1)
    for empty in (g[:0], g[:, :0]):
        with pytest.raises(ValueError, match="grads must have rows and columns"):
            FisherInverse(device.put(empty), 0.1)
    with pytest.raises(ValueError, match="damping must be positive"):
        FisherInverse(there, 0.0)
    with pytest.raises(RuntimeError, match="x is a CUDA array, but this function has no CUDA kernels"):
        FisherInverse(g, 0.1).solve(there)
