"""Slow, obvious truths: saddle-point matrices, sketch-and-project from its formula, Newton's method on a Lagrangian."""

from __future__ import annotations

import numpy as np


def saddle(B, G):
    n, m = B.shape[0], G.shape[0]
    return np.block([[B, G.T], [G, np.zeros((m, m))]]) if m else np.asarray(B).reshape(n, n)


def sketch_and_project(K, rhs, sketch, steps):
    """d ← d − Kᵀ S (Sᵀ K Kᵀ S)⁺ Sᵀ (K d − rhs), S = sketch(step)."""
    d = np.zeros(K.shape[1])
    for step in range(steps):
        S = sketch(step)
        d = d - K.T @ S @ np.linalg.pinv(S.T @ K @ K.T @ S) @ S.T @ (K @ d - rhs)
    return d


def newton_lagrangian(problem, x, multipliers, steps):
    """Full Newton steps on ∇L = 0, c = 0."""
    for _ in range(steps):
        G = problem.jac(x)
        K = saddle(problem.hess(x) + problem.cons_hess(x, multipliers), G)
        rhs = -np.concatenate([problem.grad(x) + G.T @ multipliers, problem.cons(x)])
        d = np.linalg.solve(K, rhs)
        x, multipliers = x + d[: len(x)], multipliers + d[len(x) :]
    return x, multipliers
