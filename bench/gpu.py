"""The CUDA kernels on the GPU of this machine: medians by CUDA events, ratios in one run.

``python -m bench.gpu`` (bench/gpu.sh builds, tests and then runs it). Peers: cuBLAS through ``torch.mm`` for products,
``torch.optim.Muon``'s own function, plain and under ``torch.compile``, the same written with ``torch.baddbmm`` for
batches; for windows two reads of the window, and for transport one read of the cost a sweep, at the copy bandwidth
measured here (bytes read and written).
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

MUON = (3.4445, -4.775, 2.0315)


class Line(NamedTuple):
    family: str
    what: str
    shape: str
    dtype: str
    milliseconds: float
    peer: str
    peer_milliseconds: float
    reach: float  # peer over ours; of windows and sweeps, ours over the floor
    at_most: bool = False

    @property
    def ratio(self) -> float:
        ours, peer = self.milliseconds, self.peer_milliseconds
        return ours / peer if self.at_most else peer / ours

    def __str__(self) -> str:
        met = self.ratio <= self.reach if self.at_most else self.ratio >= self.reach
        bound = f"{'≤' if self.at_most else '≥'} {self.reach:g}"
        return (
            f"{self.family:<14}{self.what:<22}{self.shape:<14}{self.dtype:<9}{self.milliseconds:>9.3f} ms  "
            f"{self.peer:<20}{self.peer_milliseconds:>9.3f} ms  {self.ratio:>6.2f}  "
            f"{bound:<7}{'met' if met else 'MISSED'}"
        )


class Clock:
    """Medians of interleaved calls, the second-level cache flushed between them."""

    def __init__(self, torch: Any, rounds: int) -> None:
        self.torch, self.rounds = torch, rounds
        self.flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")

    def __call__(self, *calls: Callable[[], Any]) -> list[float]:
        torch = self.torch
        for call in calls:
            for _ in range(3):
                call()
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(self.rounds):
            for call, found in zip(calls, times, strict=True):
                self.flush.zero_()
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                call()
                end.record()
                end.synchronize()
                found.append(start.elapsed_time(end))
        return [sorted(found)[len(found) // 2] for found in times]


def torch_iteration(torch: Any, x: Any, steps: int = 5) -> Any:
    """Muon's iteration for batches, as its authors' code fuses it."""
    a, b, c = MUON
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def products(torch: Any, clock: Clock) -> list[Line]:
    from raphson import _cuda

    lines = []
    stream = torch.cuda.current_stream().cuda_stream
    for n in (1024, 2048, 4096, 8192):
        x = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
        ours, theirs = torch.full_like(x, float("nan")), torch.empty_like(x)
        _cuda._gram(x.data_ptr(), n, n, ours.data_ptr(), 0, stream)
        error = ((ours.double() - (x.double() @ x.double().mT)).norm() / ours.double().norm()).item()
        if not error < 4e-3 or not torch.equal(ours, ours.mT):
            sys.exit(f"gram of {n}x{n} is wrong: relative error {error}")
        mine, peer = clock(
            lambda x=x, d=ours: _cuda._gram(x.data_ptr(), x.shape[0], x.shape[0], d.data_ptr(), 0, stream),
            lambda x=x, d=theirs: torch.mm(x, x.mT, out=d),
        )
        lines.append(
            Line(
                "products",
                "X Xᵀ, symmetric",
                f"{n}×{n}",
                "bfloat16",
                mine,
                "cuBLAS, full",
                peer,
                1.6 if n >= 4096 else 1.0,
            )
        )
    return lines


def matrices(torch: Any, clock: Clock) -> list[Line]:
    from torch.optim import _muon

    import raphson

    reference = _muon._zeropower_via_newtonschulz
    compiled = torch.compile(reference)
    lines = []

    def close(ours: Any, theirs: Any, what: str) -> None:
        error = ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
        if not error < 0.1:
            sys.exit(f"orthogonalize of {what} is {error} away from torch's")

    for m, n, reach in ((2048, 2048, 1.35), (4096, 4096, 1.35), (2048, 8192, 2.0), (1024, 4096, 2.0)):
        x = torch.randn(m, n, device="cuda", dtype=torch.bfloat16)
        calls = {
            "Muon's function": lambda x=x: reference(x, MUON, 5, 1e-7),
            "the same, compiled": lambda x=x: compiled(x, MUON, 5, 1e-7),
        }
        close(raphson.orthogonalize(x, schedule="muon"), calls["Muon's function"](), f"{m}x{n}")
        mine, *peers = clock(lambda x=x: raphson.orthogonalize(x, schedule="muon"), *calls.values())
        lines += [
            Line("newton_schulz", "orthogonalize", f"{m}×{n}", "bfloat16", mine, name, peer, reach)
            for name, peer in zip(calls, peers, strict=True)
        ]
    for count, n, reach in ((12, 768, 2.0), (32, 128, 4.0), (64, 256, 4.0)):
        x = torch.randn(count, n, n, device="cuda", dtype=torch.bfloat16)
        close(raphson.orthogonalize(x, schedule="muon"), torch_iteration(torch, x), f"{count}x{n}x{n}")
        mine, peer = clock(lambda x=x: raphson.orthogonalize(x, schedule="muon"), lambda x=x: torch_iteration(torch, x))
        lines.append(
            Line(
                "newton_schulz",
                "orthogonalize, batch",
                f"{count}×{n}×{n}",
                "bfloat16",
                mine,
                "torch, batched",
                peer,
                reach,
            )
        )
    return lines


def functions(torch: Any, clock: Clock) -> list[Line]:
    """Matrix functions against what torch users write; ours are measured as well."""
    import raphson

    def by_svd(x: Any) -> Any:
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        return u @ v

    def by_eigh(a: Any) -> Any:
        values, vectors = torch.linalg.eigh(a)
        return (vectors * values.pow(-0.25).unsqueeze(-2)) @ vectors.mT

    lines = []
    for shape in ((1024, 1024), (4096, 256), (64, 64, 64)):
        x = torch.randn(*shape, device="cuda", dtype=torch.float64)
        result = raphson.polar(x)
        if not result.all_converged:
            sys.exit(f"polar of {shape}: {result}")
        ours, theirs = clock(lambda x=x: raphson.polar(x), lambda x=x: by_svd(x))
        lines.append(Line("functions", "polar", "×".join(map(str, shape)), "float64", ours, "svd", theirs, 1))
    for shape in ((64, 64, 64), (32, 256, 256), (4, 512, 512)):
        g = torch.randn(*shape, device="cuda")
        a = g @ g.mT / shape[-1] + 1e-3 * torch.eye(shape[-1], device="cuda")
        result = raphson.newton_schulz.inverse_root(a, 4)
        if not result.all_converged:
            sys.exit(f"inverse_root of {shape}: {result}")
        ours, theirs = clock(lambda a=a: raphson.newton_schulz.inverse_root(a, 4), lambda a=a: by_eigh(a))
        what = "×".join(map(str, shape))
        lines.append(Line("functions", "inverse 4th root", what, "float32", ours, "eigh", theirs, 1))
    return lines


def copy_bandwidth(torch: Any, clock: Clock) -> float:
    """Bytes a millisecond."""
    source = torch.empty(1 << 32, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / clock(lambda: target.copy_(source))[0]
    print(f"copy bandwidth {bandwidth / 1e9:.2f} TB/s, bytes read and written")
    return bandwidth


def windows(torch: Any, clock: Clock) -> list[Line]:
    from raphson.ihvp import GradientWindow

    bandwidth = copy_bandwidth(torch, clock)
    lines = []
    for dim, capacity, dtype in (
        (25_000_000, 256, "bfloat16"),
        (4_000_000, 1024, "float32"),
        (25_000_000, 256, "int8"),
    ):
        window = GradientWindow(dim, capacity, 1e-3, dtype=dtype, device="cuda")
        g = torch.randn(dim, device="cuda")
        for _ in range(capacity + 1):
            window.push(g.normal_())
        size = {"bfloat16": 2, "float32": 4, "int8": 1}[dtype]
        floor = 2 * dim * capacity * size / bandwidth
        mine = clock(lambda window=window, g=g: window.precondition(g))[0]
        lines.append(
            Line("ihvp", "precondition", f"({dim:.1e}, {capacity})", dtype, mine, "two reads", floor, 1.15, True)
        )
        del window
        torch.cuda.empty_cache()
    return lines


def plan_error(torch: Any, cost: Any, reg: float, result: Any) -> float:
    """L1 error of the marginals for uniform weights, in torch and float64, a thousand rows at a time."""
    n, m = cost.shape
    columns = torch.zeros(m, dtype=torch.float64, device="cuda")
    error = 0.0
    for begin in range(0, n, 1024):
        exponent = (
            result.f[begin : begin + 1024, None] + result.g[None, :] - cost[begin : begin + 1024].double()
        ) / reg
        plan = exponent.exp_() / (n * m)
        columns += plan.sum(0)
        error += (plan.sum(1) - 1 / n).abs().sum().item()
    return error + float((columns - 1 / m).abs().sum().item())


def transport(torch: Any, clock: Clock) -> list[Line]:
    """One sweep of a solve: two solves that differ in their number, so that what they share falls out."""
    import raphson

    bandwidth = copy_bandwidth(torch, clock)
    lines = []
    reg, few, many = 1e-3, 8, 72
    for n, dtype, reach in ((16384, "float32", 1.3), (8192, "float64", 1.3)):
        cost = torch.rand(n, n, device="cuda", dtype=getattr(torch, dtype))
        start = (torch.zeros(n, dtype=torch.float64, device="cuda"),) * 2  # no continuation

        def sweeps(most: int, cost: Any = cost, start: Any = start) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", raphson.ConvergenceWarning)
                return raphson.sinkhorn(None, None, cost, reg, max_iter=most, init=start, tol=1e-30)

        results = [sweeps(few), sweeps(many)]
        error, said = plan_error(torch, cost, reg, results[1]), float(results[1].marginal_error)
        if not abs(error - said) <= 1e-10 + 1e-6 * error:
            sys.exit(f"sinkhorn of {n}x{n} {dtype} says {said} of its error, which is {error}")
        between = results[1].iterations - results[0].iterations
        if between < 8:
            sys.exit(f"sinkhorn of {n}x{n} {dtype} was over after {results[1].iterations} sweeps: nothing to compare")
        short, long = clock(lambda sweeps=sweeps: sweeps(few), lambda sweeps=sweeps: sweeps(many))
        floor = n * n * cost.element_size() / bandwidth
        lines.append(
            Line("ot", "fused iteration", f"{n}×{n}", dtype, (long - short) / between, "one read", floor, reach, True)
        )
        del cost, results
        torch.cuda.empty_cache()
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE", help="write the rows")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device here")
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    clock = Clock(torch, arguments.rounds)
    lines: list[Line] = []
    for suite in (products, matrices, functions, windows, transport):
        for line in suite(torch, clock):
            print(line, flush=True)
            lines.append(line)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump([line._asdict() | {"ratio": line.ratio} for line in lines], file, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
