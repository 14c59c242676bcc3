"""Embeddings of a tall matrix, fused sweeps and least squares beside NumPy's and SciPy's products and solver.

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

from bench import harness, least_squares

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
    time.sleep(harness.SETTLE_SECONDS)  # OpenBLAS's threads spin on, on cores that the next contender needs
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(m: int, d: int, threads: int, rounds: int, peer: bool) -> list[Row]:
    from threadpoolctl import threadpool_limits

    import raphson
    from raphson import _core
    from raphson._rows import tall
    from raphson.sketch import SRHT, RowSample, SparseSign

    raphson.set_num_threads(threads)
    rng = np.random.default_rng(0)
    a, v, w = rng.standard_normal((m, d)), rng.standard_normal(d), rng.random(m)
    contenders: list[tuple[str, int, float | None, Callable[[], Any]]] = []
    for rows in (4 * d, 10 * d):
        for nnz in (1, 4, 8):
            sketch = SparseSign(rows, m, nnz=nnz)
            name = f"SparseSign nnz {nnz}" if nnz > 1 else "CountSketch"
            reach = REACH.get(nnz) if rows == 4 * d else None
            contenders.append((name, rows, reach, lambda s=sketch: s @ a))  # type: ignore[misc]
    sketch = SparseSign(4 * d, m, nnz=4)
    contenders.append(("SparseSign nnz 4, weighted", 4 * d, None, lambda: sketch.apply(a, weights=w)))
    rows_of = tall(a, "bench", "A", m).core
    contenders.append(("SRHT", 4 * d, None, lambda: SRHT(4 * d, m) @ a))
    contenders.append(("RowSample", 4 * d, None, lambda: RowSample(4 * d, m) @ a))
    contenders.append(("fused Aᵀ(A v)", 1, None, lambda: _core._normal(rows_of, v[None])))
    contenders.append(("NumPy (A v) A, two reads", 1, None, lambda: (a @ v) @ a))
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


def gaussian(threads: int) -> Row:
    """Numbers made and multiplied, beside NumPy's product with numbers that are there: ratio of the times."""
    from threadpoolctl import threadpool_limits

    import raphson
    from raphson.sketch import Gaussian

    raphson.set_num_threads(threads)
    rng = np.random.default_rng(0)
    a, s = rng.standard_normal((20000, 500)), rng.standard_normal((2000, 20000))
    sketch, ours, theirs = Gaussian(2000, 20000), [], []
    with threadpool_limits(threads):
        for _ in range(5):
            ours.append(seconds(lambda: sketch @ a))
            theirs.append(seconds(lambda: s @ a))
    ratio = statistics.median(o / t for o, t in zip(ours[1:], theirs[1:], strict=True))
    return Row("Gaussian 20000×500", 2000, threads, 1e3 * statistics.median(ours[1:]), ratio, None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1", help="numbers of threads, such as 1,2")
    parser.add_argument("--quick", action="store_true", help="a small matrix, two rounds")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--everyday", action="store_true", help="only least squares of the sizes that most calls have")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="backward error against time")


def run(options: argparse.Namespace) -> int:
    for name in harness.HANDICAPS:
        os.environ.pop(name, None)
    if options.plot:
        least_squares.plot(options.plot)
        return 0
    if options.everyday or options.quick:
        print("least squares of everyday sizes; ratio: the time of the better peer over this one")
        for threads in options.threads.split(","):
            least_squares.show(least_squares.everyday(int(threads), options.quick))
        if options.everyday:
            return 0
    m, d, rounds = (20000, 100, 2) if options.quick else (200000, 500, 5)
    found = []
    print(f"S A of A {m}×{d} float64")
    print("what                          rows  threads        ms  of gemv  reach")
    for threads in options.threads.split(","):
        for row in measure(m, d, int(threads), rounds, not options.no_peer):
            reach = "" if row.reach is None else f"{row.reach:7.2f}"
            print(f"{row.what:28s}{row.rows:6d}{row.threads:9d}{row.milliseconds:10.1f}{row.of_gemv:9.2f}{reach}")
            found.append(row)
        two = {row.what: row.of_gemv for row in found if row.threads == int(threads)}
        ratio = two["NumPy (A v) A, two reads"] / two["fused Aᵀ(A v)"]
        print(f"fused sweep, times faster than NumPy's two products: {ratio:.2f}, reach 1.85")
        found.append(gaussian(int(threads)))
        print(f"{found[-1].what}: {found[-1].of_gemv:.2f} of NumPy's product alone")
    print(f"\nleast squares, by condition; ratio: NumPy's time over ours, reach {least_squares.REACH}")
    solves = []
    for threads in options.threads.split(","):
        for shape in [(20_000, 60)] if options.quick else least_squares.SHAPES:
            for cond in least_squares.METHODS:
                repeats = 2 if options.quick else 5
                rows = least_squares.measure(*shape, cond, int(threads), repeats, not options.no_peer)
                least_squares.show(rows)
                solves += rows
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(r) for r in [*found, *solves]], indent=1))
    return int(any(r.backward_error > 2e-15 for r in solves if r.what.startswith("raphson")))
