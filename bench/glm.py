"""fit_glm to a relative gradient of 1e-8 beside every solver of scikit-learn that can do the problem.

Each peer runs in a forked process of its own, with the same number of threads, at falling tolerances until its
coefficients, measured by us, have ‖∇‖ ≤ 1e-8 ‖∇ at 0‖; the time is that of the loosest tolerance that does. A peer that
does not get there in its time limit is listed with the gradient it had. The ratio is the best peer's time over ours.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness

DATA = Path(os.environ.get("RAPHSON_DATA", harness.ROOT / "../shared/data"))
GOAL = 1e-8
Doubles = npt.NDArray[np.float64]


@dataclass
class Problem:
    X: Any
    y: Any
    family: str
    ridge: float
    intercept: bool
    reach: float
    peers: tuple[str, ...]


def _dense(n: int, d: int, condition: float, ridge: float, reach: float) -> Problem:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d))
    if condition > 1:
        X = (X * np.logspace(0, -np.log10(condition), d)) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    margin = X @ rng.standard_normal(d)
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * margin / margin.std()))).astype(float)
    return Problem(X, y, "logistic", ridge, False, reach, ("lbfgs", "newton-cholesky", "newton-cg"))


def _svmlight(name: str) -> Problem | None:
    from sklearn.datasets import load_svmlight_file

    path = DATA / f"{name}.txt.gz"
    if not path.is_file():
        return None
    X, y = load_svmlight_file(str(path))
    y = (y == y.max()).astype(float)
    return Problem(X, y, "logistic", 1e-6, True, 2.5, ("lbfgs", "newton-cholesky", "newton-cg"))


def _text() -> Problem:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    n, d, each = 200_000, 50_000, 50
    frequency = 1 / np.arange(1, d + 1)
    index = rng.choice(d, size=(n, each), p=frequency / frequency.sum()).astype(np.int32)
    values = rng.random((n, each)) / np.sqrt(each)
    X = csr_matrix((values.ravel(), index.ravel(), np.arange(0, n * each + 1, each)), shape=(n, d))
    X.sum_duplicates()
    margin = X @ rng.standard_normal(d)
    y = (rng.random(n) < 1 / (1 + np.exp(-3 * (margin - margin.mean()) / margin.std()))).astype(float)
    return Problem(X, y, "logistic", 1e-6, False, 2.5, ("lbfgs", "newton-cg", "liblinear"))


def _mnist() -> Problem | None:
    images = DATA / "mnist-t10k-images-idx3-ubyte.gz"
    if not images.is_file():
        return None
    with gzip.open(images) as file:
        X = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784) / 255.0
    with gzip.open(DATA / "mnist-t10k-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8).astype(int)
    return Problem(X, y, "multinomial", 1e-4, True, 2.5, ("lbfgs", "newton-cg", "newton-cholesky"))


def _poisson() -> Problem:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200_000, 100)) * np.logspace(0, -2, 100)
    y = rng.poisson(np.exp(0.5 * X @ rng.standard_normal(100) + 0.5)).astype(float)
    return Problem(X, y, "poisson", 1e-4, True, 2.5, ("lbfgs", "newton-cholesky"))


PROBLEMS: dict[str, Callable[[], Problem | None]] = {
    "200000x500 cond 1": lambda: _dense(200_000, 500, 1, 1e-6, 2.5),
    "200000x500 cond 1e3": lambda: _dense(200_000, 500, 1e3, 1e-6, 5.0),
    "20000x200 cond 1e5": lambda: _dense(20_000, 200, 1e5, 1e-9, 2.5),
    "a9a": lambda: _svmlight("a9a"),
    "w8a": lambda: _svmlight("w8a"),
    "text 200000x50000": _text,
    "MNIST, 10 classes": _mnist,
    "Poisson 200000x100": _poisson,
}
QUICK: dict[str, Callable[[], Problem | None]] = {
    "4000x50 cond 1e3": lambda: _dense(4000, 50, 1e3, 1e-6, 0.0),
    "a9a": PROBLEMS["a9a"],
}


def gradient(problem: Problem, coef: Doubles, intercept: Doubles) -> float:
    """Norm of the objective's gradient, from its formula."""
    X, n = problem.X, problem.X.shape[0]
    coef, intercept = np.atleast_2d(coef), np.atleast_1d(intercept)
    margin = np.asarray(X @ coef.T) + intercept
    if problem.family == "multinomial":
        margin -= margin.max(axis=1, keepdims=True)
        residual = np.exp(margin)
        residual /= residual.sum(axis=1, keepdims=True)
        residual[np.arange(n), np.searchsorted(np.unique(problem.y), problem.y)] -= 1
    elif problem.family == "poisson":
        residual = np.exp(margin) - problem.y[:, None]
    else:
        residual = 1 / (1 + np.exp(-margin)) - problem.y[:, None]
    slope = np.asarray(X.T @ residual).T / n + problem.ridge * coef
    parts = [slope.ravel()] + ([residual.mean(axis=0)] if problem.intercept else [])
    return float(np.linalg.norm(np.concatenate(parts)))


def at_zero(problem: Problem) -> float:
    k = len(np.unique(problem.y)) if problem.family == "multinomial" else 1
    return gradient(problem, np.zeros((k, problem.X.shape[1])), np.zeros(k))


def make_peer(problem: Problem, solver: str, tol: float, most: int) -> Any:
    from sklearn.linear_model import LogisticRegression, PoissonRegressor

    if problem.family == "poisson":
        return PoissonRegressor(
            alpha=problem.ridge, solver=solver, tol=tol, max_iter=most, fit_intercept=problem.intercept
        )
    strength = 1 / (problem.ridge * problem.X.shape[0])
    return LogisticRegression(C=strength, solver=solver, tol=tol, max_iter=most, fit_intercept=problem.intercept)


def _peer_process(problem: Problem, solver: str, threads: int, scale: float, queue: Any) -> None:
    from threadpoolctl import threadpool_limits

    warnings.simplefilter("ignore")
    with threadpool_limits(threads):
        for tol in (1e-4, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-14):
            model = make_peer(problem, solver, tol, 100_000)
            start = time.perf_counter()
            model.fit(problem.X, problem.y)
            seconds = time.perf_counter() - start
            reached = gradient(problem, model.coef_, np.asarray(model.intercept_)) / scale
            queue.put((seconds, reached, tol))
            if reached <= GOAL:
                break
    queue.put(None)


def run_peer(
    problem: Problem, solver: str, threads: int, scale: float, limit: float
) -> tuple[float | None, float, float]:
    """Seconds to the goal (None: not reached), the smallest gradient seen, and the time spent."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_peer_process, args=(problem, solver, threads, scale, queue))
    start, best, found = time.perf_counter(), np.inf, None
    child.start()
    while True:
        left = limit - (time.perf_counter() - start)
        try:
            answer = queue.get(timeout=max(left, 0.01))
        except Exception as error:
            if type(error).__name__ != "Empty":
                raise
            break
        if answer is None:
            break
        best = min(best, answer[1])
        if answer[1] <= GOAL:
            found = answer[0]
    child.terminate()
    child.join()
    return found, best, time.perf_counter() - start


def fit_ours(problem: Problem, *, estimator: bool = False, **options: Any) -> Any:
    import raphson

    if estimator:
        import raphson.sklearn as kinds

        common: dict[str, Any] = {"tol": GOAL, "fit_intercept": problem.intercept}
        strength = 1 / (problem.ridge * problem.X.shape[0])
        poisson = problem.family == "poisson"
        model = kinds.PoissonRegressor(alpha=problem.ridge, **common) if poisson else None
        return (model or kinds.LogisticRegression(C=strength, **common)).fit(problem.X, problem.y).result_
    return raphson.fit_glm(
        problem.X,
        problem.y,
        family=problem.family,
        ridge=problem.ridge,
        fit_intercept=problem.intercept,
        tol=GOAL,
        **options,
    )


def time_ours(problem: Problem, repeats: int = 3, **options: Any) -> tuple[float, Any]:
    """Seconds (median) and the result."""
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = fit_ours(problem, **options)
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def measure(name: str, problem: Problem, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    import raphson

    raphson.set_num_threads(threads)
    scale = at_zero(problem)
    seconds, result = time_ours(problem, estimator=options.estimators)
    ours = gradient(problem, np.asarray(result.coef), np.asarray(result.intercept)) / scale
    row: dict[str, Any] = {"problem": name, "threads": threads, "seconds": seconds, "gradient": ours}
    row |= {"method": result.method, "sweeps": result.sweeps, "reach": problem.reach, "peers": {}}
    row["methods"] = {}
    for method in ("quasi_newton", "sketch_pcg", "newton_cg", "newton", "newton_sketch") if options.methods else ():
        try:
            took, fitted = time_ours(problem, 1, method=method, max_iter=100)
        except ValueError:
            continue
        row["methods"][method] = (took, fitted.gradient_norm, fitted.sweeps)
    for solver in () if options.no_peer else problem.peers:
        row["peers"][solver] = run_peer(problem, solver, threads, scale, options.limit)
    reached = {s: t for s, (t, _, _) in row["peers"].items() if t is not None}
    row["best"] = min(reached, key=lambda s: reached[s]) if reached else None
    row["ratio"] = reached[row["best"]] / seconds if row["best"] else None
    return row


def show(row: dict[str, Any]) -> None:
    best = "none" if row["best"] is None else f"{row['best']} {row['peers'][row['best']][0]:.3f} s"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    print(
        f"{row['problem']:22s}{row['threads']:3d}{1e3 * row['seconds']:10.1f} ms{row['sweeps']:5d} "
        f"{row['method']:13s}{row['gradient']:9.1e}  {best:26s}{ratio:>8s}{row['reach']:6.1f}"
    )
    for solver, (seconds, reached, spent) in row["peers"].items():
        took = f"{seconds:.3f} s" if seconds is not None else f"not reached in {spent:.0f} s"
        print(f"    {solver:18s}{took:24s} gradient {reached:.1e}")
    for method, (seconds, reached, sweeps) in row["methods"].items():
        print(f"    raphson {method:14s}{1e3 * seconds:9.1f} ms  gradient {reached:.1e}  {sweeps} sweeps")


def plot(problem: Problem, name: str, path: str) -> None:
    """Relative gradient against time: our history, and peers run for growing numbers of iterations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    warnings.simplefilter("ignore")
    scale = at_zero(problem)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for method in ("quasi_newton", "sketch_pcg", "newton"):
        history = fit_ours(problem, method=method).history
        axes.semilogy(history["seconds"], history["gradient_norm"], "o-", ms=3, label=f"raphson {method}")
    for solver in problem.peers:
        times, slopes = [], []
        for most in (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 40, 80):
            model = make_peer(problem, solver, 1e-14, most)
            start = time.perf_counter()
            model.fit(problem.X, problem.y)
            times.append(time.perf_counter() - start)
            slopes.append(gradient(problem, model.coef_, np.asarray(model.intercept_)) / scale)
            if times[-1] > 15 or slopes[-1] < 1e-10:
                break
        axes.semilogy(times, slopes, "s--", ms=3, label=f"scikit-learn {solver}")
    axes.axhline(GOAL, color="0.7", lw=0.8)
    axes.set(xlabel="seconds", ylabel="‖∇‖ / ‖∇ at 0‖", title=name, xscale="log")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="2", help="numbers of threads, such as 1,2")
    parser.add_argument("--quick", action="store_true", help="two small problems")
    parser.add_argument("--only", help="problems whose name holds this")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a peer may take")
    parser.add_argument("--methods", action="store_true", help="also ours by name")
    parser.add_argument("--estimators", action="store_true", help="ours by raphson.sklearn")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="gradient against time, on the first problem chosen")


def run(options: argparse.Namespace) -> int:
    for name in harness.HANDICAPS:
        os.environ.pop(name, None)
    chosen = {
        k: v for k, v in (QUICK if options.quick else PROBLEMS).items() if options.only is None or options.only in k
    }
    if options.plot:
        name, make = next(iter(chosen.items()))
        problem = make()
        assert problem is not None
        plot(problem, name, options.plot)
        return 0
    print(
        "problem               thr       ours  reads method        gradient  best of scikit-learn         ratio reach"
    )
    rows, status = [], 0
    for name, make in chosen.items():
        problem = make()
        if problem is None:
            print(f"{name}: its data is not in {DATA}")
            continue
        for threads in options.threads.split(","):
            row = measure(name, problem, int(threads), options)
            show(row)
            rows.append(row)
            status |= int(row["gradient"] > 2 * GOAL)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    return status
