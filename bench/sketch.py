"""Sparse sign embeddings of a tall matrix beside one product A v, SciPy's sparse products, and NumPy's Gram matrix.

Everything runs in this process, interleaved: a round is one pass of each, and ratios are medians of the ratios within
rounds. `of gemv` is the time over that of NumPy's A @ v, which reads A once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness

REACH = {4: 2.2, 1: 1.35}


@dataclass(frozen=True)
class Row:
    what: str
    rows: int
    threads: int
    milliseconds: float
    of_gemv: float
    reach: float | None


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(m: int, d: int, threads: int, rounds: int, peer: bool) -> list[Row]:
    from threadpoolctl import threadpool_limits

    import raphson
    from raphson.sketch import SparseSign

    raphson.set_num_threads(threads)
    rng = np.random.default_rng(0)
    a, v, w = rng.standard_normal((m, d)), rng.standard_normal(d), rng.random(m)
    contenders: list[tuple[str, int, float | None, Callable[[], Any]]] = []
    for rows in (4 * d, 10 * d):
        for nnz in (1, 4, 8):
            sketch, out = SparseSign(rows, m, nnz=nnz), np.empty((rows, d))
            name = f"SparseSign nnz {nnz}" if nnz > 1 else "CountSketch"
            reach = REACH.get(nnz) if rows == 4 * d else None
            contenders.append((name, rows, reach, lambda s=sketch, o=out: s.apply(a, out=o)))  # type: ignore[misc]
    sketch = SparseSign(4 * d, m, nnz=4)
    contenders.append(("SparseSign nnz 4, weighted", 4 * d, None, lambda: sketch.apply(a, weights=w)))
    if peer:
        for nnz in (1, 4):
            matrix = SparseSign(4 * d, m, nnz=nnz).to_scipy()
            contenders.append((f"SciPy CSC product, nnz {nnz}", 4 * d, None, lambda s=matrix: s @ a))  # type: ignore[misc]
        contenders.append(("NumPy A.T @ A", d, None, lambda: a.T @ a))
    times: dict[int, list[float]] = {k: [] for k in range(len(contenders))}
    reads: list[float] = []
    with threadpool_limits(threads):
        for _ in range(rounds + 1):
            for k, contender in enumerate(contenders):
                reads.append(seconds(lambda: a @ v))
                times[k].append(seconds(contender[3]))
    rows_found = []
    for k, (name, rows, reach, _) in enumerate(contenders):
        beside = [reads[r * len(contenders) + k] for r in range(1, rounds + 1)]  # the first round warms up
        ratio = statistics.median(t / g for t, g in zip(times[k][1:], beside, strict=True))
        rows_found.append(Row(name, rows, threads, 1e3 * statistics.median(times[k][1:]), ratio, reach))
    rows_found.append(Row("gemv", 1, threads, 1e3 * statistics.median(reads), 1.0, None))
    return rows_found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1", help="numbers of threads, such as 1,2")
    parser.add_argument("--quick", action="store_true", help="a small matrix, two rounds")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", metavar="FILE")


def run(options: argparse.Namespace) -> int:
    for name in harness.HANDICAPS:
        os.environ.pop(name, None)
    m, d, rounds = (20000, 100, 2) if options.quick else (200000, 500, 5)
    found = []
    print(f"S A of A {m}×{d} float64")
    print("what                          rows  threads        ms  of gemv  reach")
    for threads in options.threads.split(","):
        for row in measure(m, d, int(threads), rounds, not options.no_peer):
            reach = "" if row.reach is None else f"{row.reach:7.2f}"
            print(f"{row.what:28s}{row.rows:6d}{row.threads:9d}{row.milliseconds:10.1f}{row.of_gemv:9.2f}{reach}")
            found.append(row)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(r) for r in found], indent=1))
    return 0
