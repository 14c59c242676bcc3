"""Slow truths of least squares: ill-conditioned problems with known solutions, and the backward error by an SVD."""

from __future__ import annotations

import numpy as np


def problem(m, n, cond, residual=1e-3, seed=0):
    """A of a given condition, b with a residual of given size orthogonal to its range, and the solution."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((m, n + 1)))[0]
    v = np.linalg.qr(rng.standard_normal((n, n)))[0]
    a = (u[:, :n] * np.logspace(0, -np.log10(cond), n)) @ v.T
    x = rng.standard_normal(n)
    x /= np.linalg.norm(x)
    return a, a @ x + residual * u[:, n], x


def backward_error(a, b, x):
    """Karlson and Waldén's estimate over ‖A‖_F, from the SVD of A itself."""
    r = b - a @ x
    _, s, vt = np.linalg.svd(a, full_matrices=False)
    inside = vt @ (a.T @ r)
    shift = (np.linalg.norm(r) / np.linalg.norm(x)) ** 2
    return float(np.sqrt(np.sum(inside**2 / (s**2 + shift))) / np.linalg.norm(x) / np.linalg.norm(a))
