"""Entropic transport to an L1 marginal error of 1e-9 beside POT and regot, and what a sweep costs.

Every solver is timed in this process, one after the other, on one instance at a time, with the same number of threads,
best of a few runs where a run is short. A peer's own stopping rule is tightened until its plan, measured by us, is
within 1e-9; a peer that does not get there in its time limit is listed with the error it had. POT is `ot.sinkhorn` (its
fastest, in the kernel domain) and `sinkhorn_log`; regot is SSNS and SPLR; `emd` is POT's exact linear programme, for
the record.

A sweep is timed beside NumPy's pair of kernel-domain products K v, u K on the same matrix, interleaved, and beside a
bare loop of exponentials over as many numbers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness

Array = npt.NDArray[np.float64]
Instance = tuple[Array, Array, Array, float]
DATA = Path(os.environ.get("RAPHSON_DATA", harness.ROOT / "../shared/data"))
GOAL = 1e-9
NAMES = [
    "assignment 500",
    "assignment 1000",
    "MNIST squared",
    "MNIST L1",
    "digits squared",
    "digits L1",
    "line 1000",
    "line 2000",
    "cloud 1000 .01",
    "cloud 1000 .001",
    "cloud 2000 .01",
    "cloud 2000 .001",
    "cloud 4000 .01",
    "cloud 4000 .001",
    "exponential-normal 5000",
]
QUICK = ["assignment 500", "digits squared", "cloud 1000 .01"]


def smoothed(image: Array) -> Array:
    """Full support, as in SSNS's experiments: (1 - ε/8) p + ε/(8n), ε = 0.01."""
    p = image.ravel() / image.sum()
    return (1 - 0.01 / 8) * p + 0.01 / (8 * p.size)


def pixels(size: int, metric: str) -> Array:
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1).reshape(-1, 2).astype(float)
    difference = grid[:, None] - grid[None]
    cost = (difference**2).sum(-1) if metric == "squared" else np.abs(difference).sum(-1)
    return np.asarray(cost / cost.max())


def normal(x: Array, mean: float, deviation: float) -> Array:
    return np.asarray(np.exp(-((x - mean) ** 2) / (2 * deviation**2)) / deviation)


def instance(name: str) -> Instance | None:
    """Weights, cost scaled to maximum 1, reg; None where its data is not there."""
    rng = np.random.default_rng(0)
    kind, what, *rest = name.split()
    if kind == "assignment":
        n = int(what)
        return np.full(n, 1 / n), np.full(n, 1 / n), rng.random((n, n)), 1 / 1200
    if kind == "MNIST":
        file = DATA / "mnist-t10k-images-idx3-ubyte.gz"
        if not file.exists():
            return None
        images = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16).reshape(-1, 784)
        return smoothed(images[2].astype(float)), smoothed(images[7].astype(float)), pixels(28, what), 1 / 1200
    if kind == "digits":
        from scipy.ndimage import zoom
        from sklearn.datasets import load_digits

        data = load_digits()
        a, b = (np.maximum(zoom(data.images[np.argmax(data.target == k)], 3.5, order=1), 0) for k in (0, 1))
        return smoothed(a), smoothed(b), pixels(28, what), 1 / 1200
    if kind == "line":
        x = np.linspace(0, 1, int(what))
        a = normal(x, 0.2, 0.05) + normal(x, 0.6, 0.1) + 2e-4
        b = 0.4 * normal(x, 0.3, 0.08) + 0.6 * normal(x, 0.8, 0.05) + 1e-4
        return a / a.sum(), b / b.sum(), (x[:, None] - x[None]) ** 2, 0.001
    if kind == "cloud":
        n = int(what)
        x, y = rng.standard_normal((n, 2)), rng.standard_normal((n, 2)) * 0.7 + 0.5
        cost = ((x[:, None] - y[None]) ** 2).sum(-1)
        return np.full(n, 1 / n), np.full(n, 1 / n), cost / cost.max(), float(rest[0])
    x = np.linspace(0, 5, int(what))
    cost = (x[:, None] - x[None]) ** 2
    return smoothed(np.exp(-x)), smoothed(0.2 * normal(x, 1, 0.2) + 0.8 * normal(x, 3, 0.5)), cost / cost.max(), 0.001


def error_of(plan: Array, a: Array, b: Array) -> float:
    return float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())


@dataclass(frozen=True)
class Solve:
    """One solver on one instance; `reached` is whether its plan is within 1e-9."""

    instance: str
    solver: str
    threads: int
    seconds: float
    error: float
    reached: bool
    iterations: int
    cost: float


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def ours(name: str, data: Instance, threads: int, method: str = "auto", repeats: int = 5) -> Solve:
    import raphson

    raphson.set_num_threads(threads)
    a, b, cost, reg = data
    times = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        for _ in range(repeats):
            seconds, result = timed(lambda: raphson.sinkhorn(a, b, cost, reg, method=method))
            times.append(seconds)
            if sum(times) > 10:
                break
    error = error_of(result.plan, a, b)
    label = "raphson" if method == "auto" else f"raphson {method}"
    return Solve(name, label, threads, statistics.median(times), error, error <= GOAL, result.iterations, result.cost)


def pot(name: str, data: Instance, threads: int, limit: float, log: bool = False) -> Solve:
    import ot
    from threadpoolctl import threadpool_limits

    a, b, cost, reg = data
    solver = ot.bregman.sinkhorn_log if log else ot.sinkhorn
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pilot, _ = timed(lambda: solver(a, b, cost, reg, stopThr=0, numItermax=20, warn=False))
        most = int(min(200000, max(100, limit / (pilot / 20))))
        stop = GOAL  # POT's own is the L2 error of one marginal, every ten iterations
        for _ in range(4):
            seconds, (plan, record) = timed(
                lambda stop=stop: solver(a, b, cost, reg, stopThr=stop, numItermax=most, warn=False, log=True)
            )
            error = error_of(plan, a, b)
            if error <= GOAL or seconds > 0.8 * limit or record["niter"] >= most - 1:
                break
            stop /= max(2.0, 1.5 * error / GOAL)
        if error <= GOAL and seconds < 1:
            seconds = statistics.median(
                timed(lambda: solver(a, b, cost, reg, stopThr=stop, numItermax=most, warn=False))[0] for _ in range(3)
            )
    label = "POT sinkhorn_log" if log else "POT sinkhorn"
    return Solve(name, label, threads, seconds, error, error <= GOAL, int(record["niter"]), float(np.sum(plan * cost)))


def regot(name: str, data: Instance, threads: int, limit: float, which: str) -> Solve:
    import regot as package
    from threadpoolctl import threadpool_limits

    a, b, cost, reg = data
    solver = getattr(package, f"sinkhorn_{which.lower()}")
    size = np.sqrt(len(a) + len(b))
    with threadpool_limits(threads):
        pilot, _ = timed(lambda: solver(cost, a, b, reg, tol=0.0, max_iter=3))
        most = int(min(2000, max(5, limit / (pilot / 3))))
        tol = 2 * GOAL / size  # its norm is the L2 norm of both marginals together
        for _ in range(3):
            seconds, result = timed(lambda tol=tol: solver(cost, a, b, reg, tol=tol, max_iter=most))
            error = error_of(result.plan, a, b)
            if error <= GOAL or seconds > 0.8 * limit or result.niter >= most:
                break
            tol /= max(2.0, 1.5 * error / GOAL)
    return Solve(
        name,
        f"regot {which}",
        threads,
        seconds,
        error,
        error <= GOAL,
        int(result.niter),
        float(np.sum(result.plan * cost)),
    )


def emd(name: str, data: Instance, threads: int) -> Solve:
    import ot

    a, b, cost, _ = data
    seconds, plan = timed(lambda: ot.emd(a, b, cost, numItermax=10**7))
    return Solve(name, "POT emd (exact)", threads, seconds, error_of(plan, a, b), True, 0, float(np.sum(plan * cost)))


def contest(names: list[str], threads: int, limit: float, methods: bool) -> Iterator[Solve]:
    for name in names:
        data = instance(name)
        if data is None:
            print(f"{name}: left out, no data in {DATA}", file=sys.stderr)
            continue
        yield ours(name, data, threads)
        if methods:
            for method in ("sinkhorn", "sns", "ssns", "splr"):
                yield ours(name, data, threads, method, repeats=1)
        yield pot(name, data, threads, limit)
        if methods:
            yield pot(name, data, threads, min(limit, 5.0), log=True)
        for which in ("SSNS", "SPLR"):
            if len(data[0]) <= 2000:  # beyond, one iteration takes minutes
                yield regot(name, data, threads, limit, which)
        yield emd(name, data, threads)


@dataclass(frozen=True)
class Sweep:
    """Nanoseconds an entry, and ratios to NumPy's pair of products in the same run."""

    n: int
    dtype: str
    threads: int
    log_ns: float
    kernel_ns: float
    pair_ns: float
    exp_ns: float
    log_of_pair: float
    kernel_of_pair: float
    log_of_exp: float
    pot_log_ratio: float | None


def sweep(n: int, dtype: str, rounds: int) -> Sweep:
    """One thread: the passes themselves. The pair is NumPy's at one thread."""
    from threadpoolctl import threadpool_limits

    from raphson import _core

    rng = np.random.default_rng(0)
    cost = rng.random((n, n)).astype(dtype)
    kernel = np.exp(-10 * cost)
    u = v = np.ones(n, dtype)
    numbers = rng.uniform(-50, 0, 1 << 14)
    repeats = max(1, 2_000_000 // (n * n))
    found: list[tuple[float, float, float, float]] = []
    with threadpool_limits(1):
        for _ in range(rounds):
            log = _core._ot_time(False, cost, 0.1, repeats)
            inside = _core._ot_time(True, kernel, 0.1, repeats)
            start = time.perf_counter()
            for _ in range(repeats):
                _ = kernel @ v
                _ = u @ kernel
            pair = (time.perf_counter() - start) / repeats
            start = time.perf_counter()
            for _ in range(40):
                _core._exp2(numbers)
            exp = (time.perf_counter() - start) / 40 / numbers.size
            found.append((log, inside, pair, exp * n * n))
    scale = 1e9 / n**2
    log, inside, pair, exp = (statistics.median(column) * scale for column in zip(*found, strict=True))
    theirs = None
    if n == 1000 and dtype == "float64":
        import ot

        a = np.full(n, 1 / n)
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds, _ = timed(lambda: ot.bregman.sinkhorn_log(a, a, cost, 0.1, stopThr=0, numItermax=20, warn=False))
        theirs = seconds / 20 / (log / scale)
    ratios = [statistics.median(x[i] / x[j] for x in found) for i, j in ((0, 2), (1, 2), (0, 3))]
    return Sweep(n, dtype, 1, log, inside, pair, exp, *ratios, theirs)


def print_contest(rows: list[Solve], threads: int) -> None:
    print(f"\nTo an L1 marginal error of 1e-9, {threads} thread(s); ratio: best peer that gets there / raphson")
    print(f"{'instance':26s}{'raphson':>10s}{'sweeps':>7s}  best peer                       ratio   emd")
    for name in dict.fromkeys(r.instance for r in rows):
        mine = [r for r in rows if r.instance == name]
        own = next(r for r in mine if r.solver == "raphson")
        exact = next((r for r in mine if "emd" in r.solver), None)
        peers = [r for r in mine if not r.solver.startswith("raphson") and "emd" not in r.solver]
        reached = sorted((r for r in peers if r.reached), key=lambda r: r.seconds)
        if reached:
            text, ratio = (
                f"{reached[0].solver} {1e3 * reached[0].seconds:.1f} ms",
                f"{reached[0].seconds / own.seconds:7.1f}",
            )
        else:
            longest = max(peers, key=lambda r: r.seconds)
            text, ratio = f"none in {longest.seconds:.0f} s", f">{longest.seconds / own.seconds:6.0f}"
        state = "" if own.reached else f"  NOT REACHED {own.error:.1e}"
        tail = f"{1e3 * exact.seconds:8.1f} ms" if exact else ""
        print(f"{name:26s}{1e3 * own.seconds:8.1f}ms{own.iterations:7d}  {text:30s}{ratio}{tail}{state}")
        for r in peers + [r for r in mine if r.solver.startswith("raphson ")]:
            end = "" if r.reached else "  (not reached)"
            print(f"    {r.solver:22s}{1e3 * r.seconds:12.1f} ms  error {r.error:.1e}  {r.iterations} iterations{end}")


def print_sweeps(rows: list[Sweep]) -> None:
    print(
        "\nOne iteration, one thread, ns an entry; `pair`: NumPy's K v and u K; aims: log ≤ 1.25 pair at 1000,"
        " ≤ 1.15 at 4000,"
    )
    print("≤ 2 exp; kernel ≤ 0.6 pair; POT's sinkhorn_log / log ≥ 80")
    print("     n  dtype      log  kernel   pair    exp  log/pair kernel/pair log/exp  POT log/log")
    for r in rows:
        tail = "" if r.pot_log_ratio is None else f"{r.pot_log_ratio:9.0f}"
        print(
            f"{r.n:6d}  {r.dtype:8s}{r.log_ns:6.2f}{r.kernel_ns:8.2f}{r.pair_ns:7.2f}{r.exp_ns:7.2f}"
            f"{r.log_of_pair:10.2f}{r.kernel_of_pair:12.2f}{r.log_of_exp:8.2f}  {tail}"
        )


def plot(path: str, name: str, threads: int) -> None:
    """Marginal error against time, per method and peer, on one instance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import ot

    import raphson

    data = instance(name)
    assert data is not None
    a, b, cost, reg = data
    raphson.set_num_threads(threads)
    figure, axes = plt.subplots(figsize=(7, 4.2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for method in ("auto", "sinkhorn", "ssns", "splr", "sns"):
            history = raphson.sinkhorn(a, b, cost, reg, method=method, max_iter=3000).history
            last = history[history["reg"] == reg]
            axes.loglog(
                last["seconds"], last["marginal_error"], label=f"raphson {method}", lw=2 if method == "auto" else 1
            )
        for label, solver in (("POT sinkhorn", ot.sinkhorn), ("POT sinkhorn_log", ot.bregman.sinkhorn_log)):
            times, errors = [], []
            for count in np.unique(np.geomspace(1, 3000 if label == "POT sinkhorn" else 30, 12).astype(int)):
                seconds, plan = timed(
                    lambda s=solver, c=count: s(a, b, cost, reg, stopThr=0, numItermax=int(c), warn=False)
                )
                times.append(seconds)
                errors.append(error_of(plan, a, b))
            axes.loglog(times, errors, "--", label=label)
        import regot as package

        for which in ("ssns", "splr"):
            result = getattr(package, f"sinkhorn_{which}")(cost, a, b, reg, tol=1e-12, max_iter=200, log=2)
            axes.loglog(
                np.asarray(result.run_times) / 1e3, result.mar_errs, ":", label=f"regot {which.upper()} (its L2 error)"
            )
    axes.axhline(GOAL, color="0.7", lw=0.8)
    axes.set(xlabel="seconds", ylabel="L1 marginal error", title=f"{name}, reg {reg:.2g}", ylim=(1e-14, 5))
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def plot_pattern(path: str) -> None:
    """The Hessian of the dual on digit images at three regularisations: the entries that hold 99.9 % of the mass."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.sparse import bmat, diags_array

    import raphson

    data = instance("digits squared")
    assert data is not None
    a, b, cost, _ = data
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    for place, reg in zip(axes, (1e-2, 1e-3, 1e-4), strict=True):
        plan = raphson.sinkhorn(a, b, cost, reg).sparse_plan(1e-3)
        hessian = bmat([[diags_array(a), plan], [plan.T, diags_array(b)]])
        place.spy(hessian, markersize=0.25, color="#0b6e99")
        place.set(xticks=[], yticks=[], title=f"reg {reg:g}: {plan.nnz / plan.shape[0] ** 2:.1%} of the plan")
    figure.savefig(path, dpi=110)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1", help="numbers of threads, such as 1,2")
    parser.add_argument("--quick", action="store_true", help="three instances and short limits")
    parser.add_argument("--only", help="instances whose name holds this")
    parser.add_argument("--limit", type=float, default=40.0, help="seconds a peer may take")
    parser.add_argument("--methods", action="store_true", help="also ours by name, and POT's sinkhorn_log")
    parser.add_argument("--no-peer", action="store_true", help="the sweeps alone")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="marginal error against time, on one instance")
    parser.add_argument(
        "--plot-pattern", metavar="FILE", help="the entries of the Hessian that hold 99.9 %% of the mass"
    )
    parser.add_argument("--plot-instance", default="digits squared")


def run(options: argparse.Namespace) -> int:
    for name in harness.HANDICAPS:
        os.environ.pop(name, None)
    threads = [int(t) for t in options.threads.split(",")]
    if options.plot:
        plot(options.plot, options.plot_instance, threads[0])
    if options.plot_pattern:
        plot_pattern(options.plot_pattern)
    if options.plot or options.plot_pattern:
        return 0
    sizes = [1000] if options.quick else [500, 1000, 2000, 4000]
    sweeps = [sweep(n, dtype, 3 if options.quick else 9) for n in sizes for dtype in ("float64", "float32")]
    print_sweeps(sweeps)
    rows: list[Solve] = []
    failed = False
    if not options.no_peer:
        names = QUICK if options.quick else [n for n in NAMES if options.only is None or options.only in n]
        for count in threads:
            found = list(contest(names, count, 3.0 if options.quick else options.limit, options.methods))
            print_contest(found, count)
            rows += found
        failed = any(r.solver == "raphson" and not r.reached for r in rows)
    if options.json:
        record = {"sweeps": [asdict(s) for s in sweeps], "solves": [asdict(r) for r in rows]}
        Path(options.json).write_text(json.dumps(record, indent=1))
    return 1 if failed else 0
