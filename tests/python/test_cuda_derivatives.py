"""Derivatives of matrix functions of CUDA arrays against the CPU's, SciPy's and differences (see cuda_arrays.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg

import cuda_arrays
import raphson
from raphson import newton_schulz as ns

device = cuda_arrays.device()
put, get = device.put, device.get
emulated = pytest.mark.skipif(not device.emulated, reason="torch has no such views")

TOLERANCE = {np.float64: 1e-12, np.float32: 3e-6}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spd(values: np.ndarray, seed: int = 3, dtype: type = np.float64) -> np.ndarray:
    q = np.linalg.qr(rng(seed).standard_normal((len(values),) * 2))[0]
    a = (q * np.asarray(values)) @ q.T
    return ((a + a.T) / 2).astype(dtype)


def relative(got: np.ndarray, truth: np.ndarray) -> float:
    assert got.shape == truth.shape
    return float(np.linalg.norm(got - truth) / max(np.linalg.norm(truth), 1e-300))


def on_device(vjp: Callable[..., Any], *arguments: Any, **options: Any) -> np.ndarray:
    return get(vjp(*(put(a) if isinstance(a, np.ndarray) else a for a in arguments), **options))


def polar_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors by an SVD, of a batch."""
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    wide = x.shape[-2] < x.shape[-1]
    h = (u * s[..., None, :]) @ u.swapaxes(-1, -2) if wide else vt.swapaxes(-1, -2) @ (s[..., None] * vt)
    return (u @ vt).astype(x.dtype), ((h + h.swapaxes(-1, -2)) / 2).astype(x.dtype)


CALLS = {
    "polar": lambda value, bar, other: (ns.polar_vjp, value, other, bar, 0.7 * other),
    "sqrt": lambda value, bar, other: (ns.sqrt_vjp, value, bar),
    "inverse": lambda value, bar, other: (ns.inverse_vjp, value, bar),
    "inverse_root": lambda value, bar, other: (ns.inverse_root_vjp, value, 3, bar),
}


def problem(name: str, count: int, n: int, dtype: type = np.float64) -> tuple[Any, ...]:
    """A batch's arguments; polar's are n×(n+2)."""
    bar = rng(n).standard_normal((count, n, n + 2 if name == "polar" else n)).astype(dtype)
    stack = np.stack([spd(np.linspace(0.5, 3, n), s, dtype) for s in range(count)])
    value = polar_of(rng(n + 1).standard_normal(bar.shape))[0].astype(dtype) if name == "polar" else stack
    return CALLS[name](value, bar, stack)


# ---- against the CPU -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("n", [1, 2, 7, 33, 118, 130])  # from 119 on: pairs of blocks
@pytest.mark.parametrize("name", CALLS)
def test_as_on_the_cpu(name, n, dtype):
    vjp, *arguments = problem(name, 1 if n > 100 else 3, n, dtype)
    got, truth = on_device(vjp, *arguments), vjp(*arguments)
    assert got.dtype == dtype
    assert relative(got, truth) <= (1e-12 if dtype == np.float64 else 1e-7)
    np.testing.assert_array_equal(on_device(vjp, *arguments), got)  # and again the same
    if name == "inverse_root":
        np.testing.assert_array_equal(got, got.swapaxes(-1, -2))


@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (9, 4), (4, 9), (60, 3), (3, 60), (40, 40), (1, 5), (5, 1)])
@pytest.mark.parametrize("which", ["unitary", "hermitian", "both", "neither"])
def test_polar_of_every_shape_and_cotangent(shape, which):
    k = min(shape)
    u, h = polar_of(rng(k).standard_normal(shape) + 2 * np.eye(*shape))
    u_bar = rng(8).standard_normal(shape) if which in ("unitary", "both") else None
    h_bar = rng(9).standard_normal((k, k)) if which in ("hermitian", "both") else None
    got, truth = on_device(ns.polar_vjp, u, h, u_bar, h_bar), ns.polar_vjp(u, h, u_bar, h_bar)
    assert relative(got, truth) <= 1e-12


@pytest.mark.parametrize("n", [2, 5, 40])
def test_sqrt_without_symmetry_solves_sylvesters_equation(n):
    y = rng(n).standard_normal((3, n, n)) / np.sqrt(n) + 2 * np.eye(n)
    y[1] = spd(np.linspace(1, 2, n))  # symmetric: another way
    bar = rng(7).standard_normal(y.shape)
    got = on_device(ns.sqrt_vjp, y, bar)
    for one, left, right in zip(got, y, bar, strict=True):
        assert relative(one, scipy.linalg.solve_sylvester(left.T, left.T, right)) <= 1e-12
    np.testing.assert_array_equal(got[1], on_device(ns.sqrt_vjp, y[1], bar[1]))
    assert relative(on_device(ns.sqrt_vjp, y.astype(np.float32), bar.astype(np.float32)), got) <= 3e-6


@pytest.mark.parametrize("p", [1, 2, 5, 9])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("n", [1, 8, 21])
def test_inverse_root_of_every_power(n, p, ridge):
    """In float128 by divided differences of what has no two eigenvalues near each other."""
    values = np.linspace(0.5, 3, n)
    root, bar = spd(values), rng(4).standard_normal((n, n))
    got = on_device(ns.inverse_root_vjp, root, p, bar, relative_ridge=ridge)
    low, v = np.linalg.eigh(root)
    spectrum = low ** -float(p)
    with np.errstate(invalid="ignore", divide="ignore"):
        lowner = (low[:, None] - low) / (spectrum[:, None] - spectrum)
    np.fill_diagonal(lowner, -(low ** (p + 1)) / p)
    truth = v @ (lowner * (v.T @ (bar + bar.T) / 2 @ v)) @ v.T
    truth += ridge * np.trace(truth) * np.outer(v[:, 0], v[:, 0])
    assert relative(got, truth) <= 1e-11
    assert relative(got, ns.inverse_root_vjp(root, p, bar, relative_ridge=ridge)) <= 1e-12


@pytest.mark.parametrize("cond", [1e3, 1e8, 1e12])
@pytest.mark.parametrize("name", CALLS)
def test_ill_conditioned(name, cond):
    """As near the CPU's as eigenvalues that are known to rounding allow; both see the same numbers."""
    n = 40
    value = spd(np.logspace(0, -np.log10(cond), n), 5)
    bar = rng(6).standard_normal((n, n))
    vjp, *arguments = CALLS[name](polar_of(rng(2).standard_normal((n, n)))[0] if name == "polar" else value, bar, value)
    got, truth = on_device(vjp, *arguments), vjp(*arguments)
    assert relative(got, truth) <= 1e-14 * n * cond


@pytest.mark.parametrize("values", [np.full(6, 1.7), np.array([1.0, 1, 1, 2, 2, 5, 5])])
def test_repeated_eigenvalues(values):
    n = len(values)
    bar = rng(5).standard_normal((n, n))
    for scaled in (np.diag(values), spd(values)):
        for p in (1, 2, 4):
            arguments = (scaled, p, bar)
            truth = ns.inverse_root_vjp(*arguments)
            assert relative(on_device(ns.inverse_root_vjp, *arguments), truth) <= 1e-13
        assert relative(on_device(ns.sqrt_vjp, scaled, bar), ns.sqrt_vjp(scaled, bar)) <= 1e-13
        u, h = np.eye(n), scaled
        assert relative(on_device(ns.polar_vjp, u, h, bar), ns.polar_vjp(u, h, bar)) <= 1e-13


# ---- against differences ---------------------------------------------------------------------------------------------


def slope(loss: Callable[[np.ndarray], float], x: np.ndarray, direction: np.ndarray, step: float = 1e-3) -> float:
    """Central differences, extrapolated once."""

    def central(h: float) -> float:
        return (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)

    return (4 * central(step / 2) - central(step)) / 3


@pytest.mark.parametrize("shape", [(5, 5), (7, 4), (4, 7)])
def test_polar_against_differences(shape):
    k = min(shape)
    x = rng(k).standard_normal(shape) + 2 * np.eye(*shape)
    u_bar, h_bar = rng(8).standard_normal(shape), rng(9).standard_normal((k, k))
    result = raphson.polar(put(x))
    gradient = get(ns.polar_vjp(result.unitary, result.hermitian, put(u_bar), put(h_bar)))

    def loss(y: np.ndarray) -> float:
        u, h = polar_of(y)
        return float((u_bar * u).sum() + (h_bar * h).sum())

    for seed in range(4):
        direction = rng(seed).standard_normal(shape)
        assert (gradient * direction).sum() == pytest.approx(slope(loss, x, direction), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
def test_the_others_against_differences(ridge):
    n = 7
    a, plain = spd(np.linspace(0.5, 3, n)), rng(n).standard_normal((n, n)) / np.sqrt(n) + 3 * np.eye(n)
    bar = rng(6).standard_normal((n, n))

    def inverse_root(x: np.ndarray) -> np.ndarray:
        values, v = np.linalg.eigh((x + x.T) / 2)
        return (v * (values + 0.3 + ridge * values[-1]) ** -0.25) @ v.T

    def check(gradient: Any, function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> None:
        for seed in range(4):
            direction = rng(seed).standard_normal((n, n))
            expected = slope(lambda y: float((bar * function(y)).sum()), x, direction)
            assert (get(gradient) * direction).sum() == pytest.approx(expected, rel=1e-7, abs=1e-6)

    root = ns.inverse_root(put(a), 4, ridge=0.3, relative_ridge=ridge).value
    check(ns.inverse_root_vjp(root, 4, put(bar), relative_ridge=ridge), inverse_root, a)
    for x in (a, plain):
        check(ns.sqrt_vjp(ns.sqrt(put(x)).value, put(bar)), lambda y: scipy.linalg.sqrtm(y).real, x)
        check(ns.inverse_vjp(ns.inverse(put(x)).value, put(bar)), np.linalg.inv, x)


# ---- scales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-1000, -600, -30, 40, 600, 1000])
def test_every_scale(power):
    """Powers of two move nothing but exponents, as long as results have room."""
    n = 12
    value, bar = spd(np.linspace(0.5, 3, n)), rng(1).standard_normal((n, n))
    scaled = np.ldexp(value, power)
    u, _ = polar_of(rng(2).standard_normal((n, n + 3)))
    u_bar = rng(3).standard_normal(u.shape)
    want = on_device(ns.polar_vjp, u, value, u_bar, bar)
    got = on_device(ns.polar_vjp, u, scaled, np.ldexp(u_bar, power), bar)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    want = on_device(ns.sqrt_vjp, value, bar)
    np.testing.assert_array_equal(np.ldexp(on_device(ns.sqrt_vjp, scaled, bar), power), want)
    tilted = value + np.triu(np.ones((n, n)), 1)
    want = on_device(ns.sqrt_vjp, tilted, bar)
    np.testing.assert_array_equal(np.ldexp(on_device(ns.sqrt_vjp, np.ldexp(tilted, power), bar), power), want)
    want = on_device(ns.inverse_root_vjp, value, 2, bar)
    back = np.ldexp(bar, max(min(-3 * power, 900), -900))
    rest = 3 * power + max(min(-3 * power, 900), -900)
    if abs(rest) < 900:
        got = on_device(ns.inverse_root_vjp, scaled, 2, back)
        np.testing.assert_array_equal(got, np.ldexp(want, rest))


# ---- batches and layouts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_a_batch_is_its_matrices(name):
    vjp, *arguments = problem(name, 6, 13)
    together = on_device(vjp, *arguments)
    for i in range(6):
        alone = on_device(vjp, *(a[i] if isinstance(a, np.ndarray) else a for a in arguments))
        # cuBLAS may choose another kernel for another batch
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=0 if device.emulated else 1e-11)
    nested = [a.reshape(2, 3, *a.shape[1:]) if isinstance(a, np.ndarray) else a for a in arguments]
    np.testing.assert_array_equal(on_device(vjp, *nested), together.reshape(nested[0].shape))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("layout", ["turned", "batch last", "spread", "reversed", "broadcast"])
def test_every_stride_is_read(name, layout):
    if layout in ("spread", "reversed", "broadcast") and not device.emulated:
        pytest.skip("torch has no such views")
    vjp, *arguments = problem(name, 3, 11)

    def laid(a: np.ndarray) -> np.ndarray:
        if layout == "turned":
            return np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2)
        if layout == "batch last":
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, 2)), 2, 0)
        if layout == "reversed":
            return np.ascontiguousarray(a[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
        if layout == "broadcast":
            return np.broadcast_to(a[:1], a.shape)
        given = np.zeros((6, a.shape[1] * 2, a.shape[2] * 3))[::2, ::2, ::3]
        given[...] = a
        return given

    views = [laid(a) if isinstance(a, np.ndarray) else a for a in arguments]
    plain = [np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in views]
    np.testing.assert_array_equal(on_device(vjp, *views), on_device(vjp, *plain))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(0, 4, 4), (3, 0, 0), (0, 0)])
def test_nothing(name, shape):
    empty = np.empty(shape)
    vjp, *arguments = CALLS[name](empty, empty, empty)
    assert on_device(vjp, *arguments).shape == shape


def test_symmetric_and_other_roots_in_turn():
    """Runs of one matrix each."""
    n, count = 4, 21
    y = rng(1).standard_normal((count, n, n)) / 3 + 2 * np.eye(n)
    y[::2] = np.stack([spd(np.linspace(1, 2, n), s) for s in range((count + 1) // 2)])
    bar = rng(2).standard_normal(y.shape)
    assert relative(on_device(ns.sqrt_vjp, y, bar), ns.sqrt_vjp(y, bar)) <= 1e-13


# ---- what is not finite, not differentiable, wrong -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n", [9, 125])
@pytest.mark.parametrize("name", CALLS)
def test_one_bad_matrix_leaves_the_others_alone(name, n, bad):
    vjp, *arguments = problem(name, 3, n)
    good = on_device(vjp, *arguments)
    for which, given in enumerate(arguments):
        if not isinstance(given, np.ndarray):
            continue
        harmed = list(arguments)
        harmed[which] = given.copy()
        harmed[which][1, n // 2, n - 1] = bad
        got = on_device(vjp, *harmed)
        np.testing.assert_array_equal(got[[0, 2]], good[[0, 2]])
        assert np.isnan(got[1]).all()
        if n > 100:
            break


def test_bad_roots_without_symmetry():
    y = rng(1).standard_normal((3, 6, 6)) / 3 + 2 * np.eye(6)
    bar = rng(2).standard_normal(y.shape)
    good = on_device(ns.sqrt_vjp, y, bar)
    bar[2, 0, 0] = np.nan
    got = on_device(ns.sqrt_vjp, y, bar)
    np.testing.assert_array_equal(got[:2], good[:2])
    assert np.isnan(got[2]).all()


def test_nan_comes_before_what_has_no_derivative():
    """As the CPU's ValueError comes before its LinAlgError."""
    singular, bar = np.stack([np.eye(3), np.diag([1.0, 0, 0])]), np.ones((2, 3, 3))
    bar[1, 0, 2] = np.nan
    for vjp, *arguments in (
        (ns.sqrt_vjp, singular, bar),
        (ns.sqrt_vjp, singular + np.triu(np.ones((3, 3)), 1), bar),
        (ns.inverse_root_vjp, singular, 2, bar),
        (ns.polar_vjp, np.stack([np.eye(3)] * 2), singular, bar),
    ):
        got = on_device(vjp, *arguments)
        assert np.isfinite(got[0]).all()
        assert np.isnan(got[1]).all()


def test_a_zero_matrix_has_an_inverse_of_zeros():
    np.testing.assert_array_equal(on_device(ns.inverse_vjp, np.zeros((3, 3)), np.ones((3, 3))), np.zeros((3, 3)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda to: ns.inverse_root_vjp(to(np.diag([1.0, -1.0])), 2, to(np.eye(2))), "a is not positive definite"),
        (lambda to: ns.sqrt_vjp(to(np.diag([1.0, 0.0])), to(np.eye(2))), "a is singular"),
        (lambda to: ns.sqrt_vjp(to(np.zeros((2, 2))), to(np.eye(2))), "a is singular"),
        (lambda to: ns.sqrt_vjp(to(np.array([[-1.0, 2], [0, 1]])), to(np.eye(2))), "value is no principal root"),
        (lambda to: ns.sqrt_vjp(to(np.array([[1.0, 2], [0, 0]])), to(np.eye(2))), "value is no principal root"),
        (lambda to: ns.polar_vjp(to(np.eye(3)), to(np.diag([1.0, 0, 0])), to(np.eye(3))), "x is rank-deficient"),
        (lambda to: ns.polar_vjp(to(np.eye(3, 2)), to(np.diag([1.0, 0])), to(np.eye(3, 2))), "x is rank-deficient"),
        (lambda to: ns.polar_vjp(to(np.eye(2, 3)), to(np.diag([1.0, 0])), to(np.eye(2, 3))), "x is rank-deficient"),
        (lambda to: ns.polar_vjp(to(np.eye(2)), to(np.zeros((2, 2))), to(np.eye(2))), "x is rank-deficient"),
    ],
)
def test_where_there_is_no_derivative(call, match):
    with pytest.raises(np.linalg.LinAlgError) as cpu:
        call(lambda x: x)
    with pytest.raises(np.linalg.LinAlgError, match=rf"_vjp: {match} \(matrix 0\)") as caught:
        call(put)
    assert str(caught.value) == str(cpu.value)


def test_the_first_matrix_without_a_derivative_is_named():
    stack = np.stack([np.eye(3)] * 5)
    stack[2, 2, 2] = stack[4, 2, 2] = 0
    stack[1, 1, 1] = np.nan
    with pytest.raises(np.linalg.LinAlgError, match=r"\(matrix 2\)"):
        on_device(ns.sqrt_vjp, stack, stack)
    stack[2, 0, 1] = 3.0  # not symmetric, and another way
    with pytest.raises(np.linalg.LinAlgError, match=r"no principal root \(matrix 2\)"):
        on_device(ns.sqrt_vjp, stack, stack)


def test_one_singular_value_at_zero_is_no_harm_to_a_square_matrix():
    u, h = polar_of(rng(1).standard_normal((5, 5)) @ np.diag([1.0, 2, 3, 4, 0]))
    bar = rng(2).standard_normal((5, 5))
    assert relative(on_device(ns.polar_vjp, u, h, bar), ns.polar_vjp(u, h, bar)) <= 1e-12
    tall, narrow = polar_of(rng(1).standard_normal((7, 5)) @ np.diag([1.0, 2, 3, 4, 0]))
    only_h = (tall, narrow, None, bar)
    assert relative(on_device(ns.polar_vjp, *only_h), ns.polar_vjp(*only_h)) <= 1e-12


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda to: ns.sqrt_vjp(to(np.eye(3)), to(np.eye(4))), ValueError),
        (lambda to: ns.sqrt_vjp(to(np.ones((3, 4))), to(np.ones((3, 4)))), ValueError),
        (lambda to: ns.inverse_vjp(to(np.ones((2, 3, 3))), to(np.ones((3, 3)))), ValueError),
        (lambda to: ns.polar_vjp(to(np.ones((4, 2))), to(np.eye(3))), ValueError),
        (lambda to: ns.polar_vjp(to(np.ones((4, 2))), to(np.eye(2)), to(np.ones((2, 4)))), ValueError),
        (lambda to: ns.polar_vjp(to(np.ones((4, 2))), to(np.eye(2)), None, to(np.eye(4))), ValueError),
        (lambda to: ns.inverse_root_vjp(to(np.eye(2)), 0, to(np.eye(2))), ValueError),
        (lambda to: ns.inverse_root_vjp(to(np.eye(2)), 2, to(np.eye(2)), relative_ridge=-1.0), ValueError),
        (lambda to: ns.inverse_vjp(to(np.eye(2)), None), ValueError),
        (lambda to: ns.polar_vjp(to(np.eye(2)), None), ValueError),
        (lambda to: ns.inverse_vjp(to(np.eye(2)), to(np.eye(2, dtype=np.float32))), TypeError),
        (lambda to: ns.inverse_vjp(to(np.eye(2, dtype=np.float16)), to(np.eye(2))), TypeError),
        (lambda to: ns.inverse_vjp(to(np.ones(3)), to(np.ones(3))), ValueError),
    ],
)
def test_what_is_wrong_is_said_as_on_the_cpu(call, error):
    with pytest.raises(error) as cpu:
        call(lambda x: x)
    with pytest.raises(error) as caught:
        call(put)
    assert str(caught.value) == str(cpu.value)


@emulated
def test_devices_that_do_not_fit():
    a = np.eye(3)
    with pytest.raises(TypeError, match=r"^inverse_vjp: .*device 0.*device 1"):
        ns.inverse_vjp(put(a), cuda_arrays.DeviceArray(a.copy(), device=1))
    with pytest.raises(TypeError, match=r"^inverse_vjp"):
        ns.inverse_vjp(put(a), a)
    many = np.ones((3,) * 8)[..., None, None][(slice(None, None, 2),) * 7]
    with pytest.raises(ValueError, match="more than 6 batch axes"):
        ns.inverse_vjp(put(many), put(many))


# ---- raphson.torch ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(device.emulated, reason="needs a GPU: there are no CUDA tensors without one")
def test_torch_differentiates_on_the_device(torch):
    import raphson.torch as twins

    g = torch.randn(2, 4, 4, dtype=torch.float64, device="cuda")
    x, a = torch.randn(2, 6, 4, dtype=torch.float64, device="cuda"), g @ g.mT + torch.eye(4, device="cuda")
    plain = g / 4 + 2 * torch.eye(4, device="cuda")
    assert torch.autograd.gradcheck(twins.polar, (x.requires_grad_(),))
    for matrix in (a, plain):
        assert torch.autograd.gradcheck(twins.sqrt, (matrix.detach().requires_grad_(),))
        assert torch.autograd.gradcheck(twins.inverse, (matrix.detach().requires_grad_(),))
    g.requires_grad_()
    assert torch.autograd.gradcheck(lambda y: twins.inverse_root(y @ y.mT, 3, ridge=0.1, relative_ridge=0.05), (g,))
    leaf = a.detach().float().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        twins.inverse_root(leaf, 4).sum().backward()  # the cotangent has no strides
    torch.cuda.current_stream().wait_stream(side)
    value = ns.inverse_root(leaf.detach(), 4).value
    assert torch.equal(leaf.grad, ns.inverse_root_vjp(value, 4, torch.ones_like(value)))
