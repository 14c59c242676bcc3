"""Derivatives of the matrix functions against differences, and at repeated eigenvalues, where quotients would break."""

import numpy as np
import pytest

import raphson
from raphson import newton_schulz as ns


def rng(seed=0):
    return np.random.default_rng(seed)


def slope(function, a, direction, step):
    """The derivative along a direction by central differences, extrapolated once."""

    def central(h):
        return (function(a + h * direction) - function(a - h * direction)) / (2 * h)

    return (4 * central(step / 2) - central(step)) / 3


def agrees(gradient, function, a, cotangent, *, symmetric=False, seed=1, step=1e-3, rtol=1e-7):
    for k in range(4):
        direction = rng(seed + k).standard_normal(a.shape)
        if symmetric:
            direction = direction + direction.swapaxes(-1, -2)
        expected = np.sum(slope(function, a, direction, step) * cotangent)
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=rtol, abs=rtol * np.abs(cotangent).sum())


def spd(values, seed=3):
    q = np.linalg.qr(rng(seed).standard_normal((len(values),) * 2))[0]
    a = (q * np.asarray(values)) @ q.T
    return (a + a.T) / 2


SPECTRA = {
    "spread": np.linspace(0.5, 3, 7),
    "repeated": np.array([1.0, 1, 1, 2, 2, 5, 5]),
    "all equal": np.full(6, 1.7),
    "one": np.array([2.0]),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("relative_ridge", [0.0, 0.2])
def test_inverse_root(p, spectrum, relative_ridge):
    if relative_ridge and spectrum in ("all equal", "repeated"):
        pytest.skip("λmax has a corner at repeated eigenvalues")
    a = spd(SPECTRA[spectrum])
    bar = rng(5).standard_normal(a.shape)
    got = ns.inverse_root(a, p, ridge=0.3, relative_ridge=relative_ridge)
    gradient = ns.inverse_root_vjp(got.value, p, bar, relative_ridge=relative_ridge)
    assert np.array_equal(gradient, gradient.T)

    def function(x):
        return ns.inverse_root(x, p, ridge=0.3, relative_ridge=relative_ridge).value

    agrees(gradient, function, a, bar, symmetric=True)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_sqrt_of_symmetric_matrices_in_any_direction(spectrum):
    a = spd(SPECTRA[spectrum])
    bar = rng(6).standard_normal(a.shape)
    agrees(ns.sqrt_vjp(ns.sqrt(a).value, bar), lambda x: ns.sqrt(x).value, a, bar)


@pytest.mark.parametrize("n", [2, 9, 40])
def test_sqrt_and_inverse_of_general_matrices(n):
    a = rng(n).standard_normal((n, n)) / np.sqrt(n) + 3 * np.eye(n)
    bar = rng(7).standard_normal(a.shape)
    agrees(ns.sqrt_vjp(ns.sqrt(a).value, bar), lambda x: ns.sqrt(x).value, a, bar)
    agrees(ns.inverse_vjp(ns.inverse(a).value, bar), lambda x: ns.inverse(x).value, a, bar)


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (9, 4), (4, 9), (30, 3), (40, 40)])
@pytest.mark.parametrize("which", ["unitary", "hermitian", "both"])
def test_polar(shape, which):
    k = min(shape)
    x = rng(k).standard_normal(shape)
    x = x + 2 * np.eye(*shape)
    u_bar = rng(8).standard_normal(shape) if which != "hermitian" else None
    h_bar = rng(9).standard_normal((k, k)) if which != "unitary" else None
    result = raphson.polar(x)
    gradient = ns.polar_vjp(result.unitary, result.hermitian, u_bar, h_bar)

    def loss(y):
        r = raphson.polar(y)
        return (0 if u_bar is None else np.sum(u_bar * r.unitary)) + (
            0 if h_bar is None else np.sum(h_bar * r.hermitian)
        )

    for seed in range(4):
        direction = rng(seed).standard_normal(shape)
        expected = slope(loss, x, direction, 1e-3)
        scale = max(np.abs(bar).sum() for bar in (u_bar, h_bar) if bar is not None)
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-6, abs=1e-7 * scale)


def test_polar_at_repeated_singular_values():
    q = np.linalg.qr(rng(1).standard_normal((8, 8)))[0]
    bar = rng(2).standard_normal((8, 8))
    result = raphson.polar(3 * q)
    inside = q.T @ bar
    expected = q @ (inside - inside.T) / 6  # HK + KH = 6K
    np.testing.assert_allclose(ns.polar_vjp(result.unitary, result.hermitian, bar), expected, atol=1e-14)


def test_batches_and_layouts_and_dtypes():
    stack = np.stack([spd(SPECTRA["spread"], s) for s in range(6)]).reshape(2, 3, 7, 7)
    bar = rng(3).standard_normal(stack.shape)
    value = ns.inverse_root(stack, 4).value
    gradient = ns.inverse_root_vjp(value, 4, bar)
    for i in range(2):
        for j in range(3):
            np.testing.assert_array_equal(gradient[i, j], ns.inverse_root_vjp(value[i, j], 4, bar[i, j]))
    other = ns.inverse_root_vjp(np.asfortranarray(value), 4, np.repeat(bar, 2, axis=-1)[..., ::2])
    np.testing.assert_array_equal(other, gradient)
    single = ns.inverse_root_vjp(value.astype(np.float32), 4, bar.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, gradient, rtol=1e-4, atol=1e-5)
    assert ns.sqrt_vjp(np.empty((0, 3, 3)), np.empty((0, 3, 3))).shape == (0, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ns.sqrt_vjp(np.eye(3), np.eye(4)), ValueError, r"\(4, 4\).*\(3, 3\)"),
        (lambda: ns.polar_vjp(np.ones((4, 2)), np.eye(3)), ValueError, r"hermitian has shape \(3, 3\)"),
        (lambda: ns.polar_vjp(np.eye(2), np.eye(2), np.full((2, 2), np.nan)), ValueError, "NaN"),
        (lambda: ns.inverse_root_vjp(np.eye(2), 0, np.eye(2)), ValueError, "at least 1"),
        (lambda: ns.inverse_root_vjp(np.diag([1.0, -1.0]), 2, np.eye(2)), np.linalg.LinAlgError, "differentiable"),
        (lambda: ns.sqrt_vjp(np.diag([1.0, 0.0]), np.eye(2)), np.linalg.LinAlgError, "singular"),
        (lambda: ns.polar_vjp(np.eye(3), np.diag([1.0, 0.0, 0.0]), np.eye(3)), np.linalg.LinAlgError, "rank"),
        (lambda: ns.polar_vjp(np.eye(3)[:, :2], np.diag([1.0, 0.0]), np.eye(3)[:, :2]), np.linalg.LinAlgError, "rank"),
        (lambda: ns.inverse_vjp(np.eye(2), None), ValueError, "missing"),
        (lambda: ns.inverse_vjp(np.eye(2), np.eye(2, dtype=np.float32)), TypeError, "float32"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
