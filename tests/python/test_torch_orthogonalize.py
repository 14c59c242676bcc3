"""raphson.torch.orthogonalize: the values of raphson.orthogonalize, and its derivative."""

from __future__ import annotations

import sys

import pytest

import raphson

needs_vjp = pytest.mark.skipif(
    not hasattr(raphson.newton_schulz, "orthogonalize_vjp"), reason="this build has no orthogonalize_vjp"
)


@pytest.fixture
def twin(torch):
    from raphson.torch import orthogonalize

    return orthogonalize


@pytest.fixture
def x(torch, rng):
    return torch.from_numpy(rng.standard_normal((5, 7)))


def test_raphson_imports_no_torch(run_python):
    got = run_python("import raphson, sys; print('torch' in sys.modules)")
    assert got.stdout.split() == ["False"], got.stderr


def test_the_twins_bring_torch(torch, run_python):
    got = run_python("import raphson.torch, sys; print('torch' in sys.modules)")
    assert got.stdout.split() == ["True"], got.stderr


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (2, 3, 4, 4), (0, 3, 4), (1, 1)], ids=str)
def test_values_are_those_of_the_array_function(torch, twin, rng, dtype, shape):
    t = torch.from_numpy(rng.standard_normal(shape)).to(getattr(torch, dtype))
    for settings in ({}, {"schedule": "turbo"}, {"schedule": [(1.5, -0.5, 0.0)], "steps": 3, "normalize": "gram"}):
        expected = raphson.orthogonalize(t, **settings)
        assert torch.equal(twin(t, **settings), expected)
        recorded = twin(t.clone().requires_grad_(), **settings)
        assert recorded.requires_grad
        assert recorded.dtype == t.dtype
        assert torch.equal(recorded.detach(), expected)


def test_out(torch, twin, x):
    expected = raphson.orthogonalize(x)
    out = torch.empty_like(x)
    assert twin(x, out=out) is out
    assert torch.equal(out, expected)
    leaf = x.clone().requires_grad_()
    with pytest.raises(ValueError, match="out= cannot be differentiated"):
        twin(leaf, out=out)
    with torch.no_grad():
        assert twin(leaf, out=leaf) is leaf
    assert torch.equal(leaf.detach(), expected)
    assert leaf.requires_grad


def test_misuse(torch, twin, x):
    with pytest.raises(TypeError, match=r"torch\.Tensor, got ndarray"):
        twin(x.numpy())
    with pytest.raises(TypeError, match="complex"):
        twin(torch.complex(x, x))
    with pytest.raises(ValueError, match="comm"):
        twin(x, comm=object())
    with pytest.raises(ValueError, match="NaN"):
        twin(x * float("nan"))
    with pytest.raises(ValueError, match="newton"):
        twin(x, schedule="newton")
    with pytest.raises(ValueError, match="2 axes"):
        twin(x[0])


@needs_vjp
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"schedule": "turbo"}, {"schedule": "muon", "normalize": "gram"}, {"method": "gram"}], ids=str
)
def test_gradcheck(torch, twin, rng, shape, settings):
    x = torch.from_numpy(rng.standard_normal(shape)).requires_grad_()
    # Step 1e-6 on values of order 1 leaves about 1e-9 of truncation and rounding; the slope of five steps is some 500.
    assert torch.autograd.gradcheck(lambda t: twin(t, **settings), (x,), eps=1e-6, atol=1e-5, rtol=1e-5)


@needs_vjp
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_gradients_in_lower_precision(torch, twin, rng, dtype, tolerance):
    x = torch.from_numpy(rng.standard_normal((12, 40)))
    weights = torch.from_numpy(rng.standard_normal((12, 40)))
    gradients = []
    for kind in (torch.float64, getattr(torch, dtype)):
        t = x.to(kind).detach().requires_grad_()
        (twin(t) * weights.to(kind)).sum().backward()
        assert t.grad.dtype == kind
        gradients.append(t.grad.double())
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < tolerance


@needs_vjp
def test_expanded_cotangents_and_strided_input(torch, twin, x):
    leaf = x.clone().requires_grad_()
    twin(leaf.T).sum().backward()
    plain = x.T.contiguous().requires_grad_()
    (twin(plain) * torch.ones(7, 5, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(leaf.grad, plain.grad.T, rtol=1e-10, atol=1e-11)


@needs_vjp
def test_second_derivatives_are_refused(torch, twin, x):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(leaf).square().sum() + twin(leaf).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()


@needs_vjp
def test_function_transforms(torch, twin, rng):
    batch = torch.from_numpy(rng.standard_normal((3, 4, 6)))
    weights = torch.from_numpy(rng.standard_normal((4, 6)))
    assert torch.equal(torch.func.vmap(twin)(batch), twin(batch))
    assert torch.equal(torch.func.vmap(twin, in_dims=2)(batch.permute(1, 2, 0)), twin(batch))

    def loss(t):
        return (twin(t) * weights).sum()

    leaf = batch.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(batch), leaf.grad, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(torch.func.grad(loss)(batch), leaf.grad, rtol=1e-10, atol=1e-11)


@needs_vjp
def test_a_frozen_input_costs_no_gradient(torch, twin, x, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the derivative was computed")

    monkeypatch.setattr(raphson.newton_schulz, "orthogonalize_vjp", refuse)
    other = x.clone().requires_grad_()
    (twin(x) * other).sum().backward()
    assert torch.equal(other.grad, raphson.orthogonalize(x))
    assert "raphson.torch" in sys.modules
