"""Slow truth of generalized linear models: loss, gradient and Hessian from their formulas, and Newton's method."""

from __future__ import annotations

import numpy as np


def data(family, n=400, d=7, seed=0, cond=1.0):
    """X and a response that follows from it; `seed` may be a generator."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.logspace(0, -np.log10(cond), d)
    m = X @ (rng.standard_normal(d) / np.logspace(0, -np.log10(cond), d)) / np.sqrt(d) + 0.3
    if family == "logistic":
        return X, (rng.random(n) < 1 / (1 + np.exp(-2 * m))).astype(float)
    if family == "poisson":
        return X, rng.poisson(np.exp(m)).astype(float)
    if family == "gaussian":
        return X, m + rng.standard_normal(n)
    return X, np.argmax(np.outer(m, [1.0, -0.5, 0.2]) + rng.gumbel(size=(n, 3)), axis=1)


def margins(X, w, intercept, offset=None):
    """w: outputs × (d [+ 1])."""
    w = np.atleast_2d(w)
    m = X @ (w[:, :-1] if intercept else w).T
    m = m + w[:, -1] if intercept else m
    return m if offset is None else m + np.reshape(offset, m.shape)


def pieces(m, y, family):
    """Loss (n,), derivative (n, k) and second derivative (n, k, k) by the margins."""
    n, k = m.shape
    if family == "multinomial":
        top = m.max(axis=1, keepdims=True)
        p = np.exp(m - top)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        one = np.eye(k)[y.astype(int)]
        loss = np.log(total[:, 0]) + top[:, 0] - m[np.arange(n), y.astype(int)]
        return loss, p - one, np.einsum("ij,jk->ijk", p, np.eye(k)) - p[:, :, None] * p[:, None, :]
    m, y = m[:, 0], y.astype(float)
    if family == "logistic":
        p = 1 / (1 + np.exp(-m))
        loss, slope, curve = np.logaddexp(0, m) - y * m, p - y, p * (1 - p)
    elif family == "poisson":
        loss, slope, curve = np.exp(m) - y * m, np.exp(m) - y, np.exp(m)
    else:
        loss, slope, curve = 0.5 * (m - y) ** 2, m - y, np.ones(n)
    return loss, slope[:, None], curve[:, None, None]


def evaluate(X, y, w, family, ridge, intercept, weight=None, offset=None):
    """Objective, gradient (flat) and Hessian."""
    X = np.asarray(X, dtype=float)
    n, d = X.shape
    weight = np.ones(n) if weight is None else np.asarray(weight, dtype=float)
    w = np.atleast_2d(w)
    loss, slope, curve = pieces(margins(X, w, intercept, offset), y, family)
    full = np.column_stack([X, np.ones(n)]) if intercept else X
    penal = np.concatenate([np.ones(d), np.zeros(int(intercept))]) * ridge
    share = weight / weight.sum()
    objective = share @ loss + 0.5 * np.sum(penal * w**2)
    gradient = np.einsum("i,ik,ij->kj", share, slope, full) + penal * w
    hessian = np.einsum("i,ikl,ia,ib->kalb", share, curve, full, full)
    k, p = w.shape
    hessian = hessian.reshape(k * p, k * p) + np.diag(np.tile(penal, k))
    return objective, gradient.ravel(), hessian


def check_certificate(result, w, X, y, family, ridge, intercept):
    """That what is said about w is so, and that it is a minimiser."""
    objective, gradient, _ = evaluate(X, y, w, family, ridge, intercept)
    at_zero = evaluate(X, y, np.zeros_like(w), family, ridge, intercept)[1]
    relative = np.linalg.norm(gradient) / np.linalg.norm(at_zero)
    assert abs(result.objective - objective) <= 1e-13 * abs(objective)
    assert abs(result.gradient_norm - relative) <= 1e-6 * relative + 1e-14
    assert result.converged
    assert result.gradient_norm <= 1e-8


def newton(X, y, family, ridge, intercept, weight=None, offset=None, classes=1, steps=60):
    """The minimiser to rounding; the least-norm step where the Hessian is singular."""
    w = np.zeros((classes, X.shape[1] + intercept))
    value, gradient, hessian = evaluate(X, y, w, family, ridge, intercept, weight, offset)
    for _ in range(steps):
        step = -np.linalg.lstsq(hessian, gradient, rcond=1e-13)[0].reshape(w.shape)
        t = 1.0
        while t > 1e-10:
            trial = evaluate(X, y, w + t * step, family, ridge, intercept, weight, offset)
            if np.isfinite(trial[0]) and trial[0] <= value + 1e-12 * abs(value):
                break
            t /= 2
        w = w + t * step
        value, gradient, hessian = trial
        if np.linalg.norm(gradient) < 1e-15:
            break
    return w
