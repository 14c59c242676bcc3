"""Gaussian, SRHT and RowSample: their entries, their products, what they preserve."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import raphson
from raphson.sketch import SRHT, CountSketch, Gaussian, RowSample, SparseSign

MAKE = {
    "Gaussian": lambda rows, cols, seed=0: Gaussian(rows, cols, seed=seed),
    "SRHT": lambda rows, cols, seed=0: SRHT(rows, cols, seed=seed),
    "RowSample": lambda rows, cols, seed=0: RowSample(rows, cols, seed=seed),
    "without replacement": lambda rows, cols, seed=0: RowSample(rows, cols, replace=False, seed=seed),
    "weighted": lambda rows, cols, seed=0: RowSample(rows, cols, probabilities=1.0 + np.arange(cols), seed=seed),
    "weighted, without": lambda rows, cols, seed=0: RowSample(
        rows, cols, probabilities=1.0 + np.arange(cols), replace=False, seed=seed
    ),
    "SparseSign": lambda rows, cols, seed=0: SparseSign(rows, cols, nnz=min(4, rows), seed=seed),
}
ALL = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


@ALL
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("rows", "cols", "d"), [(1, 1, 1), (7, 30, 5), (40, 333, 17), (60, 1000, 33)])
def test_products_are_those_of_the_entries(make, rows, cols, d, dtype, rng):
    sketch = make(rows, cols, seed=3)
    S = sketch.to_scipy().toarray()
    assert S.shape == sketch.shape == (rows, cols)
    A, w = rng.standard_normal((cols, d)).astype(dtype), rng.standard_normal(cols)
    tolerance = {"rtol": 0, "atol": 1e-12 if dtype == np.float64 else 1e-4}
    np.testing.assert_allclose(sketch.apply(A), S @ A, **tolerance)
    np.testing.assert_allclose(sketch @ A[:, 0], S @ A[:, 0], **tolerance)
    np.testing.assert_allclose(sketch.apply(A, weights=w), S @ (w[:, None] * A), **tolerance)
    B = rng.standard_normal((rows, d)).astype(dtype)
    np.testing.assert_allclose(sketch.adjoint(B), S.T @ B, **tolerance)
    assert sketch.apply(A).dtype == sketch.adjoint(B).dtype == dtype
    out = np.empty((rows, d), dtype)
    assert sketch.apply(A, out=out) is out
    np.testing.assert_array_equal(out, sketch.apply(A))


@ALL
def test_a_wrong_out_is_refused_before_any_work(make, rng, monkeypatch):
    sketch, A, read = make(7, 30), rng.standard_normal((30, 3)), []
    monkeypatch.setattr(type(sketch), "_add", lambda *_: pytest.fail("rows were added"))

    def blocks():
        for i in range(0, 30, 10):
            read.append(i)
            yield A[i : i + 10]

    for out, error, message in (
        (np.ones((7, 4)), ValueError, r"out must have shape \(7, 3\), got \(7, 4\)"),
        (np.ones((30, 3)), ValueError, r"out must have shape \(7, 3\), got \(30, 3\)"),
        (np.ones((7, 3), np.float32), TypeError, "out must be float64 as A is, got float32"),
    ):
        for given in (A, blocks):
            with pytest.raises(error, match=message):
                sketch.apply(given, out=out)
        assert (out == 1).all()
    assert read == [0, 0, 0]


@ALL
def test_blocks_and_scipy(make, rng):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    sketch = make(30, 500)
    A, w = rng.standard_normal((500, 6)), rng.random(500)
    blocks = lambda: (A[i : i + 137] for i in range(0, 500, 137))  # noqa: E731
    np.testing.assert_allclose(sketch.apply(blocks, weights=w), sketch.apply(A, weights=w), atol=1e-12)
    for kind in (scipy_sparse.csr_array, scipy_sparse.csc_matrix):
        found = sketch.apply(kind(A), weights=w)
        found = found.toarray() if hasattr(found, "toarray") else found
        np.testing.assert_allclose(found, sketch.apply(A, weights=w), atol=1e-12)
    with pytest.raises(ValueError, match="together"):
        sketch.apply(lambda: iter([A[:100]]))


@ALL
def test_the_expectation_is_the_identity(make):
    mean = np.zeros((12, 12))
    draws = 4000
    for seed in range(draws):
        S = make(6, 12, seed=seed).to_scipy().toarray()
        mean += S.T @ S / draws
    np.testing.assert_allclose(mean, np.eye(12), atol=0.12)


@ALL
def test_seeds_and_objects(make, rng):
    first, same, other = make(10, 64, 5), make(10, 64, 5), make(10, 64, 6)
    A = rng.standard_normal((64, 3))
    assert first == same
    assert hash(first) == hash(same)
    assert first != other
    assert np.array_equal(first @ A, same @ A)
    assert not np.array_equal(first @ A, other @ A)
    for again in (pickle.loads(pickle.dumps(first)), copy.deepcopy(first)):
        assert again == first
        assert np.array_equal(again @ A, first @ A)
    assert repr(first).startswith(type(first).__name__)
    assert "seed=5" in repr(first)


@pytest.mark.parametrize("name", ["Gaussian", "SRHT", "RowSample", "SparseSign"])
def test_grams_of_consecutive_seeds_are_uncorrelated(name, rng):
    A = np.linalg.qr(rng.standard_normal((512, 8)))[0]
    errors = np.array([(lambda B: (B.T @ B - np.eye(8)).ravel())(MAKE[name](64, 512, s) @ A) for s in range(40)])
    correlation = np.corrcoef(errors)
    neighbours = np.diag(correlation, 1)
    assert np.abs(neighbours).max() < 0.75  # 36 free numbers: four standard deviations
    assert abs(neighbours.mean()) < 0.12


@pytest.mark.parametrize("name", ["Gaussian", "SRHT", "SparseSign"])
@pytest.mark.parametrize("coherent", [False, True])
def test_they_embed(name, coherent, rng):
    A = np.linalg.qr(rng.standard_normal((4000, 20)))[0]
    if coherent:
        A = np.zeros((4000, 20))
        A[np.arange(20), np.arange(20)] = 1
    singular = np.linalg.svd(MAKE[name](500, 4000) @ A, compute_uv=False)
    assert singular.max() < 1.5
    assert singular.min() > 0.5


def test_uniform_rows_lose_coherent_data_and_leverage_keeps_it(rng):
    A = rng.standard_normal((5000, 10)) * 1e-3
    A[np.arange(10) * 500, np.arange(10)] = 1.0
    q = np.linalg.qr(A)[0]
    lost = np.linalg.svd(RowSample(400, 5000) @ q, compute_uv=False).min()
    assert lost < 0.2
    for replace in (True, False):
        kept = np.linalg.svd(RowSample.leverage(A, 400, replace=replace) @ q, compute_uv=False)
        assert 0.6 < kept.min() <= kept.max() < 1.4
    scores = RowSample.leverage(A, 400)._probabilities
    np.testing.assert_allclose(scores, np.square(q).sum(axis=1) / 10, rtol=1.0)


def test_sampling_without_replacement():
    every = RowSample(50, 50, replace=False)
    assert sorted(every.picked) == list(range(50))
    np.testing.assert_allclose(every.to_scipy().toarray() @ np.ones(50), 1)
    p = np.zeros(100)
    p[:10] = 1
    p[10] = 100
    some = RowSample(6, 100, probabilities=p, replace=False)
    assert len(set(some.picked)) == 6
    assert 10 in some.picked  # a certainty
    assert some.picked.max() <= 10
    assert RowSample(300, 1000, replace=False).picked.tolist() != sorted(RowSample(300, 1000, replace=False).picked)


def test_normal_numbers():
    stats = pytest.importorskip("scipy.stats")
    numbers = Gaussian(100, 4003, seed=9)._entries(0, 4003) * 10
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 1e-3
    assert abs(np.mean(numbers**4) - 3) < 0.1
    assert abs(np.corrcoef(numbers[0], numbers[1])[0, 1]) < 0.07
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.4
    np.testing.assert_allclose(Gaussian(100, 4003, seed=9)._entries(1999, 7), numbers[:, 1999:2006] / 10, rtol=1e-15)


def test_srht_is_a_hadamard_transform(rng):
    linalg = pytest.importorskip("scipy.linalg")
    sketch = SRHT(64, 50, seed=4)  # every row of H: an isometry
    A = rng.standard_normal((50, 3))
    np.testing.assert_allclose(np.linalg.norm(sketch @ A, axis=0), np.linalg.norm(A, axis=0), rtol=1e-13)
    S = sketch.to_scipy().toarray() * 8
    hadamard = linalg.hadamard(64)[:, :50]
    match = np.abs((S * S[0]) @ hadamard.T / 50)  # the signs cancel: what is left is a row of H
    assert (match.max(axis=1) > 0.999).all()


@pytest.mark.parametrize("name", ["Gaussian", "SRHT"])
def test_threads_do_not_matter(name, rng):
    A = rng.standard_normal((3000, 70))
    before, found = raphson.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            found.append(MAKE[name](300, 3000) @ A)
    finally:
        raphson.set_num_threads(before)
    assert all(np.array_equal(x, found[0]) for x in found)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Gaussian(0, 5), ValueError, "rows"),
        (lambda: Gaussian(5, -1), ValueError, "cols"),
        (lambda: SRHT(9, 5), ValueError, "at most 8"),
        (lambda: RowSample(0, 5), ValueError, "rows"),
        (lambda: RowSample(2, 0), ValueError, "cols"),
        (lambda: RowSample(6, 5, replace=False), ValueError, "at most 5"),
        (lambda: RowSample(2, 5, probabilities=np.ones(4)), ValueError, "shape"),
        (lambda: RowSample(2, 5, probabilities=-np.ones(5)), ValueError, "not negative"),
        (lambda: RowSample(2, 5, probabilities=np.zeros(5)), ValueError, "positive sum"),
        (lambda: RowSample(2, 5, probabilities=np.full(5, np.nan)), ValueError, "finite"),
        (lambda: RowSample.leverage(np.ones((3, 5)), 2), ValueError, "at least as many rows"),
        (lambda: Gaussian(2, 5, seed=None), TypeError, "seed"),
        (lambda: Gaussian(2.5, 5), TypeError, "integer"),
        (lambda: SRHT(2, 5) @ np.ones((4, 2)), ValueError, "must have 5 rows"),
        (lambda: Gaussian(2, 5) @ np.ones((5, 2), dtype=int), TypeError, "float64"),
        (lambda: RowSample(2, 5).apply(np.ones((5, 2)), weights=np.full(5, np.nan)), ValueError, "NaN"),
        (lambda: RowSample(2, 5).adjoint(np.ones((3, 2))), ValueError, "must have 2 rows"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_count_sketches_equal_their_sparse_signs():
    assert CountSketch(10, 50, seed=3) == SparseSign(10, 50, nnz=1, seed=3)
