"""Quadratically regularised transport to one L1 marginal error beside POT's smooth dual and regot's QROT solvers.

Instances are those of `bench.ot`, with regs of their own: entries of the plan are about (spread of costs)/reg. A peer's
tolerance is tightened until its plan, measured by us, is within the goal, or its time is up. With `--cardinality` ours
and POT's semi-dual with a limit on the entries of columns, each run to its own end: neither can reach a tolerance where
the limit binds, and what is compared is time, the error left, and the dual's value.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness
from bench.ot import Array, error_of, instance, timed

GOAL = 1e-9
CASES = [
    ("assignment 500", (100.0, 1.0, 1e-2)),
    ("assignment 1000", (10.0,)),
    ("cloud 1000 .01", (100.0, 1.0, 1e-2)),
    ("cloud 2000 .01", (10.0,)),
    ("digits squared", (100.0, 1.0)),
    ("digits L1", (10.0,)),
    ("line 1000", (10.0, 0.1)),
]
QUICK = [("assignment 500", (1.0,)), ("cloud 1000 .01", (10.0,))]
LIMITS = [("assignment 500", 10.0, 3), ("cloud 1000 .01", 10.0, 5)]
QROT = ("grssn", "assn")  # the fastest of its nine here


@dataclass(frozen=True)
class Solve:
    instance: str
    reg: float
    cardinality: int
    solver: str
    threads: int
    seconds: float
    error: float
    reached: bool
    iterations: int
    dual: float


def ours(name: str, reg: float, limit: int | None, threads: int) -> Solve:
    import raphson
    from raphson.ot import sparse_transport

    a, b, cost, _ = instance(name) or (np.ones(1),) * 4
    raphson.set_num_threads(threads)
    times: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", raphson.ConvergenceWarning)
        while len(times) < 5 and sum(times) < 5:
            seconds, result = timed(lambda: sparse_transport(a, b, cost, reg, cardinality=limit))
            times.append(seconds)
    error = error_of(result.plan, a, b)
    return Solve(
        name,
        reg,
        limit or 0,
        "raphson",
        threads,
        statistics.median(times),
        error,
        error <= GOAL,
        result.iterations,
        float(result.dual_objective),
    )


def tightened(
    label: str, name: str, reg: float, threads: int, limit: float, solve: Callable[[float, int], tuple[Array, int]]
) -> Solve:
    """A peer, its tolerance lowered until the plan is within the goal or a run takes its limit."""
    from threadpoolctl import threadpool_limits

    a, b, _, _ = instance(name) or (np.ones(1),) * 4
    tol, most = 1e-8, 100
    error, seconds, count = np.inf, 0.0, 0
    with threadpool_limits(threads), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for _ in range(12):
            try:
                seconds, (plan, count) = timed(lambda t=tol, k=most: solve(t, k))
            except RuntimeError:  # regot's L-BFGS, where values no longer tell
                break
            error = error_of(plan, a, b)
            if error <= GOAL or seconds > 0.4 * limit:
                break
            if count >= most - 1:
                most *= max(2, min(10, int(0.5 * limit / seconds)))
            else:
                tol /= 30
    return Solve(name, reg, 0, label, threads, seconds, error, bool(error <= GOAL), count, np.nan)


def pot(name: str, reg: float, threads: int, limit: float) -> Solve:
    import ot

    a, b, cost, _ = instance(name) or (np.ones(1),) * 4

    def solve(tol: float, most: int) -> tuple[Array, int]:
        plan, log = ot.smooth.smooth_ot_dual(a, b, cost, reg, stopThr=tol, numItermax=most, log=True)
        return plan, int(log["res"]["nit"] if "res" in log else log.get("nit", most))

    return tightened("POT smooth dual", name, reg, threads, limit, solve)


def regot(name: str, reg: float, threads: int, limit: float, which: str) -> Solve:
    import regot as package

    a, b, cost, _ = instance(name) or (np.ones(1),) * 4
    solver = getattr(package, f"qrot_{which}")

    def solve(tol: float, most: int) -> tuple[Array, int]:
        result = solver(cost, a, b, reg, tol=tol, max_iter=most)
        return np.asarray(result.plan), int(result.niter)

    return tightened(f"regot {which}", name, reg, threads, limit, solve)


def pot_limited(name: str, reg: float, k: int, threads: int) -> Solve:
    import ot
    from threadpoolctl import threadpool_limits

    a, b, cost, _ = instance(name) or (np.ones(1),) * 4
    with threadpool_limits(threads), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"reg_type": "sparsity_constrained", "max_nz": k, "stopThr": 1e-10, "numItermax": 200}
        seconds, (plan, log) = timed(lambda: ot.smooth.smooth_ot_semi_dual(a, b, cost, reg, log=True, **options))
        limited = ot.smooth.SparsityConstrained(gamma=reg, max_nz=k)
        value, _ = ot.smooth.semi_dual_obj_grad(log["alpha"], a, b, cost, limited)
    error = error_of(plan, a, b)
    return Solve(name, reg, k, "POT k-sparse", threads, seconds, error, error <= GOAL, 0, float(value))


def contest(cases: list[tuple[str, tuple[float, ...]]], threads: int, limit: float) -> Iterator[Solve]:
    for name, regs in cases:
        if instance(name) is None:
            continue
        for reg in regs:
            yield ours(name, reg, None, threads)
            yield pot(name, reg, threads, limit)
            with contextlib.suppress(ImportError):
                for which in QROT:
                    yield regot(name, reg, threads, limit, which)


def show(row: Solve) -> None:
    limit = f" k={row.cardinality}" if row.cardinality else ""
    state = "" if row.reached else "  (not reached)"
    print(
        f"{row.instance:18s} reg {row.reg:<6g}{limit:5s}{row.solver:24s}{1e3 * row.seconds:10.1f} ms"
        f"  error {row.error:.1e}  {row.iterations} iterations  dual {row.dual:.8g}{state}",
        flush=True,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1", help="numbers of threads, such as 1,2")
    parser.add_argument("--quick", action="store_true", help="two instances and short limits")
    parser.add_argument("--only", help="instances whose name holds this")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds a peer may take")
    parser.add_argument("--cardinality", action="store_true", help="the limit on columns instead")
    parser.add_argument("--json", metavar="FILE")


def run(options: argparse.Namespace) -> int:
    for name in harness.HANDICAPS:
        os.environ.pop(name, None)
    rows: list[Solve] = []
    cases = [c for c in (QUICK if options.quick else CASES) if options.only is None or options.only in c[0]]
    for count in (int(t) for t in options.threads.split(",")):
        if options.cardinality:
            for name, reg, k in LIMITS[: 1 if options.quick else None]:
                for row in (ours(name, reg, k, count), pot_limited(name, reg, k, count)):
                    show(row)
                    rows.append(row)
            continue
        for row in contest(cases, count, 3.0 if options.quick else options.limit):
            show(row)
            rows.append(row)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 1 if any(row.solver == "raphson" and not row.reached and not row.cardinality for row in rows) else 0
