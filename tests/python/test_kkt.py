"""solve_kkt: every method against dense algebra, inertia against eigenvalues, bad input."""

from __future__ import annotations

import copy
import os
import pickle
import warnings

import numpy as np
import pytest

import raphson
from interrupts import check_interrupt
from newton_reference import saddle, sketch_and_project
from raphson.newton import solve_kkt

sparse = pytest.importorskip("scipy.sparse")


def system(n, m, seed=0, condition=10.0, indefinite=False):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.logspace(0, -np.log10(condition), n)
    if indefinite:
        values[::2] *= -1
    B = (q * values) @ q.T
    return (B + B.T) / 2, rng.standard_normal((m, n)), rng.standard_normal(n + m)


def grid(n):
    """Poisson control: [[W, 0], [0, 0.1 I]] and [Laplacian, I]."""
    h = 2 / (n + 1)
    t = sparse.diags([np.ones(n - 1), -2 * np.ones(n), np.ones(n - 1)], [-1, 0, 1])
    laplacian = (sparse.kron(sparse.eye(n), t) + sparse.kron(t, sparse.eye(n))) / h**2
    B = sparse.diags(np.concatenate([np.ones(n * n), 0.1 * np.ones(n * n)])).tocsr()
    return B, sparse.hstack([laplacian, sparse.eye(n * n)]).tocsr()


@pytest.mark.parametrize(("n", "m"), [(1, 0), (1, 1), (2, 1), (5, 5), (30, 7), (60, 60), (200, 83), (47, 1), (48, 0)])
@pytest.mark.parametrize("indefinite", [False, True])
def test_ldlt_against_dense_algebra(n, m, indefinite):
    B, G, rhs = system(n, m, n + m, indefinite=indefinite)
    K = saddle(B, G)
    found = solve_kkt(B, G, rhs)
    assert found.converged
    assert found.residual <= 1e-12
    assert np.linalg.norm(K @ found.x - rhs) / np.linalg.norm(rhs) == pytest.approx(found.residual, abs=1e-13)
    np.testing.assert_allclose(found.x, np.linalg.solve(K, rhs), rtol=1e-7, atol=1e-9 * np.linalg.cond(K))
    values = np.linalg.eigvalsh(K)
    assert found.inertia == ((values > 0).sum(), (values < 0).sum(), 0)


def test_the_upper_triangle_is_read_and_nothing_else():
    B, G, rhs = system(12, 4)
    lower_changed = B + np.tril(np.full((12, 12), 1e-9), -1)
    assert np.array_equal(solve_kkt(lower_changed, G, rhs).x, solve_kkt(B, G, rhs).x)


@pytest.mark.parametrize("size", [3, 6, 20, 45])
def test_sparse_ldlt_on_poisson_control(size):
    B, G = grid(size)
    rhs = np.random.default_rng(size).standard_normal(3 * size * size)
    K = sparse.bmat([[B, G.T], [G, None]]).tocsr()
    found = solve_kkt(B, G, rhs)
    assert np.linalg.norm(K @ found.x - rhs) / np.linalg.norm(rhs) <= 1e-12
    assert found.inertia == (2 * size * size, size * size, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("diagonal", ["full", "half", "none"])
def test_sparse_ldlt_finds_its_pivots(seed, diagonal):
    # zeros on B's diagonal: no order of single pivots is stable, columns must wait or pair
    rng = np.random.default_rng(seed)
    n, m = 150, 60
    B = sparse.random(n, n, 0.02, random_state=seed, data_rvs=rng.standard_normal)
    B = (B + B.T).tolil()
    B.setdiag(rng.standard_normal(n) * {"full": 1.0, "half": rng.integers(0, 2, n), "none": 0.0}[diagonal])
    G = sparse.random(m, n, 0.03, random_state=seed + 100, data_rvs=rng.standard_normal) + sparse.eye(m, n)
    # a chain keeps B from being singular where its diagonal is empty
    chain = sparse.diags([np.ones(n - 1), np.ones(n - 1)], [-1, 1])
    B, G = (B.tocsr() + chain).tocsr(), G.tocsr()
    K = sparse.bmat([[B, G.T], [G, None]]).toarray()
    rhs = rng.standard_normal(n + m)
    values = np.linalg.eigvalsh(K)
    assert np.abs(values).min() > 1e-8
    found = solve_kkt(B, G, rhs)
    assert found.inertia == ((values > 0).sum(), (values < 0).sum(), 0)
    assert np.linalg.norm(K @ found.x - rhs) / np.linalg.norm(rhs) <= 1e-12
    dense = solve_kkt(B.toarray(), G.toarray(), rhs)
    np.testing.assert_allclose(found.x, dense.x, atol=1e-10 * np.linalg.cond(K))


def test_the_default_tolerance_is_what_the_precision_reaches():
    B, G, rhs = system(600, 250, 7, 1e4, True)
    found = solve_kkt(B, G, rhs)
    assert found.converged
    assert 1e-12 < found.residual < 1e-10, "x is 10⁴ times longer than rhs"
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        assert not solve_kkt(B, G, rhs, tol=1e-12).converged


def test_badly_scaled_rows_do_not_hurt():
    B, G, rhs = system(40, 15, 3)
    scale = 10.0 ** np.random.default_rng(0).integers(-6, 6, 40)
    rows = 10.0 ** np.random.default_rng(1).integers(-6, 6, 15)
    found = solve_kkt(B * scale[:, None] * scale, G * rows[:, None] * scale, np.r_[rhs[:40] * scale, rhs[40:] * rows])
    x = np.r_[found.x[:40] * scale, found.x[40:] * rows]
    np.testing.assert_allclose(x, np.linalg.solve(saddle(B, G), rhs), rtol=1e-6, atol=1e-8)
    assert found.inertia == (40, 15, 0)


def test_rank_deficient_constraints():
    B, G, rhs = system(10, 4, 1)
    G[3] = G[0] + G[1]
    rhs[10 + 3] = rhs[10] + rhs[11]
    consistent = solve_kkt(B, G, rhs, tol=1e-10)
    assert consistent.converged
    assert consistent.inertia == (10, 3, 1)
    rhs[10 + 3] += 1
    with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
        broken = solve_kkt(B, G, rhs)
    assert broken.status == "infeasible"
    assert not broken.converged


def test_minres():
    B, G, rhs = system(80, 20, 2)
    found = solve_kkt(B, G, rhs, method="minres")
    assert found.converged
    assert found.inertia is None
    np.testing.assert_allclose(found.x, np.linalg.solve(saddle(B, G), rhs), atol=1e-6)
    Bs, Gs = grid(15)
    diagonal = solve_kkt(Bs, Gs, np.ones(3 * 225), method="minres", tol=1e-8)
    assert diagonal.iterations <= 12, "B is diagonal: the preconditioned matrix has three eigenvalues"
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        assert solve_kkt(B, G, rhs, method="minres", max_iter=3).status == "max_iter"


@pytest.mark.parametrize(("method", "sampling"), [
    ("kaczmarz", "equilibrated"), ("kaczmarz", "uniform"), ("kaczmarz", "row_norm"),
    ("gaussian", "uniform"), ("block", "uniform"),
])  # fmt: skip
@pytest.mark.parametrize("compressed", [False, True])
def test_sketch_and_project_converges(method, sampling, compressed):
    n, m = (60, 10) if compressed else (12, 4)
    rng = np.random.default_rng(0)
    if compressed:
        B, G = sparse.eye(n).tocsr(), sparse.csr_array((np.ones(m), (np.arange(m), np.arange(m))), shape=(m, n))
    else:
        B, G = np.eye(n), np.linalg.qr(rng.standard_normal((n, m)))[0].T
    rhs = rng.standard_normal(n + m)
    found = solve_kkt(B, G, rhs, method=method, sampling=sampling, tol=1e-6, seed=5, max_iter=1_000_000)
    K = saddle(B.toarray(), G.toarray()) if compressed else saddle(B, G)
    assert found.converged
    assert np.linalg.norm(K @ found.x - rhs) / np.linalg.norm(rhs) == pytest.approx(found.residual, rel=1e-6)
    assert found.residual <= 1e-6
    again = solve_kkt(B, G, rhs, method=method, sampling=sampling, tol=1e-6, seed=5, max_iter=1_000_000)
    assert np.array_equal(found.x, again.x)
    other = solve_kkt(B, G, rhs, method=method, sampling=sampling, tol=1e-6, seed=6, max_iter=1_000_000)
    assert not np.array_equal(found.x, other.x)


def test_one_block_of_all_rows_is_the_solution():
    B, G, rhs = system(9, 3, 4)
    found = solve_kkt(B, G, rhs, method="block", block_size=100, tol=1e-9)
    K = saddle(B, G)
    np.testing.assert_allclose(found.x, sketch_and_project(K, rhs, lambda _: np.eye(12), 1), atol=1e-8)
    assert found.iterations <= 3


def test_fewer_steps_never_fewer_than_asked():
    B, G, rhs = system(12, 4, 0)
    with pytest.warns(raphson.ConvergenceWarning):
        assert solve_kkt(B, G, rhs, method="kaczmarz", max_iter=37).iterations == 37


def test_threads_do_not_change_a_bit():
    B, G, rhs = system(600, 250, 7, 1e4, True)
    before = raphson.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        raphson.set_num_threads(threads)
        found.append(solve_kkt(B, G, rhs).x)
    raphson.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_float32_in_float32_out_measured_after_rounding():
    B, G, rhs = system(20, 6)
    found = solve_kkt(B.astype(np.float32), G.astype(np.float32), rhs.astype(np.float32))
    assert found.x.dtype == np.float32
    K = saddle(B.astype(np.float32).astype(float), G.astype(np.float32).astype(float))
    right = rhs.astype(np.float32).astype(float)
    assert np.linalg.norm(K @ found.x - right) / np.linalg.norm(right) == pytest.approx(found.residual, rel=1e-6)
    assert found.converged


def test_torch():
    torch = pytest.importorskip("torch")
    B, G, rhs = system(8, 3)
    found = solve_kkt(torch.tensor(B), torch.tensor(G), torch.tensor(rhs))
    assert isinstance(found.x, torch.Tensor)
    np.testing.assert_array_equal(found.x.numpy(), solve_kkt(B, G, rhs).x)


def test_results_travel():
    B, G, rhs = system(5, 2)
    found = solve_kkt(B, G, rhs)
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert np.array_equal(other.x, found.x)
        assert other.inertia == found.inertia
    assert "residual" in repr(found)
    assert len(repr(found)) < 300


def test_no_constraints_and_zero_right_side():
    B, _, _ = system(6, 0)
    assert solve_kkt(B, None, np.ones(6)).converged
    assert solve_kkt(B, np.zeros((0, 6)), np.ones(6)).converged
    zero = solve_kkt(B, None, np.zeros(6))
    assert zero.converged
    assert not zero.x.any()


def test_mixed_dense_and_sparse():
    B, G, rhs = system(70, 20)
    dense = solve_kkt(B, G, rhs).x
    for b in (B, sparse.csr_array(B)):
        for g in (G, sparse.csc_array(G), sparse.coo_array(G)):
            np.testing.assert_allclose(solve_kkt(b, g, rhs).x, dense, atol=1e-8)


@pytest.mark.parametrize(("change", "error", "text"), [
    (dict(B=np.ones((3, 2))), ValueError, r"B must be square, got shape \(3, 2\)"),
    (dict(B=np.ones(3)), ValueError, "B must have two axes"),
    (dict(B=np.triu(np.ones((3, 3)))), ValueError, "B must be symmetric"),
    (dict(G=np.ones((1, 4))), ValueError, r"as many columns as B, 3, got shape \(1, 4\)"),
    (dict(rhs=np.ones(3)), ValueError, r"rhs must have shape \(4,\), got \(3,\)"),
    (dict(B=np.full((3, 3), np.nan)), ValueError, "B has NaN or Inf"),
    (dict(G=np.full((1, 3), np.inf)), ValueError, "G has NaN or Inf"),
    (dict(rhs=np.array([1.0, np.nan, 1, 1])), ValueError, "rhs has NaN or Inf"),
    (dict(B=np.eye(3, dtype=int)), TypeError, "B"),
    (dict(G=np.ones((1, 3), dtype=complex)), TypeError, "G"),
    (dict(B=sparse.eye(3, dtype=complex).tocsr()), TypeError, "B must be float64 or float32, got complex128"),
    (dict(B=sparse.eye(3).tocsr(), G=sparse.csr_array(np.ones((1, 3), dtype=int))), TypeError, "G must be float64"),
    (dict(method="lu"), ValueError, "method must be one of ldlt"),
    (dict(sampling="best"), ValueError, "sampling must be one of"),
    (dict(tol=0.0), ValueError, "tol must be positive"),
    (dict(max_iter=0), ValueError, "max_iter must be at least 1"),
    (dict(block_size=0), ValueError, "block_size must be at least 1"),
    (dict(seed=None), TypeError, "seed must be an int"),
])  # fmt: skip
def test_bad_input(change, error, text):
    arguments = {"B": np.eye(3), "G": np.ones((1, 3)), "rhs": np.ones(4)} | change
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        with pytest.raises(error, match=text):
            solve_kkt(arguments.pop("B"), arguments.pop("G"), arguments.pop("rhs"), **arguments)


def test_samplings_are_what_they_say():
    # one row holds nearly all of ‖K‖_F²: by norms it is drawn nearly always, and the rest is not learnt
    K = np.diag(np.r_[1e4, np.ones(29)])
    rhs = np.r_[1e4, np.ones(29)]
    found = {}
    for sampling in ("equilibrated", "uniform", "row_norm"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", raphson.ConvergenceWarning)
            found[sampling] = solve_kkt(K, None, rhs, method="kaczmarz", sampling=sampling, max_iter=300, tol=1e-12)
    assert found["uniform"].converged
    assert found["equilibrated"].converged
    assert np.count_nonzero(found["row_norm"].x) <= 3


def test_indices_out_of_range_are_refused():
    broken = sparse.csr_array(np.eye(3))
    broken.indices[1] = 7
    with pytest.raises(ValueError, match="not a valid CSR matrix"):
        solve_kkt(sparse.csr_array(np.eye(3)), broken, np.ones(6))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize("method", ["gaussian", "kaczmarz", "block"])
def test_control_c_ends_it(method):
    B, _, rhs = system(500, 0, 1, 1e10, True)
    check_interrupt(lambda: solve_kkt(B, None, rhs, method=method, tol=1e-15, max_iter=10**9))


# ---- x as it is returned, in rhs's dtype -------------------------------------------------------------------
def test_float32_beyond_its_range_is_refused():
    with pytest.raises(ValueError, match="x leaves the range of rhs's dtype, float32"):
        solve_kkt(np.eye(4, dtype=np.float32) * np.float32(1e-30), None, np.full(4, 1e20, dtype=np.float32))


def test_float32_is_judged_by_what_its_x_can_reach():
    B, G, rhs = (part.astype(np.float32) for part in system(31, 31, condition=1e2))
    found = solve_kkt(B, G, rhs)  # 1e-6 is beyond: x is large
    K = saddle(B.astype(float), G.astype(float))
    assert found.converged
    assert found.residual > 1e-6
    left = np.linalg.norm(K @ found.x - rhs) / np.linalg.norm(rhs)
    assert found.residual == pytest.approx(left, rel=1e-5)
    reach = np.finfo(np.float32).eps * (np.linalg.norm(K) * np.linalg.norm(found.x) / np.linalg.norm(rhs) + 1)
    assert found.residual <= 10 * reach
    with pytest.warns(raphson.ConvergenceWarning):
        assert solve_kkt(B, G, rhs, tol=1e-6).status == "precision_floor"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_precision_excuses_a_residual_that_solves_nothing(dtype):
    small = float(np.finfo(dtype).eps) / 10
    B, G = small * np.array([[1, 2], [2, 1]], dtype=dtype), np.array([[1, -0.3]], dtype=dtype)  # x is some 1/small
    with pytest.warns(raphson.ConvergenceWarning):
        found = solve_kkt(B.astype(dtype), G, np.array([1, 0.3, 0.1], dtype=dtype))
    assert found.residual > 1e-3
    assert found.status == "precision_floor"
