"""Matrix functions of CUDA arrays against float64 NumPy: on a GPU, or emulated on the CPU (see cuda_arrays.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg

import cuda_arrays
import raphson
from raphson import newton_schulz as ns
from reference import with_singular_values

device = cuda_arrays.device()
put, get = device.put, device.get

EPS = {np.float64: np.finfo(np.float64).eps, np.float32: np.finfo(np.float32).eps}
FUNCTIONS = {
    "polar": ns.polar,
    "sign": ns.sign,
    "sqrt": ns.sqrt,
    "inverse": ns.inverse,
    "inverse_root": lambda a, **options: ns.inverse_root(a, 3, **options),
}


def spectrum(n: int, cond: float) -> np.ndarray:
    return np.logspace(0, -np.log10(cond), n)


def symmetric(values: np.ndarray, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    n = len(values)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    a = (q * values) @ q.T
    return ((a + a.T) / 2).astype(dtype)


def function_of(a: np.ndarray, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    values, vectors = np.linalg.eigh(a.astype(np.float64))
    return (vectors * f(values)) @ vectors.T


def largest(x: np.ndarray) -> float:
    return float(np.abs(x).max())


# ---- functions of symmetric matrices -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("n", [1, 2, 19, 48])
def test_inverse_root_is_measured_on_what_is_returned(n, p, dtype):
    cond = 1e4
    a = symmetric(3 * spectrum(n, cond), p, dtype)
    result = ns.inverse_root(put(a), p)
    x = get(result.value).astype(np.float64)
    error = largest(a.astype(np.float64) @ np.linalg.matrix_power(x, p) - np.eye(n))
    assert get(result.value).dtype == dtype
    assert result.converged
    assert result.residual == pytest.approx(error, rel=0.5, abs=1e-15 * cond)
    assert error <= 4 * p * EPS[dtype] * cond
    assert np.array_equal(x, x.T)
    assert result.cond == pytest.approx(np.linalg.cond(a.astype(np.float64)), rel=1e-3)
    truth = function_of(a, lambda v: v ** (-1 / p))
    np.testing.assert_allclose(x, truth, rtol=0, atol=20 * EPS[dtype] * cond * largest(x))


@pytest.mark.parametrize("cond", [1e1, 1e6, 1e12])
@pytest.mark.parametrize("n", [5, 64, 101, 119, 130])  # from 119 on: pairs of blocks
def test_roots_at_every_condition(n, cond):
    a = symmetric(spectrum(n, cond), n)
    root, square_root = ns.inverse_root(put(a), 4), ns.sqrt(put(a))
    truth = function_of(a, lambda v: np.abs(v) ** -0.25)
    assert root.converged
    assert root.residual <= 1e-15 * n * cond
    np.testing.assert_allclose(get(root.value), truth, rtol=0, atol=1e-14 * cond * largest(truth))
    assert square_root.converged
    s, z = get(square_root.value), get(square_root.inverse_sqrt)
    error = np.linalg.norm(s @ s - a) / np.linalg.norm(a)
    assert error <= 1e-14
    assert square_root.residual == pytest.approx(error, rel=0.5, abs=1e-15)
    assert np.array_equal(s, s.T)
    np.testing.assert_allclose(s, function_of(a, lambda v: np.sqrt(np.abs(v))), rtol=0, atol=1e-14 * np.sqrt(cond))
    inverse_error = largest(a @ z @ z - np.eye(n))
    assert inverse_error <= 1e-14 * n * cond
    assert square_root.inverse_residual == pytest.approx(inverse_error, rel=1, abs=1e-14 * cond)
    assert square_root.iterations <= 30


def test_repeated_and_clustered_eigenvalues():
    n = 40
    clusters = (np.ones(n), np.repeat([1.0, 2.0, 3.0, 4.0], 10), 1 + 1e-13 * np.arange(n), np.repeat([1, 1e-8], 20))
    for values in clusters:
        a = symmetric(values, 7)
        result = ns.inverse_root(put(a), 2)
        assert result.converged
        assert result.residual <= 1e-14 * n / values.min()
    diagonal = np.diag(np.arange(1.0, 18.0))
    np.testing.assert_allclose(get(ns.sqrt(put(diagonal)).value), np.sqrt(diagonal), atol=1e-14)


def test_ridges_are_absolute_and_relative():
    a = symmetric(50 * spectrum(20, 1e3), 2)
    shifted = a + (0.25 + 0.1 * np.linalg.eigvalsh(a)[-1]) * np.eye(20)
    got = ns.inverse_root(put(a), 4, ridge=0.25, relative_ridge=0.1)
    np.testing.assert_allclose(get(got.value), function_of(shifted, lambda v: v**-0.25), rtol=1e-12, atol=1e-14)
    assert got.residual <= 1e-13
    assert got.cond == pytest.approx(np.linalg.cond(shifted), rel=1e-9)
    singular = np.diag([1.0, 0.0, 2.0])
    root = get(ns.inverse_root(put(singular), 2, ridge=0.5).value)
    np.testing.assert_allclose(np.diag(root), np.array([1.5, 0.5, 2.5]) ** -0.5, rtol=1e-14)


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e200])
def test_extreme_scales(scale):
    a = symmetric(spectrum(12, 1e4), 3)
    for p in (2, 3, 4):
        expected = get(ns.inverse_root(put(a), p).value) * scale ** (-1 / p)
        result = ns.inverse_root(put(a * scale), p)
        assert result.converged
        np.testing.assert_allclose(get(result.value), expected, rtol=1e-9)
    root = get(ns.sqrt(put(a * scale)).value)
    np.testing.assert_allclose(root, get(ns.sqrt(put(a)).value) * np.sqrt(scale), rtol=1e-9)
    inverse = get(ns.inverse(put(a * scale)).value)
    np.testing.assert_allclose(inverse, get(ns.inverse(put(a)).value) / scale, rtol=1e-9)


def test_what_leaves_the_range_is_a_breakdown():
    with pytest.raises(np.linalg.LinAlgError, match="inverse: breakdown"):
        ns.inverse(put(np.diag([1e-310, 1.0])))
    small = np.stack([np.eye(2), 1e-310 * np.eye(2)])
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 2"):
        result = ns.inverse(put(small))
    assert list(result.status) == ["converged", "breakdown"]
    np.testing.assert_array_equal(get(result.value), np.stack([np.eye(2), np.zeros((2, 2))]))


def test_sqrt_of_a_singular_matrix():
    g = np.random.default_rng(0).standard_normal((12, 5))
    a = g @ g.T
    result = ns.sqrt(put(a))
    assert result.converged
    assert result.inverse_sqrt is None
    assert result.inverse_residual == np.inf
    root = get(result.value)
    assert np.linalg.norm(root @ root - a) <= 1e-13 * np.linalg.norm(a)
    batch = ns.sqrt(put(np.stack([a, np.eye(12)])))
    assert np.isnan(get(batch.inverse_sqrt)[0]).all()
    np.testing.assert_allclose(get(batch.inverse_sqrt)[1], np.eye(12), atol=1e-15)
    np.testing.assert_array_equal(get(ns.sqrt(put(np.zeros((3, 3)))).value), np.zeros((3, 3)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1, 2, 30, 71])
def test_sign(n, dtype):
    values = np.where(np.arange(n) % 3 == 0, -1, 1) * np.logspace(0, 2, n)
    a = symmetric(values, n, dtype)
    result = ns.sign(put(a))
    s = get(result.value).astype(np.float64)
    assert result.converged
    np.testing.assert_allclose(s, function_of(a, np.sign), atol=100 * EPS[dtype])
    error = largest(s @ s - np.eye(n))
    assert error <= 20 * EPS[dtype]
    assert result.residual == pytest.approx(error, rel=1, abs=1e-15)
    with pytest.raises(np.linalg.LinAlgError, match="imaginary axis"):
        ns.sign(put(np.diag([1.0, 0.0, -1.0])))


# ---- without symmetry ----------------------------------------------------------------------------------------


def lopsided(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(values)
    basis = np.eye(n) + 0.3 * np.random.default_rng(seed).standard_normal((n, n)) / np.sqrt(n)
    inverse = np.linalg.inv(basis)
    return basis @ np.diag(values) @ inverse, basis, inverse


@pytest.mark.parametrize("n", [2, 17, 64, 90])
@pytest.mark.parametrize("spread", [1e1, 1e5, 1e9])
def test_sqrt_without_symmetry_is_as_good_as_schur(n, spread):
    a, _, _ = lopsided(np.logspace(0, np.log10(spread), n), n)
    result = ns.sqrt(put(a))
    root, inverse = get(result.value), get(result.inverse_sqrt)
    error = np.linalg.norm(root @ root - a) / np.linalg.norm(a)
    schur = scipy.linalg.sqrtm(a)
    assert result.converged
    assert error <= max(4 * np.linalg.norm(schur @ schur - a) / np.linalg.norm(a), 1e-14)
    assert result.residual == pytest.approx(error, rel=1, abs=1e-15)
    np.testing.assert_allclose(root @ inverse, np.eye(n), atol=1e-13 * n * np.sqrt(spread))
    inverse_error = largest(a @ inverse @ inverse - np.eye(n))
    assert result.inverse_residual == pytest.approx(inverse_error, rel=1, abs=1e-14 * spread)
    assert result.iterations == pytest.approx(ns.sqrt(a).iterations, abs=1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [2, 30, 75])
def test_sign_without_symmetry(n, dtype):
    values = np.where(np.arange(n) % 3 == 0, -1, 1) * np.logspace(0, 1, n)
    a, basis, inverse = lopsided(values, n)
    result = ns.sign(put(a.astype(dtype)))
    s = get(result.value).astype(np.float64)
    assert result.converged
    np.testing.assert_allclose(s, basis @ np.diag(np.sign(values)) @ inverse, atol=1e3 * EPS[dtype])
    error = largest(s @ s - np.eye(n))
    assert result.residual == pytest.approx(error, rel=1, abs=1e-14)
    assert error <= 100 * EPS[dtype]


def test_some_of_a_batch_have_symmetry():
    plain, _, _ = lopsided(np.linspace(1, 9, 12), 1)
    other, _, _ = lopsided(np.linspace(1, 3, 12), 2)
    broken = np.eye(12)
    broken[:2, :2] = [[-1.0, 2.0], [0.0, 1.0]]
    even = symmetric(np.linspace(1, 9, 12), 3)
    stack = np.stack([even, plain, broken, np.eye(12), other])
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 5"):
        result = ns.sqrt(put(stack))
    assert [str(s) for s in result.status] == ["converged"] * 2 + ["breakdown"] + ["converged"] * 2
    roots, inverses = get(result.value), get(result.inverse_sqrt)
    for k in (0, 1, 3, 4):
        np.testing.assert_allclose(roots[k], scipy.linalg.sqrtm(stack[k]), atol=1e-13)
        alone = get(ns.sqrt(put(stack[k])).value)  # cuBLAS may choose another kernel for another batch
        np.testing.assert_allclose(roots[k], alone, rtol=0, atol=0 if device.emulated else 1e-13)
        np.testing.assert_allclose(roots[k] @ inverses[k], np.eye(12), atol=1e-13)
    assert np.isfinite(roots[2]).all()
    assert np.isnan(inverses[2]).all()
    assert result.inverse_residual[2] == np.inf


def test_sign_of_rotations_with_and_without_a_real_part():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(get(ns.sign(put(turn + 0.1 * np.eye(2))).value), np.eye(2), atol=1e-14)
    with pytest.raises(np.linalg.LinAlgError, match="imaginary axis"):
        ns.sign(put(turn))
    with pytest.raises(np.linalg.LinAlgError, match="breakdown"):
        ns.sign(put(np.array([[1.0, 2.0], [0.5, 1.0]])))


# ---- inverse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cond", [1e1, 1e8, 1e12])
@pytest.mark.parametrize("n", [1, 2, 9, 64, 101, 169, 170, 203])  # from 170 on: panels
def test_inverse(n, cond):
    a = with_singular_values(np.random.default_rng(n), n, n, spectrum(n, cond))
    result = ns.inverse(put(a))
    x = get(result.value)
    error = largest(a @ x - np.eye(n))
    assert result.converged
    assert error <= 1e-15 * n * cond + 1e-15
    assert result.residual == pytest.approx(error, rel=1, abs=1e-15 * cond)
    if n > 1:
        assert cond <= 1.01 * result.cond <= 1.1 * n * cond


@pytest.mark.parametrize("n", [7, 64, 180])
def test_inverse_needs_its_pivots(n):
    permutation = np.random.default_rng(n).permutation(n)
    a = np.eye(n)[permutation]
    np.testing.assert_array_equal(get(ns.inverse(put(a)).value), a.T)
    weak = 1e-14 * np.eye(n) + np.eye(n)[::-1] + np.triu(np.ones((n, n)), 1) / n
    result = ns.inverse(put(weak))
    assert result.converged
    np.testing.assert_allclose(get(result.value), np.linalg.inv(weak), rtol=0, atol=1e-13 * result.cond)


def test_inverse_of_a_low_rank_matrix_with_noise_is_as_good_as_its_condition():
    g = np.random.default_rng(3)
    n = 190
    a = g.standard_normal((n, 7)) @ g.standard_normal((7, n)) + 1e-9 * g.standard_normal((n, n))
    result = ns.inverse(put(a))
    assert result.converged
    assert result.residual <= 1e-15 * n * result.cond


def test_inverse_takes_a_step_where_elimination_lost_digits():
    n = 40
    wilkinson = np.eye(n) - 0.9 * np.tril(np.ones((n, n)), -1)  # pivoting lets its entries grow to 1.9^39
    wilkinson[:, -1] = 1
    stack = np.stack([np.eye(n), wilkinson, wilkinson.T])
    result = ns.inverse(put(stack))
    assert result.all_converged
    assert result.iterations[0] == 1
    assert result.iterations.max() > 1
    assert (result.residual <= result.tol).all()
    assert result.tol.max() < 1e-10
    np.testing.assert_allclose(get(result.value), np.linalg.pinv(stack), atol=1e-10)
    errors = [largest(a @ x - np.eye(n)) for a, x in zip(stack, get(result.value), strict=True)]
    np.testing.assert_allclose(result.residual, errors, rtol=1, atol=1e-14)


@pytest.mark.parametrize("n", [3, 175])
def test_a_singular_matrix_has_no_inverse(n):
    a = np.zeros((2, n, n))
    a[0] = np.diag(np.arange(n) * 1.0)
    a[1] = np.eye(n)
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 2"):
        result = ns.inverse(put(a))
    assert list(result.status) == ["breakdown", "converged"]
    assert result.cond[0] == np.inf
    np.testing.assert_allclose(get(result.value)[0], a[0].T / (n - 1) ** 2, atol=1e-16)
    np.testing.assert_array_equal(get(result.value)[1], np.eye(n))
    with pytest.raises(np.linalg.LinAlgError, match="breakdown"):
        ns.inverse(put(a[0]))


# ---- batches, lists, layouts, errors -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bad", ["nan", "inf", "other"])
def test_one_bad_matrix_leaves_the_others_alone(name, bad):
    function = FUNCTIONS[name]
    blocks = np.stack([symmetric(spectrum(17, 1e3), s) for s in range(4)]).reshape(2, 2, 17, 17)
    alone = function(put(blocks))
    assert alone.all_converged
    harmed = blocks.copy()
    harmed[1, 0] = symmetric(np.linspace(-1, 1, 17), 9)  # indefinite, and singular but for rounding
    if name == "inverse":
        harmed[1, 0] = np.diag(np.linspace(-1, 1, 17))
    if bad != "other":
        harmed[1, 0, 2, 3] = harmed[1, 0, 3, 2] = np.nan if bad == "nan" else np.inf
    broken = function(put(harmed)) if name == "polar" and bad == "other" else None
    if broken is None:
        with pytest.warns(raphson.ConvergenceWarning, match="1 of 4 matrices") as caught:
            broken = function(put(harmed))
        assert len(caught) == 1
        assert broken.status[1, 0] == "breakdown"
        with pytest.raises(np.linalg.LinAlgError, match="matrix 2 of the batch"):
            function(put(harmed), errors="raise")
        with pytest.raises(np.linalg.LinAlgError, match="breakdown"):
            function(put(harmed[1, 0]))
    field = "unitary" if name == "polar" else "value"
    good = np.ones((2, 2), bool)
    good[1, 0] = False
    values, expected = get(getattr(broken, field)), get(getattr(alone, field))
    assert broken.converged[good].all()
    np.testing.assert_array_equal(values[good], expected[good])
    np.testing.assert_array_equal(broken.residual[good], alone.residual[good])
    if bad == "other":
        assert np.isfinite(values).all()
    else:
        assert np.isnan(values[1, 0]).all()
        assert np.isnan(broken.residual[1, 0])


def test_an_indefinite_matrix_gets_the_root_of_its_positive_part():
    a = symmetric(np.array([-1.0, 1.0, 4.0]), 2)
    with pytest.warns(raphson.ConvergenceWarning, match="not positive definite"):
        result = ns.inverse_root(put(a), 2, errors="status")
    positive = function_of(a, lambda v: np.where(v > 0, np.abs(v) ** -0.5, 0))
    np.testing.assert_allclose(get(result.value), positive, atol=1e-14)
    assert result.status == "breakdown"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_is_its_matrices(name):
    function = FUNCTIONS[name]
    stack = np.stack([symmetric(spectrum(21, 10.0 ** (s + 1)), s) for s in range(5)])
    batch = function(put(stack))
    field = "unitary" if name == "polar" else "value"
    for i, matrix in enumerate(stack):
        one = function(put(matrix))
        # cuBLAS may choose another kernel for another batch
        np.testing.assert_allclose(
            get(getattr(one, field)), get(getattr(batch, field))[i], rtol=0, atol=0 if device.emulated else 1e-9
        )
        assert one.status == batch.status[i]
        assert isinstance(one.converged, bool)
        assert isinstance(one.iterations, int)
        assert isinstance(one.residual, float)
    assert batch.status.shape == batch.residual.shape == batch.tol.shape == (5,)


def test_lists_of_mixed_sizes_and_nothing():
    matrices = [symmetric(spectrum(n, 100.0), n) for n in (3, 50, 1, 3)] + [np.stack([np.eye(3) * 2] * 2)]
    results = ns.inverse_root([put(m) for m in matrices], 2)
    for result, matrix in zip(results, matrices, strict=True):
        assert get(result.value).shape == matrix.shape
        np.testing.assert_allclose(get(result.value), get(ns.inverse_root(put(matrix), 2).value), atol=1e-13)
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 2"):
        results = ns.inverse([put(np.zeros((2, 2))), put(np.eye(3))])
    assert [r.status for r in results] == ["breakdown", "converged"]
    for shape in [(0, 4, 4), (3, 0, 0)]:
        assert get(ns.sqrt(put(np.zeros(shape))).value).shape == shape
    assert get(raphson.polar(put(np.zeros((2, 0, 5)))).unitary).shape == (2, 0, 5)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("layout", ["fortran", "spread", "reversed", "batch last"])
def test_every_stride_is_read(name, layout):
    if layout in ("spread", "reversed") and not device.emulated:
        pytest.skip("torch has no such views")
    function = FUNCTIONS[name]
    stack = np.stack([symmetric(spectrum(11, 1e2), s) for s in range(3)])
    if name in ("polar", "inverse"):
        stack += np.triu(np.ones((11, 11)))
    if layout == "fortran":
        given = np.asfortranarray(stack)
    elif layout == "spread":
        given = np.zeros((6, 22, 33))[::2, ::2, ::3]
        given[...] = stack
    elif layout == "reversed":
        given = np.ascontiguousarray(stack[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    else:
        given = np.moveaxis(np.ascontiguousarray(np.moveaxis(stack, 0, 2)), 2, 0)
    field = "unitary" if name == "polar" else "value"
    np.testing.assert_array_equal(get(getattr(function(put(given)), field)), get(getattr(function(put(stack)), field)))


def test_a_step_limit_is_said():
    a = symmetric(spectrum(30, 1e6), 1)
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        assert raphson.polar(put(a), max_steps=4).iterations == 4
    for n in (30, 130):
        with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
            ns.inverse_root(put(symmetric(spectrum(n, 1e6), 1)), 2, max_steps=2)
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        result = ns.sqrt(put(a), tol=1e-30)
    assert result.tol == 1e-30


def test_what_is_wrong_is_said():
    square, lopsided = np.eye(4), np.eye(4) + np.eye(4, k=1)
    with pytest.raises(ValueError, match=r"^inverse: a must be square \(..., n, n\), got shape \(4, 3\)"):
        ns.inverse(put(np.ones((4, 3))))
    with pytest.raises(ValueError, match="polar: x must have at least 2 axes"):
        raphson.polar(put(np.ones(4)))
    with pytest.raises(
        ValueError, match=r"^inverse_root: a must be symmetric, but .* = 1.0.*\(matrix 1 of the batch\)"
    ):
        ns.inverse_root(put(np.stack([square, lopsided])), 2)
    with pytest.raises(ValueError, match="p must"):
        ns.inverse_root(put(square), 0)
    with pytest.raises(ValueError, match="tol must not be negative"):
        ns.sqrt(put(square), tol=-1.0)
    with pytest.raises(TypeError, match="polar: x must be float64 or float32, got float16"):
        raphson.polar(put(square.astype(np.float16)))
    with pytest.raises(TypeError, match="polar"):
        raphson.polar([put(square), square])
