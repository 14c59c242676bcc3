"""The greatest singular value that any schedule returns, over many heavy-tailed matrices.

Lévy-1.5 and Cauchy entries, Gaussian rows scaled by Cauchy or by lognormal numbers, power-law spectra, and plain
Gaussians; every matrix of a size and a seed is the same for every schedule and precision. A schedule whose steps let
rounding carry a singular value out of the interval that they were made for returns norms without bound: the published
tables of ``cans`` and ``root`` do so in bfloat16. Values are those of the matrix that was returned, in float64.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import accuracy, harness

Array = npt.NDArray[np.float64]
Shape = tuple[int, int]
Draw = Callable[[np.random.Generator, Shape], Array]


def power_law(generator: np.random.Generator, shape: Shape) -> Array:
    """Singular values i^-1.5 between random bases."""
    u, v = (np.linalg.qr(generator.standard_normal((side, min(shape))))[0] for side in shape)
    scaled: Array = (u * np.arange(1.0, min(shape) + 1) ** -1.5) @ v.T
    return scaled


def rows(scale: Callable[[np.random.Generator, Shape], Array]) -> Draw:
    return lambda generator, shape: scale(generator, (shape[0], 1)) * generator.standard_normal(shape)


DRAWS: dict[str, Draw] = {
    "Lévy 1.5": accuracy.levy,
    "Cauchy": lambda generator, shape: generator.standard_cauchy(shape),
    "Cauchy rows": rows(lambda generator, shape: generator.standard_cauchy(shape)),
    "lognormal rows": rows(lambda generator, shape: generator.lognormal(0.0, 3.0, shape)),
    "power law": power_law,
    "Gaussian": lambda generator, shape: generator.standard_normal(shape),
}
# Steps on intervals that end where rounding begins, as NeMo ships them.
CANS = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)
PRECISIONS = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Worst:
    """Over all seeds of one distribution and size."""

    schedule: str
    dtype: str
    draw: str
    shape: Shape
    seeds: int
    greatest: float
    infinite: int  # matrices that came back with Inf or NaN


def rows_of_the_table() -> dict[str, dict[str, Any]]:
    from raphson import newton_schulz

    options = {row: accuracy.options(row) for row in accuracy.ROWS}
    root = newton_schulz.schedule("root", shape=(2048, 2048))
    options["root, table of 2048×2048"] = {"schedule": root}
    options["polar_express, method=gram"] = {"method": "gram"}
    options["cans as published"] = {"schedule": np.array(CANS), "normalize": "frobenius"}
    undo = np.array([1.02, 1.02**3, 1.02**5])  # steps p(1.02 x) for p(x)
    options["root as published"] = {"schedule": root * undo, "normalize": "frobenius"}
    return options


def greatest_values(x: Array) -> Array:
    """Of a batch; NaN for a matrix that is not finite."""
    finite = np.isfinite(x).all(axis=(1, 2))
    values = np.full(len(x), np.nan)
    wide = x[finite] if x.shape[1] <= x.shape[2] else x[finite].transpose(0, 2, 1)
    values[finite] = np.sqrt(np.linalg.eigvalsh(wide @ wide.transpose(0, 2, 1))[:, -1])
    return values


def study(shapes: list[Shape], seeds: int) -> list[Worst]:
    import raphson

    found = []
    for shape in shapes:
        for number, (draw, sample) in enumerate(DRAWS.items()):
            given = np.stack([sample(np.random.default_rng([number, seed]), shape) for seed in range(seeds)])
            given /= np.abs(given).max(axis=(1, 2), keepdims=True)  # no entry leaves a precision's range
            for dtype in PRECISIONS:
                x = given.astype(accuracy.named_dtype(dtype))
                for row, options in rows_of_the_table().items():
                    if dtype == "bfloat16" and options.get("method") == "gram":
                        continue  # not offered there
                    answers = np.asarray(raphson.orthogonalize(x, **options)).astype(np.float64)
                    values = greatest_values(answers)
                    bad = int(np.isnan(values).sum())
                    greatest = float(np.nanmax(values)) if bad < seeds else float("inf")
                    found.append(Worst(row, dtype, draw, shape, seeds, greatest, bad))
    return found


def report(found: list[Worst]) -> None:
    names = list(dict.fromkeys(w.schedule for w in found))
    print("| schedule | " + " | ".join(PRECISIONS) + " | worst on |\n" + "|---" * (len(PRECISIONS) + 2) + "|")
    for name in names:
        cells, where = [], ""
        for dtype in PRECISIONS:
            mine = [w for w in found if (w.schedule, w.dtype) == (name, dtype)]
            if not mine:
                cells.append("-")
                continue
            worst = max(mine, key=lambda w: (w.infinite, w.greatest))
            cells.append(
                "Inf or NaN"
                if worst.infinite
                else f"{worst.greatest:.3f}"
                if worst.greatest < 100
                else f"{worst.greatest:.1e}"
            )
            where = f"{worst.draw}, {worst.shape[0]}×{worst.shape[1]}"
        print(f"| {name} | " + " | ".join(cells) + f" | {where} |")


def shape_of(text: str) -> Shape:
    m, n = text.split("x")
    return int(m), int(n)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="50 seeds of 32×32 and 32×64: seconds")
    parser.add_argument(
        "--seeds", type=int, default=1000, help="matrices a distribution and size (default %(default)s)"
    )
    parser.add_argument("--shapes", nargs="+", type=shape_of, default=[(64, 64), (64, 128), (128, 128)], metavar="MxN")
    parser.add_argument("--json", metavar="FILE", help="write machine facts and every distribution's worst value")


def run(arguments: argparse.Namespace) -> int:
    facts = harness.machine()
    shapes, seeds = ([(32, 32), (32, 64)], 50) if arguments.quick else (arguments.shapes, arguments.seeds)
    found = study(shapes, seeds)
    sizes = ", ".join(f"{m}×{n}" for m, n in shapes)
    print(f"greatest singular value returned, {seeds} seeds of each of {len(DRAWS)} distributions at {sizes}\n")
    report(found)
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"machine": facts, "worst": [asdict(w) for w in found]}, indent=1) + "\n"
        )
    return 0
