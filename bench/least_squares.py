"""raphson.lstsq beside NumPy's, on long ill-conditioned problems: part of ``python -m bench sketch``."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
SHAPES = [(100_000, 500), (1_000_000, 100)]
METHODS = {1e3: ("auto",), 1e8: ("sketch", "fossils", "direct")}  # by condition
REACH = 4.0
EVERYDAY = [
    (20, 3, 1),
    (100, 5, 1),
    (1000, 10, 1),
    (1000, 50, 1),
    (1000, 300, 1),
    (500, 500, 1),
    (1000, 1000, 1),
    (1000, 1000, 10),
    (2000, 1000, 1),
    (5000, 1000, 1),
    (300, 1000, 1),
    (10_000, 20, 1),
    (10_000, 100, 50),
    (100_000, 10, 1),
]


@dataclass(frozen=True)
class Solve:
    shape: str
    cond: float
    threads: int
    what: str
    milliseconds: float
    ratio: float | None  # NumPy's time over this one
    backward_error: float
    sweeps: int | None


def problem(m: int, n: int, cond: float, residual: float = 1e-3) -> tuple[Doubles, Doubles]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((m, n))
    r = np.linalg.cholesky(a.T @ a).T
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    a = a @ np.linalg.solve(r, (left * np.logspace(0, -np.log10(cond), n)) @ right.T)
    x, noise = rng.standard_normal(n), rng.standard_normal(m)
    b = a @ (x / np.linalg.norm(x))
    return a, b + residual * noise / np.linalg.norm(noise)


class Judge:
    """Karlson and Waldén's backward error over ‖A‖_F, from a triangle of A with its columns at norm 1."""

    def __init__(self, a: Doubles, b: Doubles) -> None:
        self.a, self.b = a, b
        self.length = np.linalg.norm(a, axis=0)
        self.r = np.linalg.qr(a / self.length, mode="r")

    def __call__(self, x: Doubles) -> float:
        r = self.b - self.a @ x
        scaled = np.linalg.norm(self.length * x)
        shift = np.linalg.norm(r) / scaled
        upper = np.linalg.qr(np.vstack([self.r, shift * np.eye(len(x))]), mode="r")
        inside = np.linalg.solve(upper.T, (self.a.T @ r) / self.length)
        return float(np.linalg.norm(inside) / scaled / np.sqrt(len(x)))


def seconds(run: Any, repeats: int) -> tuple[float, Any]:
    times, found = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        found = run()
        times.append(time.perf_counter() - start)
    return statistics.median(times), found


def measure(m: int, n: int, cond: float, threads: int, repeats: int, peer: bool) -> list[Solve]:
    from threadpoolctl import threadpool_limits

    import raphson

    raphson.set_num_threads(threads)
    a, b = problem(m, n, cond)
    judge, shape, rows = Judge(a, b), f"{m}×{n}", []
    with threadpool_limits(threads):
        reference = None
        if peer:
            reference, x = seconds(lambda: np.linalg.lstsq(a, b, rcond=None)[0], max(1, repeats // 2))
            rows.append(Solve(shape, cond, threads, "numpy.linalg.lstsq", 1e3 * reference, 1.0, judge(x), None))
            took, x = seconds(lambda: np.linalg.solve(a.T @ a, a.T @ b), repeats)
            rows.append(Solve(shape, cond, threads, "NumPy (AᵀA)⁻¹Aᵀb", 1e3 * took, reference / took, judge(x), None))
        for method in METHODS[cond]:
            took, result = seconds(
                lambda chosen=method: raphson.lstsq(a, b, method=chosen), 1 if method == "direct" else repeats
            )
            ratio = None if reference is None else reference / took
            what = f"raphson {result.method if method == 'auto' else method}"
            rows.append(Solve(shape, cond, threads, what, 1e3 * took, ratio, judge(result.x), result.sweeps))
    return rows


def everyday(threads: int, quick: bool) -> list[Solve]:
    """Gaussian problems of the sizes that most calls have, beside NumPy's and SciPy's better one (QR with pivoting)."""
    from scipy.linalg import lstsq as scipy_lstsq
    from threadpoolctl import threadpool_limits

    import raphson

    raphson.set_num_threads(threads)
    rng, rows = np.random.default_rng(0), []
    for m, n, k in EVERYDAY[:4] if quick else EVERYDAY:
        a, b = rng.standard_normal((m, n)), rng.standard_normal((m, k))
        b = b[:, 0] if k == 1 else b
        runs: list[tuple[str, Any]] = [
            ("raphson", lambda a=a, b=b: raphson.lstsq(a, b)),
            ("numpy.linalg.lstsq", lambda a=a, b=b: np.linalg.lstsq(a, b, rcond=None)[0]),
            ("scipy gelsy", lambda a=a, b=b: scipy_lstsq(a, b, lapack_driver="gelsy", check_finite=False)[0]),
        ]
        repeats = 5 if m * n * n > 1e7 else 101
        with threadpool_limits(threads):
            took = []
            for _, run in runs:
                time.sleep(0.15)  # OpenBLAS's threads spin after a product
                took.append(seconds(run, repeats))
        found = took[0][1]
        shape = f"{m}×{n}" + (f", {k} b" if k > 1 else "")
        best, error = min(took[1][0], took[2][0]), float(np.max(found.backward_error))
        rows.append(
            Solve(
                shape, 1, threads, f"raphson {found.method}", 1e3 * took[0][0], best / took[0][0], error, found.sweeps
            )
        )
        for (peer, _), (spent, _) in zip(runs[1:], took[1:], strict=True):
            rows.append(Solve(shape, 1, threads, peer, 1e3 * spent, best / spent, float("nan"), None))
    return rows


def show(rows: list[Solve]) -> None:
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:8.2f}"
        print(
            f"{row.shape:14s}{row.cond:7.0e}{row.threads:3d}  {row.what:22s}{row.milliseconds:10.4g} ms{ratio:8s}"
            f"   backward error {row.backward_error:.1e}   {'' if row.sweeps is None else f'{row.sweeps} reads'}"
        )


def plot(path: str) -> None:
    """Backward error against time: looser tolerances end sooner."""
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    import raphson

    warnings.simplefilter("ignore")
    a, b = problem(100_000, 500, 1e8)
    judge = Judge(a, b)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for method in ("sketch", "fossils"):
        times, errors = [], []
        for tol in (1e-8, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15):
            took, result = seconds(lambda m=method, t=tol: raphson.lstsq(a, b, method=m, tol=t), 3)
            times.append(took)
            errors.append(judge(result.x))
        axes.semilogy(times, errors, "o-", ms=4, label=f"raphson {method}, tol 1e-8 … 1e-15")
    for name, run in (
        ("raphson direct", lambda: raphson.lstsq(a, b, method="direct").x),
        ("numpy.linalg.lstsq", lambda: np.linalg.lstsq(a, b, rcond=None)[0]),
        ("normal equations, Cholesky", lambda: np.linalg.solve(a.T @ a, a.T @ b)),
    ):
        took, x = seconds(run, 1)
        axes.semilogy([took], [judge(x)], "s", label=name)
    axes.axhline(1e-15, color="0.7", lw=0.8)
    axes.set(xlabel="seconds", ylabel="backward error", title="100000×500, condition 1e8", xscale="log")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
