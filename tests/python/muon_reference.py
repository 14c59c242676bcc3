"""What the tests of raphson.torch.Muon share: parameters with gradients, and torch's iteration in any dtype."""

from __future__ import annotations

SHAPES = [(5, 9), (9, 5), (8, 8), (5, 9), (1, 7), (7, 1), (1, 1)]


def iterate(torch, g, coefficients, steps, eps):
    a, b, c = coefficients
    x = g.mT if g.shape[-2] > g.shape[-1] else g
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if g.shape[-2] > g.shape[-1] else x


def parameters(torch, shapes, dtype="float64", seed=0, grads=True):
    generator = torch.Generator().manual_seed(seed)
    made = [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(getattr(torch, dtype)))
        for s in shapes
    ]
    if grads:
        gradients(torch, made, seed + 1)
    return made


def gradients(torch, params, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def bits(value):
    return value.detach().numpy().tobytes()


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def run(torch, optimizer, params, steps, first=10):
    for seed in range(first, first + steps):
        gradients(torch, params, seed)
        optimizer.step()
