"""raphson.sketch.polynomial_preconditioner against subsets of eigenvalues, Chebyshev's formula and SciPy's CG."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import raphson
from cuda_arrays import DeviceArray
from raphson.sketch import PolynomialPreconditioner, polynomial_preconditioner

sp = pytest.importorskip("scipy.sparse")
linalg = pytest.importorskip("scipy.sparse.linalg")


def with_eigenvalues(spectrum, seed=0):
    n = len(spectrum)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    a = (q * spectrum) @ q.T
    return (a + a.T) / 2


def symmetric_polynomial(spectrum, degree):
    """p(λᵢ): the sum over subsets of the other eigenvalues, over that of all."""
    whole = sum(np.prod(c) for c in itertools.combinations(spectrum, degree))
    parts = [
        sum(np.prod(c) for c in itertools.combinations(np.delete(spectrum, i), degree)) for i in range(len(spectrum))
    ]
    return np.array(parts) / whole


def laplacian(n):
    line = sp.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    return sp.csr_array(sp.kron(sp.eye_array(n), line) + sp.kron(line, sp.eye_array(n)))


SPECTRA = {
    "flat": np.ones(7),
    "random": np.sort(np.random.default_rng(0).random(9) + 0.05)[::-1],
    "one gap": np.array([1e3, 3.0, 2.0, 1.5, 1.2, 1.0]),
    "two gaps": np.array([4e3, 1e3, 4.0, 3.0, 2.0, 1.5, 1.0]),
    "geometric": 2.0 ** -np.arange(10),
    "small": 1e-30 * np.array([5.0, 3.0, 1.0]),
    "one": np.array([3.0]),
}


# ---- symmetric ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECTRA)
def test_is_the_symmetric_polynomial(name):
    spectrum = SPECTRA[name]
    a = with_eigenvalues(spectrum)
    before = np.inf
    for degree in range(min(len(spectrum), 5)):
        p = polynomial_preconditioner(a, degree, method="symmetric")
        expected = symmetric_polynomial(spectrum, degree)
        np.testing.assert_allclose(p.evaluate(spectrum), expected, rtol=1e-5, atol=1e-12 * expected.max())
        matrix = p @ np.eye(len(a))
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        assert values.min() > 0
        np.testing.assert_allclose(np.sort(values), np.sort(expected), rtol=1e-5, atol=1e-9)
        preconditioned = expected * spectrum
        assert p.condition == pytest.approx(preconditioned.max() / preconditioned.min(), rel=1e-4)
        # Σ_{i > degree} λᵢ / λₙ, and no more than A's own; falling with the degree
        assert p.condition <= min(spectrum[degree:].sum() / spectrum[-1], spectrum[0] / spectrum[-1]) * (1 + 1e-6)
        assert p.condition <= before * (1 + 1e-6)
        before = p.condition


def test_low_degrees_are_the_papers():
    a = with_eigenvalues(SPECTRA["random"])
    n, trace, squares = len(a), np.trace(a), np.trace(a @ a)
    first = trace * np.eye(n) - a
    second = a @ a - trace * a + (trace**2 - squares) / 2 * np.eye(n)
    for degree, expected in ((0, np.eye(n)), (1, first / trace), (2, second / ((trace**2 - squares) / 2))):
        np.testing.assert_allclose(polynomial_preconditioner(a, degree) @ np.eye(n), expected, atol=1e-13)
    whole = polynomial_preconditioner(a, n - 1) @ np.eye(n)  # the adjugate
    np.testing.assert_allclose(whole @ a, np.eye(n) * (whole @ a)[0, 0], atol=1e-6)


@pytest.mark.parametrize("gap", [1e2, 1e5, 1e8])
def test_gaps_behind_the_largest_eigenvalues_cost_nothing(gap):
    rest = np.linspace(2, 1, 60)
    spectrum = np.concatenate([gap * np.array([9.0, 4.0, 2.0]), rest])
    found = polynomial_preconditioner(with_eigenvalues(spectrum), 3)
    assert found.condition <= rest.sum()  # whatever the gap
    a = with_eigenvalues(spectrum)
    product = np.linalg.eigvals(found @ a).real
    assert product.min() > 0
    assert product.max() / product.min() == pytest.approx(found.condition, rel=0.05 if gap < 1e8 else 10)


def test_random_spectra_stay_positive():
    rng = np.random.default_rng(3)
    for trial in range(60):
        n = int(rng.integers(2, 40))
        spectrum = np.sort(10.0 ** (rng.random(n) * rng.integers(0, 9)))[::-1]
        degree = int(rng.integers(0, min(n, 9)))
        a = with_eigenvalues(spectrum, trial)
        refused = ""
        try:
            p = polynomial_preconditioner(a, degree)
        except ValueError as error:
            refused = str(error)
        if refused:
            p = polynomial_preconditioner(
                a, int(refused.split("rounding would leave")[1].split("up to ")[1].split()[0])
            )
        assert (p.evaluate(spectrum) > 0).all()
        matrix = p @ np.eye(n)
        assert np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0


def test_degrees_that_rounding_would_spoil_are_refused():
    spectrum = np.array([1e12, 1e6, 1e3, 1.0, 1e-2])
    with pytest.raises(ValueError, match=r"indefinite at degree 4; up to \d it is positive definite"):
        polynomial_preconditioner(np.diag(spectrum), 4)


def test_sparse_traces_and_known_eigenvalues():
    a, dense = laplacian(7), laplacian(7).toarray()
    spectrum = np.linalg.eigvalsh(dense)
    for degree in (0, 1, 2, 4):
        expected = polynomial_preconditioner(dense, degree) @ np.eye(49)
        for given in (a, a.tocsc(), linalg.aslinearoperator(a)):
            found = polynomial_preconditioner(given, degree, eigenvalues=spectrum)
            np.testing.assert_allclose(found @ np.eye(49), expected, atol=1e-12)
    large = laplacian(46)  # 2116: more than eigenvalues are computed for
    for degree in (1, 2):
        found = polynomial_preconditioner(large, degree, method="symmetric")
        trace, squares = large.trace(), (large.data**2).sum()
        x = np.array([0.1, 4.0, 7.9])
        expected = 1 - x / trace if degree == 1 else 1 - (trace * x - x**2) / ((trace**2 - squares) / 2)
        np.testing.assert_allclose(found.evaluate(x), expected, rtol=1e-12)
        assert np.isnan(found.condition)
    with pytest.raises(ValueError, match=r"degree 3 needs eigenvalues=, since A is sparse with n = 2116 > 2000"):
        polynomial_preconditioner(large, 3, method="symmetric")
    with pytest.raises(ValueError, match="since A is an operator"):
        polynomial_preconditioner(linalg.aslinearoperator(a), 1, method="symmetric")


# ---- Chebyshev ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 12, 40])
def test_is_chebyshevs_polynomial(degree):
    low, high = 0.3, 7.0
    p = polynomial_preconditioner(np.eye(3), degree, method="chebyshev", bounds=(low, high))
    x = np.linspace(0.01, high, 200)
    top = np.polynomial.Chebyshev.basis(degree + 1)
    at = (high + low - 2 * x) / (high - low)
    expected = 1 - top(at) / top((high + low) / (high - low))
    np.testing.assert_allclose(x * p.evaluate(x), expected, atol=1e-12)
    assert (p.evaluate(np.linspace(1e-6, high + low - 1e-6, 500)) > 0).all()
    inside = np.linspace(low, high, 2000)
    values = inside * p.evaluate(inside)
    assert p.condition == pytest.approx(values.max() / values.min(), rel=1e-3)


@pytest.mark.parametrize("name", SPECTRA)
def test_estimated_bounds_hold(name):
    spectrum = SPECTRA[name]
    a = with_eigenvalues(spectrum)
    for given in (a, sp.csr_array(a), linalg.aslinearoperator(a)):
        p = polynomial_preconditioner(given, 4, method="chebyshev")
        low, high = p.bounds
        assert spectrum[0] <= high * (1 + 1e-9)
        assert high <= spectrum[0] / 0.899
        assert low <= spectrum[-1] * (1 + 1e-6)  # Lanczos ran to its end
        assert (p.evaluate(spectrum) > 0).all()
    large = laplacian(60)
    for seed in range(3):
        p = polynomial_preconditioner(large, 6, seed=seed)
        assert p.method == "chebyshev"
        exact = 8 * np.sin(np.pi * 60 / 122) ** 2
        assert exact <= p.bounds[1] <= 8


# ---- both ---------------------------------------------------------------------------------------------------


def test_scipys_cg_takes_it():
    spectrum = np.concatenate([[3e5, 1e5, 3e4], np.linspace(3, 1, 197)])
    a, b = with_eigenvalues(spectrum), np.random.default_rng(1).standard_normal(200)

    def steps(matrix, right, M=None):
        count = [0]
        x, info = linalg.cg(matrix, right, M=M, rtol=1e-10, callback=lambda _: count.__setitem__(0, count[0] + 1))
        assert info == 0
        return x, count[0]

    x, plain = steps(a, b)
    y, cut = steps(a, b, polynomial_preconditioner(a, 3))
    assert cut < plain - 4
    np.testing.assert_allclose(y, x, atol=1e-5)
    large, right = laplacian(50), np.ones(2500)
    x, plain = steps(large, right)
    y, few = steps(large, right, polynomial_preconditioner(large, 5))
    assert few < plain / 2
    np.testing.assert_allclose(y, x, rtol=1e-6)


@pytest.mark.parametrize("columns", [None, 0, 1, 3, 4, 5, 9])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_any_number_of_columns_and_any_form(columns, degree):
    rng = np.random.default_rng(0)
    a = with_eigenvalues(rng.random(130) + 0.5)
    v = rng.standard_normal(130 if columns is None else (130, columns))
    for method in ("symmetric", "chebyshev"):
        options = {"bounds": (0.5, 1.5)} if method == "chebyshev" else {"eigenvalues": np.linalg.eigvalsh(a)}
        reference = polynomial_preconditioner(a, degree, method=method, **options)
        values, vectors = np.linalg.eigh(a)
        expected = vectors @ (reference.evaluate(values) * (vectors.T @ v).T).T
        fortran, wide = np.asfortranarray(a), np.zeros((130, 200))
        wide[:, :130] = a
        for given in (a, fortran, wide[:, :130], sp.csr_array(a), linalg.aslinearoperator(a)):
            p = polynomial_preconditioner(given, degree, method=method, **options)
            for found in (p @ v, p.apply(np.asfortranarray(v)), p.matvec(v), p(v)):
                assert found.shape == v.shape
                np.testing.assert_allclose(found, expected, atol=1e-12)


def test_float32():
    a = with_eigenvalues(np.linspace(1, 3, 50))
    for method in ("symmetric", "chebyshev"):
        wide = polynomial_preconditioner(a, 3, method=method)
        narrow = polynomial_preconditioner(a.astype(np.float32), 3, method=method)
        v = np.ones(50, np.float32)
        assert (narrow @ v).dtype == np.float32
        assert (narrow @ v.astype(float)).dtype == np.float64
        np.testing.assert_allclose(narrow @ v, wide @ np.ones(50), rtol=1e-5, atol=1e-6)


def test_threads_change_no_bit():
    a, before, found = laplacian(200), raphson.get_num_threads(), []
    dense = with_eigenvalues(np.linspace(1, 3, 400))
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            sparse = polynomial_preconditioner(a, 5) @ np.ones((40000, 3))
            found.append((sparse, polynomial_preconditioner(dense, 3, method="chebyshev") @ np.ones(400)))
    finally:
        raphson.set_num_threads(before)
    for other in found[1:]:
        for x, y in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(x, y)


def test_pickles_torch_and_repr():
    a = with_eigenvalues(np.linspace(1, 3, 20))
    for given in (a, sp.csr_array(a)):
        p = polynomial_preconditioner(given, 2, method="symmetric")
        for twin in (pickle.loads(pickle.dumps(p)), copy.deepcopy(p)):
            assert isinstance(twin, PolynomialPreconditioner)
            np.testing.assert_array_equal(twin @ np.ones(20), p @ np.ones(20))
    assert "20×20, symmetric, degree 2, condition=" in repr(p)
    torch = pytest.importorskip("torch")
    found = polynomial_preconditioner(torch.from_numpy(a), 2) @ torch.ones(20, dtype=torch.float64)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), p @ np.ones(20), rtol=1e-12)


@pytest.mark.parametrize(
    ("a", "keywords", "error", "match"),
    [
        (np.ones((3, 2)), {}, ValueError, r"A must be square, got shape \(3, 2\)"),
        (np.ones(3), {}, ValueError, "A must have two axes"),
        (np.eye(3, dtype=int), {}, TypeError, "A"),
        (sp.eye_array(3, dtype=complex), {}, TypeError, "A must be float64 or float32"),
        (np.full((3, 3), np.nan), {}, ValueError, "A has NaN or Inf"),
        (np.diag([1.0, -1.0, 2.0]), {}, ValueError, "a diagonal entry is -1"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), {}, ValueError, "its eigenvalues reach down to -1"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), {"method": "chebyshev"}, ValueError, "a Ritz value of it is -1"),
        (np.eye(3), {"degree": -1}, ValueError, "degree must not be negative"),
        (np.eye(3), {"degree": 3}, ValueError, "degree must be below n = 3, got 3"),
        (np.eye(3), {"degree": 1.5}, TypeError, "integer"),
        (np.eye(3), {"method": "neumann"}, ValueError, "method must be one of auto, symmetric, chebyshev"),
        (np.eye(3), {"bounds": (1.0, 2.0)}, ValueError, "bounds are for method='chebyshev'"),
        (np.eye(3), {"method": "chebyshev", "bounds": (0.0, 2.0)}, ValueError, r"bounds must be \(low, high\)"),
        (np.eye(3), {"method": "chebyshev", "bounds": (2.0, 2.0)}, ValueError, "bounds must be"),
        (np.eye(3), {"method": "chebyshev", "eigenvalues": np.ones(3)}, ValueError, "eigenvalues are for"),
        (np.eye(3), {"eigenvalues": np.ones(2)}, ValueError, r"eigenvalues must have shape \(3,\)"),
        (np.eye(3), {"eigenvalues": [1.0, 0.0, 2.0]}, ValueError, "reach down to 0"),
        (np.eye(3), {"seed": None}, TypeError, "seed"),
        (DeviceArray(np.eye(3)), {}, RuntimeError, "CUDA"),
    ],
)
def test_errors(a, keywords, error, match):
    with pytest.raises(error, match=match):
        polynomial_preconditioner(a, **({"degree": 1} | keywords))


def test_errors_of_apply():
    p = polynomial_preconditioner(np.eye(3), 1)
    for v in (np.ones(4), np.ones((4, 3)), np.ones((3, 1, 1))):
        with pytest.raises(ValueError, match=r"v must have shape \(3,\) or \(3, k\)"):
            p @ v
    with pytest.raises(RuntimeError, match="CUDA"):
        p @ DeviceArray(np.ones(3))

    class Wrong:
        shape = (3, 3)

        def __call__(self, v):
            return v[:2]

    with pytest.raises(ValueError, match=r"A must give shape \(3,\), got \(2,\)"):
        polynomial_preconditioner(Wrong(), 1, bounds=(1.0, 2.0)) @ np.ones(3)
