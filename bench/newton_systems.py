"""KKT systems: ours beside LAPACK, SuperLU and MINRES, and where sketch-and-project stands."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import newton_problems


def median_of(call: Callable[[], Any], repeats: int = 5) -> float:
    """Milliseconds of a call."""
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def _symmetric(values: Any, seed: int = 0) -> Any:
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))[0]
    B = (q * values) @ q.T
    return (B + B.T) / 2


def _dense(n: int, m: int) -> None:
    import scipy.linalg

    from raphson.newton import solve_kkt

    rng = np.random.default_rng(1)
    B, G, rhs = _symmetric(np.logspace(0, 1, n)), rng.standard_normal((m, n)), rng.standard_normal(n + m)
    K = np.block([[B, G.T], [G, np.zeros((m, m))]])

    def left(x: Any) -> float:
        return float(np.linalg.norm(K @ x - rhs) / np.linalg.norm(rhs))

    ours = median_of(lambda: solve_kkt(B, G, rhs))
    peer = median_of(lambda: scipy.linalg.solve(K, rhs, assume_a="sym"))
    lu = median_of(lambda: np.linalg.solve(K, rhs))
    print(
        f"  {n}+{m}: {ours:9.3f} ms, sysv {peer:9.3f} ({peer / ours:.2f}), LU {lu:9.3f} ({lu / ours:.2f}); residual"
        f" {solve_kkt(B, G, rhs).residual:.1e}, sysv {left(scipy.linalg.solve(K, rhs, assume_a='sym')):.1e}"
    )


def _sparse(size: int) -> None:
    from scipy.sparse.linalg import splu

    from raphson.newton import solve_kkt

    p = newton_problems.poisson(size)
    ours = median_of(lambda: solve_kkt(p["B"], p["G"], p["rhs"]), 3)
    line = f"  N = {size}, {3 * p['q']} unknowns: {ours:9.1f} ms"
    if size <= 80:
        peer = median_of(lambda: splu(p["K"]).solve(p["rhs"]), 3)
        line += f", splu {peer:9.1f} ({peer / ours:.2f})"
    minres = median_of(lambda: solve_kkt(p["B"], p["G"], p["rhs"], method="minres"), 3)
    print(line + f"; MINRES + Schur {minres:9.1f}")


def kkt(quick: bool) -> None:
    """Ratios are theirs over ours; sysv is LAPACK's Bunch–Kaufman, LU numpy.linalg.solve."""
    print("\ndense LDLᵀ and solution")
    for n, m in ((8, 2), (80, 20), (400, 100)) if quick else ((8, 2), (80, 20), (400, 100), (800, 200), (2400, 600)):
        _dense(n, m)
    print("sparse LDLᵀ and solution of Poisson control")
    for size in (18,) if quick else (18, 40, 80, 180):
        _sparse(size)


def _project(title: str, B: Any, G: Any, most: int) -> None:
    from raphson.newton import solve_kkt

    size = B.shape[0] + (0 if G is None else G.shape[0])
    rhs = np.random.default_rng(1).standard_normal(size)
    line = f"  {title}, size {size}:"
    for method in ("ldlt", "minres"):
        line += f" {method} {median_of(lambda m=method: solve_kkt(B, G, rhs, method=m, tol=1e-6), 3):.2f} ms;"
    for tol in (1e-1, 1e-2, 1e-6):  # a product reads every row
        line += f" {size * solve_kkt(B, G, rhs, method='minres', tol=tol).iterations} rows read by minres to {tol:g};"
    print(line)
    for method, share in (("kaczmarz", 1), ("block", 32), ("gaussian", 20)):
        line = f"    {method:9}"
        for tol in (1e-1, 1e-2, 1e-6):
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = solve_kkt(B, G, rhs, method=method, tol=tol, max_iter=most // share)
            took = 1e3 * (time.perf_counter() - start)
            reached = (
                f"{took:.1f} ms ({found.iterations} steps)"
                if found.converged
                else f"{found.residual:.1e} at {took:.0f} ms"
            )
            line += f" to {tol:g}: {reached};"
        print(line, flush=True)


def projection(quick: bool) -> None:
    """Where could sketching pay? Milliseconds to 0.1, 1e-2 and 1e-6, or the residual at the limit of steps."""
    print("\nsketch-and-project beside LDLᵀ and MINRES")
    most = 20_000 if quick else 2_000_000
    for size in (3,) if quick else (3, 18):
        p = newton_problems.poisson(size)
        _project(f"Poisson control N = {size}", p["B"], p["G"], most)
    n = 60 if quick else 400
    for title, values in (
        ("flat spectrum", np.ones(n)),
        ("condition 10", np.logspace(0, 1, n)),
        ("10 outliers of 1e3, flat tail", np.r_[np.full(10, 1e3), np.ones(n - 10)]),
    ):
        _project(f"dense, {title}", _symmetric(values), None, most)


def _control(size: int) -> None:
    from raphson.newton import Equality, minimize

    p = newton_problems.poisson(size)
    q, target, B, G = p["q"], p["target"], p["B"], p["G"]
    empty = B * 0.0
    empty.eliminate_zeros()
    equality = Equality(lambda x: G @ x, lambda x: G, lambda x, v: empty)

    def solve() -> Any:
        return minimize(
            lambda x: 0.5 * ((x[:q] - target) ** 2).sum() + 0.05 * (x[q:] ** 2).sum(),
            np.ones(2 * q),
            jac=lambda x: np.r_[x[:q] - target, 0.1 * x[q:]],
            hess=lambda x: B,
            constraints=equality,
        )

    found = solve()
    print(
        f"  N = {size}, {3 * q} unknowns: {median_of(solve, 3):.1f} ms, {found.nit} iterations, optimality"
        f" {found.optimality:.1e}, violation {found.constraint_violation:.1e}"
    )


def poisson(quick: bool) -> None:
    print("\nPoisson control by minimize (limit for N = 180: 2000 ms)")
    for size in (3, 18) if quick else (3, 18, 40, 80, 180):
        _control(size)
