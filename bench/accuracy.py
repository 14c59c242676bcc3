"""How well every schedule orthogonalises: six spectra, float32 and bfloat16, and pictures to choose by.

A cell is `orth / polar [least, greatest]`: ‖XXᵀ - I‖_F/√m, ‖X - UVᵀ‖_F/√m and the range of the result's singular
values, all in float64. UVᵀ is the polar factor of the matrix before it was rounded to the row's dtype. ``--plots`` also
measures times: one thread, every contender in a process of its own, the least of interleaved rounds. Peers there are
torch (Muon's five steps, fused addmm) and NumPy (the same steps, and its singular value decomposition).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.worker import Call

Array = npt.NDArray[np.float64]

SCHEDULES = ("polar_express", "muon", "you", "cans", "turbo", "root", "cubic", "kovarik")
ROWS = (*SCHEDULES, "you, normalize=gram")
SPECTRA = ("Gaussian", "Gaussian 1:4", "Lévy 1.5", "i^-1", "i^-2", "1 to 1e-6")
TIMED = ("Gaussian", "i^-1")
MUON = (3.4445, -4.7750, 2.0315)
SEED = 20


@dataclass(frozen=True)
class Cell:
    """One schedule on one matrix."""

    spectrum: str
    shape: tuple[int, int]
    schedule: str
    method: str
    dtype: str
    orth: float
    polar: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.orth:.3f} / {self.polar:.3f} [{self.least:.2f}, {self.greatest:.2f}]"


def options(row: str) -> dict[str, Any]:
    """What a row of the tables hands to ``orthogonalize``."""
    schedule, _, normalize = row.partition(", normalize=")
    return {"schedule": schedule} | ({"normalize": normalize} if normalize else {})


def levy(generator: np.random.Generator, shape: tuple[int, int], alpha: float = 1.5) -> Array:
    """Symmetric stable numbers (Chambers, Mallows and Stuck)."""
    u = np.pi * (generator.random(shape) - 0.5)
    w = generator.exponential(size=shape)
    drawn: Array = np.sin(alpha * u) / np.cos(u) ** (1 / alpha) * (np.cos((1 - alpha) * u) / w) ** ((1 - alpha) / alpha)
    return drawn


def sample(spectrum: str, m: int) -> Array:
    """The same matrix for every schedule and in every process."""
    generator = np.random.default_rng([SEED, SPECTRA.index(spectrum)])
    if spectrum == "Gaussian":
        return generator.standard_normal((m, m))
    if spectrum == "Gaussian 1:4":
        return generator.standard_normal((m, 4 * m))
    if spectrum == "Lévy 1.5":
        return levy(generator, (m, m))
    u, v = (np.linalg.qr(generator.standard_normal((m, m)))[0] for _ in range(2))
    i = np.arange(1.0, m + 1)
    values = {"i^-1": 1 / i, "i^-2": i**-2, "1 to 1e-6": np.logspace(0, -6, m)}[spectrum]
    product: Array = (u * values) @ v.T
    return product


def polar_factor(x: Array) -> Array:
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    product: Array = u @ vt
    return product


def errors(x: Array, exact: Array) -> tuple[float, float]:
    """Of a wide matrix: distance from orthonormal rows, and from the polar factor."""
    m = x.shape[0]
    orth = np.linalg.norm(x @ x.T - np.eye(m)) / np.sqrt(m)
    return float(orth), float(np.linalg.norm(x - exact) / np.sqrt(m))


def named_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def accuracy(m: int, kinds: list[tuple[str, str]]) -> list[Cell]:
    import raphson

    cells = []
    for spectrum in SPECTRA:
        given = sample(spectrum, m)
        exact = polar_factor(given)
        for method, dtype in kinds:
            x = given.astype(named_dtype(dtype))
            for schedule in ROWS:
                answer = np.asarray(raphson.orthogonalize(x, method=method, **options(schedule))).astype(np.float64)
                orth, polar = errors(answer, exact)
                values = np.linalg.svd(answer, compute_uv=False)
                shape = (given.shape[0], given.shape[1])
                least, greatest = float(values[-1]), float(values[0])
                cells.append(Cell(spectrum, shape, schedule, method, dtype, orth, polar, least, greatest))
    return cells


def report(cells: list[Cell], kinds: list[tuple[str, str]]) -> None:
    """Markdown tables, one for each method and dtype."""
    shapes = {c.spectrum: "×".join(map(str, c.shape)) for c in cells}
    for method, dtype in kinds:
        print(f"\n{dtype}, method {method}: orth / polar [least, greatest singular value]\n")
        print("| schedule | " + " | ".join(f"{s.replace(' 1:4', '')}, {shapes[s]}" for s in SPECTRA) + " |")
        print("|---" * (len(SPECTRA) + 1) + "|")
        for schedule in ROWS:
            row = [c for c in cells if (c.method, c.dtype, c.schedule) == (method, dtype, schedule)]
            print(f"| {schedule} | " + " | ".join(str(c) for c in row) + " |")


# ---- times: what bench.worker calls ----------------------------------------------------------------------------------
def ours(case: dict[str, Any]) -> dict[str, Call]:
    import raphson

    x = sample(case["spectrum"], case["m"]).astype(np.float32)
    out = np.empty_like(x)
    return {"": lambda: raphson.orthogonalize(x, out=out, **options(case["schedule"]))}


def with_torch(case: dict[str, Any]) -> dict[str, Call]:
    import torch

    torch.set_grad_enabled(False)
    a, b, c = MUON
    given = torch.from_numpy(sample(case["spectrum"], case["m"]).astype(np.float32))
    x0, x1, gram, update = (torch.empty_like(given) for _ in range(4))  # square

    def call() -> Any:
        x, y = x0, x1
        torch.div(given, torch.linalg.vector_norm(given).clamp_(min=1e-7), out=x)
        for _ in range(5):
            torch.mm(x, x.mT, out=gram)
            torch.addmm(gram, gram, gram, beta=b, alpha=c, out=update)
            torch.addmm(x, update, x, beta=a, out=y)
            x, y = y, x
        return x

    return {"": call}


def with_numpy(case: dict[str, Any]) -> dict[str, Call]:
    given = sample(case["spectrum"], case["m"]).astype(np.float32)
    a, b, c = (np.float32(k) for k in MUON)
    x0, x1, gram, update = (np.empty_like(given) for _ in range(4))

    def decomposition() -> Any:
        u, _, vt = np.linalg.svd(given, full_matrices=False)
        return u @ vt

    def call() -> Any:
        x, y = x0, x1
        np.divide(given, np.linalg.norm(given), out=x)
        for _ in range(5):
            np.matmul(x, x.T, out=gram)
            np.matmul(gram, gram.T, out=update)
            np.multiply(update, c, out=update)
            np.multiply(gram, b, out=gram)
            np.add(update, gram, out=update)
            np.matmul(update, x, out=y)
            np.multiply(x, a, out=x)
            np.add(y, x, out=y)
            x, y = y, x
        return x

    return {"": decomposition if case["schedule"] == "svd" else call}


def variants(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    """Called by ``bench.worker``."""
    return {"ours": ours, "torch": with_torch, "numpy": with_numpy}[contender](case)


@dataclass(frozen=True)
class Timed:
    """One contender on one matrix, float32."""

    spectrum: str
    contender: str
    schedule: str
    milliseconds: float
    orth: float
    polar: float


def race(m: int, rounds: int) -> list[Timed]:
    entries = [("ours", schedule) for schedule in ROWS]
    if importlib.util.find_spec("torch") is not None:
        entries.append(("torch", "muon"))
    entries += [("numpy", "muon"), ("numpy", "svd")]
    results = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raphson-bench-")))
        workers: dict[tuple[str, str], harness.Worker] = {}
        for entry in entries:
            workers[entry] = harness.Worker(1)
            stack.callback(workers[entry].close)
        for spectrum in TIMED:
            exact = polar_factor(sample(spectrum, m))
            found = {}
            for name, schedule in entries:
                file = folder / "answer.npy"
                case = {"spectrum": spectrum, "m": m, "schedule": schedule}
                workers[name, schedule].ask(
                    "prepare", module="bench.accuracy", contender=name, case=case, save=str(file)
                )
                found[name, schedule] = errors(np.load(file), exact)
            best = dict.fromkeys(entries, float("inf"))
            for _ in range(rounds):
                for entry in entries:
                    time.sleep(harness.SETTLE_SECONDS)
                    calls = 1 if entry[1] == "svd" else 3
                    best[entry] = min(best[entry], workers[entry].ask("time", calls=calls, warm=True)["seconds"])
            results += [Timed(spectrum, *entry, 1e3 * best[entry], *found[entry]) for entry in entries]
    return results


# ---- pictures --------------------------------------------------------------------------------------------------------
def save(figure: Any, file: Path) -> None:
    """In few colours: a third of the bytes."""
    from PIL import Image  # matplotlib needs it too

    figure.savefig(file, dpi=100)
    with Image.open(file) as image:
        small = image.convert("RGB").quantize(96, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


def draw_maps(file: Path, m: int) -> None:
    """What the steps do to a singular value of the matrix that enters the first one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    from raphson import newton_schulz

    x = np.logspace(-4, 0, 6000)
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.4), sharex=True, sharey=True, layout="constrained")
    for axis, schedule in zip(axes.flat, SCHEDULES, strict=True):
        table = newton_schulz.schedule(schedule, shape=(m, m))
        y = x.copy()
        colours = plt.get_cmap("viridis")(np.linspace(0.92, 0.0, len(table)))
        axis.axhline(1.0, color="0.6", linewidth=0.8)
        for index, (a, b, c) in enumerate(table):
            y = a * y + b * y**3 + c * y**5
            last = index == len(table) - 1
            axis.plot(x, y, color=colours[index], linewidth=1.5 if last else 0.7, alpha=1.0 if last else 0.75)
        name = f"{schedule} {m}×{m}" if schedule == "root" else schedule
        axis.set_title(f"{name}: {len(table)} steps, slope {table[:, 0].prod():,.0f}", fontsize=9.5)
        axis.set(xscale="log", xlim=(1e-4, 1), ylim=(0, 1.4))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(color="0.9", linewidth=0.6)
    figure.supxlabel("singular value after normalisation", fontsize=10)
    figure.supylabel("after 1, 2, … steps (light to dark; the thick line is the result)", fontsize=10)
    save(figure, file)
    plt.close(figure)


def draw_times(file: Path, results: list[Timed], m: int, cpu: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

    figure, axes = plt.subplots(1, len(TIMED), figsize=(11, 4.7), layout="constrained")
    palette = plt.get_cmap("tab10")
    for axis, spectrum in zip(axes, TIMED, strict=True):
        for row in (r for r in results if r.spectrum == spectrum):
            if row.schedule == "svd":
                axis.axvline(row.milliseconds, color="0.55", linestyle=":")
                axis.annotate(
                    f"numpy svd: {row.milliseconds:.0f} ms, {row.polar:.0e}",
                    (row.milliseconds, 0.03),
                    xycoords=("data", "axes fraction"),
                    xytext=(-4, 0),
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    fontsize=8.5,
                    color="0.35",
                )
            elif row.contender == "ours":
                colour = palette(ROWS.index(row.schedule))
                axis.plot(row.milliseconds, row.polar, "o", color=colour, markersize=8, label=row.schedule)
            else:
                marker = "s" if row.contender == "torch" else "^"
                label = f"{row.contender}, muon's steps"
                axis.plot(row.milliseconds, row.polar, marker, color="black", markersize=8, mfc="none", label=label)
        axis.set_title(f"{'Gaussian' if spectrum == 'Gaussian' else 'singular values 1/i'}, {m}×{m}", fontsize=10)
        axis.set(xscale="log", yscale="log", xlabel="milliseconds, one thread")
        axis.yaxis.set_minor_formatter(NullFormatter())
        low, high = axis.get_ylim()
        if high < 100 * low:
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.grid(which="both", color="0.92", linewidth=0.6)
    axes[0].set_ylabel("polar error ‖X - UVᵀ‖/√m")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9, frameon=False)
    figure.suptitle(f"float32; lower left is better ({cpu})", fontsize=10)
    save(figure, file)
    plt.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="m = 128 instead of 512: seconds")
    parser.add_argument("--plots", metavar="DIR", help="measure times and draw two pictures (needs matplotlib)")
    parser.add_argument("--json", metavar="FILE", help="write machine facts, cells and times")


def run(arguments: argparse.Namespace) -> int:
    m = 128 if arguments.quick else 512
    facts = harness.machine()
    kinds = [("standard", "float32"), ("standard", "bfloat16"), ("gram", "float32")]
    if importlib.util.find_spec("ml_dtypes") is None:
        print("bfloat16: skipped, ml_dtypes is not installed")
        kinds = [kind for kind in kinds if kind[1] != "bfloat16"]
    cells = accuracy(m, kinds)
    report(cells, kinds)
    times: list[Timed] = []
    if arguments.plots:
        folder = Path(arguments.plots)
        folder.mkdir(parents=True, exist_ok=True)
        times = race(m, rounds=5 if arguments.quick else 7)
        print(f"\n{facts['cpu']}, {facts['cpus']} CPUs, load {facts['load'][0]:.1f}; float32, one thread\n")
        print("| matrix | who | schedule | ms | orth | polar |\n|---|---|---|---|---|---|")
        for t in times:
            print(
                f"| {t.spectrum} | {t.contender} | {t.schedule} | {t.milliseconds:.2f} | {t.orth:.2g} | {t.polar:.2g} |"
            )
        draw_maps(folder / "newton_schulz_maps.png", m)
        draw_times(folder / "newton_schulz_times.png", times, m, facts["cpu"])
    if arguments.json:
        record = {"machine": facts, "cells": [asdict(c) for c in cells], "times": [asdict(t) for t in times]}
        Path(arguments.json).write_text(json.dumps(record, indent=1) + "\n")
    return 0
