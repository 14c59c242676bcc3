"""Slow truths of relaxation methods, dense, straight from the formulas."""

from __future__ import annotations

import numpy as np


def sor(a, b, omega, tol, most, x=None):
    """Sweeps with the splitting A = (D/omega + L) − …; the iterate and how many there were."""
    d, lower = np.diag(np.diag(a)), np.tril(a, -1)
    x = np.zeros(len(b)) if x is None else x
    for k in range(most):
        if np.linalg.norm(b - a @ x) <= tol * np.linalg.norm(b):
            return x, k
        x = x + np.linalg.solve(d / omega + lower, b - a @ x)
    return x, most


def ssor_cg(a, b, omega, tol, most, x=None):
    """Conjugate gradients preconditioned by (D/omega + L) (D/omega)⁻¹ (D/omega + L)ᵀ."""
    e, lower = np.diag(np.diag(a)) / omega, np.tril(a, -1)
    m = (e + lower) @ np.linalg.inv(e) @ (e + lower).T
    x = np.zeros(len(b)) if x is None else x
    r = b - a @ x
    z = np.linalg.solve(m, r)
    p, k = z, 0
    while np.linalg.norm(r) > tol * np.linalg.norm(b) and k < most:
        alpha = (r @ z) / (p @ a @ p)
        x, fresh = x + alpha * p, r - alpha * a @ p
        y = np.linalg.solve(m, fresh)
        p, r, z, k = y + (fresh @ y) / (r @ z) * p, fresh, y, k + 1
    return x, k


def tsallis(sums, scale, t):
    """Probabilities 4/(eta (k/s − x))² that add up to 1, by bisection."""
    eta, k = 2 / np.sqrt(t), np.asarray(sums) / scale
    low, high = k.min() - 2 * np.sqrt(len(k)) / eta, k.min() - 1e-300
    for _ in range(200):
        x = (low + high) / 2
        total = (4 / (eta * (k - x)) ** 2).sum()
        low, high = (x, high) if total < 1 else (low, x)
    return 4 / (eta * (k - x)) ** 2
