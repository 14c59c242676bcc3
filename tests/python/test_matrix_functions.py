"""Matrix functions against the singular value decomposition, SciPy, mpmath and their own defining equations."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.linalg

import raphson
from raphson import newton_schulz as ns
from reference import polar_by_svd, with_singular_values

EPS = {np.float64: np.finfo(np.float64).eps, np.float32: np.finfo(np.float32).eps}


def rng(seed=0):
    return np.random.default_rng(seed)


def spd(n, cond, seed=0, dtype=np.float64):
    q, _ = np.linalg.qr(rng(seed).standard_normal((n, n)))
    a = (q * np.logspace(0, -np.log10(cond), n)) @ q.T
    return ((a + a.T) / 2).astype(dtype)


def unwarned():
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("error")
    return caught


# ---- polar -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cond", [1, 1e3, 1e8, 1e12, 1e15])
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 3), (40, 40), (65, 64), (90, 33), (33, 90), (200, 5), (1, 7), (130, 130)]
)
def test_polar_is_backward_stable(shape, cond):
    k = min(shape)
    x = with_singular_values(rng(3), *shape, np.logspace(0, -np.log10(cond), k)) * 7.0
    result = raphson.polar(x)
    u, h = result.unitary, result.hermitian
    tall = shape[0] >= shape[1]
    product = u @ h if tall else h @ u
    gram = u.T @ u if tall else u @ u.T
    assert result.converged
    assert result.status == "converged"
    assert result.side == ("right" if tall else "left")
    assert np.linalg.norm(product - x) / np.linalg.norm(x) <= 1e-14
    assert np.linalg.norm(gram - np.eye(k)) / np.sqrt(k) <= 1e-13
    assert np.array_equal(h, h.T)
    assert np.linalg.eigvalsh(h)[0] >= -1e-14 * np.linalg.norm(x)
    # what is reported is what is returned
    assert result.residual == pytest.approx(np.linalg.norm(product - x) / np.linalg.norm(x), rel=0.5, abs=1e-15)
    assert result.orthogonality == pytest.approx(np.linalg.norm(gram - np.eye(k)) / np.sqrt(k), rel=0.5, abs=1e-15)
    assert 1 <= result.iterations <= 14
    if cond < 1e12:
        assert result.cond >= 0.99 * np.linalg.cond(x)
        expected_u, expected_h = polar_by_svd(x)
        np.testing.assert_allclose(u, expected_u, atol=2e-15 * cond * k)
        np.testing.assert_allclose(h, expected_h, atol=1e-13)


@pytest.mark.parametrize("part", [np.asarray, np.triu, np.tril])
@pytest.mark.parametrize("span", [0, 4, 12])  # decades either way that columns differ by
@pytest.mark.parametrize("rows", [90, 60])
def test_polar_of_matrices_that_elimination_loses_digits_of(part, span, rows):
    for seed in range(5):
        x = part(rng(seed).standard_normal((rows, 60))) * 10 ** rng(seed + 9).uniform(-span, span, 60)
        result = raphson.polar(x)
        u, h = result.unitary, result.hermitian
        assert result.converged
        assert np.linalg.norm(u @ h - x) / np.linalg.norm(x) <= 1e-14
        assert np.linalg.norm(u.T @ u - np.eye(60)) / np.sqrt(60) <= 1e-13


@pytest.mark.parametrize("seed", [1116, 1156, 1623, 2321])  # conditions up to 2e13; elimination alone loses 2 digits
def test_polar_of_graded_triangles_that_are_not_singular(seed):
    x = np.triu(rng(seed).standard_normal((20, 20))) * 10 ** rng(seed + 1).uniform(-3, 3, 20)
    result = raphson.polar(x)
    assert result.converged
    assert np.linalg.norm(result.unitary @ result.hermitian - x) / np.linalg.norm(x) <= 1e-14


def test_polar_of_singular_matrices_of_few_rows():
    """One in a thousand or so is unlucky with the first random numbers that it is given."""
    numbers = rng(6)
    left, right = numbers.integers(-2, 3, (2, 12000, 6)).astype(float)
    other, last = numbers.standard_normal((2, 12000, 6))
    x = left[:, :, None] * right[:, None, :] + other[:, :, None] * last[:, None, :]
    result = raphson.polar(x)
    assert result.all_converged
    assert result.residual.max() <= 1e-14
    assert result.orthogonality.max() <= 2e-15


@pytest.mark.parametrize("n", [200, 517])
def test_polar_of_gaussian_matrices_takes_few_steps(n):
    x = rng(n).standard_normal((n, n))
    result = raphson.polar(x)
    assert result.residual <= 5e-15  # 1e-14 when nine inverses did it
    assert result.orthogonality <= 2e-15
    assert result.iterations <= 8


@pytest.mark.parametrize("shape", [(30, 30), (50, 20), (20, 50)])
@pytest.mark.parametrize("rank", [0, 1, 7, 19])
def test_polar_of_rank_deficient_matrices_is_completed(shape, rank):
    x = rng(rank).standard_normal((shape[0], rank)) @ rng(8).standard_normal((rank, shape[1]))
    result = raphson.polar(x)
    u, h = result.unitary, result.hermitian
    k = min(shape)
    gram = u.T @ u if shape[0] >= shape[1] else u @ u.T
    assert np.linalg.norm(gram - np.eye(k)) / np.sqrt(k) <= 1e-13
    assert result.residual <= 1e-14
    assert result.cond > 1e14
    np.testing.assert_allclose(h, polar_by_svd(x)[1], atol=1e-12)


@pytest.mark.parametrize(
    "x",
    [np.ones((6, 6)), np.diag([1.0, 0.0, 0.0, 2.0]), np.ones((3, 8)), np.eye(5, 4, k=2), np.outer([0, 1.0], [1.0, 0])],
)
def test_polar_of_exactly_singular_matrices(x):
    result = raphson.polar(x)
    u, k = result.unitary, min(x.shape)
    gram = u.T @ u if x.shape[0] >= x.shape[1] else u @ u.T
    np.testing.assert_allclose(gram, np.eye(k), atol=1e-14)
    assert result.residual <= 1e-14
    assert result.cond > 1e15
    np.testing.assert_allclose(result.hermitian, polar_by_svd(x)[1], atol=1e-14)


def test_polar_of_orthogonal_zero_and_extreme_matrices():
    q = np.linalg.qr(rng().standard_normal((20, 20)))[0]
    np.testing.assert_allclose(raphson.polar(q).unitary, q, atol=1e-14)
    np.testing.assert_allclose(raphson.polar(-q).hermitian, np.eye(20), atol=1e-14)
    zero = raphson.polar(np.zeros((4, 3)))
    assert zero.converged
    assert zero.residual == 0
    np.testing.assert_array_equal(zero.unitary, np.eye(4)[:, :3])
    x = rng(2).standard_normal((9, 6))
    expected = raphson.polar(x)
    for scale in (2.0**-1040, 2.0**900, 2.0**-30):
        scaled = raphson.polar(x * scale)
        if scale > 1e-300:
            np.testing.assert_array_equal(scaled.unitary, expected.unitary)
            np.testing.assert_array_equal(scaled.hermitian, expected.hermitian * scale)
        assert scaled.residual < 1e-4 if scale < 1e-300 else scaled.residual < 1e-14


def test_polar_in_float32_is_rounded_once():
    x = with_singular_values(rng(5), 60, 40, np.logspace(0, -4, 40)).astype(np.float32)
    result = raphson.polar(x)
    assert result.unitary.dtype == result.hermitian.dtype == np.float32
    assert result.residual < 2e-7
    assert result.orthogonality < 2e-7
    np.testing.assert_array_equal(result.unitary, raphson.polar(x.astype(float)).unitary.astype(np.float32))


# ---- sign, sqrt, inverse -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 20, 75])
@pytest.mark.parametrize("cond", [1e1, 1e6, 1e12])
def test_sqrt_of_positive_definite_matrices(n, cond):
    a = spd(n, cond, 1)
    result = ns.sqrt(a)
    assert result.converged
    assert np.linalg.norm(result.value @ result.value - a) / np.linalg.norm(a) <= 1e-14
    assert np.array_equal(result.value, result.value.T)
    error = abs(a @ result.inverse_sqrt @ result.inverse_sqrt - np.eye(n)).max()
    assert error <= 1e-14 * n * cond
    assert result.inverse_residual == pytest.approx(error, rel=1, abs=1e-14 * cond)
    np.testing.assert_allclose(result.value, scipy.linalg.sqrtm(a), atol=1e-14 * np.sqrt(cond))


@pytest.mark.parametrize("n", [2, 17, 64])
@pytest.mark.parametrize("spread", [1e1, 1e5, 1e9])
def test_sqrt_without_symmetry_is_as_good_as_schur(n, spread):
    r = rng(n)
    basis = np.eye(n) + 0.3 * r.standard_normal((n, n)) / np.sqrt(n)
    a = basis @ np.diag(np.logspace(0, np.log10(spread), n)) @ np.linalg.inv(basis)
    result = ns.sqrt(a)
    assert result.converged
    error = np.linalg.norm(result.value @ result.value - a) / np.linalg.norm(a)
    schur = scipy.linalg.sqrtm(a)
    assert error <= max(4 * np.linalg.norm(schur @ schur - a) / np.linalg.norm(a), 1e-14)
    assert result.residual == pytest.approx(error, rel=1, abs=1e-15)
    np.testing.assert_allclose(result.value @ result.inverse_sqrt, np.eye(n), atol=1e-13 * n * np.sqrt(spread))


def test_sqrt_of_a_singular_matrix():
    g = rng().standard_normal((12, 5))
    result = ns.sqrt(g @ g.T)
    assert result.converged
    assert result.inverse_sqrt is None
    assert result.inverse_residual == np.inf
    assert np.linalg.norm(result.value @ result.value - g @ g.T) <= 1e-13 * np.linalg.norm(g @ g.T)
    batch = ns.sqrt(np.stack([g @ g.T, np.eye(12)]))
    assert np.isnan(batch.inverse_sqrt[0]).all()
    np.testing.assert_allclose(batch.inverse_sqrt[1], np.eye(12), atol=1e-15)
    np.testing.assert_array_equal(ns.sqrt(np.zeros((3, 3))).value, np.zeros((3, 3)))


@pytest.mark.parametrize("n", [2, 30, 70])
@pytest.mark.parametrize("symmetric", [True, False])
def test_sign(n, symmetric):
    r = rng(n)
    values = np.where(np.arange(n) % 3 == 0, -1, 1) * np.logspace(0, 3, n)
    basis = np.linalg.qr(r.standard_normal((n, n)))[0]
    if not symmetric:
        basis = basis @ (np.eye(n) + 0.3 * r.standard_normal((n, n)) / np.sqrt(n))
    inverse = basis.T if symmetric else np.linalg.inv(basis)
    a = basis @ np.diag(values) @ inverse
    if symmetric:
        a = (a + a.T) / 2
    result = ns.sign(a)
    assert result.converged
    np.testing.assert_allclose(result.value, basis @ np.diag(np.sign(values)) @ inverse, atol=1e-11)
    assert abs(result.value @ result.value - np.eye(n)).max() <= 1e-12
    assert result.residual == pytest.approx(abs(result.value @ result.value - np.eye(n)).max(), rel=1, abs=1e-14)


def test_sign_of_rotations_with_and_without_a_real_part():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(ns.sign(turn + 0.1 * np.eye(2)).value, np.eye(2), atol=1e-14)
    with pytest.raises(np.linalg.LinAlgError, match="imaginary axis"):
        ns.sign(turn)
    with pytest.raises(np.linalg.LinAlgError, match="breakdown"):
        ns.sign(np.diag([1.0, 0.0, -1.0]))
    with pytest.raises(np.linalg.LinAlgError, match="breakdown"):
        ns.sign(np.array([[1.0, 2.0], [0.5, 1.0]]))


@pytest.mark.parametrize("n", [1, 9, 64, 100])
@pytest.mark.parametrize("cond", [1e1, 1e8])
def test_inverse(n, cond):
    a = with_singular_values(rng(n), n, n, np.logspace(0, -np.log10(cond), n))
    result = ns.inverse(a)
    assert result.converged
    error = abs(a @ result.value - np.eye(n)).max()
    assert error <= 1e-15 * n * cond + 1e-15
    assert result.residual == pytest.approx(error, rel=1, abs=1e-15 * cond)
    if n > 1:
        assert cond <= 1.01 * result.cond <= 1.1 * n * cond


# ---- inverse roots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 7, 30])
@pytest.mark.parametrize("cond", [1e1, 1e4, 1e6])
def test_inverse_root_is_measured_on_what_is_returned(p, cond, dtype):
    n = 48
    a = spd(n, cond, p, dtype)
    caught = unwarned()  # ordinary input does not warn
    result = ns.inverse_root(a, p)
    caught.__exit__(None, None, None)
    x = result.value.astype(float)
    error = abs(a.astype(float) @ np.linalg.matrix_power(x, p) - np.eye(n)).max()
    assert result.value.dtype == dtype
    assert result.converged
    assert result.residual == pytest.approx(error, rel=0.5, abs=1e-15 * cond)
    assert error <= 4 * p * EPS[dtype] * cond
    assert np.array_equal(result.value, result.value.T)
    assert result.cond == pytest.approx(np.linalg.cond(a.astype(float)), rel=1e-3 if cond < 1e6 else 0.3)


def test_a_power_multiplies_rounding_and_the_tolerance_knows():
    caught = unwarned()
    result = ns.inverse_root(spd(5, 10.0), 100_000)
    caught.__exit__(None, None, None)
    assert result.converged
    assert result.residual < 1e-9


def test_inverse_root_against_mpmath():
    mpmath = pytest.importorskip("mpmath")
    a = spd(10, 1e5, 4)
    with mpmath.workdps(40):
        values, vectors = mpmath.eigsy(mpmath.matrix(a.tolist()))
        root = vectors * mpmath.diag([v ** (mpmath.mpf(-1) / 3) for v in values]) * vectors.T
        truth = np.array(root.tolist(), dtype=float)
    np.testing.assert_allclose(ns.inverse_root(a, 3).value, truth, atol=1e-10 * abs(truth).max())


def test_ridges_are_absolute_and_relative():
    a = spd(20, 1e3, 2) * 50
    top = np.linalg.eigvalsh(a)[-1]
    shifted = a + (0.25 + 0.1 * top) * np.eye(20)
    got = ns.inverse_root(a, 4, ridge=0.25, relative_ridge=0.1)
    np.testing.assert_allclose(got.value, ns.inverse_root(shifted, 4).value, rtol=1e-12, atol=1e-14)
    assert got.residual <= 1e-13
    singular = np.diag([1.0, 0.0, 2.0])
    np.testing.assert_allclose(
        np.diag(ns.inverse_root(singular, 2, ridge=0.5).value), np.array([1.5, 0.5, 2.5]) ** -0.5, rtol=1e-14
    )


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e200])
def test_roots_of_extreme_scales(scale):
    a = spd(12, 1e4, 3)
    for p in (2, 3, 4):
        result = ns.inverse_root(a * scale, p)
        assert result.converged
        np.testing.assert_allclose(result.value, ns.inverse_root(a, p).value * scale ** (-1 / p), rtol=1e-9)
    np.testing.assert_allclose(ns.sqrt(a * scale).value, ns.sqrt(a).value * np.sqrt(scale), rtol=1e-9, atol=0)
    np.testing.assert_allclose(ns.inverse(a * scale).value, ns.inverse(a).value / scale, rtol=1e-9)


# ---- batches, lists, errors --------------------------------------------------------------------------------


def test_one_bad_block_neither_raises_nor_harms_the_others():
    blocks = np.stack([spd(16, 1e3, s) for s in range(6)]).reshape(2, 3, 16, 16)
    alone = ns.inverse_root(blocks, 4)
    assert alone.all_converged
    assert alone.status.shape == alone.residual.shape == alone.iterations.shape == alone.tol.shape == (2, 3)
    blocks[1, 0] = -blocks[1, 0]
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 6 matrices") as caught:
        broken = ns.inverse_root(blocks, 4)
    assert len(caught) == 1
    assert not broken.all_converged
    assert broken.status[1, 0] == "breakdown"
    assert not broken.converged[1, 0]
    assert np.isfinite(broken.value).all()
    good = np.ones((2, 3), bool)
    good[1, 0] = False
    assert broken.converged[good].all()
    np.testing.assert_array_equal(broken.value[good], alone.value[good])
    with pytest.raises(np.linalg.LinAlgError, match="matrix 3 of the batch"):
        ns.inverse_root(blocks, 4, errors="raise")


@pytest.mark.parametrize(
    "function", [ns.polar, ns.sign, ns.sqrt, ns.inverse, lambda a, **k: ns.inverse_root(a, 4, **k)]
)
def test_a_batch_is_its_matrices(function):
    stack = np.stack([spd(21, 10.0 ** (s + 1), s) for s in range(5)])
    batch = function(stack)
    name = "unitary" if hasattr(batch, "unitary") else "value"
    for i, matrix in enumerate(stack):
        one = function(matrix)
        np.testing.assert_array_equal(getattr(one, name), getattr(batch, name)[i])
        assert one.residual == batch.residual[i]
        assert one.status == batch.status[i]
        assert isinstance(one.converged, bool)
        assert isinstance(one.status, str)
        assert isinstance(one.iterations, int)
        assert isinstance(one.residual, float)


def test_lists_of_mixed_sizes():
    matrices = [spd(n, 100.0, n) for n in (3, 50, 1, 20)] + [np.stack([spd(7, 10.0, 1)] * 2)]
    results = ns.inverse_root(matrices, 2)
    assert [r.value.shape for r in results] == [m.shape for m in matrices]
    for result, matrix in zip(results, matrices, strict=True):
        np.testing.assert_array_equal(result.value, ns.inverse_root(matrix, 2).value)
    assert raphson.polar([]) == []
    nested = ns.inverse([[2.0, 0.0], [0.0, 4.0]])  # the entries of one matrix
    np.testing.assert_allclose(nested.value, np.diag([0.5, 0.25]))
    with pytest.warns(raphson.ConvergenceWarning, match="1 of 2"):
        results = ns.inverse([np.zeros((2, 2)), np.eye(3)])
    assert [r.status for r in results] == ["breakdown", "converged"]


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "transposed"])
def test_layouts(layout):
    x = rng(1).standard_normal((24, 18))
    given = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
        "reversed": x[::-1, ::-1][::-1, ::-1],
        "transposed": np.ascontiguousarray(x.T).T,
    }[layout]
    np.testing.assert_array_equal(raphson.polar(given).unitary, raphson.polar(x).unitary)


@pytest.mark.parametrize("shape", [(0, 5, 5), (3, 0, 0), (0, 0)])
def test_empty(shape):
    for function in (ns.sign, ns.sqrt, ns.inverse, raphson.polar):
        result = function(np.empty(shape))
        assert result.all_converged
        assert result.residual == 0 if shape == (0, 0) else result.residual.shape == shape[:-2]
    assert raphson.polar(np.empty((4, 0))).unitary.shape == (4, 0)


def test_tolerances_and_limits():
    x = with_singular_values(rng(1), 40, 40, np.logspace(0, -6, 40))
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor"):
        below = raphson.polar(x, tol=1e-18)
    assert below.status == "precision_floor"
    assert not below.converged
    assert below.tol == 1e-18
    np.testing.assert_array_equal(below.unitary, raphson.polar(x).unitary)
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        short = raphson.polar(x, max_steps=2)
    assert short.status == "max_iter"
    assert short.iterations == 2
    assert short.residual > 1e-3
    assert np.linalg.norm(short.unitary @ short.hermitian - x) / np.linalg.norm(x) == pytest.approx(short.residual)
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        assert ns.inverse_root(spd(60, 1e4), 4, max_steps=1).status == "max_iter"
    with pytest.warns(raphson.ConvergenceWarning, match="max_iter"):
        assert ns.sqrt(np.triu(np.ones((5, 5))) + np.eye(5), max_steps=2).status == "max_iter"
    assert raphson.polar(x, tol=1e-3).converged


def test_hopeless_condition_is_said():
    with pytest.warns(raphson.ConvergenceWarning, match="ridge"):
        result = ns.inverse_root(spd(30, 1e18, 1), 4, errors="status")
    assert result.status in ("precision_floor", "breakdown")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ns.inverse(np.ones((3, 4))), ValueError, r"square.*\(3, 4\)"),
        (lambda: ns.inverse(np.ones(3)), ValueError, r"at least 2 axes.*\(3,\)"),
        (lambda: raphson.polar(np.ones(3)), ValueError, "at least 2 axes"),
        (lambda: ns.inverse_root(np.triu(np.ones((3, 3))), 2), ValueError, "symmetric"),
        (
            lambda: ns.inverse_root(np.stack([np.eye(3), np.triu(np.ones((3, 3)))]), 2),
            ValueError,
            "matrix 1 of the batch",
        ),
        (lambda: ns.inverse_root(np.eye(3), 0), ValueError, "at least 1, got 0"),
        (lambda: ns.inverse_root(np.eye(3), -2), ValueError, "at least 1"),
        (lambda: ns.inverse_root(np.eye(3), 2.5), TypeError, "integer"),
        (lambda: ns.inverse_root(np.eye(3), 2, ridge=-1.0), ValueError, "ridge"),
        (lambda: ns.inverse_root(np.eye(3), 2, relative_ridge=-1e-9), ValueError, "relative_ridge"),
        (lambda: ns.inverse_root(np.eye(3), 2, ridge=float("nan")), ValueError, "ridge"),
        (lambda: ns.sqrt(np.full((2, 2), np.nan)), ValueError, "NaN or Inf"),
        (lambda: raphson.polar(np.array([[1.0, np.inf]])), ValueError, "NaN or Inf"),
        (lambda: ns.sqrt([np.eye(2), np.full((2, 2), np.nan)]), ValueError, "array 1 of the list"),
        (lambda: ns.sqrt(np.eye(2, dtype=int)), TypeError, "int"),
        (lambda: ns.sqrt(np.eye(2, dtype=complex)), TypeError, "complex"),
        (lambda: ns.sqrt(np.eye(2, dtype=np.float16)), TypeError, "float16"),
        (lambda: ns.sqrt([np.eye(2), np.eye(2, dtype=np.float32)]), TypeError, "float32"),
        (lambda: raphson.polar(np.eye(2), tol=-1.0), ValueError, "tol"),
        (lambda: raphson.polar(np.eye(2), tol=float("nan")), ValueError, "tol"),
        (lambda: raphson.polar(np.eye(2), max_steps=0), ValueError, "max_steps"),
        (lambda: raphson.polar(np.eye(2), errors="ignore"), ValueError, "errors"),
        (lambda: ns.sqrt(-np.eye(2)), np.linalg.LinAlgError, "negative real axis"),
        (lambda: ns.sqrt(np.array([[1.0, 1.0], [0.0, -1.0]])), np.linalg.LinAlgError, "negative real axis"),
        (lambda: ns.sqrt(np.array([[0.0, 1.0], [0.0, 0.0]])), np.linalg.LinAlgError, "negative real axis"),
        (lambda: ns.inverse_root(np.diag([1.0, -1.0]), 2), np.linalg.LinAlgError, "positive definite"),
        (lambda: ns.inverse_root(np.zeros((2, 2)), 2), np.linalg.LinAlgError, "positive definite"),
        (lambda: ns.inverse(np.ones((3, 3))), np.linalg.LinAlgError, "singular"),
        (lambda: ns.inverse(np.diag([1e-320, 1.0])), np.linalg.LinAlgError, "breakdown"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_symmetry_within_its_tolerance_is_averaged():
    a = spd(9, 10.0).astype(np.float32)
    a[0, 1] *= 1 + 1e-5
    assert ns.inverse_root(a, 2).converged
    a[0, 1] *= 1.01
    with pytest.raises(ValueError, match="symmetric"):
        ns.inverse_root(a, 2)


@pytest.mark.parametrize("function", [raphson.polar, ns.sign, ns.sqrt, ns.inverse, lambda a: ns.inverse_root(a, 3)])
def test_the_number_of_threads_changes_nothing(function):
    before = raphson.get_num_threads()
    a = spd(150, 1e5, 2)
    general = a @ (np.eye(150) + np.triu(np.ones((150, 150))) / 150) if function is not raphson.polar else a[:, :120]
    results = []
    try:
        for threads in (1, 2, 3, 8):
            raphson.set_num_threads(threads)
            got = function(a), function(general if function in (ns.sign, ns.sqrt, ns.inverse, raphson.polar) else a)
            results.append([getattr(r, "unitary", None) if hasattr(r, "unitary") else r.value for r in got])
    finally:
        raphson.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_results_pickle_and_say_their_certificate():
    result = raphson.polar(rng().standard_normal((8, 5)))
    copy = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(copy.unitary, result.unitary)
    assert "converged" in repr(result)
    assert "residual" in repr(result)
    batch = ns.sqrt(np.stack([np.eye(3)] * 4))
    assert "4 of 4 converged" in repr(batch)
    assert len(repr(ns.sqrt(np.eye(200)))) < 200
