"""Problems of the AdaSketch paper beyond CUTEst: constrained logistic regression, Poisson control."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.s2mpj import Counts

Doubles = npt.NDArray[np.float64]
DATA = Path(os.environ.get("RAPHSON_DATA", harness.ROOT / "../shared/data"))


class Logistic:
    """min mean log(1 + exp(−y x·w)) subject to A w = b (ten Gaussian rows) and ‖w‖² = 1, from w = 1."""

    def __init__(self, name: str) -> None:
        from sklearn.datasets import load_svmlight_file

        X, y = load_svmlight_file(str(DATA / f"{name}.txt.gz"))
        self.name, self._X = name, X.tocsr()
        self._y = np.where(y == y.max(), 1.0, -1.0)
        self.n, self.m = X.shape[1], 11
        rng = np.random.default_rng(2023)
        self._A, self._b = rng.standard_normal((10, self.n)), rng.standard_normal(10)
        self._b *= 0.3 / np.linalg.norm(np.linalg.lstsq(self._A, self._b, rcond=None)[0])  # the plane meets the sphere
        self.x0 = np.ones(self.n)
        self.counts = Counts()

    def objective(self, w: Doubles) -> float:
        return float(np.logaddexp(0, -self._y * (self._X @ w)).mean())

    def fun(self, w: Doubles) -> float:
        self.counts.note("value", w)
        return self.objective(w)

    def gradient(self, w: Doubles) -> Doubles:
        margin = self._y * (self._X @ w)
        return np.asarray(self._X.T @ (-self._y / (1 + np.exp(margin)))) / len(self._y)

    def grad(self, w: Doubles) -> Doubles:
        self.counts.note("first", w)
        return self.gradient(w)

    def hess(self, w: Doubles) -> Doubles:
        self.counts.note("hess", w)
        p = 1 / (1 + np.exp(-(self._X @ w)))
        weighted = self._X.multiply((p * (1 - p))[:, None]).tocsr()
        return np.asarray((self._X.T @ weighted).toarray()) / len(self._y)

    def cons(self, w: Doubles) -> Doubles:
        self.counts.note("value", w)
        return np.r_[self._A @ w - self._b, w @ w - 1]

    def cons_jac(self, w: Doubles) -> Doubles:
        return np.vstack([self._A, 2 * w])

    def cons_hess(self, w: Doubles, v: Doubles) -> Doubles:
        return np.asarray(2 * v[10] * np.eye(self.n))

    def residuals(self, w: Doubles) -> tuple[float, float]:
        g, jacobian = self.gradient(w), self.cons_jac(w)
        multipliers = np.linalg.lstsq(jacobian.T, -g, rcond=None)[0]
        left = np.abs(g + jacobian.T @ multipliers).max() / max(1.0, np.abs(multipliers).max())
        return float(left), float(np.abs(self.cons(w)).max())


def poisson(size: int) -> dict[str, Any]:
    """min ½‖W − W*‖² + 0.05‖Z‖² subject to Δₕ W + Z = 0 on a grid, from ones: B, G, W*, K and the right side."""
    from scipy import sparse

    q, h = size * size, 2 / (size + 1)
    t = sparse.diags([np.ones(size - 1), -2 * np.ones(size), np.ones(size - 1)], [-1, 0, 1])
    laplacian = (sparse.kron(sparse.eye(size), t) + sparse.kron(t, sparse.eye(size))) / h**2
    i = 0.1 / np.sqrt(15) * (np.arange(1, size + 1) - (size + 1) / 2)
    target = (np.sin(4 + i[:, None]) + np.cos(3 + i[None, :])).ravel()
    B = sparse.diags(np.r_[np.ones(q), np.full(q, 0.1)]).tocsr()
    G = sparse.hstack([laplacian, sparse.eye(q)]).tocsr()
    K = sparse.bmat([[B, G.T], [G, None]]).tocsc()
    return {"q": q, "B": B, "G": G, "K": K, "target": target, "rhs": np.r_[target, np.zeros(2 * q)]}
