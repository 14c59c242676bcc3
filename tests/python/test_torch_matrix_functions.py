"""The differentiable matrix functions inside torch: gradcheck, layouts, errors."""

import numpy as np
import pytest

from raphson import newton_schulz as ns


@pytest.fixture
def twins(torch):
    import raphson.torch

    return raphson.torch


def positive(torch, *shape):
    g = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return g, lambda x: x @ x.mT + torch.eye(shape[-1], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (2, 5, 4)])
def test_polar_passes_gradcheck(torch, twins, shape):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(twins.polar, (x,))
    assert torch.autograd.gradcheck(lambda y: twins.polar(y)[0], (x,))


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (2, 3, 4, 4)])
def test_the_others_pass_gradcheck(torch, twins, shape):
    g, make = positive(torch, *shape)
    a = make(g).requires_grad_()
    assert torch.autograd.gradcheck(twins.sqrt, (a,))
    assert torch.autograd.gradcheck(twins.inverse, (a,))
    g.requires_grad_()
    for p in (1, 2, 4):
        assert torch.autograd.gradcheck(
            lambda x, p=p: twins.inverse_root(make(x), p, ridge=0.1, relative_ridge=0.05), (g,)
        )


def test_sqrt_without_symmetry_passes_gradcheck(torch, twins):
    a = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 3 + 2 * torch.eye(5)
    assert torch.autograd.gradcheck(twins.sqrt, (a.double().requires_grad_(),))


def test_values_dtypes_and_layouts(torch, twins):
    g, make = positive(torch, 3, 6, 6)
    a = make(g)
    np.testing.assert_array_equal(twins.sqrt(a).numpy(), ns.sqrt(a.numpy()).value)
    np.testing.assert_array_equal(twins.inverse_root(a, 3).numpy(), ns.inverse_root(a.numpy(), 3).value)
    single = a.float().requires_grad_()
    value = twins.inverse_root(single, 4)
    value.square().sum().backward()
    assert value.dtype == single.grad.dtype == torch.float32
    expanded = a[0].expand(4, 6, 6)  # stride 0
    np.testing.assert_array_equal(twins.sqrt(expanded)[3].numpy(), twins.sqrt(a[0]).numpy())
    unitary, _ = twins.polar(a.mT)
    np.testing.assert_allclose(unitary.numpy(), np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-13)


def test_errors(torch, twins):
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        twins.sqrt(np.eye(3))
    with pytest.raises(TypeError, match=r"raphson\.torch"):
        ns.sqrt(torch.eye(3, requires_grad=True))
    x = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    unitary, _ = twins.polar(x)
    with pytest.raises(np.linalg.LinAlgError, match="rank-deficient"):
        unitary.sum().backward()
    a = torch.eye(2, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(twins.sqrt(a).sum(), a, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="second derivatives"):
        first.sum().backward()
