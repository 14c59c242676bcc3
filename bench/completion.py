"""Matrix completion beside alternating least squares in NumPy, and a bandit beside fixed omegas.

One iteration (both half steps) of each from the same start. `of the FMA peak`: flops of the normal matrices, k(k + 1)
an entry and side, over the time, as a share of the multiply-add loop measured in the same run; `reads`: the time over
that of streaming the gathered rows of the factors once from memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness

Doubles = npt.NDArray[np.float64]
SHAPES = [
    (20_000, 10_000, 10, 4_000_000),
    (20_000, 10_000, 32, 4_000_000),
    (5_000, 4_000, 64, 2_000_000),
    (400, 400, 16, 130_000),
]


@dataclass(frozen=True)
class Row:
    what: str
    shape: str
    threads: int
    milliseconds: float
    ratio: float | None  # over raphson's time
    of_peak: float | None
    reads: float | None


def half_loop(starts: Any, index: Any, values: Doubles, factor: Doubles, ridge: float) -> Doubles:
    """Row by row, as a NumPy user writes it; entries sorted by row beforehand."""
    k = factor.shape[1]
    out = np.zeros((len(starts) - 1, k))
    shift = ridge * np.eye(k)
    for i in range(len(out)):
        part = slice(starts[i], starts[i + 1])
        x = factor[index[part]]
        out[i] = np.linalg.solve(x.T @ x + shift, x.T @ values[part])
    return out


def half_batched(starts: Any, index: Any, values: Doubles, factor: Doubles, ridge: float) -> Doubles:
    """Rows padded to one length, normal matrices by batched products, one batched solve; 500 rows at a time."""
    k, rows = factor.shape[1], len(starts) - 1
    padded = np.vstack([factor, np.zeros((1, k))])
    out = np.zeros((rows, k))
    for first in range(0, rows, 500):
        here = starts[first : first + 501]
        length = int(np.diff(here).max())
        at = here[:-1, None] + np.arange(length)
        real = at < here[1:, None]
        at = np.minimum(at, len(index) - 1)
        x = padded[np.where(real, index[at], len(factor))]
        gram = x.transpose(0, 2, 1) @ x + ridge * np.eye(k)
        right = np.einsum("rpk,rp->rk", x, np.where(real, values[at], 0.0))
        out[first : first + 500] = np.linalg.solve(gram, right[..., None])[..., 0]
    return out


def seconds(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        time.sleep(harness.SETTLE_SECONDS)
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(m: int, n: int, k: int, count: int, threads: int, repeats: int) -> list[Row]:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits

    import raphson
    from raphson import _core
    from raphson.sketch import complete_matrix

    raphson.set_num_threads(threads)
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((m, k)), rng.standard_normal((n, k))
    rows, cols = rng.integers(0, m, count), rng.integers(0, n, count)
    values = (left[rows] * right[cols]).sum(1) + 0.1 * rng.standard_normal(count)
    start = rng.standard_normal((n, k))
    by_row = csr_array((values, (rows, cols)), shape=(m, n))  # adds up what comes twice; about as many entries
    by_col = csr_array(by_row.T)
    name, found = f"{m}×{n}, k {k}, {count / 1e6:g}e6", []

    def ours(method: str) -> float:
        times: list[float] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            complete_matrix(
                rows, cols, values, (m, n), k, ridge=0.1, init=(left, start), max_iter=repeats + 1, tol=1e-300,
                method=method, callback=lambda s: times.append(s.seconds),
            )  # fmt: skip
        return statistics.median(np.diff(times))

    with threadpool_limits(threads):
        peak = _core._fma_peak("float64", 0.2) * threads
        took = ours("auto")
        buffer = np.zeros(1 << 28, np.uint8)
        _core._read_once(buffer)
        rate = len(buffer) / seconds(lambda: _core._read_once(buffer), 5)
        gathered = 2 * count * 8 * ((k + 7) // 8 * 8)
        found.append(
            Row(
                "raphson",
                name,
                threads,
                1e3 * took,
                None,
                2 * count * k * (k + 1) / took / peak,
                took * rate / gathered,
            )
        )
        for method in ("sketch", "qr") if count <= 300_000 else ():
            other = ours(method)
            found.append(Row(f"raphson {method}", name, threads, 1e3 * other, other / took, None, None))
        for what, half in (("NumPy, row by row", half_loop), ("NumPy, batched", half_batched)):

            def iteration(half: Callable[..., Doubles] = half) -> Doubles:
                u = half(by_row.indptr, by_row.indices, by_row.data, start, 0.1)
                return half(by_col.indptr, by_col.indices, by_col.data, u, 0.1)

            theirs = seconds(iteration, 2)
            found.append(Row(what, name, threads, 1e3 * theirs, theirs / took, None, None))
    return found


def bandit(systems: int) -> dict[str, float]:
    """Mean iterations of the second half of a sequence of shifted Laplacians."""
    from scipy import sparse

    from raphson.sketch import SorBandit

    line = sparse.diags_array([-np.ones(11), 2 * np.ones(12), -np.ones(11)], offsets=[-1, 0, 1])
    a = sparse.csr_array(sparse.kron(sparse.eye_array(12), line) + sparse.kron(line, sparse.eye_array(12)))
    rng = np.random.default_rng(0)
    shifts, b = 0.6 * rng.beta(0.5, 1.5, systems) - 0.02, rng.standard_normal((systems, 144))
    found, arms = {}, np.linspace(1, 1.95, 8)
    for method in ("sor", "ssor_cg"):

        def run(learner: Any) -> Any:
            pairs = zip(b, shifts, strict=True)
            return np.array([learner.solve(a, right, shift=s).iterations for right, s in pairs])[systems // 2 :]

        fixed = np.array([run(SorBandit([w], method=method)) for w in arms])
        found[f"{method}, omega 1"] = fixed[0].mean()
        found[f"{method}, best fixed omega"] = fixed.mean(axis=1).min()
        found[f"{method}, best omega of every system"] = fixed.min(axis=0).mean()
        found[f"{method}, Tsallis-INF"] = run(SorBandit(arms, method=method)).mean()
        found[f"{method}, ChebCB"] = run(SorBandit(arms, method=method, shifts=(-0.02, 0.58))).mean()
    return {key: float(value) for key, value in found.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1", help="numbers of threads, such as 1,2")
    parser.add_argument("--quick", action="store_true", help="one small matrix, fewer systems")
    parser.add_argument("--json", metavar="FILE")


def run(options: argparse.Namespace) -> int:
    for name in harness.HANDICAPS:
        os.environ.pop(name, None)
    found = []
    for threads in options.threads.split(","):
        for shape in [(2000, 1000, 16, 200_000)] if options.quick else SHAPES:
            for row in measure(*shape, int(threads), 2 if options.quick else 5):
                ratio = "" if row.ratio is None else f"{row.ratio:8.2f} times ours"
                if row.of_peak is not None:
                    ratio = f"    {row.of_peak:.2f} of the FMA peak, {row.reads:.1f} reads"
                print(f"{row.shape:32s}{row.threads:3d}  {row.what:20s}{row.milliseconds:10.0f} ms{ratio}")
                found.append(row)
    means = bandit(400 if options.quick else 3000)
    for what, mean in means.items():
        print(f"{what:42s}{mean:8.2f} iterations")
    if options.json:
        Path(options.json).write_text(json.dumps({"completion": [asdict(r) for r in found], "bandit": means}, indent=1))
    return 0
