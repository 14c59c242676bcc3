"""A step of a sliding gradient window, and the factor of a static Fisher inverse.

`precondition` on a full window beside two streaming reads of that many bytes of float32 by the same number of threads,
interleaved in this process; `of float32` is the time over the float32 window's. Beside the reference's dynamic
algorithm (M-FAC, transcribed from its formulas into torch, its pivot-free LU replaced by the Cholesky equivalent) each
contender has a process of its own. `FisherInverse` is m²d + m³/3 flops over the float64 multiply-add peak of the same
threads.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.worker import Call

SHAPES = [(10**6, 64), (10**6, 256), (10**7, 32), (10**7, 64), (10**5, 1024)]
QUICK_SHAPES = [(10**5, 64)]
STATIC = [(10**6, 64), (2 * 10**5, 256), (5 * 10**4, 1024)]
DTYPES = ("float32", "bfloat16", "float16", "int8")
REACH = {"float32": 1.20, "bfloat16": 0.60, "float16": None, "int8": 0.36}
DAMPING = 1e-3


@dataclass(frozen=True)
class Figure:
    """One measured line: milliseconds, and the figure that a target is set for."""

    what: str
    shape: str
    dtype: str
    threads: int
    milliseconds: float
    quantity: str
    value: float
    reach: float | None
    gbytes_per_second: float | None = None  # of the window, two reads
    read_gbytes_per_second: float | None = None


def read_twice(parts: list[npt.NDArray[np.float32]]) -> None:
    """All parts read twice, each by a thread of its own; the reading lets go of the GIL."""
    from raphson import _core

    def work(part: npt.NDArray[np.float32]) -> None:
        _core._read_once(part)
        _core._read_once(part)

    others = [threading.Thread(target=work, args=(part,)) for part in parts[1:]]
    for other in others:
        other.start()
    work(parts[0])
    for other in others:
        other.join()


def windows(dim: int, capacity: int, threads: int, rounds: int) -> list[Figure]:
    import raphson

    raphson.set_num_threads(threads)
    rng = np.random.default_rng(0)
    memory = np.ones(dim * capacity, dtype=np.float32)
    parts = np.array_split(memory, threads)
    g = rng.standard_normal(dim, dtype=np.float32)
    out = np.empty_like(g)
    steps: dict[str, list[float]] = {}
    reads: list[float] = []
    for dtype in DTYPES:
        window = raphson.GradientWindow(dim, capacity, DAMPING, dtype=dtype)
        for _ in range(capacity):
            window.push(rng.standard_normal(dim, dtype=np.float32) if dim * capacity < 10**7 else g)
            g[rng.integers(dim)] += 1  # large windows: distinct gradients, without minutes of random numbers
        window.precondition(g, out=out)
        steps[dtype] = []
        for _ in range(rounds):
            start = time.perf_counter()
            read_twice(parts)
            between = time.perf_counter()
            window.precondition(g, out=out)
            steps[dtype].append(time.perf_counter() - between)
            reads.append(between - start)
        del window
    read = statistics.median(reads)
    base = statistics.median(steps["float32"])
    figures = []
    for dtype in DTYPES:
        seconds = statistics.median(steps[dtype])
        size = {"float32": 4, "int8": 1}.get(dtype, 2)
        quantity = "× two reads" if dtype == "float32" else "of float32"
        figures.append(
            Figure(
                "precondition",
                f"{dim:.0e}×{capacity}".replace("e+0", "e"),
                dtype,
                threads,
                1e3 * seconds,
                quantity,
                seconds / read if dtype == "float32" else seconds / base,
                REACH[dtype],
                2e-9 * dim * capacity * size / seconds,
                8e-9 * dim * capacity / read,
            )
        )
    return figures


def static(dim: int, count: int, threads: int, rounds: int) -> Figure:
    import raphson
    from raphson import _core

    raphson.set_num_threads(threads)
    grads = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    fractions, times = [], []
    for _ in range(rounds):
        before = _core._fma_peak("float64", 0.05)
        start = time.perf_counter()
        raphson.FisherInverse(grads, DAMPING)
        times.append(time.perf_counter() - start)
        peak = threads * statistics.mean((before, _core._fma_peak("float64", 0.05)))  # of cores that do not share
        fractions.append((float(count) ** 2 * dim + float(count) ** 3 / 3) / times[-1] / peak)
    seconds = statistics.median(times)
    shape = f"{dim:.0e}×{count}".replace("e+0", "e")
    return Figure(
        "FisherInverse", shape, "float32", threads, 1e3 * seconds, "of FMA peak", statistics.median(fractions), 0.70
    )


# ---- the reference, in a process of its own --------------------------------------------------------------------------


class ReferenceWindow:
    """Dynamic M-FAC as published (update_mul): ring of gradients, LU of K/λ + mI, coefficients of every Fᵢ₋₁⁻¹gᵢ."""

    def __init__(self, dim: int, capacity: int, damping: float) -> None:
        import torch

        self.torch = torch
        self.grads = torch.zeros(capacity, dim)
        self.dots = torch.zeros(capacity, capacity)
        self.damping, self.capacity, self.last = damping, capacity, 0

    def update_mul(self, g: Any) -> Any:
        torch, m, lam = self.torch, self.capacity, self.damping
        self.grads[self.last] = g
        dots = self.grads @ g
        self.dots[self.last, :] = dots
        self.dots[:, self.last] = dots
        self.last = (self.last + 1) % m
        scaled = self.dots / lam
        factor = torch.linalg.cholesky(scaled + m * torch.eye(m))
        diagonal = factor.diagonal()
        upper = (diagonal.unsqueeze(1) * factor.T).triu()  # the U of the pivot-free LU
        d = upper - m * torch.eye(m)
        q = m + d.diagonal()
        t = -d.T / q
        coefficients = torch.eye(m) / lam
        for i in range(1, m):
            coefficients[i, :i] = t[i, :i] @ coefficients[:i, :i]
        y = dots / lam
        for i in range(1, m):
            y[i:] -= d[i - 1, i:] * (y[i - 1] / q[i - 1])
        return g / lam - ((y / q) @ coefficients) @ self.grads


def variants(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    """Called by ``bench.worker``: one optimizer step on a full window."""
    dim, capacity = case["shape"]
    rng = np.random.default_rng(0)
    # Of norm about 1: the reference's formula loses ‖g‖²/(mλ) in digits, and its answer is compared with ours.
    unit = np.float32(dim**-0.5)
    first = rng.standard_normal((min(capacity, 64), dim), dtype=np.float32) * unit
    rows = (first[k % len(first)] * np.float32(1 + k / capacity) for k in range(capacity))  # one at a time: gigabytes
    g = rng.standard_normal(dim, dtype=np.float32) * unit
    if contender == "ours":
        import raphson

        window = raphson.GradientWindow(dim, capacity, DAMPING)
        for row in rows:
            window.push(row)
        out = np.empty_like(g)
        return {"": lambda: window.precondition(g, out=out)}
    import torch

    reference = ReferenceWindow(dim, capacity, DAMPING)
    for k, row in enumerate(rows):
        reference.grads[k] = torch.from_numpy(row)
    reference.dots = (
        (reference.grads.double() @ reference.grads.double().T).float()
        if capacity <= 64
        else (reference.grads @ reference.grads.T)
    )
    given = torch.from_numpy(g)
    return {"": lambda: reference.update_mul(given)}


# ---- what is computed, in digits ------------------------------------------------------------------------------------


def numerics(dim: int = 20000, capacity: int = 128) -> list[str]:
    """Relative errors of F⁻¹g for the newest gradient: ours, and (g − Gᵀ(GGᵀ + mλI)⁻¹Gg)/λ in float32.

    The truth is the push-through form in float64 on the rows as they are stored; for the narrower windows what rounding
    the gradients themselves changes is in the last column.
    """
    import raphson

    rng = np.random.default_rng(0)
    lines = [f"{'gradients':<18} {'λ':>6} {'window':<9}{'ours':>9} {'textbook':>9} {'rounding':>9}"]
    for kind in ("iid", "correlated"):
        g = rng.standard_normal((capacity, dim))
        if kind == "correlated":  # eight directions that drift, and noise
            drift = np.cumsum(0.1 * rng.standard_normal((capacity, 8)), axis=0) + rng.standard_normal(8)
            g = drift @ rng.standard_normal((8, dim)) + 0.1 * g
        g = (30 * g / np.linalg.norm(g, axis=1, keepdims=True)).astype(np.float32)
        for lam in (1e-6, 1e-5, 1e-3):
            exact = g.astype(np.float64)
            small = np.linalg.solve(exact @ exact.T + capacity * lam * np.eye(capacity), np.eye(capacity)[-1])
            truth = capacity * exact.T @ small
            gram = g @ g.T + np.float32(capacity * lam) * np.eye(capacity, dtype=np.float32)
            textbook = (g[-1] - g.T @ np.linalg.solve(gram, g @ g[-1])) / np.float32(lam)
            for dtype in DTYPES:
                window = raphson.GradientWindow(dim, capacity, lam, dtype=dtype)
                for row in g[:-1]:
                    window.push(row)
                got = window.precondition(g[-1]).astype(np.float64)
                double = raphson.GradientWindow(dim, capacity, lam, dtype="float64")
                for row in held(window):
                    double.push(row)
                stored = double.solve_recent([1.0])
                norm = np.linalg.norm
                error = norm(textbook - truth) / norm(truth)
                theirs = f"{error:9.1e}" if dtype == "float32" else " " * 9
                ours, rounding = norm(got - stored) / norm(stored), norm(stored - truth) / norm(truth)
                lines.append(f"{kind + ', norm 30':<18} {lam:>6.0e} {dtype:<9}{ours:>9.1e} {theirs} {rounding:>9.1e}")
    return lines


def held(window: Any) -> npt.NDArray[np.float64]:
    """The rows of a window without blocks as float64, oldest first."""
    state = window.state_dict()
    slots = (state["head"] + np.arange(state["length"])) % len(state["rows"])
    rows = state["rows"][slots]
    if window.dtype == "bfloat16":
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    if window.dtype == "int8":
        scales = np.repeat(state["scales"][slots].astype(np.float64), 256, axis=1)
        return np.asarray(rows * scales[:, : rows.shape[1]])
    return np.asarray(rows.astype(np.float64) * state["row_scale"][slots, None])


# ---- the command -----------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1,2", help="comma-separated, one table each")
    parser.add_argument("--quick", action="store_true", help="one small shape, few rounds")
    parser.add_argument("--no-peer", action="store_true", help="without the reference in torch")
    parser.add_argument("--json", metavar="FILE", help="write machine facts and figures")
    parser.add_argument("--plot", metavar="FILE", help="draw bandwidths beside the measured read as a PNG")


def show(figure: Figure) -> None:
    reach = "" if figure.reach is None else f"{figure.reach:.2f}"
    rate = (
        ""
        if figure.gbytes_per_second is None
        else f"{figure.gbytes_per_second:6.1f} of {figure.read_gbytes_per_second:.1f} GB/s"
    )
    print(
        f"{figure.what:<14} {figure.shape:<11} {figure.dtype:<9}{figure.threads:>3} {figure.milliseconds:>9.2f} ms "
        f"{figure.value:>6.2f} {figure.quantity:<12}{reach:>6}  {rate}",
        flush=True,
    )


def plot(path: str, figures: list[Figure]) -> None:
    import matplotlib.pyplot as plt

    shown = [f for f in figures if f.gbytes_per_second is not None]
    threads = max(f.threads for f in shown)
    shown = [f for f in shown if f.threads == threads]
    axes: Any
    figure, axes = plt.subplots(figsize=(8, 4.5))
    shapes = list(dict.fromkeys(f.shape for f in shown))
    for k, dtype in enumerate(DTYPES):
        values = [next(f.gbytes_per_second for f in shown if f.shape == s and f.dtype == dtype) for s in shapes]
        axes.bar(np.arange(len(shapes)) + 0.2 * k, values, 0.19, label=dtype)
    for i, shape in enumerate(shapes):
        read = next(f.read_gbytes_per_second for f in shown if f.shape == shape)
        axes.plot([i - 0.15, i + 0.75], [read, read], "k--", label="streaming read" if i == 0 else None)
    axes.set_xticks(np.arange(len(shapes)) + 0.3, shapes)
    axes.set_xlabel("dim × capacity")
    axes.set_ylabel("GB/s of the window, two passes a step")
    axes.set_title(f"GradientWindow.precondition, {threads} threads")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def run(arguments: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    facts = harness.machine()
    shapes = QUICK_SHAPES if arguments.quick else SHAPES
    figures: list[Figure] = []
    rows: list[harness.Row] = []
    print(f"{facts['cpu']}, {facts['cpus']} CPUs, load {facts['load'][0]:.1f}")
    for threads in (int(t) for t in arguments.threads.split(",")):
        if threads > facts["cpus"]:
            print(f"{threads} threads: skipped, {facts['cpus']} CPUs here")
            continue
        for dim, capacity in shapes:
            for figure in windows(dim, capacity, threads, 3 if arguments.quick else 7):
                figures.append(figure)
                show(figure)
        for dim, capacity in QUICK_SHAPES if arguments.quick else STATIC:
            figures.append(static(dim, capacity, threads, 3))
            show(figures[-1])
        if arguments.no_peer:
            continue
        print(harness.HEADER)
        for dim, capacity in shapes:
            with harness.field(threads, ["ours", "torch"]) as field:  # a fresh process each: windows are large
                case = {"what": "step", "shape": [dim, capacity], "dtype": "float32"}
                effort = harness.QUICK if arguments.quick else harness.Effort(rounds=5, row_seconds=20.0)
                flops = 4.0 * dim * capacity
                for row in field.race(
                    "bench.ihvp",
                    case,
                    peers=["torch"],
                    flops=flops,
                    tolerance=1e-2,
                    reach={"torch": 2.2},
                    effort=effort,
                ):
                    rows.append(row)
                    print(harness.line(row), flush=True)
    digits = numerics(2000, 32) if arguments.quick else numerics()
    print("\n".join(["", "relative error of F⁻¹g", *digits]))
    if arguments.json:
        content = {"machine": facts, "figures": [asdict(f) for f in figures], "rows": [asdict(r) for r in rows]}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")
    if arguments.plot:
        plot(arguments.plot, figures)
    return 0 if all(row.agrees for row in rows) else 1
