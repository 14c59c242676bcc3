"""What a call costs besides its arithmetic, in nanoseconds: the array bridge and the public function.

Every figure is the least disturbed of interleaved rounds of a plain Python loop, the loop's own cost (about 10 ns)
included, the do-nothing call likewise. The limits were set on a machine where pybind11 doing nothing with three
arguments takes 36 ns; `scaled` is that limit on this machine, by the do-nothing call of this run.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness

NOTHING_NS = 36.0  # pybind11 doing nothing where the limits below were set


@dataclass(frozen=True)
class Figure:
    what: str
    framework: str
    nanoseconds: float
    limit: float | None  # as set
    scaled: float | None  # the limit times (do-nothing here / 36 ns)

    @property
    def kept(self) -> bool:
        return self.limit is None or self.nanoseconds <= max(self.limit, self.scaled or 0.0)


def loop(call: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any], count: int) -> float:
    """Nanoseconds a call in a plain loop."""
    clock = time.perf_counter_ns
    if keywords:
        x, out = arguments[0], keywords["out"]
        start = clock()
        for _ in itertools.repeat(None, count):
            call(x, out=out)
        return (clock() - start) / count
    a, b, c = arguments
    start = clock()
    for _ in itertools.repeat(None, count):
        call(a, b, c)
    return (clock() - start) / count


def measure(rounds: int, count: int) -> list[Figure]:
    import raphson
    from raphson import _core

    arithmetic: Callable[..., float] | None = getattr(_core, "_time_orthogonalize", None)
    arrays: dict[str, list[Any]] = {"NumPy": [np.eye(8, dtype=np.float32) + k for k in range(4)]}
    if importlib.util.find_spec("torch") is not None:
        import torch

        arrays["torch"] = [torch.eye(8) + k for k in range(4)]

    best: dict[tuple[str, str], float] = {}

    def note(what: str, framework: str, nanoseconds: float) -> None:
        best[what, framework] = min(best.get((what, framework), float("inf")), nanoseconds)

    for _ in range(rounds):
        for framework, (a, b, c, out) in arrays.items():
            note("nothing", framework, loop(_core._nothing3, (a, b, c), {}, count))
            note("touch", framework, loop(_core._touch3, (a, b, c), {}, count))
            note("call", framework, loop(raphson.orthogonalize, (a,), {"out": out}, count // 10))
            if arithmetic is not None:
                note("arithmetic", framework, 1e9 * arithmetic(a, out, count // 10))

    slower = min(best["nothing", framework] for framework in arrays) / NOTHING_NS
    figures = [Figure("pybind11 doing nothing, 3 arguments", "any", slower * NOTHING_NS, None, None)]

    def add(what: str, framework: str, nanoseconds: float, limit: float | None) -> None:
        figures.append(Figure(what, framework, nanoseconds, limit, None if limit is None else limit * slower))

    bridge, public = {"NumPy": 110.0, "torch": 290.0}, {"NumPy": 1500.0, "torch": 2500.0}
    for framework in arrays:
        add("3 inputs through the bridge", framework, best["touch", framework], bridge[framework])
    for framework in arrays:
        whole = best["call", framework]
        add("orthogonalize(x, out=o), 8×8 float32", framework, whole, None)
        if arithmetic is not None:
            own = best["arithmetic", framework]
            add("  its arithmetic (C++ function alone)", framework, own, None)
            add("  beyond its arithmetic", framework, whole - own, public[framework])
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer rounds: about two seconds")
    parser.add_argument("--json", metavar="FILE", help="write machine facts and figures")


def run(arguments: argparse.Namespace) -> int:
    import raphson

    figures = measure(*(5, 20_000) if arguments.quick else (25, 50_000))
    nothing = figures[0].nanoseconds
    facts = harness.machine() | {"raphson": dict(raphson.build_info()), "numpy": np.__version__}
    print(f"{facts['cpu']}; raphson {raphson.__version__}, NumPy {np.__version__}\n")
    print(f"{'call':<40} {'arrays':<7}{'ns':>8} {'× nothing':>10} {'limit':>7} {'scaled':>8}")
    for figure in figures:
        limit = "" if figure.limit is None else f"{figure.limit:.0f}"
        scaled = "" if figure.scaled is None else f"{figure.scaled:.0f}"
        print(
            f"{figure.what:<40} {figure.framework:<7}{figure.nanoseconds:>8.0f} "
            f"{figure.nanoseconds / nothing:>10.2f} {limit:>7} {scaled:>8}{'' if figure.kept else '  over'}"
        )
    if not any("arithmetic" in figure.what for figure in figures):
        print("(this build has no _core._time_orthogonalize: arithmetic not separated)")
    if arguments.json:
        content = {"machine": facts, "figures": [asdict(figure) for figure in figures]}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")
    return 0
