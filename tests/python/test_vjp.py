"""orthogonalize_vjp against central differences and torch's autograd."""

from __future__ import annotations

import numpy as np
import pytest

import raphson
from agreement import BF16, DTYPES, dtype_id, relative
from raphson.newton_schulz import orthogonalize_vjp, schedule
from vjp_reference import (
    FLOORS,
    NORMS,
    SCHEDULES,
    assert_both_norms,
    assert_differences,
    assert_steps_and_tables,
    truth,
    well_conditioned,
)

SHAPES = [(4, 6), (6, 4), (5, 5), (1, 3), (3, 1), (1, 1), (2, 3, 4)]


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_differences(rng, shape, name, normalize):
    x, cotangent = well_conditioned(rng, shape), rng.standard_normal(shape)
    assert_differences(orthogonalize_vjp, x, cotangent, schedule=name, normalize=normalize)


@pytest.mark.parametrize("normalize", [None, *NORMS])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_and_tables(rng, steps, normalize):
    assert_steps_and_tables(orthogonalize_vjp, rng, steps, normalize)


def test_both_norms_of_the_gram_matrix(rng):
    assert_both_norms(orthogonalize_vjp, rng)


@pytest.mark.parametrize(("normalize", "eps"), FLOORS)
def test_the_floor_has_a_derivative_too(rng, normalize, eps):
    x, cotangent = well_conditioned(rng, (4, 6)), rng.standard_normal((4, 6))
    x[2] *= 0.1
    how = {"schedule": "muon", "normalize": normalize, "eps": eps}
    assert_differences(orthogonalize_vjp, x, cotangent, slope=100, **how)  # of the small row
    if normalize == "frobenius":
        got = orthogonalize_vjp(x, cotangent, **how)
        assert relative(got, orthogonalize_vjp(x, cotangent, schedule="muon")) > 0.01


#: Of the gradient's norm. float64 and float32: five steps at slopes of up to 8 on Gaussian matrices of 40 to 130
#: rows, where the smallest singular values lose most; measured 2e-13 and 1.5e-4 at worst. bfloat16: x, cotangent and
#: result are rounded (the first two before truth sees them), the arithmetic is float32's.
AUTOGRAD = {"float64": 1e-11, "float32": 2e-3, "bfloat16": 6e-3}


@pytest.mark.parametrize("normalize", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(40, 60), (70, 33), (2, 3, 17, 33), (48, 48)], ids=str)
def test_agrees_with_autograd(torch, rng, shape, dtype, normalize):
    x, cotangent = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    for name in ("polar_express", "turbo", "cubic"):
        factor = 1.02 if name == "polar_express" else 1.0
        got = orthogonalize_vjp(x, cotangent, schedule=name, normalize=normalize)
        assert got.dtype == dtype
        assert relative(got, truth(x, cotangent, schedule(name), factor, normalize)) <= AUTOGRAD[dtype.name]


def test_large_enough_to_be_shared_by_threads(torch, rng, threads):
    x, cotangent = rng.standard_normal((3, 120, 150)), rng.standard_normal((3, 120, 150))
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        results.append([orthogonalize_vjp(x, cotangent, normalize=n) for n in NORMS])
        results[-1].append(orthogonalize_vjp(x[0], cotangent[0]))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert relative(results[0][0], truth(x, cotangent, schedule("polar_express"), 1.02, "frobenius")) <= 1e-11
    assert np.array_equal(results[0][0][0], results[0][3])


# ---- what it is as a map --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", NORMS)
def test_linear_in_the_cotangent_at_every_scale(rng, normalize):
    x, cotangent = rng.standard_normal((8, 11)), rng.standard_normal((8, 11))
    got = orthogonalize_vjp(x, cotangent, normalize=normalize)
    for power in (-1000, -300, 40, 900):
        scaled = orthogonalize_vjp(x, np.ldexp(cotangent, power), normalize=normalize)
        assert np.allclose(np.ldexp(scaled, -power), got, rtol=1e-6 if power == -1000 else 0, atol=1e-9)
    single = [a.astype(np.float32) for a in (x, cotangent)]
    got = orthogonalize_vjp(*single, normalize=normalize)
    large = orthogonalize_vjp(single[0], np.ldexp(single[1], 110), normalize=normalize)
    assert np.array_equal(np.ldexp(large, -110), got)


@pytest.mark.parametrize("normalize", NORMS)
def test_homogeneous_in_x(rng, normalize):
    """orthogonalize(tx) = orthogonalize(x), so the gradient at tx is 1/t times that at x, and orthogonal to x."""
    x, cotangent = rng.standard_normal((8, 11)), rng.standard_normal((8, 11))
    got = orthogonalize_vjp(x, cotangent, normalize=normalize)
    assert abs((got * x).sum()) <= 1e-11 * np.linalg.norm(got) * np.linalg.norm(x)
    for power in (-900, -600, -100, 3, 700, 1000):
        scaled = orthogonalize_vjp(np.ldexp(x, power), cotangent, normalize=normalize)
        assert np.allclose(np.ldexp(scaled, power), got, rtol=1e-10, atol=1e-11)


def test_zero_matrices_have_zero_gradients(rng):
    x, cotangent = rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 4, 6))
    x[1] = 0
    cotangent[2] = 0
    for normalize in NORMS:
        got = orthogonalize_vjp(x, cotangent, normalize=normalize)
        assert got[0].any()
        assert not got[1:].any()
    assert not orthogonalize_vjp(np.zeros((5, 3)), np.ones((5, 3))).any()


@pytest.mark.parametrize("normalize", NORMS)
def test_zero_rows_stay_finite(rng, normalize):
    x, cotangent = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    x[2] = 0
    for eps in (0.0, 1e-7):
        assert np.isfinite(orthogonalize_vjp(x, cotangent, normalize=normalize, eps=eps)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (0, 3, 4), (3, 0, 4)], ids=str)
def test_empty_arrays(shape, dtype):
    x = np.empty(shape, dtype)
    got = orthogonalize_vjp(x, x)
    assert got.shape == shape
    assert got.dtype == dtype


# ---- dtypes, layouts, out -------------------------------------------------------------------------------------------


def test_precision(rng):
    x, cotangent = rng.standard_normal((20, 30)), rng.standard_normal((20, 30))
    exact = orthogonalize_vjp(x, cotangent)
    single = orthogonalize_vjp(x, cotangent, precision="float32")
    assert single.dtype == np.float64
    assert 1e-9 < relative(single, exact) < 1e-3
    assert np.array_equal(orthogonalize_vjp(x, cotangent, precision="bfloat16"), single)  # float32 at least
    narrow = [a.astype(BF16) for a in (x, cotangent)]
    wide = [a.astype(np.float32) for a in narrow]
    assert np.array_equal(orthogonalize_vjp(*narrow), orthogonalize_vjp(*wide).astype(BF16))
    assert np.array_equal(orthogonalize_vjp(*wide), orthogonalize_vjp(*wide, precision="float32"))


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_layouts(rng, dtype):
    base, other = (rng.standard_normal((2, 24, 60)).astype(dtype) for _ in range(2))
    for view in [
        lambda a: a[0].T,
        lambda a: a[:, ::-1, ::3],
        lambda a: a.transpose(0, 2, 1),
        lambda a: a[1, ::2, ::-1],
    ]:
        x, cotangent = view(base), view(other)
        truth_ = orthogonalize_vjp(np.ascontiguousarray(x), np.ascontiguousarray(cotangent)).astype(np.float64)
        tolerance = {"float64": 1e-12, "float32": 1e-4, "bfloat16": 1e-2}[dtype.name]
        for got in (orthogonalize_vjp(x, cotangent), orthogonalize_vjp(x, np.ascontiguousarray(cotangent))):
            assert relative(got, truth_) <= tolerance
        out = view(np.zeros_like(base))
        assert orthogonalize_vjp(x, cotangent, out=out) is out
        assert np.array_equal(out, got)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 5, 4)], ids=str)
def test_out_may_be_an_input(rng, shape):
    x, cotangent = rng.standard_normal(shape), rng.standard_normal(shape)
    want = orthogonalize_vjp(x, cotangent)
    a, b = x.copy(), cotangent.copy()
    assert orthogonalize_vjp(a, b, out=a) is a
    assert np.array_equal(a, want)
    assert np.array_equal(b, cotangent)
    assert orthogonalize_vjp(x, b, out=b) is b
    assert np.array_equal(b, want)
    a = x.copy()
    assert orthogonalize_vjp(a, a, out=a) is a
    assert np.array_equal(a, orthogonalize_vjp(x, x))


# ---- misuse ---------------------------------------------------------------------------------------------------------


def test_shapes_that_differ_are_named():
    x = np.eye(3, 4)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: cotangent has shape \(4, 3\), x has shape \(3, 4\)"):
        orthogonalize_vjp(x, x.T)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: cotangent has shape \(1, 3, 4\), x has shape \(3, 4\)"):
        orthogonalize_vjp(x, x[None])
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: out has shape \(3, 3\), x has shape \(3, 4\)"):
        orthogonalize_vjp(x, x, out=np.eye(3))
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: x must have at least 2 axes.*\(3,\)"):
        orthogonalize_vjp(np.ones(3), np.ones(3))


def test_dtypes_that_differ_are_named(torch):
    x = np.eye(3)
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: x is float64 and cotangent is float32"):
        orthogonalize_vjp(x, x.astype(np.float32))
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: x is a numpy array and cotangent a torch array"):
        orthogonalize_vjp(x, torch.eye(3, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: cotangent must be float64.*int64"):
        orthogonalize_vjp(x, np.eye(3, dtype=np.int64))
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: x is float64 and out is float32"):
        orthogonalize_vjp(x, x, out=x.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_name_the_argument(rng, bad):
    x, cotangent = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    spoiled = x.copy()
    spoiled[1, 2, 3] = bad
    out = np.full_like(x, 7)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: x contains NaN or Inf \(matrix 1 of the batch\)"):
        orthogonalize_vjp(spoiled, cotangent, out=out)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: cotangent contains NaN or Inf \(matrix 1"):
        orthogonalize_vjp(cotangent, spoiled, out=out)
    assert np.all(out == 7)
    for arguments in [(spoiled, cotangent), (cotangent, spoiled)]:
        got = orthogonalize_vjp(*arguments, check_finite=False)
        assert np.array_equal(got[0], orthogonalize_vjp(*(a[0] for a in arguments)))
        assert np.isnan(got[1]).any()


def test_options_are_checked_under_this_name():
    x = np.eye(3)
    for how in [{"normalize": "l2"}, {"precision": "float16"}, {"eps": -1.0}, {"steps": 0}, {"schedule": np.ones(3)}]:
        with pytest.raises(ValueError, match=rf"^orthogonalize_vjp: {next(iter(how))} must"):
            orthogonalize_vjp(x, x, **how)
    with pytest.raises(TypeError, match=r"^orthogonalize_vjp: schedule must be a name"):
        orthogonalize_vjp(x, x, schedule=object())


def test_overlap_in_part_is_refused(rng):
    base = rng.standard_normal((4, 9))
    part, copy, out = base[:, :6], base[:, :6].copy(), base[:, 3:]
    for x, cotangent in [(part, copy), (copy, part)]:
        with pytest.raises(ValueError, match=r"^orthogonalize_vjp: out overlaps (x|cotangent)"):
            orthogonalize_vjp(x, cotangent, out=out)
    left = base[:, :6]
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: x overlaps cotangent"):
        orthogonalize_vjp(left, base[:, 3:], out=left)
    with pytest.raises(ValueError, match=r"^orthogonalize_vjp: cotangent overlaps x"):
        orthogonalize_vjp(base[:, 3:], left, out=left)


def test_torch_in_torch_out(torch, rng):
    values = [rng.standard_normal((2, 7, 5)) for _ in range(2)]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, cotangent = (torch.from_numpy(v).to(dtype) for v in values)
        got = orthogonalize_vjp(x, cotangent)
        assert type(got) is torch.Tensor
        assert got.dtype == dtype
        exact = orthogonalize_vjp(*(t.double().numpy() for t in (x, cotangent)))
        assert relative(got.double().numpy(), exact) <= {torch.float64: 1e-15, torch.float32: 1e-3}.get(dtype, 6e-3)
        assert orthogonalize_vjp(x, cotangent, out=x) is x
        assert torch.equal(x, got)


def test_a_call_leaves_the_thread_count_alone(rng):
    before = raphson.get_num_threads()
    orthogonalize_vjp(rng.standard_normal((9, 9)), np.eye(9))
    assert raphson.get_num_threads() == before
