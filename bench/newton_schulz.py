"""Orthogonalisation by five Newton–Schulz steps, ours beside torch and NumPy.

The peers run the same schedule (Muon's, on X / ‖X‖_F) in the row's dtype, each at its best: torch with fused addmm or
baddbmm into buffers that exist already, as torch.optim.Muon does for bfloat16; NumPy with A @ A.T, which it hands to
BLAS's symmetric product, for both symmetric products. Of a batch computed at once or one matrix after the other, the
faster counts. `of floor` is the time of 3m²n + m³ flops a step at the multiply-add peak of the same threads, over ours.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench import harness
from bench.worker import Call

STEPS = 5
MUON = (3.4445, -4.7750, 2.0315)
TOLERANCE = {"float64": 1e-11, "float32": 1e-3, "bfloat16": 0.1}  # another schedule would be off by 0.2


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    dtype: str = "float32"
    method: str = "standard"
    quick: bool = True
    torch: float | None = None  # ratios to reach
    numpy: dict[int, float] = field(default_factory=dict)  # by threads

    def flops(self) -> float:
        *batch, rows, cols = self.shape
        m, n = min(rows, cols), max(rows, cols)
        return STEPS * float(np.prod(batch, initial=1.0)) * (3.0 * m * m * n + float(m) ** 3)


CASES = (
    Case((1024, 1024), torch=3.0, numpy={1: 1.45, 2: 1.6}),
    Case((1024, 1024), "bfloat16", torch=1.5),
    Case((1024, 1024), "float64", quick=False),
    Case((768, 3072), torch=2.9, numpy={1: 1.15, 2: 1.15}),
    Case((768, 3072), method="auto", torch=4.0, numpy={1: 1.6, 2: 1.6}),
    Case((768, 3072), "bfloat16", quick=False),
    Case((3072, 768), quick=False),
    Case((32, 128, 128), torch=3.0, numpy={1: 1.7, 2: 2.6}),
    Case((32, 128, 128), "bfloat16", torch=1.35),
    Case((12, 768, 768), quick=False, torch=3.0, numpy={1: 1.4, 2: 1.4}),
)


def sample(shape: list[int]) -> Any:
    return np.random.default_rng(0).standard_normal(shape)


def ours(case: dict[str, Any]) -> dict[str, Call]:
    import raphson

    if case["dtype"] == "bfloat16":
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(case["dtype"])
    x = sample(case["shape"]).astype(dtype)
    out = np.empty_like(x)
    return {"": lambda: raphson.orthogonalize(x, schedule="muon", method=case["method"], out=out)}


def with_torch(case: dict[str, Any]) -> dict[str, Call]:
    import torch

    torch.set_grad_enabled(False)
    a, b, c = MUON
    given = torch.from_numpy(sample(case["shape"])).to(getattr(torch, case["dtype"]))
    tall = given.shape[-2] > given.shape[-1]
    wide = given.mT.contiguous() if tall else given
    *_, m, _n = wide.shape
    x0, x1 = torch.empty_like(wide), torch.empty_like(wide)
    gram, update = (wide.new_empty((*wide.shape[:-2], m, m)) for _ in range(2))

    def iterate(g: Any, x: Any, y: Any, s: Any, u: Any) -> Any:
        multiply, fused = (torch.mm, torch.addmm) if g.ndim == 2 else (torch.bmm, torch.baddbmm)
        # reading a tall matrix by its transpose is part of the work; ours does the same
        wider = torch.promote_types(g.dtype, torch.float32)
        norm = torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True, dtype=wider)
        torch.div(g, norm.clamp_(min=1e-7).to(g.dtype), out=x)
        for _ in range(STEPS):
            multiply(x, x.mT, out=s)
            fused(s, s, s, beta=b, alpha=c, out=u)
            fused(x, u, x, beta=a, out=y)
            x, y = y, x
        return x

    def whole() -> Any:
        x = iterate(given.mT if tall else given, x0, x1, gram, update)
        return x.mT.contiguous() if tall else x

    if given.ndim == 2:
        return {"": whole}
    results = torch.empty_like(wide)

    def one_by_one() -> Any:
        for index in range(given.shape[0]):
            results[index] = iterate(given[index], x0[0], x1[0], gram[0], update[0])
        return results

    return {"baddbmm": whole, "addmm loop": one_by_one}


def with_numpy(case: dict[str, Any]) -> dict[str, Call]:
    a, b, c = (np.dtype(case["dtype"]).type(k) for k in MUON)
    given = sample(case["shape"]).astype(case["dtype"])
    tall = given.shape[-2] > given.shape[-1]
    wide = np.ascontiguousarray(given.swapaxes(-1, -2)) if tall else given
    *_, m, _n = wide.shape
    x0, x1 = np.empty_like(wide), np.empty_like(wide)
    gram, update = (np.empty((*wide.shape[:-2], m, m), wide.dtype) for _ in range(2))

    def iterate(g: Any, x: Any, y: Any, s: Any, u: Any) -> Any:
        norm = np.sqrt(np.einsum("...ij,...ij->...", g, g))[..., None, None]
        np.divide(g, np.maximum(norm, g.dtype.type(1e-7)), out=x)
        for _ in range(STEPS):
            np.matmul(x, x.swapaxes(-1, -2), out=s)
            np.matmul(s, s.swapaxes(-1, -2), out=u)
            u *= c
            s *= b
            u += s
            np.matmul(u, x, out=y)
            x *= a
            y += x
            x, y = y, x
        return x

    def whole() -> Any:
        x = iterate(given.swapaxes(-1, -2) if tall else given, x0, x1, gram, update)
        return np.ascontiguousarray(x.swapaxes(-1, -2)) if tall else x

    if given.ndim == 2:
        return {"": whole}
    results = np.empty_like(wide)

    def one_by_one() -> Any:
        for index in range(given.shape[0]):
            results[index] = iterate(given[index], x0[0], x1[0], gram[0], update[0])
        return results

    return {"stacked": whole, "loop": one_by_one}


def plain_product(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    a = sample(case["shape"]).astype(case["dtype"])
    if contender == "numpy":
        out = np.empty_like(a)
        return {"": lambda: np.matmul(a, a, out=out)}
    import torch

    x = torch.from_numpy(a)
    y = torch.empty_like(x)
    return {"": lambda: torch.mm(x, x, out=y)}


def variants(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    """Called by ``bench.worker``: the ways in which a contender can compute the case."""
    if case["what"] == "product":
        return plain_product(contender, case)
    return {"ours": ours, "torch": with_torch, "numpy": with_numpy}[contender](case)


def chosen_method(case: Case) -> str:
    """What method="auto" does for the shape."""
    from raphson import _core

    *_, rows, cols = case.shape
    method: str = _core.plan(rows, cols, case.dtype, "muon", None, None, case.method, None)["method"]
    return method


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default=None, help="comma-separated, one table each (default: 1,2; --quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds: under a minute")
    parser.add_argument("--json", metavar="FILE", help="write machine facts and rows")


def run(arguments: argparse.Namespace) -> int:
    facts = harness.machine()
    wanted = arguments.threads or ("1" if arguments.quick else "1,2")
    counts = [int(t) for t in wanted.split(",")]
    if min(counts) < 1:
        raise SystemExit("--threads must be positive")
    contenders = [name for name in ("torch", "numpy") if importlib.util.find_spec(name) is not None]
    bfloat16 = importlib.util.find_spec("ml_dtypes") is not None
    effort = harness.QUICK if arguments.quick else harness.Effort()
    facts["ceilings"] = []
    if facts["load"][0] > 0.5:
        print(
            f"other work is running (load {facts['load'][0]:.1f}): disturbed rows are marked ~, and no figure is firm"
        )
    rows: list[harness.Row] = []
    for threads in counts:
        if threads > facts["cpus"]:
            print(f"{threads} threads: skipped, {facts['cpus']} CPUs here")
            continue
        with harness.field(threads, ["ours", *contenders]) as field_:
            about = field_.facts()
            read = field_.read_gbytes()
            peaks = {dtype: field_.fma_gflops(dtype, 0.1) for dtype in ("float64", "float32", "bfloat16")}
            if "versions" not in facts:
                facts.update(about)
                versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
                print(
                    f"{facts['cpu']}, {facts['cpus']} CPUs; raphson {about['raphson']['version']} "
                    f"({about['raphson']['isa']}); {versions}"
                )
            print(
                f"\n{threads} thread{'s' if threads > 1 else ''}: "
                + ", ".join(f"{k} {v:.0f}" for k, v in peaks.items())
                + f" Gflop/s multiply-add, {read:.1f} GB/s read\n{harness.HEADER}",
                flush=True,
            )
            for case in CASES:
                if (arguments.quick and not case.quick) or (case.dtype == "bfloat16" and not bfloat16):
                    continue
                method = chosen_method(case)
                if case.method == "auto" and method == "standard":
                    continue
                description = {
                    "what": case.method if case.method == method else f"{case.method}: {method}",
                    "shape": list(case.shape),
                    "dtype": case.dtype,
                    "method": case.method,
                }
                reach = {}
                if case.torch is not None:
                    reach["torch"] = case.torch
                if threads in case.numpy:
                    reach["numpy"] = case.numpy[threads]
                for row in field_.race(
                    "bench.newton_schulz",
                    description,
                    peers=[p for p in contenders if p != "numpy" or case.dtype != "bfloat16"],
                    flops=case.flops(),
                    tolerance=TOLERANCE[case.dtype],
                    reach=reach,
                    effort=effort,
                ):
                    rows.append(row)
                    print(harness.line(row), flush=True)
            report_products(field_, contenders)
            facts["ceilings"].append(
                {"threads": threads, "read_gbytes": [read, field_.read_gbytes()]}
                | {f"{dtype}_gflops": [peaks[dtype], field_.fma_gflops(dtype, 0.1)] for dtype in peaks}
            )
    report_bfloat16(rows)
    if arguments.json:
        harness.write_json(arguments.json, facts, rows)
    strangers = [row for row in rows if not row.agrees]
    for row in strangers:
        print(f"! {row.shape} {row.dtype}, {row.peer}: results differ by {row.deviation:.1e}; the row compares nothing")
    return 1 if strangers else 0


def report_products(field_: harness.Field, peers: list[str], n: int = 1024) -> None:
    """How much of the multiply-add loop's rate the peers' own products leave, and so how large a ratio can be."""
    for dtype in ("float32", "float64"):
        for peer in peers:
            case = {"what": "product", "shape": [n, n], "dtype": dtype}
            seconds, ceiling = field_.alone("bench.newton_schulz", peer, case)
            share = 2.0 * n**3 / (seconds * 1e9) / ceiling
            print(f"{peer}'s product of two {n}×{n} {dtype} matrices: {share:.2f} of the multiply-add loop", end="")
            # Full products for symmetric results: 4m²n + 2m³ flops a step for our 3m²n + m³. BLAS halves NumPy's.
            print(f"; no ratio to its steps can pass {1.5 / share:.2f}" if peer == "torch" else "")


def report_bfloat16(rows: list[harness.Row]) -> None:
    time = {(r.what, r.shape, r.threads, r.dtype): r.ours_ms for r in rows}
    print("\nours, bfloat16 over float32 (reach 0.55 where the processor has bfloat16 products):")
    for (what, shape, threads, dtype), milliseconds in time.items():
        if dtype == "bfloat16" and (what, shape, threads, "float32") in time:
            print(f"  {what} {shape}, {threads} thr: {milliseconds / time[what, shape, threads, 'float32']:.2f}")
