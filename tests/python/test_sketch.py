"""Sparse sign embeddings against their own entries, written from Philox in plain Python."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
import scipy.sparse

import raphson
from interrupts import check_interrupt
from raphson.sketch import SRHT, CountSketch, Gaussian, SparseSign
from reference import philox4x32

STREAM = 0x53534B31


def entries(rows, cols, nnz, seed):
    """S, dense, entry by entry."""
    matrix = np.zeros((rows, cols))
    for i in range(cols):
        for k in range(nnz):
            number = philox4x32((i & 0xFFFFFFFF, k // 4, 0, STREAM), seed)[k % 4]
            low, high = rows * k // nnz, rows * (k + 1) // nnz
            row = low + ((number >> 1) * (high - low) >> 31)
            matrix[row, i] += (-1 if number & 1 else 1) / np.sqrt(nnz)
    return matrix


@pytest.mark.parametrize(
    ("rows", "cols", "nnz"), [(1, 1, 1), (7, 30, 1), (8, 30, 8), (20, 50, 3), (64, 100, 5), (9, 0, 2)]
)
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 5])
def test_the_entries_are_the_formula(rows, cols, nnz, seed):
    sketch = SparseSign(rows, cols, nnz=nnz, seed=seed)
    expected = entries(rows, cols, nnz, seed)
    np.testing.assert_allclose(sketch.to_scipy().toarray(), expected, rtol=1e-15)
    assert np.all((expected != 0).sum(0) == nnz)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("d", [1, 5, 63, 64, 65, 200])
@pytest.mark.parametrize("nnz", [1, 4, 9])
def test_apply_and_adjoint(d, nnz, dtype, rng):
    sketch = SparseSign(40, 333, nnz=nnz, seed=3)
    S = entries(40, 333, nnz, 3)
    A, w = rng.standard_normal((333, d)).astype(dtype), rng.random(333)
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == np.float64 else 2e-5}
    np.testing.assert_allclose(sketch.apply(A), S @ A, **tolerance)
    np.testing.assert_allclose(sketch @ A, S @ A, **tolerance)
    np.testing.assert_allclose(sketch.apply(A, weights=w), S @ (w[:, None] * A), **tolerance)
    assert sketch.apply(A).dtype == dtype
    B = rng.standard_normal((40, d)).astype(dtype)
    np.testing.assert_allclose(sketch.adjoint(B), S.T @ B, **tolerance)
    assert sketch.adjoint(B).dtype == dtype


def test_vectors_and_layouts(rng):
    sketch = SparseSign(10, 60, nnz=2, seed=1)
    A = rng.standard_normal((60, 7))
    expected = sketch @ A
    np.testing.assert_allclose(sketch @ A[:, 0], expected[:, 0], atol=1e-14)
    assert sketch.adjoint(expected[:, 0]).shape == (60,)
    for other in (
        np.asfortranarray(A),
        A[::-1][::-1],
        np.repeat(A, 2, 1)[:, ::2],
        A.tolist(),
        np.hstack([A, A])[:, :7],
    ):
        np.testing.assert_array_equal(sketch @ other, expected)


def test_scipy_matrices(rng):
    sparse = pytest.importorskip("scipy.sparse")
    A = sparse.random_array((80, 30), density=0.1, rng=rng, format="csr")
    sketch, w = SparseSign(12, 80, nnz=3), rng.random(80)
    for given in (A, A.tocsc()):
        np.testing.assert_allclose((sketch @ given).toarray(), sketch @ A.toarray(), atol=1e-14)
        weighted = sketch.apply(given, weights=w)
        np.testing.assert_allclose(weighted.toarray(), sketch.apply(A.toarray(), weights=w), atol=1e-14)


def test_blocks_and_memory_maps(rng, tmp_path):
    A, w = rng.standard_normal((1000, 9)), rng.random(1000)
    sketch = SparseSign(50, 1000, nnz=4, seed=9)
    expected = sketch.apply(A, weights=w)
    np.testing.assert_allclose(sketch.apply(lambda: np.array_split(A, 7), weights=w), expected, atol=1e-13)
    np.save(tmp_path / "a.npy", A)
    np.testing.assert_array_equal(sketch.apply(np.load(tmp_path / "a.npy", mmap_mode="r"), weights=w), expected)
    with pytest.raises(ValueError, match="1000 rows together, got 999"):
        sketch.apply(lambda: [A[:999]])
    with pytest.raises(ValueError, match="more than 1000 rows"):
        sketch.apply(lambda: [A, A])
    with pytest.raises(ValueError, match="agree"):
        sketch.apply(lambda: [A[:500], A[500:, :3]])


def test_out(rng):
    A = rng.standard_normal((60, 7))
    sketch = SparseSign(10, 60)
    out = np.empty((10, 7))
    assert sketch.apply(A, out=out) is out
    np.testing.assert_array_equal(out, sketch @ A)
    with pytest.raises(ValueError, match="out must have shape"):
        sketch.apply(A, out=np.empty((10, 6)))
    with pytest.raises(TypeError, match="out must be float64"):
        sketch.apply(A, out=np.empty((10, 7), np.float32))


def test_seeds():
    A = np.eye(100)
    assert SparseSign(20, 100, seed=5) == SparseSign(20, 100, seed=5)
    assert SparseSign(20, 100, seed=5) != SparseSign(20, 100, seed=6)
    assert CountSketch(20, 100, seed=5) == SparseSign(20, 100, nnz=1, seed=5)
    np.testing.assert_array_equal(SparseSign(20, 100, seed=5) @ A, SparseSign(20, 100, seed=5) @ A)
    drawn = SparseSign(20, 100, seed=np.random.default_rng(0))
    assert drawn.seed == int(np.random.default_rng(0).integers(0, 2**64, dtype=np.uint64))
    for twin in (pickle.loads(pickle.dumps(drawn)), copy.deepcopy(drawn)):
        assert twin == drawn
        np.testing.assert_array_equal(twin @ A, drawn @ A)


def test_grams_of_consecutive_seeds_are_uncorrelated(rng):
    """A hash of seed ^ index only permutes within a column: consecutive seeds gave the same Gram matrix."""
    A = np.linalg.qr(rng.standard_normal((2000, 12)))[0]
    errors = []
    for seed in range(60):
        sketched = SparseSign(120, 2000, nnz=4, seed=seed) @ A
        errors.append((sketched.T @ sketched - np.eye(12))[np.tril_indices(12)])
    correlation = np.corrcoef(np.array(errors))
    between = correlation[~np.eye(60, dtype=bool)]
    assert np.abs(between).max() < 0.6  # 78 numbers each: five deviations
    assert abs(between.mean()) < 0.02
    assert np.abs(np.mean(errors)) < 0.01  # E[SᵀS] = I


@pytest.mark.parametrize("coherent", [False, True])
def test_it_embeds(coherent, rng):
    """Singular values of S on a 20-dimensional space, also one spanned by single rows."""
    A = np.linalg.qr(rng.standard_normal((3000, 20)))[0] if not coherent else np.eye(3000, 20)
    values = np.linalg.svd(SparseSign(400, 3000, nnz=8, seed=2) @ A, compute_uv=False)
    assert values.max() < 1.5
    assert values.min() > 0.5


def test_threads_do_not_matter(threads, rng):
    A = rng.standard_normal((5000, 150))
    sketch, found = SparseSign(100, 5000, nnz=4), []
    for count in (1, 2, 3, 8):
        threads(count)
        found.append((sketch @ A, sketch.adjoint(sketch @ A)))
    for other in found[1:]:
        np.testing.assert_array_equal(other[0], found[0][0])
        np.testing.assert_array_equal(other[1], found[0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0, "cols": 5}, "rows must be at least 1"),
        ({"rows": 5, "cols": -1}, "cols must not be negative"),
        ({"rows": 5, "cols": 9, "nnz": 0}, "nnz must be from 1 to rows"),
        ({"rows": 5, "cols": 9, "nnz": 6}, "nnz must be from 1 to rows"),
        ({"rows": 5, "cols": 9, "seed": -1}, "seed must lie"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseSign(**{"nnz": 1, **arguments})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [SparseSign, CountSketch, Gaussian, SRHT])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nan_and_inf_are_refused_and_out_is_left_alone(kind, bad, dtype):
    sketch = kind(16, 40)
    a, b, out = np.ones((40, 3), dtype), np.ones((16, 3), dtype), np.full((16, 3), 7, dtype)
    a[17, 1] = b[2, 0] = bad
    with pytest.raises(ValueError, match="A has NaN"):
        sketch.apply(a, out=out)
    assert (out == 7).all()
    with pytest.raises(ValueError, match="A has NaN"):
        sketch @ scipy.sparse.csr_array(a)
    with pytest.raises(ValueError, match="A has NaN"):
        sketch.apply(lambda: iter([a[:9], a[9:]]))
    with pytest.raises(ValueError, match="B has NaN"):
        sketch.adjoint(b)


def test_finite_weights_whose_sum_overflows():
    assert np.isfinite(SparseSign(5, 9, nnz=2).apply(np.full((9, 3), 1e-20), weights=np.full(9, 1e308))).all()


def test_bad_data():
    sketch = SparseSign(5, 9, nnz=2)
    with pytest.raises(ValueError, match="9 rows"):
        sketch @ np.ones((8, 2))
    with pytest.raises(ValueError, match="5 rows"):
        sketch.adjoint(np.ones((9, 2)))
    with pytest.raises(ValueError, match=r"weights must have shape \(9,\)"):
        sketch.apply(np.ones((9, 2)), weights=np.ones(8))
    with pytest.raises(ValueError, match="weights has NaN"):
        sketch.apply(np.ones((9, 2)), weights=np.full(9, np.nan))
    with pytest.raises(TypeError):
        sketch @ np.ones((9, 2), dtype=int)
    with pytest.raises(ValueError, match="shape"):
        sketch @ np.ones((9, 2, 2))
    with pytest.raises(TypeError, match="seed"):
        SparseSign(5, 9, seed=None)


def test_torch(torch):
    sketch = SparseSign(5, 9, nnz=2)
    A = torch.randn(9, 3)
    result = sketch @ A
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.float32
    np.testing.assert_array_equal(result.numpy(), sketch @ A.numpy())
    assert isinstance(sketch.adjoint(result), torch.Tensor)


def test_repr():
    assert repr(SparseSign(5, 9, nnz=2, seed=3)) == "SparseSign(5, 9, nnz=2, seed=3)"
    assert repr(CountSketch(5, 9)) == "CountSketch(5, 9, seed=0)"
    assert raphson.sketch.SparseSign is SparseSign


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_interrupt_of_one_column():
    rows = 20_000_000
    check_interrupt(lambda: [SRHT(512, rows) @ np.zeros(rows) for _ in range(10)])
