"""orthogonalize_vjp of CUDA arrays against the CPU's, central differences and autograd: on a GPU, or emulated."""

from __future__ import annotations

import numpy as np
import pytest

import cuda_arrays
import vjp_reference as reference
from agreement import relative
from raphson.newton_schulz import orthogonalize_vjp, schedule

device = cuda_arrays.device()
get = device.get
emulated = pytest.mark.skipif(not device.emulated, reason="asks what only hand-made arrays tell")

#: Of the gradient's norm, as test_vjp.py has them for the CPU: inputs and results are rounded to the dtype, the
#: arithmetic is float64's or float32's.
DTYPES = {"float64": 1e-11, "float32": 2e-3, "float16": 3e-3, "bfloat16": 6e-3}


def put(x: np.ndarray, dtype: str = "float64"):
    return device.put(x if dtype == "bfloat16" else x.astype(dtype, copy=False), bfloat16=dtype == "bfloat16")


def vjp(x: np.ndarray, cotangent: np.ndarray, **how) -> np.ndarray:
    return get(orthogonalize_vjp(put(x), put(cotangent), **how))


def pair(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return rng.standard_normal(shape), rng.standard_normal(shape)


# ---- the derivative -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", reference.NORMS)
@pytest.mark.parametrize("name", reference.SCHEDULES)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5), (1, 3), (3, 1), (1, 1), (2, 3, 4)], ids=str)
def test_agrees_with_differences(rng, shape, name, normalize):
    x, cotangent = reference.well_conditioned(rng, shape), rng.standard_normal(shape)
    how = {"schedule": name, "normalize": normalize}
    reference.assert_differences(vjp, x, cotangent, **how)
    assert np.linalg.norm(vjp(x, cotangent, **how) - orthogonalize_vjp(x, cotangent, **how)) <= 1e-11 * np.linalg.norm(
        cotangent
    )


@pytest.mark.parametrize(("normalize", "eps"), reference.FLOORS)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4)], ids=str)
def test_the_floor_has_a_derivative_too(rng, shape, normalize, eps):
    x, cotangent = reference.well_conditioned(rng, shape), rng.standard_normal(shape)
    (x if shape[0] < shape[1] else x.T)[2] *= 0.1
    how = {"schedule": "muon", "normalize": normalize, "eps": eps}
    reference.assert_differences(vjp, x, cotangent, slope=100, **how)  # of the small row
    assert relative(vjp(x, cotangent, **how), orthogonalize_vjp(x, cotangent, **how)) <= 1e-11


def test_equal_largest_entries_count_once(rng):
    """A subgradient, but the CPU's: the first of them."""
    x, cotangent = np.where(rng.random((40, 70)) < 0.5, -1.0, 1.0), rng.standard_normal((40, 70))
    for normalize, eps in (("frobenius", 100.0), ("gram", 1e-7), ("aol", 1.5)):
        how = {"schedule": "muon", "steps": 2, "normalize": normalize, "eps": eps}
        assert relative(vjp(x, cotangent, **how), orthogonalize_vjp(x, cotangent, **how)) <= 1e-11


@pytest.mark.parametrize("normalize", reference.NORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 60), (70, 33), (2, 3, 17, 33), (48, 48)], ids=str)
def test_agrees_with_autograd(torch, rng, shape, dtype, normalize):
    device_x, device_cotangent = (put(a, dtype) for a in pair(rng, shape))
    x, cotangent = (get(a).astype(np.float64) for a in (device_x, device_cotangent))  # rounded to the dtype
    for name in ("polar_express", "turbo", "cubic"):
        factor = 1.02 if name == "polar_express" else 1.0
        result = orthogonalize_vjp(device_x, device_cotangent, schedule=name, normalize=normalize)
        assert type(result) is type(device_x)
        got = get(result)
        assert got.dtype == get(device_x).dtype
        assert relative(got, reference.truth(x, cotangent, schedule(name), factor, normalize)) <= DTYPES[dtype]


@pytest.mark.parametrize("normalize", [None, *reference.NORMS])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_and_tables(rng, steps, normalize):
    reference.assert_steps_and_tables(vjp, rng, steps, normalize)


def test_both_norms_of_the_gram_matrix(rng):
    reference.assert_both_norms(vjp, rng)


@pytest.mark.parametrize("normalize", reference.NORMS)
def test_more_rows_than_threads(rng, normalize):
    x, cotangent = pair(rng, (2, 300, 310))
    how = {"schedule": "muon", "steps": 1, "normalize": normalize}
    assert relative(vjp(x, cotangent, **how), orthogonalize_vjp(x, cotangent, **how)) <= 1e-11


def test_precision(rng):
    x, cotangent = pair(rng, (20, 30))
    exact, single = vjp(x, cotangent), vjp(x, cotangent, precision="float32")
    assert single.dtype == np.float64
    assert 1e-9 < relative(single, exact) < 1e-3
    np.testing.assert_array_equal(vjp(x, cotangent, precision="bfloat16"), single)  # float32 at least
    wide = get(orthogonalize_vjp(put(x, "float32"), put(cotangent, "float32"), precision="float64"))
    assert wide.dtype == np.float32
    rounded = orthogonalize_vjp(x.astype(np.float32).astype(float), cotangent.astype(np.float32).astype(float))
    assert relative(wide, rounded) <= 2.0**-24


# ---- as a map -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", reference.NORMS)
def test_linear_in_the_cotangent_at_every_scale(rng, normalize):
    x, cotangent = pair(rng, (8, 11))
    got = vjp(x, cotangent, normalize=normalize)
    for power in (-1000, -300, 40, 900):
        scaled = vjp(x, np.ldexp(cotangent, power), normalize=normalize)
        assert np.allclose(np.ldexp(scaled, -power), got, rtol=1e-6 if power == -1000 else 0, atol=1e-9)
    single, small = x.astype(np.float32), cotangent.astype(np.float32)
    got = vjp(single, small, normalize=normalize)
    np.testing.assert_array_equal(np.ldexp(vjp(single, np.ldexp(small, 110), normalize=normalize), -110), got)


@pytest.mark.parametrize("normalize", reference.NORMS)
def test_homogeneous_in_x(rng, normalize):
    """orthogonalize(tx) = orthogonalize(x), so the gradient at tx is 1/t times that at x, and orthogonal to x."""
    x, cotangent = pair(rng, (8, 11))
    got = vjp(x, cotangent, normalize=normalize)
    assert abs((got * x).sum()) <= 1e-11 * np.linalg.norm(got) * np.linalg.norm(x)
    for power in (-900, -600, -100, 3, 700, 1000):
        scaled = vjp(np.ldexp(x, power), cotangent, normalize=normalize)
        assert np.allclose(np.ldexp(scaled, power), got, rtol=1e-10, atol=1e-11)


def test_what_overflows_leaves_zeros_alone():
    """A gradient of 2^2080, beyond the largest factor; without a cotangent the third column stays 0."""
    x = np.ldexp(np.eye(2, 3), -1060)
    cotangent = np.ldexp(np.array([[1.0, 2.0, 0.0], [-3.0, 1.0, 0.0]]), 1015)
    got = vjp(x, cotangent, schedule="muon")
    assert np.isinf(got).any()
    np.testing.assert_array_equal(got, orthogonalize_vjp(x, cotangent, schedule="muon"))
    assert not got[:, 2].any()


def test_zeros(rng):
    x, cotangent = pair(rng, (3, 4, 6))
    x[1] = 0
    cotangent[2] = 0
    overflows = {"schedule": [[1e3, 0.0, 1.0]], "steps": 30}
    for how in (*({"normalize": n} for n in reference.NORMS), overflows):
        got = get(orthogonalize_vjp(put(x, "float32"), put(cotangent, "float32"), **how))
        assert got[0].any()
        assert not got[1:].any()
    for normalize in reference.NORMS:
        for eps in (0.0, 1e-7):
            row = np.where(np.arange(4)[:, None] == 2, 0, x[0])
            got = vjp(row, cotangent[0], normalize=normalize, eps=eps)
            assert relative(got, orthogonalize_vjp(row, cotangent[0], normalize=normalize, eps=eps)) <= 1e-11


def test_a_batch_gives_what_its_matrices_give_alone(rng):
    x, cotangent = pair(rng, (5, 30, 20))
    for normalize in reference.NORMS:
        together = vjp(x, cotangent, normalize=normalize)
        np.testing.assert_array_equal(vjp(x, cotangent, normalize=normalize), together)  # and again the same
        for i in range(5):
            np.testing.assert_array_equal(vjp(x[i], cotangent[i], normalize=normalize), together[i])


# ---- layouts, out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_every_stride_is_read(rng, dtype):
    x, cotangent = (a.astype(dtype) for a in pair(rng, (3, 39, 44)))
    tolerance = {"float64": 1e-11, "float16": 2e-3}[dtype]  # norms are summed along memory
    expected = orthogonalize_vjp(x.astype(np.float64), cotangent.astype(np.float64))
    last = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, 2)), 2, 0) for a in (x, cotangent)]
    down = [np.ascontiguousarray(a.transpose(0, 2, 1)).transpose(0, 2, 1) for a in (x, cotangent)]
    for a, b in (last, down, (x, down[1]), (last[0], cotangent)):
        got = vjp(a, b)
        assert relative(got, expected) <= tolerance
        out = put(np.full_like(b, 7))
        assert orthogonalize_vjp(put(a), put(b), out=out) is out
        np.testing.assert_array_equal(get(out), got)


@emulated
def test_views_of_all_kinds(rng):
    x, cotangent = pair(rng, (2, 24, 60))
    for view in (lambda a: a[:, ::-1, ::3], lambda a: a[1, ::2, ::-1], lambda a: np.broadcast_to(a[:1], (2, 24, 60))):
        a, b = view(x), view(cotangent)
        assert relative(vjp(a, b), orthogonalize_vjp(a, b)) <= 1e-11
    axes = np.zeros((3,) * 8)[..., None, None][(slice(None, None, 2),) * 7]
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: x has more than 6 batch axes that lie apart"):
        vjp(axes, axes)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 5, 4)], ids=str)
def test_out_may_be_an_input(rng, shape):
    x, cotangent = pair(rng, shape)
    want = vjp(x, cotangent)
    a, b = put(x.copy()), put(cotangent.copy())
    assert orthogonalize_vjp(a, b, out=a) is a
    np.testing.assert_array_equal(get(a), want)
    np.testing.assert_array_equal(get(b), cotangent)
    assert orthogonalize_vjp(put(x), b, out=b) is b
    np.testing.assert_array_equal(get(b), want)
    a = put(x.copy())
    assert orthogonalize_vjp(a, a, out=a) is a
    np.testing.assert_array_equal(get(a), vjp(x, x))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (0, 3, 4), (3, 0, 4)], ids=str)
def test_empty_arrays(shape):
    for how in ({}, {"check_finite": True}):
        assert vjp(np.empty(shape), np.empty(shape), **how).shape == shape


# ---- misuse ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("normalize", reference.NORMS)
def test_nan_is_looked_for_only_when_asked(rng, normalize, bad):
    x, cotangent = pair(rng, (2, 3, 4))
    spoiled = x.copy()
    spoiled[1, 2, 3] = bad
    for a, b, named in ((spoiled, cotangent, "x"), (cotangent, spoiled, "cotangent"), (spoiled, spoiled, "x")):
        got = vjp(a, b, normalize=normalize)
        np.testing.assert_array_equal(got[0], vjp(a[0], b[0], normalize=normalize))
        assert np.isnan(got[1]).any()
        out = put(np.full_like(x, 7))
        text = rf"^orthogonalize_vjp: {named} contains NaN or Inf \(matrix 1 of the batch\)$"
        with pytest.raises(ValueError, match=text):
            orthogonalize_vjp(put(a), put(b), normalize=normalize, check_finite=True, out=out)
        assert (get(out) == 7).all()
    zero = np.zeros_like(x)
    assert np.isnan(vjp(spoiled, zero, normalize=normalize)[1]).any()
    np.testing.assert_array_equal(vjp(x, cotangent, check_finite=True), vjp(x, cotangent))


def test_arguments_that_do_not_fit_are_named(rng):
    x = np.eye(3, 4)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: cotangent has shape \(4, 3\), x has shape \(3, 4\)"):
        vjp(x, x.T)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: out has shape \(3, 3\), x has shape \(3, 4\)"):
        orthogonalize_vjp(put(x), put(x), out=put(np.eye(3)))
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: x must have at least 2 axes.*\(3,\)"):
        vjp(np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: x is float64 and cotangent is float32"):
        orthogonalize_vjp(put(x), put(x, "float32"))
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: x is .*cotangent"):
        orthogonalize_vjp(put(x), x)
    for how in ({"normalize": "l2"}, {"precision": "float16"}, {"eps": -1.0}, {"steps": 0}):
        with pytest.raises(ValueError, match=rf"^orthogonalize_vjp: {next(iter(how))} must"):
            vjp(x, x, **how)


@emulated
def test_devices_and_overlaps_that_do_not_fit(rng):
    x = rng.standard_normal((4, 9))
    elsewhere = cuda_arrays.DeviceArray(x.copy(), device=1)
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: x is on CUDA device 0 and cotangent is on CUDA device 1"):
        orthogonalize_vjp(put(x), elsewhere)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: out overlaps x"):
        orthogonalize_vjp(put(x[:, :6]), put(x[:, :6].copy()), out=put(x[:, 3:]))


# ---- raphson.torch --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(device.emulated, reason="needs a GPU: there are no CUDA tensors without one")
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_differentiates_on_the_device(torch, rng, dtype):
    from raphson.torch import orthogonalize

    x, weights = (put(a, dtype) for a in pair(rng, (3, 20, 30)))
    leaf = x.clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        (orthogonalize(leaf, schedule="muon") * weights).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(leaf.grad, orthogonalize_vjp(x, weights, schedule="muon"))
    batched = torch.func.vmap(torch.func.grad(lambda t, w: (orthogonalize(t, schedule="muon") * w).sum()))(x, weights)
    torch.testing.assert_close(batched, leaf.grad)
    if dtype == "float64":
        small = leaf.detach()[:, :4, :5].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda t: orthogonalize(t, schedule="muon"), (small,), eps=1e-6, atol=1e-5)
