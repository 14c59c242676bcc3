"""raphson.torch.lstsq: gradients against torch's finite differences, its own solver's, and the refusals."""

from __future__ import annotations

import numpy as np
import pytest

import raphson

torch = pytest.importorskip("torch")
rt = pytest.importorskip("raphson.torch")


def system(m, n, k=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (m,) if k is None else (m, k)
    data = rng.standard_normal((m, n)), rng.standard_normal(shape)
    return tuple(torch.from_numpy(x).requires_grad_() for x in data)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize(("m", "n"), [(9, 4), (4, 4), (3, 7), (5, 1), (1, 5)])
def test_gradients_are_slopes(m, n, k, ridge):
    def value(A, b):
        return rt.lstsq(A, b, ridge=ridge).x

    assert torch.autograd.gradcheck(value, system(m, n, k), atol=1e-6)


@pytest.mark.parametrize("method", ["sketch", "direct"])
def test_gradients_of_a_tall_ill_conditioned_system(method):
    """Condition 1e6, which normal equations would square: against torch's QR-based solver."""
    rng = np.random.default_rng(1)
    scale = torch.from_numpy(np.logspace(0, -6, 20))
    A = (torch.linalg.qr(torch.from_numpy(rng.standard_normal((4000, 20))))[0] * scale) @ torch.linalg.qr(
        torch.from_numpy(rng.standard_normal((20, 20)))
    )[0]
    b, weight = torch.from_numpy(rng.standard_normal(4000)), torch.from_numpy(rng.standard_normal(20))
    found = []
    for solve in (
        lambda A, b: rt.lstsq(A, b, method=method).x,
        lambda A, b: torch.linalg.pinv(A) @ b,
    ):
        given = A.clone().requires_grad_(), b.clone().requires_grad_()
        (solve(*given) @ weight).backward()
        found.append([x.grad for x in given])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7 * float(theirs.abs().max()))


def test_it_is_the_array_function():
    A, b = system(50, 6, 2)
    result, plain = rt.lstsq(A, b, seed=3), raphson.lstsq(A.detach(), b.detach(), seed=3)
    torch.testing.assert_close(result.x.detach(), plain.x, rtol=0, atol=0)
    assert result.x.requires_grad
    assert (result.rank, result.converged, result.backward_error) == (plain.rank, plain.converged, plain.backward_error)
    assert not rt.lstsq(A.detach(), b.detach()).x.requires_grad


def test_only_what_requires_grad_gets_one():
    A, b = system(9, 4)
    rt.lstsq(A.detach(), b).x.sum().backward()
    assert A.grad is None
    rt.lstsq(A, b.detach()).x.sum().backward()
    assert A.grad.shape == A.shape


def test_float32_beside_float64():
    A, b = system(30, 4)
    narrow = A.detach().float().requires_grad_()
    rt.lstsq(narrow, b).x.sum().backward()
    assert (narrow.grad.dtype, b.grad.dtype) == (torch.float32, torch.float64)
    wide = A.detach().requires_grad_()
    rt.lstsq(wide, b).x.sum().backward()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)


def test_refusals():
    A, b = system(9, 4)
    flat = (A[:, :3] @ torch.ones(3, 4, dtype=A.dtype)).detach().requires_grad_()
    x = rt.lstsq(flat, b).x
    with pytest.raises(RuntimeError, match="rank 1, x is not differentiable"):
        x.sum().backward()
    (slope,) = torch.autograd.grad(rt.lstsq(A, b).x.sum(), b, create_graph=True)
    with pytest.raises(RuntimeError):
        slope.sum().backward()
    with pytest.raises(TypeError, match=r"raphson\.lstsq takes others"):
        rt.lstsq(A.detach().numpy(), b.detach().numpy())
    with pytest.raises(ValueError, match="rows"):
        rt.lstsq(A, b[:3])
