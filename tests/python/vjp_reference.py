"""Truths for the derivative of orthogonalize: central differences, and torch's autograd on a transcription."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import reference
from raphson.newton_schulz import orthogonalize, schedule

SCHEDULES = ["muon", "you", "polar_express", "cans", "turbo", "root", "cubic", "kovarik"]
NORMS = ["frobenius", "gram", "aol"]
#: eps·max|X| above ‖X‖_F, row sums below eps·(the largest).
FLOORS = [("frobenius", 3.0), ("frobenius", 30.0), ("aol", 0.6), ("aol", 1.5), ("gram", 3.0)]

Vjp = Callable[..., np.ndarray]


def well_conditioned(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Singular values in [0.3, 1]: the slopes of all schedules stay below 10, and their curvatures too."""
    x = np.empty(shape)
    for index in np.ndindex(shape[:-2]):
        rank = min(shape[-2:])
        x[index] = reference.with_singular_values(rng, *shape[-2:], np.linspace(0.3, 1.0, rank)[::-1])
    return x


def differences(x: np.ndarray, cotangent: np.ndarray, **how) -> np.ndarray:
    """Central differences of ⟨cotangent, orthogonalize(x)⟩."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = STEP
        up, down = (orthogonalize(x + s, method="standard", **how) for s in (step, -step))
        gradient[index] = (cotangent * (up - down)).sum() / (2 * STEP)
    return gradient


#: ε^⅓, where the h² of the differences meets their rounding, ε/h ≈ 4e-11. Third derivatives of some 10³ (20 steps at
#: slopes of up to 10, singular values of 0.1 of the norm) make of h² = 4e-11 a few 1e-8; a wrong term is off by 1e-2.
STEP = 6e-6
DIFFERENCES = 1e-6


def assert_differences(vjp: Vjp, x: np.ndarray, cotangent: np.ndarray, slope=10, **how) -> None:
    """`slope`: the largest."""
    error = np.linalg.norm(vjp(x, cotangent, **how) - differences(x, cotangent, **how))
    assert error <= DIFFERENCES * np.linalg.norm(cotangent) * slope


def gram_norms(x: np.ndarray) -> tuple[float, float]:
    a = np.abs(x @ x.T)
    return a.sum(axis=1).max(), np.linalg.norm(a)


def assert_both_norms(vjp: Vjp, rng: np.random.Generator) -> None:
    """√min(‖A‖_∞, ‖A‖_F) has two branches; the inputs are chosen so that each is taken, by a margin."""
    flat = well_conditioned(rng, (4, 6))
    flat = reference.polar_factor(flat) + 0.05 * flat  # A ≈ I: ‖A‖_∞ ≈ 1 < ‖A‖_F ≈ 2
    arrow = np.hstack([np.array([[2.0], [1.0], [1.0], [1.0]]), 0.3 * np.eye(4), np.zeros((4, 1))])
    rows, frobenius = gram_norms(flat)
    assert rows < 0.9 * frobenius
    rows, frobenius = gram_norms(arrow)
    assert frobenius < 0.9 * rows
    for x in (flat, arrow + 1e-3 * rng.standard_normal(arrow.shape)):
        assert_differences(vjp, x, rng.standard_normal(x.shape), schedule="muon", normalize="gram")


def assert_steps_and_tables(vjp: Vjp, rng: np.random.Generator, steps: int, normalize: str | None) -> None:
    x, cotangent = well_conditioned(rng, (4, 7)), rng.standard_normal((4, 7))
    for table in ["polar_express", [[2.0, -1.5, 0.5], [1.5, -0.5, 0.0]], schedule("cubic")]:
        assert_differences(vjp, x, cotangent, schedule=table, steps=steps, normalize=normalize)


def truth(x, cotangent, table, factor, normalize):
    """Gradient through a torch transcription in float64."""
    import torch

    leaf = torch.from_numpy(np.array(x, dtype=np.float64)).requires_grad_()
    y = leaf.mT if x.shape[-2] > x.shape[-1] else leaf
    if normalize == "frobenius":
        y = y / (factor * torch.linalg.matrix_norm(y, keepdim=True))
    else:
        a = y @ y.mT
        rows = a.abs().sum(dim=-1)
        if normalize == "aol":
            y = y / (factor * rows.sqrt())[..., None]
        else:
            bound = torch.minimum(rows.amax(dim=-1), torch.linalg.matrix_norm(a))
            y = y / (factor * bound.sqrt())[..., None, None]
    for a, b, c in table:
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    y = y.mT if x.shape[-2] > x.shape[-1] else y
    y.backward(torch.from_numpy(np.array(cotangent, dtype=np.float64)))
    return leaf.grad.numpy()
