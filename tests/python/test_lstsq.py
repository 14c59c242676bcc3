"""raphson.lstsq against NumPy, an SVD's backward error, and its own certificates."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from scipy import sparse

import raphson
from lstsq_reference import backward_error, problem
from raphson import lstsq

METHODS = ["auto", "direct", "gram", "sketch", "fossils"]


def random(m, n, k=None, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, n)), rng.standard_normal(m if k is None else (m, k))


# ---- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, None), (7, 3, 2), (200, 17, None), (3001, 40, 3), (900, 64, None)])
def test_agrees_with_numpy(m, n, k, method):
    a, b = random(m, n, k)
    expected, *_ = np.linalg.lstsq(a, b, rcond=None)
    result = lstsq(a, b, method=method)
    np.testing.assert_allclose(result.x, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(result.residual_norm, np.linalg.norm(b - a @ expected, axis=0), rtol=1e-12, atol=1e-13)
    assert result.converged
    assert result.rank == n
    assert result.backward_error <= result.tol == (1e-15 if m >= n else 1e-14)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cond", [1e4, 1e8, 1e12])
def test_is_backward_stable(cond, method):
    a, b, x = problem(3000, 40, cond)
    result = lstsq(a, b, method=method)
    assert result.converged
    assert backward_error(a, b, result.x) <= 1e-15
    assert result.backward_error == pytest.approx(backward_error(a, b, result.x), rel=3, abs=2e-16)
    assert result.cond == pytest.approx(cond, rel=0.5)
    peer = np.linalg.norm(np.linalg.lstsq(a, b, rcond=None)[0] - x)
    assert np.linalg.norm(result.x - x) <= 30 * peer + 1e-13


def test_the_backward_error_is_measured_on_x():
    a, b, _ = problem(2000, 30, 1e6)
    result = lstsq(a, b, method="sketch")
    worse = backward_error(a, b, result.x * (1 + 1e-9))
    assert worse > 1e3 * result.backward_error  # the SVD sees what the certificate must see
    loose = lstsq(a, b, method="sketch", tol=1e-9)
    assert loose.iterations <= result.iterations
    assert backward_error(a, b, loose.x) <= 1e-9


def test_a_sketch_alone_is_not_the_answer():
    a, b, _ = problem(4000, 50, 1e8)
    result = lstsq(a, b, method="sketch")
    assert result.iterations > 5
    assert result.sweeps >= result.iterations + 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ridge", [1e-6, 0.5, 1e4])
def test_ridge(ridge, method):
    a, b = random(500, 20)
    expected = np.linalg.solve(a.T @ a + ridge * np.eye(20), a.T @ b)
    result = lstsq(a, b, ridge=ridge, method=method)
    np.testing.assert_allclose(result.x, expected, rtol=1e-11)
    assert result.residual_norm == pytest.approx(np.linalg.norm(b - a @ expected))
    assert result.converged


@pytest.mark.parametrize("method", METHODS)
def test_least_norm_of_a_rank_deficient_matrix(method):
    rng = np.random.default_rng(1)
    a = rng.standard_normal((2000, 12)) @ rng.standard_normal((12, 30))
    b = rng.standard_normal(2000)
    result = lstsq(a, b, method=method)
    assert result.rank == 12
    np.testing.assert_allclose(result.x, np.linalg.lstsq(a, b, rcond=1e-12)[0], rtol=1e-9, atol=1e-12)
    assert result.converged
    assert result.cond < 1e3


@pytest.mark.parametrize("method", METHODS)
def test_zero_and_repeated_columns(method):
    a, b = random(600, 10)
    a[:, 3] = 0
    a[:, 7] = a[:, 2]
    result = lstsq(a, b, method=method)
    assert result.rank == 8
    assert result.x[3] == pytest.approx(0, abs=1e-14)
    assert result.x[7] == pytest.approx(result.x[2], rel=1e-10)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(a, b, rcond=1e-12)[0], atol=1e-12)


# ---- the Gram matrix ------------------------------------------------------------------------------------------------


def test_auto_takes_the_gram_matrix_where_the_condition_allows_it():
    for cond, method in ((1e2, "gram"), (1e5, "gram"), (1e8, "sketch")):
        a, b, _ = problem(6000, 100, cond)
        result = lstsq(a, b)
        assert result.method == method, cond
        assert result.converged
        assert result.cond == pytest.approx(cond, rel=0.1 if method == "gram" else 0.5)
        assert backward_error(a, b, result.x) <= 1e-15
    a, b, _ = problem(6000, 100, 1e5)
    gram = lstsq(a, b)
    assert gram.iterations > 1  # the normal equations' solution alone is wrong in the seventh digit, refinement is not
    assert gram.sweeps == gram.iterations + 2
    short = lstsq(a[:1500], b[:1500])  # no sample before: fifteen rows a column
    assert (short.method, short.sweeps) == ("gram", short.iterations + 2)


def test_a_sample_saves_the_gram_matrix_of_bad_data():
    a, b, _ = problem(20_000, 100, 1e9)
    assert lstsq(a, b).sweeps == lstsq(a, b, method="sketch").sweeps
    short = lstsq(a[:1500], b[:1500])
    assert (short.method, short.sweeps) == ("direct", 3)  # the Gram matrix, in vain; QR; the certificate


def test_a_sample_that_misleads_costs_time_only():
    rng = np.random.default_rng(4)
    # Evenly spaced rows say "well conditioned": the large ones between them repeat one direction.
    a = rng.standard_normal((20_160, 60))  # every 84th row is looked at
    a[1::2] = 1e9 * rng.standard_normal((10_080, 1)) * rng.standard_normal(60)
    # … and "rank 1", where all but a few rows are the same.
    same = np.ones((20_000, 60)) + 1e-13 * rng.standard_normal((20_000, 60))
    same[1::7] += rng.standard_normal((2857, 60))
    for data in (a, same):
        b = rng.standard_normal(len(data))
        result = lstsq(data, b)
        assert result.converged
        assert backward_error(data, b, result.x) <= 1e-15
        assert result.rank == 60
        in_vain = 1 if data is a else 0
        assert result.sweeps == lstsq(data, b, method="sketch").sweeps + in_vain


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_many_columns_of_b_share_the_reads(dtype, ridge):
    a, b = random(4000, 30, 37)
    a, b = a.astype(dtype), b.astype(dtype)
    b[:, 5] = 0
    b[:, 7] *= 1e-6
    result = lstsq(a, b, ridge=ridge, method="gram")
    exact = np.linalg.solve(a.astype(float).T @ a + ridge * np.eye(30), a.astype(float).T @ b)
    np.testing.assert_allclose(result.x, exact, rtol=1e-11 if dtype == np.float64 else 1e-4, atol=1e-14)
    assert (result.x[:, 5] == 0).all()
    errors = [backward_error(a.astype(float), b[:, c].astype(float), result.x[:, c]) for c in (0, 7, 36)]
    if ridge == 0:  # of x as it is returned, rounded to float32
        assert result.backward_error >= max(errors) / 3 > (1e-11 if dtype == np.float32 else 0)
    assert result.sweeps == 1 + 3 * 2  # 16 columns at a time: A'b, and the measure of the first step
    for c in (0, 5, 7, 36):
        alone = lstsq(a, b[:, c].copy(), ridge=ridge, method="gram")
        np.testing.assert_allclose(alone.x, result.x[:, c], rtol=1e-12 if dtype == np.float64 else 1e-5)
        assert alone.residual_norm == pytest.approx(result.residual_norm[c], rel=1e-6)
        assert result.residual_norm[c] == pytest.approx(
            np.linalg.norm(b[:, c] - a.astype(float) @ result.x[:, c]), rel=1e-6
        )


def test_columns_of_b_stop_one_by_one():
    a, b, _ = problem(6000, 100, 1e5)
    right = np.stack([0 * b, b, a.sum(axis=1), 1e-9 * b], axis=1)
    result = lstsq(a, right)
    assert (result.method, result.converged) == ("gram", True)
    assert result.iterations > right.shape[1]
    for c in (1, 2, 3):
        assert backward_error(a, right[:, c], result.x[:, c]) <= 1e-15


def test_the_gram_matrix_of_blocks_and_of_sparse_rows():
    a, b = random(9000, 40)
    expected = lstsq(a, b, method="direct").x
    blocks = lstsq(lambda: (a[i : i + 1000] for i in range(0, 9000, 1000)), b)
    assert blocks.method == "gram"
    np.testing.assert_allclose(blocks.x, expected, rtol=1e-12, atol=1e-14)
    thin = sparse.random(9000, 40, 0.2, format="csr", random_state=0)
    csr = lstsq(thin, b)
    assert csr.method == "gram"
    np.testing.assert_allclose(csr.x, lstsq(thin.toarray(), b, method="direct").x, rtol=1e-12, atol=1e-14)
    long = sparse.random(3000, 300, 0.9, format="csr", random_state=0)  # squares of rows would cost more than QR
    assert lstsq(long, b[:3000]).method == "direct"
    full = lstsq(sparse.csr_array(a), b)
    assert full.method == "gram"
    np.testing.assert_allclose(full.x, expected, rtol=1e-12, atol=1e-14)
    many = sparse.random(60_000, 5000, 2e-3, format="csr", random_state=0)
    assert lstsq(many, np.ones(60_000)).method == "cg"  # no Gram matrix of thousands of sparse columns


def test_the_gram_matrix_where_it_is_asked_for():
    a, b = random(20_160, 60)
    a[::84, 3] = 0  # auto looks at these rows alone: a rare column is no reason …
    assert lstsq(a, b).method == "gram"
    a[::84, 4] = a[::84, 5]  # … but a repeated one is
    assert lstsq(a, b).method == "sketch"
    assert lstsq(a, b, method="gram").method == "gram"
    wide = lstsq(a[:40, :], b[:40], method="gram")  # AᵀA is singular: not even formed
    assert (wide.method, wide.converged, wide.rank) == ("direct", True, 40)
    ridged = lstsq(a[:40, :], b[:40], ridge=1.0, method="gram")
    assert ridged.method == "gram"
    np.testing.assert_allclose(ridged.x, lstsq(a[:40, :], b[:40], ridge=1.0).x, rtol=1e-11)
    for shape, k in (((30, 0), None), ((30, 3), 0)):
        empty = lstsq(np.ones(shape), np.ones(30) if k is None else np.ones((30, k)), method="gram")
        assert empty.x.size == 0


def test_a_tolerance_beyond_the_gram_matrix_goes_on():
    a, b, _ = problem(6000, 100, 1e5)
    with pytest.warns(raphson.ConvergenceWarning):
        result = lstsq(a, b, tol=1e-19)
    assert result.method == "sketch"
    assert result.status in ("precision_floor", "stalled")


def test_a_zero_matrix():
    result = lstsq(np.zeros((50, 4)), np.ones(50))
    assert result.rank == 0
    assert (result.x == 0).all()
    assert result.residual_norm == pytest.approx(np.sqrt(50))


def test_badly_scaled_columns_are_not_taken_for_dependent_ones():
    a, b = random(3000, 20)
    scale = np.logspace(0, -20, 20)
    for method in METHODS:
        result = lstsq(a * scale, b, method=method)
        assert result.rank == 20
        np.testing.assert_allclose(result.x * scale, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-8)


@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize(
    ("unit_a", "unit_b"), [(1e200, 1.0), (1e-200, 1.0), (1.0, 1e250), (1e-300, 1e-300), (1e100, 1e-100)]
)
def test_extreme_units(unit_a, unit_b, method):
    a, b = random(2000, 10)
    expected, *_ = np.linalg.lstsq(a, b, rcond=None)
    result = lstsq(a * unit_a, b * unit_b, method=method)
    np.testing.assert_allclose(result.x * unit_a / unit_b, expected, rtol=1e-11)
    assert result.residual_norm == pytest.approx(unit_b * np.linalg.norm(b - a @ expected))
    assert result.converged
    ridged = lstsq(a * 1e100, b, ridge=1e200, method=method)
    np.testing.assert_allclose(ridged.x * 1e100, np.linalg.solve(a.T @ a + np.eye(10), a.T @ b), rtol=1e-10)
    wide = lstsq(a[:5] * unit_a, b[:5] * unit_b)
    np.testing.assert_allclose(wide.x * unit_a / unit_b, np.linalg.lstsq(a[:5], b[:5], rcond=None)[0], rtol=1e-11)


@pytest.mark.parametrize("method", ["direct", "sketch"])
def test_rcond_cuts_as_numpy_does(method):
    a, b, _ = problem(1500, 25, 1e6)
    expected, _, rank, _ = np.linalg.lstsq(a, b, rcond=1e-4)
    result = lstsq(a, b, rcond=1e-4, method=method)
    assert abs(result.rank - rank) <= 1  # a sketch sees singular values within its distortion
    if result.rank == rank and method == "direct":
        np.testing.assert_allclose(result.x, expected, rtol=1e-8, atol=1e-10)
    assert result.converged


@pytest.mark.parametrize("method", METHODS)
def test_conditions_beyond_the_precision_are_cut(method):
    a, b, _ = problem(2000, 30, 1e17, residual=0.0)
    result = lstsq(a, b, method=method)
    assert result.rank < 30
    assert np.isfinite(result.x).all()
    assert np.linalg.norm(result.x) < 1e3  # numbers of 1e13 would come from what is noise
    assert result.residual_norm <= 1.01 * np.linalg.norm(b - a @ np.linalg.lstsq(a, b, rcond=1e-13)[0]) + 1e-12


@pytest.mark.parametrize(("m", "n"), [(5, 9), (1, 4), (60, 200)])
def test_wide_matrices_give_the_least_norm(m, n):
    a, b = random(m, n, 2)
    result = lstsq(a, b)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-10, atol=1e-12)
    assert result.rank == m
    assert result.converged


def test_wide_and_deficient_or_ridged():
    a, b = random(20, 60)
    a[11] = a[4]
    b[11] = b[4]
    np.testing.assert_allclose(lstsq(a, b).x, np.linalg.lstsq(a, b, rcond=1e-12)[0], rtol=1e-9, atol=1e-12)
    assert lstsq(a, b).rank == 19
    expected = a.T @ np.linalg.solve(a @ a.T + 0.3 * np.eye(20), b)
    np.testing.assert_allclose(lstsq(a, b, ridge=0.3).x, expected, rtol=1e-10)


def test_float32_is_solved_in_float64_and_rounded_once():
    a, b, _ = problem(4000, 30, 1e3)
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    result = lstsq(a32, b32)
    assert result.x.dtype == np.float32
    assert result.tol == 1e-6
    assert result.converged
    expected = np.linalg.lstsq(a32.astype(float), b32.astype(float), rcond=None)[0]
    np.testing.assert_allclose(result.x, expected, rtol=2e-7, atol=1e-7)


# ---- where A comes from ------------------------------------------------------------------------------------


def test_layouts_and_lists(tmp_path):
    a, b = random(400, 12)
    expected = lstsq(a, b).x
    stored = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=float, shape=a.shape)
    stored[:] = a
    for other in (np.asfortranarray(a), a.tolist(), np.repeat(a, 2, axis=1)[:, ::2], a[::-1][::-1], stored):
        assert np.array_equal(lstsq(other, b).x, expected)
    assert np.array_equal(lstsq(a, b[:, None]).x[:, 0], expected)


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    a, b = random(300, 5)
    result = lstsq(torch.from_numpy(a), torch.from_numpy(b))
    assert isinstance(result.x, torch.Tensor)
    assert result.x.dtype == torch.float64
    np.testing.assert_array_equal(result.x.numpy(), lstsq(a, b).x)


@pytest.mark.parametrize("method", [*METHODS, "cg"])
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_sparse(method, kind):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((3000, 40)) * (rng.random((3000, 40)) < 0.1)
    b = rng.standard_normal(3000)
    result = lstsq(getattr(scipy_sparse, f"{kind}_array")(dense), b, method=method)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(dense, b, rcond=None)[0], rtol=1e-10, atol=1e-12)
    assert result.converged


def test_wide_compressed_rows_go_to_conjugate_gradients():
    scipy_sparse = pytest.importorskip("scipy.sparse")
    a = scipy_sparse.random_array((20000, 5000), density=2e-3, rng=0, format="csr")
    b = np.random.default_rng(0).standard_normal(20000)
    result = lstsq(a, b)
    assert result.method == "cg"
    assert result.converged
    gradient = a.T @ (b - a @ result.x)
    assert np.linalg.norm(gradient) <= 1e-13 * np.linalg.norm(b) * np.sqrt((a.data**2).sum())


def test_blocks_are_read_in_order_and_several_times():
    a, b = random(5000, 30)
    calls = 0

    def blocks():
        nonlocal calls
        calls += 1
        for begin in range(0, 5000, 700):
            yield a[begin : begin + 700]

    for method in METHODS:
        calls = 0
        result = lstsq(blocks, b, method=method)
        np.testing.assert_allclose(result.x, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-11, atol=1e-13)
        assert calls == result.sweeps + 1  # and once for the shape


def test_blocks_that_do_not_fit():
    a, b = random(100, 3)
    with pytest.raises(ValueError, match=r"must have 100 rows together, got 60"):
        lstsq(lambda: iter([a[:60]]), b)
    with pytest.raises(ValueError, match=r"more than 100 rows"):
        lstsq(lambda: iter([a, a]), b)
    with pytest.raises(ValueError, match=r"agree in columns"):
        lstsq(lambda: iter([a[:60], a[60:, :2]]), b)
    with pytest.raises(ValueError, match=r"no blocks"):
        lstsq(lambda: iter([]), b)
    with pytest.raises(ZeroDivisionError):
        lstsq(lambda: (a[i : i + 50] / (i // 0 if i else 1) for i in (0, 50)), b)


# ---- as a citizen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_threads_never_change_a_bit(method):
    a, b, _ = problem(30000, 60, 1e7)
    before, found = raphson.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            found.append(lstsq(a, b, method=method).x)
    finally:
        raphson.set_num_threads(before)
    assert all(np.array_equal(x, found[0]) for x in found)


def test_seeds():
    a, b, _ = problem(5000, 30, 1e10)
    assert np.array_equal(lstsq(a, b, method="sketch", seed=5).x, lstsq(a, b, method="sketch", seed=5).x)
    assert not np.array_equal(lstsq(a, b, method="sketch", seed=5).x, lstsq(a, b, method="sketch", seed=6).x)


def test_results_pickle_and_print():
    a, b = random(100, 4)
    result = lstsq(a, b)
    for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert np.array_equal(other.x, result.x)
        assert other.backward_error == result.backward_error
    assert "backward_error" in repr(result)
    assert len(repr(result)) < 200


def test_what_does_not_converge_says_so():
    a, b, _ = problem(3000, 60, 1e9)
    with pytest.warns(raphson.ConvergenceWarning, match="lstsq did not converge"):
        result = lstsq(a, b, method="cg")
    assert not result.converged
    assert result.status == "stalled"
    assert result.backward_error > 1e-15
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        floor = lstsq(a, b, tol=1e-30)
    assert floor.status == "precision_floor"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": np.ones(9)}, ValueError, r"A must have 9 rows"),
        ({"b": np.ones((10, 2, 2))}, ValueError, r"b must have shape"),
        ({"A": np.ones(10)}, ValueError, r"A must have two axes"),
        ({"A": np.ones((10, 3), dtype=int)}, TypeError, r"float64"),
        ({"A": np.ones((10, 3), dtype=complex)}, TypeError, r"float64"),
        ({"b": np.full(10, np.nan)}, ValueError, r"b has NaN or Inf"),
        ({"A": np.full((10, 3), np.nan)}, ValueError, r"A has NaN or Inf"),
        ({"A": np.full((3, 10), np.inf), "b": np.ones(3)}, ValueError, r"A has NaN or Inf"),
        ({"ridge": -1.0}, ValueError, r"ridge"),
        ({"ridge": np.nan}, ValueError, r"ridge"),
        ({"rcond": 1.5}, ValueError, r"rcond"),
        ({"rcond": -0.1}, ValueError, r"rcond"),
        ({"tol": 0.0}, ValueError, r"tol must be positive"),
        ({"method": "qr"}, ValueError, r"method must be one of"),
        ({"seed": -1}, ValueError, r"seed"),
        ({"seed": None}, TypeError, r"seed"),
    ],
)
def test_bad_input(change, error, message):
    given = {"A": np.random.default_rng(0).standard_normal((10, 3)), "b": np.ones(10)} | change
    a, b = given.pop("A"), given.pop("b")
    with pytest.raises(error, match=message):
        lstsq(a, b, **given)


@pytest.mark.parametrize("method", ["direct", "sketch", "cg"])
def test_one_nan_anywhere_is_found(method):
    a, b = random(3000, 20)
    a[1234, 7] = np.nan
    with pytest.raises(ValueError, match="A has NaN or Inf"):
        lstsq(a, b, method=method)


def test_empty_shapes():
    assert lstsq(np.zeros((5, 0)), np.ones(5)).x.shape == (0,)
    assert lstsq(np.ones((5, 2)), np.ones((5, 0))).x.shape == (2, 0)
    result = lstsq(np.zeros((0, 3)), np.zeros(0))
    assert result.x.shape == (3,)
    assert (result.x == 0).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_short_problems_with_a_ridge_are_measured_fairly(dtype):
    """No false alarm: with a small ridge the residual is small beside A x, and Stewart's bound far above the error."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        m = int(rng.integers(1, 30))
        A, b = rng.standard_normal((m, m + 1 + seed)) + 3 * (seed % 2), rng.standard_normal((m, 2)) + 5
        ridge = 10 ** rng.uniform(-12, 6)
        result = raphson.lstsq(A.astype(dtype), b, ridge=ridge)
        assert result.converged, (seed, result)
        A = A.astype(dtype).astype(np.float64)
        expected = A.T @ np.linalg.solve(A @ A.T + ridge * np.eye(m), b)
        np.testing.assert_allclose(
            result.x, expected, rtol=0, atol=(1e-9 if dtype is np.float64 else 1e-6) * abs(expected).max()
        )
