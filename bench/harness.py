"""Ours against peers and against the machine, in one run.

Every contender lives in its own process (see ``bench.worker``) and is blocked while it is not its turn. A round is: the
machine's multiply-add ceiling, ours, the ceiling again, then each peer. What is reported is the median over rounds; the
ratio is the median of the ratios within rounds, so that a machine that slows down between rounds does not move it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# Runtimes spin for a while after their last parallel call: wait until they sleep. With two threads on two cores a sweep
# took 54 ms 50 ms after OpenBLAS's last product, and 41 from 100 ms on.
SETTLE_SECONDS = 0.15
# Exported on some machines; they pin NumPy's OpenBLAS to kernels at half the speed of its own choice.
HANDICAPS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
THREAD_VARIABLES = ("RAPHSON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, seconds of calls a contender and round, and seconds for a whole row."""

    rounds: int = 9
    slice_seconds: float = 0.2
    row_seconds: float = 25.0


QUICK = Effort(rounds=3, slice_seconds=0.05, row_seconds=2.0)


@dataclass(frozen=True)
class Row:
    """Ours beside one peer."""

    what: str
    shape: str
    dtype: str
    threads: int
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float  # peer / ours: above 1, ours is faster
    reach: float | None  # the ratio set as a target, if any
    floor_fraction: float  # time the flop floor takes at the measured ceiling / ours
    ceiling_gflops: float
    deviation: float  # ‖ours - peer‖ / ‖peer‖, over the whole result
    agrees: bool
    steady: bool  # median within 1.25 of the fastest round, ours and peer; else something else was running


class Worker:
    """A process that computes for us when told."""

    def __init__(self, threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k not in HANDICAPS}
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"bench.worker ended with status {process.wait()} in {do!r}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"bench.worker: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Field:
    """The contenders at one number of threads, and the machine they run on."""

    def __init__(self, threads: int, workers: dict[str, Worker], folder: Path) -> None:
        self.threads = threads
        self._workers = workers
        self._folder = folder
        self._machine = workers["ceilings"]

    def facts(self) -> dict[str, Any]:
        return self._machine.ask("facts")

    def read_gbytes(self) -> float:
        return float(self._machine.ask("read", threads=self.threads, megabytes=128)["bytes"]) / 1e9

    def fma_gflops(self, dtype: str, seconds: float = 0.03) -> float:
        return float(self._machine.ask("fma", dtype=dtype, threads=self.threads, seconds=seconds)["flops"]) / 1e9

    def alone(self, module: str, name: str, case: dict[str, Any], rounds: int = 5) -> tuple[float, float]:
        """Median seconds of one contender's call, and the multiply-add rate around it in Gflop/s."""
        self._workers[name].ask(
            "prepare", module=module, contender=name, case=case, save=str(self._folder / "alone.npy")
        )
        seconds, ceiling = [], []
        for _ in range(rounds):
            time.sleep(SETTLE_SECONDS)
            before = self.fma_gflops(case["dtype"])
            seconds.append(self._workers[name].ask("time", calls=3, warm=True)["seconds"])
            ceiling.append((before + self.fma_gflops(case["dtype"])) / 2)
        return statistics.median(seconds), statistics.median(ceiling)

    def race(
        self,
        module: str,
        case: dict[str, Any],
        *,
        peers: Sequence[str],
        flops: float,
        tolerance: float,
        reach: dict[str, float],
        effort: Effort,
    ) -> list[Row]:
        """Times `case` ("what", "shape" and "dtype" among its entries) and checks that all computed the same."""
        names = ["ours", *peers]
        estimate = {}
        variant = {}
        for name in names:
            answer = self._workers[name].ask(
                "prepare", module=module, contender=name, case=case, save=str(self._folder / f"{name}.npy")
            )
            estimate[name], variant[name] = answer["seconds"], answer["variant"]
        calls = {name: max(1, min(200, int(effort.slice_seconds / estimate[name]))) for name in names}
        round_seconds = sum(estimate[name] * calls[name] for name in names) + len(names) * SETTLE_SECONDS + 0.1
        rounds = max(2, min(effort.rounds, int(effort.row_seconds / round_seconds)))

        seconds: dict[str, list[float]] = {name: [] for name in names}
        ceiling: list[float] = []
        for _ in range(rounds):
            around = [self.fma_gflops(case["dtype"])]
            for name in names:
                time.sleep(SETTLE_SECONDS)
                warm = estimate[name] < 0.2
                seconds[name].append(self._workers[name].ask("time", calls=calls[name], warm=warm)["seconds"])
                if name == "ours":
                    around.append(self.fma_gflops(case["dtype"]))
            ceiling.append(statistics.mean(around))

        ours = np.load(self._folder / "ours.npy")
        fraction = [flops / (c * 1e9) / s for c, s in zip(ceiling, seconds["ours"], strict=True)]
        rows = []
        for peer in peers:
            theirs = np.load(self._folder / f"{peer}.npy")
            deviation = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
            ratios = [p / o for p, o in zip(seconds[peer], seconds["ours"], strict=True)]
            rows.append(
                Row(
                    what=case["what"],
                    shape="×".join(map(str, case["shape"])),
                    dtype=case["dtype"],
                    threads=self.threads,
                    ours_ms=1e3 * statistics.median(seconds["ours"]),
                    peer=f"{peer} {variant[peer]}".strip(),
                    peer_ms=1e3 * statistics.median(seconds[peer]),
                    ratio=statistics.median(ratios),
                    reach=reach.get(peer),
                    floor_fraction=statistics.median(fraction),
                    ceiling_gflops=statistics.median(ceiling),
                    deviation=deviation,
                    agrees=deviation <= tolerance,
                    steady=all(statistics.median(t) <= 1.25 * min(t) for t in (seconds["ours"], seconds[peer])),
                )
            )
        return rows


@contextmanager
def field(threads: int, contenders: Sequence[str]) -> Iterator[Field]:
    """Starts one process for each contender and one that measures ceilings."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raphson-bench-")))
        workers = {}
        for name in ("ceilings", *contenders):
            workers[name] = Worker(threads)
            stack.callback(workers[name].close)
        yield Field(threads, workers, folder)


def machine() -> dict[str, Any]:
    """The processor, as far as the system tells."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cpus": usable,
        "system": platform.platform(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [0.0],
    }


HEADER = (
    f"{'what':<11} {'shape':<11} {'dtype':<9}{'thr':>3} {'ours ms':>9}  {'peer':<17}{'peer ms':>9} {'ratio':>6} "
    f"{'reach':>6} {'of floor':>9} {'deviation':>10}"
)


def line(row: Row) -> str:
    """One row of the table; `!` marks a peer that computed something else, `~` a row that other work disturbed."""
    reach = f"{row.reach:.2f}" if row.reach is not None else ""
    return (
        f"{row.what:<11} {row.shape:<11} {row.dtype:<9}{row.threads:>3} {row.ours_ms:>9.3f}  {row.peer:<17}"
        f"{row.peer_ms:>9.3f} {row.ratio:>5.2f}× {reach:>6} {row.floor_fraction:>9.2f} {row.deviation:>10.1e}"
        f"{'' if row.agrees else ' !'}{'' if row.steady else ' ~'}"
    )


@dataclass(frozen=True)
class Contest:
    """A case for one peer, and what is expected of it."""

    case: dict[str, Any]
    flops: float
    tolerance: float
    reach: float | None = None


def tables(module: str, peer: str, contests: Sequence[Contest], arguments: argparse.Namespace, effort: Effort) -> int:
    """One table for each number in ``arguments.threads``, printed and written to ``arguments.json``; exit status."""
    facts = machine()
    rows: list[Row] = []
    for threads in (int(t) for t in arguments.threads.split(",")):
        if threads > facts["cpus"]:
            print(f"{threads} threads: skipped, {facts['cpus']} CPUs here")
            continue
        with field(threads, ["ours", peer]) as contenders:
            if "versions" not in facts:
                facts.update(contenders.facts())
                versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
                print(f"{facts['cpu']}, {facts['cpus']} CPUs; raphson {facts['raphson']['isa']}; {versions}")
                print(HEADER, flush=True)
            for contest in contests:
                for row in contenders.race(
                    module,
                    {**contest.case, "threads": threads},
                    peers=[peer],
                    flops=contest.flops,
                    tolerance=contest.tolerance,
                    reach={} if contest.reach is None else {peer: contest.reach},
                    effort=effort,
                ):
                    rows.append(row)
                    print(line(row), flush=True)
    if arguments.json:
        write_json(arguments.json, facts, rows)
    return 0 if all(row.agrees for row in rows) else 1


def write_json(path: str, facts: dict[str, Any], rows: Sequence[Row]) -> None:
    Path(path).write_text(json.dumps({"machine": facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
