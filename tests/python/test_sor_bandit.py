"""raphson.sketch.SorBandit: its solvers against dense ones, its choices against formulas and the best omega."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import raphson
from cuda_arrays import DeviceArray
from interrupts import check_interrupt
from raphson import ConvergenceWarning
from raphson.sketch import SorBandit, SorResult
from relaxation_reference import sor, ssor_cg, tsallis

sp = pytest.importorskip("scipy.sparse")
TRUTH = {"sor": sor, "ssor_cg": ssor_cg}


def laplacian(n):
    line = sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    return sp.csr_array(sp.kron(sp.eye_array(n), line) + sp.kron(line, sp.eye_array(n)))


def random_system(n, seed=0):
    rng = np.random.default_rng(seed)
    a = sp.random_array((n, n), density=min(1.0, 6 / n), rng=rng)
    a = sp.csr_array(a + a.T)
    a.setdiag(abs(a).sum(axis=1) + 0.1 + rng.random(n))
    return sp.csr_array(a), rng.standard_normal(n)


# ---- the solvers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", TRUTH)
@pytest.mark.parametrize("omega", [0.4, 1.0, 1.3, 1.8])
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_iterates_as_the_dense_formula(n, omega, method):
    a, b = random_system(n)
    for shift, dtype in ((0.0, np.float64), (0.7, np.float64), (-0.05, np.float32)):
        given = a.astype(dtype)
        dense = given.toarray().astype(float) + shift * np.eye(n)
        x, steps = TRUTH[method](dense, b, omega, 1e-9, 5000)
        result = SorBandit([omega], method=method).solve(given, b, shift=shift, tol=1e-9)
        assert result.converged
        assert abs(result.iterations - steps) <= (0 if method == "sor" else 1)
        np.testing.assert_allclose(result.x, x, atol=1e-7 * np.abs(x).max())
        assert result.residual == pytest.approx(
            np.linalg.norm(b - dense @ result.x) / np.linalg.norm(b), rel=1e-3, abs=1e-15
        )
        assert result.residual <= 1e-9
        assert result.omega == omega


@pytest.mark.parametrize("method", TRUTH)
def test_starts_and_limits(method):
    a, b = laplacian(9), np.random.default_rng(1).standard_normal(81)
    start = np.random.default_rng(2).standard_normal(81)
    for most in (1, 5):
        x, _ = TRUTH[method](a.toarray(), b, 1.4, 1e-300, most, start)
        with pytest.warns(ConvergenceWarning, match="max_iter"):
            result = SorBandit([1.4], method=method).solve(a, b, init=start, max_iter=most)
        np.testing.assert_allclose(result.x, x, rtol=1e-10, atol=1e-10)
        assert (result.status, result.iterations) == ("max_iter", most)
        assert result.residual == pytest.approx(np.linalg.norm(b - a @ x) / np.linalg.norm(b), rel=1e-9)
    exact = SorBandit([1.4], method=method).solve(a, b, init=np.linalg.solve(a.toarray(), b), tol=1e-10)
    assert exact.iterations == 0
    zero = SorBandit([1.4], method=method).solve(a, np.zeros(81))
    assert zero.converged
    assert not zero.x.any()
    assert zero.iterations == 0


def test_dense_unsorted_and_doubled_matrices():
    a, b = random_system(30)
    expected = SorBandit([1.2]).solve(a, b)
    coo = a.tocoo()
    twice = sp.coo_array((np.tile(coo.data / 2, 2), (np.tile(coo.row, 2), np.tile(coo.col, 2))), shape=a.shape)
    turned = a.copy()
    for i in range(30):
        part = slice(turned.indptr[i], turned.indptr[i + 1])
        turned.indices[part], turned.data[part] = turned.indices[part][::-1].copy(), turned.data[part][::-1].copy()
    turned = sp.csr_array((turned.data, turned.indices, turned.indptr), shape=a.shape)
    for form in (a.toarray(), a.tocsc(), twice, turned):
        np.testing.assert_allclose(SorBandit([1.2]).solve(form, b).x, expected.x, atol=1e-12)
    single = SorBandit([1.2]).solve(a, b.astype(np.float32))
    assert single.x.dtype == np.float32


def test_what_is_not_definite_or_not_reachable_is_said():
    a, b = laplacian(6), np.ones(36)
    with pytest.warns(ConvergenceWarning, match="breakdown"):
        indefinite = SorBandit([1.2]).solve(a, np.random.default_rng(0).standard_normal(36), shift=-3.0)
    assert indefinite.status == "breakdown"
    assert np.isfinite(indefinite.x).all()
    with pytest.warns(ConvergenceWarning, match="breakdown"):
        far = SorBandit([1.9], method="sor").solve(a, b, shift=-3.0, max_iter=10**6)
    assert np.isfinite(far.x).all()
    assert far.residual > 1e-8
    with pytest.warns(ConvergenceWarning, match="precision_floor"):
        floor = SorBandit([1.2]).solve(a, b, tol=1e-25)
    assert floor.status == "precision_floor"
    assert floor.residual < 1e-14


def test_ill_conditioned_systems_reach_what_is_measured():
    rng = np.random.default_rng(4)
    scale = np.logspace(0, -5, 144)
    a = sp.csr_array(sp.diags_array(scale) @ laplacian(12) @ sp.diags_array(scale))
    b = a @ rng.standard_normal(144)
    result = SorBandit([1.5]).solve(a, b, tol=1e-11)
    assert result.converged
    assert np.linalg.norm(b - a @ result.x) <= 1e-11 * np.linalg.norm(b)


# ---- the choices -------------------------------------------------------------------------------------------


def test_probabilities_are_the_papers():
    bandit = SorBandit(np.linspace(1, 1.9, 5), seed=7)
    np.testing.assert_allclose(bandit.probabilities, 0.2)
    rng, sums, costs = np.random.default_rng(0), np.zeros(5), []
    for t in range(1, 200):
        expected = tsallis(sums, np.mean(costs) - 1, t) if t > 1 else np.full(5, 0.2)
        np.testing.assert_allclose(bandit.probabilities, expected, rtol=1e-9)
        omega = bandit.suggest()
        arm = int(np.flatnonzero(bandit.omegas == omega)[0])
        cost = float(rng.integers(10, 20) + 10 * arm)
        costs.append(cost)
        sums[arm] += (cost - 1) / expected[arm]
        bandit.update(cost)
    assert bandit.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert bandit.omega == 1.0
    np.testing.assert_array_equal(bandit.history["cost"], costs)
    assert np.isnan(bandit.history["shift"]).all()


def test_draws_follow_the_probabilities():
    counts = np.zeros(4)
    for seed in range(2000):
        bandit = SorBandit([1.0, 1.2, 1.4, 1.6], seed=seed)
        counts[np.flatnonzero(bandit.omegas == bandit.suggest())[0]] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 0.04


def run(bandit, a, b, shifts):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        return np.array([bandit.solve(a, right, shift=s).iterations for right, s in zip(b, shifts, strict=True)])


@pytest.mark.parametrize("method", TRUTH)
def test_learns_the_best_omega_of_shifted_laplacians(method):
    systems, a, rng = 1500, laplacian(12), np.random.default_rng(0)
    shifts, b = 0.6 * rng.beta(0.5, 1.5, systems) - 0.02, rng.standard_normal((systems, 144))
    arms = np.linspace(1, 1.95, 8)
    fixed = np.array([run(SorBandit([w], method=method), a, b, shifts) for w in arms])
    late = slice(systems // 2, systems)
    best = fixed[:, late].mean(1).min()
    learned = run(SorBandit(arms, method=method, seed=1), a, b, shifts)[late].mean()
    assert learned < best * 1.08
    assert learned < fixed[0, late].mean() * (0.5 if method == "sor" else 0.9)
    contextual = run(SorBandit(arms, method=method, shifts=(-0.02, 0.58), seed=1), a, b, shifts)[late].mean()
    assert contextual < 1.02 * fixed[:, late].min(axis=0).mean()  # the best omega of every single system
    assert contextual < learned


def test_chebyshev_costs_find_smooth_functions():
    bandit = SorBandit(np.linspace(1, 1.8, 5), shifts=(-1.0, 3.0), seed=3)
    rng = np.random.default_rng(0)

    def cost(omega, shift):
        return 20 + 30 * (omega - 1.4 + 0.2 * np.tanh(shift)) ** 2 * 10 + rng.integers(0, 2)

    for shift in rng.uniform(-1, 3, 800):
        bandit.update(cost(bandit.suggest(shift), shift))
    for shift in (-0.9, 0.0, 2.5):
        chances = bandit.probabilities_at(shift)
        assert chances.sum() == pytest.approx(1, abs=1e-12)
        assert (chances > 0).all()
        assert bandit.best(shift) == pytest.approx(np.clip(1.4 - 0.2 * np.tanh(shift), 1, 1.8), abs=0.11)
    assert not np.isnan(bandit.history["shift"]).any()
    with pytest.raises(ValueError, match="probabilities_at"):
        _ = bandit.probabilities


def test_bounded_regression_is_the_minimiser():
    optimize = pytest.importorskip("scipy.optimize")
    from raphson._cheb_regression import _bounded

    rng = np.random.default_rng(0)
    for rows in (2, 5, 40):
        x, y = rng.standard_normal((rows, 4)), rng.standard_normal(rows)
        bounds = np.array([0.3, 0.2, 0.1, 0.05])
        expected = optimize.lsq_linear(x, y, (-bounds, bounds), tol=1e-14).x
        found = _bounded(x.T @ x, x.T @ y, bounds)
        assert (np.abs(found) <= bounds).all()
        assert np.sum((x @ found - y) ** 2) <= np.sum((x @ expected - y) ** 2) * (1 + 1e-8)


def test_equal_seeds_choose_alike_and_pickles_go_on():
    a, b = laplacian(5), np.random.default_rng(0).standard_normal((30, 25))
    for keywords in ({}, {"shifts": (-0.1, 0.1)}):
        one, two = (SorBandit((1.0, 1.9), grid=6, seed=11, **keywords) for _ in range(2))
        other = SorBandit((1.0, 1.9), grid=6, seed=12, **keywords)
        for right in b[:15]:
            assert one.solve(a, right, shift=0.05).omega == two.solve(a, right, shift=0.05).omega
            other.solve(a, right, shift=0.05)
        assert not np.array_equal(one.history["omega"], other.history["omega"])
        twins = [pickle.loads(pickle.dumps(one)), copy.deepcopy(one)]
        for right in b[15:]:
            omega = one.solve(a, right, shift=0.05).omega
            assert all(twin.solve(a, right, shift=0.05).omega == omega for twin in twins)
        assert len(one) == len(twins[0]) == 30
        assert "30 systems" in repr(one)


def test_grids():
    np.testing.assert_allclose(SorBandit((1, 1.9), grid=4).omegas, [1, 1.3, 1.6, 1.9])
    assert len(SorBandit((1, 1.9)).omegas) == 10
    assert len(SorBandit((1, 1.9), horizon=500).omegas) == 10
    assert len(SorBandit((1, 1.9), horizon=5000).omegas) == 21
    np.testing.assert_array_equal(SorBandit([1.5, 1.1, 1.2]).omegas, [1.5, 1.1, 1.2])
    np.testing.assert_array_equal(SorBandit([1.5]).omegas, [1.5])


def test_results():
    a, b = random_system(20)
    result = SorBandit([1.2]).solve(a, b)
    assert isinstance(pickle.loads(pickle.dumps(result)), SorResult)
    assert "converged" in repr(result)
    assert "omega=1.2" in repr(result)
    torch = pytest.importorskip("torch")
    assert isinstance(SorBandit([1.2]).solve(a, torch.from_numpy(b)).x, torch.Tensor)


def test_interrupt():
    bandit = SorBandit([1.0], method="sor")
    a = laplacian(300)
    check_interrupt(lambda: bandit.solve(a, np.ones(90000), tol=1e-300, max_iter=10**7))
    assert len(bandit) == 0
    with pytest.raises(ValueError, match="suggest first"):
        bandit.update(3)


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "error", "match"),
    [
        ({"omegas": []}, ValueError, "omegas must have shape"),
        ({"omegas": [1.0, 2.0]}, ValueError, "omegas must lie between 0 and 2"),
        ({"omegas": [0.0]}, ValueError, "omegas must lie"),
        ({"omegas": [1.0, np.nan, 1.5]}, ValueError, "omegas must lie"),
        ({"omegas": [1.0, 1.2, 1.5], "grid": 3}, ValueError, r"omegas must be \(low, high\)"),
        ({"grid": 0}, ValueError, "grid must be at least 1"),
        ({"horizon": 0}, ValueError, "horizon must be at least 1"),
        ({"shifts": (1.0, 1.0)}, ValueError, "shifts must be"),
        ({"shifts": (0.0, np.inf)}, ValueError, "shifts must be"),
        ({"shifts": (0.0, 1.0), "degree": 0}, ValueError, "degree must be at least 1"),
        ({"method": "jacobi"}, ValueError, "method must be one of sor, ssor_cg"),
        ({"least": np.inf}, ValueError, "least must be finite"),
        ({"seed": None}, TypeError, "seed"),
    ],
)
def test_errors_of_the_bandit(keywords, error, match):
    with pytest.raises(error, match=match):
        SorBandit(**keywords)


A, B = random_system(4)


@pytest.mark.parametrize(
    ("keywords", "error", "match"),
    [
        ({"A": A[:3]}, ValueError, r"A must be square, got shape \(3, 4\)"),
        ({"A": A.astype(complex)}, TypeError, "A must be float64 or float32"),
        ({"A": A.astype(int)}, TypeError, "A must be float64 or float32"),
        ({"A": np.ones(4)}, ValueError, "A must have two axes"),
        ({"A": np.eye(4, dtype=int)}, TypeError, "A"),
        ({"A": np.full((4, 4), np.nan)}, ValueError, "A has NaN"),
        ({"A": -A}, ValueError, "positive diagonal"),
        ({"A": sp.csr_array(np.ones((4, 4)) - np.eye(4))}, ValueError, "positive diagonal .* in row 0"),
        ({"b": B[:3]}, ValueError, r"b must have shape \(4,\), got \(3,\)"),
        ({"b": np.full(4, np.inf)}, ValueError, "b has NaN or Inf"),
        ({"b": np.arange(4)}, TypeError, "b"),
        ({"b": DeviceArray(B)}, RuntimeError, "CUDA"),
        ({"A": DeviceArray(A.toarray())}, RuntimeError, "CUDA"),
        ({"init": B[:3]}, ValueError, "init must have shape"),
        ({"tol": 0.0}, ValueError, "tol must be positive"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"shift": np.nan}, ValueError, "shift must be finite"),
        ({"shift": -100.0}, ValueError, "positive diagonal"),
    ],
)
def test_errors_of_solve(keywords, error, match):
    bandit = SorBandit([1.2])
    with pytest.raises(error, match=match):
        bandit.solve(**({"A": A, "b": B} | keywords))
    assert len(bandit) == 0


def test_errors_of_the_feedback():
    bandit = SorBandit([1.2, 1.4, 1.6])
    with pytest.raises(ValueError, match="call suggest first"):
        bandit.update(3)
    bandit.suggest()
    with pytest.raises(ValueError, match="cost must be finite"):
        bandit.update(np.nan)
    bandit.update(3)
    contextual = SorBandit([1.2, 1.4], grid=3, shifts=(0.0, 1.0))
    for call in (contextual.suggest, contextual.best, contextual.probabilities_at):
        with pytest.raises(ValueError, match=r"shift must lie in \[0, 1\], got 1.5"):
            call(1.5)
    with pytest.raises(ValueError, match="got None"):
        contextual.suggest()


def test_threads_change_nothing():
    before, found = raphson.get_num_threads(), []
    try:
        for threads in (1, 2):
            raphson.set_num_threads(threads)
            found.append(SorBandit([1.3]).solve(laplacian(20), np.ones(400)).x)
    finally:
        raphson.set_num_threads(before)
    np.testing.assert_array_equal(*found)
