"""Sketches of CUDA arrays beside the CPU's: the same embedding, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest

import cuda_arrays
from raphson.sketch import SRHT, CountSketch, Gaussian, RowSample, SparseSign

device = cuda_arrays.device()

N, D = 300, 11
EMBEDDINGS = {
    "sparse": SparseSign(40, N, nnz=4, seed=3),
    "dense signs": SparseSign(20, N, nnz=20, seed=1),
    "count": CountSketch(33, N, seed=2),
    "gaussian": Gaussian(25, N, seed=5),
    "srht": SRHT(45, N, seed=7),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_it_is_the_same_embedding(rng, name, dtype, weighted):
    s = EMBEDDINGS[name]
    a = rng.standard_normal((N, D)).astype(dtype)
    w = rng.standard_normal(N) if weighted else None
    found = device.get(s.apply(device.put(a), weights=None if w is None else device.put(w)))
    expected = s.apply(a, weights=w)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_the_adjoint_too(rng, name, dtype):
    s = EMBEDDINGS[name]
    b = rng.standard_normal((s.shape[0], D)).astype(dtype)
    found = device.get(s.adjoint(device.put(b)))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, s.adjoint(b), atol=1e-12 if dtype == np.float64 else 1e-5)
    np.testing.assert_allclose(device.get(s.adjoint(device.put(b[:, 0].copy()))), found[:, 0], atol=1e-12)


@pytest.mark.parametrize("rows", [1, 100, 3000])
@pytest.mark.parametrize("n", [1, 5, 127, 4096, 5000])
def test_srht_of_many_shapes(rng, n, rows):
    """Chunks of every length, several of them, the last one short, more columns than a tile."""
    s = SRHT(min(rows, 1 << (n - 1).bit_length()), n, seed=9)
    a, w = rng.standard_normal((n, 9)), rng.standard_normal(n)
    found, expected = device.get(s.apply(device.put(a), weights=device.put(w))), s.apply(a, weights=w)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(a).sum(axis=0).max())
    np.testing.assert_array_equal(device.get(s.apply(device.put(a), weights=device.put(w))), found)
    b = rng.standard_normal((s.shape[0], 9))
    found = device.get(s.adjoint(device.put(b)))
    np.testing.assert_allclose(found, s.adjoint(b), rtol=0, atol=1e-13 * np.abs(b).sum(axis=0).max())
    np.testing.assert_array_equal(device.get(s.adjoint(device.put(b))), found)


@pytest.mark.parametrize(("rows", "n", "d"), [(1, 1, 1), (3, 200, 5), (130, 70, 131), (700, 65, 2)])
def test_gaussian_adjoint_of_many_shapes(rng, rows, n, d):
    s = Gaussian(rows, n, seed=2**63)
    b = rng.standard_normal((rows, d))
    found = device.get(s.adjoint(device.put(b)))
    np.testing.assert_allclose(found, s.adjoint(b), rtol=0, atol=1e-13 * np.abs(b).sum(axis=0).max())


def test_srht_entries_are_the_cpus(rng):
    s = SRHT(64, 130, seed=2**64 - 1)
    np.testing.assert_array_equal(device.get(s @ device.put(np.eye(130))), s @ np.eye(130))


def test_vectors_out_and_the_operator(rng):
    s = EMBEDDINGS["sparse"]
    x = rng.standard_normal(N)
    np.testing.assert_allclose(device.get(s @ device.put(x)), s @ x, atol=1e-12)
    a = rng.standard_normal((N, D))
    out = device.put(np.full((40, D), np.nan))
    assert s.apply(device.put(a), out=out) is out
    np.testing.assert_allclose(device.get(out), s @ a, atol=1e-12)


def test_bits_do_not_depend_on_anything(rng):
    s = EMBEDDINGS["sparse"]
    a = rng.standard_normal((N, D)).astype(np.float32)
    first = device.get(s @ device.put(a))
    for _ in range(3):
        np.testing.assert_array_equal(device.get(s @ device.put(a)), first)


def test_what_is_wrong_is_said(rng):
    s = EMBEDDINGS["sparse"]
    a = rng.standard_normal((N, D))
    with pytest.raises(ValueError, match=r"SparseSign.apply: A must have 300 rows, got shape \(299, 11\)"):
        s @ device.put(a[:-1])
    with pytest.raises(TypeError, match=r"SparseSign\.apply: A must be float64 or float32, got float16"):
        s @ device.put(a.astype(np.float16))
    with pytest.raises(TypeError, match=r"SparseSign\.apply: A is .* and weights"):
        s.apply(device.put(a), weights=np.ones(N))
    with pytest.raises(ValueError, match="weights must have 300 rows"):
        s.apply(device.put(a), weights=device.put(np.ones(3)))
    with pytest.raises(ValueError, match="contiguous along its rows on CUDA"):
        s @ device.put(np.asfortranarray(a))
    with pytest.raises(ValueError, match="out has shape"):
        s.apply(device.put(a), out=device.put(np.ones((40, D + 1))))
    with pytest.raises(TypeError, match="out"):
        s.apply(device.put(a), out=np.ones((40, D)))
    with pytest.raises(ValueError, match=r"SRHT.adjoint: B must have 20 rows, got shape \(300, 11\)"):
        SRHT(20, N).adjoint(device.put(a))
    with pytest.raises(RuntimeError, match="is a CUDA array, but this function has no CUDA kernels yet"):
        RowSample(20, N).adjoint(device.put(a[:20].copy()))
