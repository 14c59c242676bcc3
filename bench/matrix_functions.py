"""Matrix functions beside SciPy, NumPy and torch: time, and true residuals over the condition number.

SciPy's functions take one matrix: of a batch they are called in a loop. torch's way to an inverse root is its `eigh`,
batched; `shampoo` is the coupled Newton iteration of Distributed Shampoo (Google, Meta, DASH) written in torch from its
formula, batched, 1e-6 on max|M − I|. `of floor` is the time of 2n³ flops at the multiply-add peak over ours: how many
such times a function may take depends on the function (docs/matrix_functions.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.worker import Call

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    function: str
    shape: tuple[int, ...]
    peers: dict[str, float | None] = field(default_factory=dict)  # and the ratio to reach
    dtype: str = "float64"
    cond: float = 1e4
    quick: bool = False

    def flops(self) -> float:
        *batch, rows, cols = self.shape
        return 2.0 * float(np.prod(batch, initial=1.0)) * rows * cols * min(rows, cols)


CASES = (
    Case("polar", (256, 256), {"scipy": 1.0}, quick=True),
    Case("polar", (512, 512), {"scipy": 1.0}),
    Case("polar", (1024, 1024), {"scipy": 1.0}),
    Case("polar", (2000, 200), {"scipy": 1.0}),
    Case("polar", (64, 64, 64), {"scipy": 5.0}, quick=True),
    Case("sqrt", (256, 256), {"scipy": 1.0, "torch": None}),
    Case("sqrt", (512, 512), {"scipy": 1.0, "torch": None}),
    Case("sqrt", (64, 64, 64), {"scipy": 5.0, "torch": None}, quick=True),
    Case("sqrt general", (256, 256), {"scipy": 1.0}, cond=1e2),
    Case("sign general", (64, 64, 64), {"scipy": 5.0}, cond=1e2),  # from 128 on signm gave another sign: docs
    Case("inverse", (64, 64, 64), {"numpy": None, "torch": None}),
    Case("inverse", (256, 256), {"numpy": 1.0, "torch": None}),
    Case("inverse", (1024, 1024), {"numpy": 1.0, "torch": None}),
    Case("root 4", (256, 256), {"scipy": 1.0, "torch": None}),
    Case("root 4", (64, 64, 64), {"scipy": 5.0, "torch": None}, quick=True),
    Case("root 4", (32, 256, 256), {"torch": 3.0, "shampoo": None}, dtype="float32"),
    Case(
        "root 4", (24, 512, 512), {"torch": None, "shampoo": None}, dtype="float32", cond=1e6
    ),  # one of 6 equal layers
)


def positive(n: int, cond: float, seed: int) -> Array:
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    a = (q * np.logspace(0, -np.log10(cond), n)) @ q.T
    return (a + a.T) / 2


def general(n: int, cond: float, seed: int, signs: bool) -> Array:
    """A matrix with real eigenvalues and eigenvectors that are not orthogonal."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0] + 0.2 * rng.standard_normal((n, n)) / np.sqrt(n)
    values = np.logspace(0, -np.log10(cond), n)
    if signs:
        values[::3] *= -1
    return basis @ np.diag(values) @ np.linalg.inv(basis)


def sample(case: dict[str, Any]) -> Array:
    *batch, rows, cols = case["shape"]
    count = int(np.prod(batch, initial=1))

    def one(seed: int) -> Array:
        if case["what"] in ("polar", "inverse"):
            rng = np.random.default_rng(seed)
            k = min(rows, cols)
            left = np.linalg.qr(rng.standard_normal((rows, k)))[0]
            right = np.linalg.qr(rng.standard_normal((cols, k)))[0]
            return (left * np.logspace(0, -np.log10(case["cond"]), k)) @ right.T
        if case["what"].endswith("general"):
            return general(rows, case["cond"], seed, case["what"].startswith("sign"))
        return positive(rows, case["cond"], seed)

    return np.stack([one(seed) for seed in range(count)]).reshape(case["shape"]).astype(case["dtype"])


def ours(case: dict[str, Any]) -> dict[str, Call]:
    import raphson
    from raphson import newton_schulz as ns

    a, what = sample(case), case["what"]
    calls: dict[str, Call] = {
        "polar": lambda: raphson.polar(a).unitary,
        "sqrt": lambda: ns.sqrt(a).value,
        "sqrt general": lambda: ns.sqrt(a).value,
        "sign general": lambda: ns.sign(a).value,
        "inverse": lambda: ns.inverse(a).value,
        "root 4": lambda: ns.inverse_root(a, 4).value,
    }
    return {"": calls[what]}


def with_scipy(case: dict[str, Any]) -> dict[str, Call]:
    import scipy.linalg

    a, what = sample(case), case["what"]
    functions = {
        "polar": lambda x: scipy.linalg.polar(x)[0],
        "sqrt": scipy.linalg.sqrtm,
        "sqrt general": scipy.linalg.sqrtm,
        "sign general": scipy.linalg.signm,
        "root 4": lambda x: scipy.linalg.fractional_matrix_power(x, -0.25),
    }
    name = {"root 4": "power -1/4", "sign general": "signm"}.get(what, "polar" if what == "polar" else "sqrtm")
    function = functions[what]

    def call() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if a.ndim == 2:
                return np.real(function(a))
            return np.stack([np.real(function(x)) for x in a])

    return {name: call}


def with_numpy(case: dict[str, Any]) -> dict[str, Call]:
    a = sample(case)
    return {"inv": lambda: np.linalg.inv(a)}


def eigh_power(a: Any, power: float) -> Any:
    import torch

    values, vectors = torch.linalg.eigh(a)
    return (vectors * values.clamp_min(torch.finfo(a.dtype).tiny)[..., None, :] ** power) @ vectors.mT


def coupled_newton(a: Any, p: int, tol: float = 1e-6, most: int = 100) -> tuple[Any, float, int]:
    """A^(−1/p) for a batch, what the iteration says of itself, max|M − I|, and its steps."""
    import torch

    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    z = (1 + p) / (2 * torch.linalg.matrix_norm(a))[..., None, None]
    x, m = z ** (1 / p) * identity, z * a
    said = float((m - identity).abs().max())
    for step in range(most):
        factor = (1 + 1 / p) * identity - m / p
        next_m = torch.linalg.matrix_power(factor, p) @ m
        error = float((next_m - identity).abs().max())
        if not error < 1.2 * said and step > 0:
            return x, said, step
        x, m, said = x @ factor, next_m, error
        if said <= tol:
            return x, said, step + 1
    return x, said, most


def with_torch(case: dict[str, Any]) -> dict[str, Call]:
    import torch

    torch.set_grad_enabled(False)
    a, what = torch.from_numpy(sample(case)), case["what"]
    if what == "inverse":
        return {"inv": lambda: torch.linalg.inv(a)}
    power = {"sqrt": 0.5, "root 4": -0.25}[what]
    return {"eigh": lambda: eigh_power(a, power)}


def with_shampoo(case: dict[str, Any]) -> dict[str, Call]:
    import torch

    torch.set_grad_enabled(False)
    a = torch.from_numpy(sample(case))
    return {"": lambda: coupled_newton(a, 4)[0]}


def variants(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    """Called by ``bench.worker``: the ways in which a contender can compute the case."""
    contenders = {"ours": ours, "scipy": with_scipy, "numpy": with_numpy, "torch": with_torch, "shampoo": with_shampoo}
    return contenders[contender](case)


# ---- accuracy ----------------------------------------------------------------------------------------


def root_table(dtype: str, conditions: list[float], n: int = 128, p: int = 4) -> None:
    """max|A Xᵖ − I| in float64: reported by us, true, and the peers'."""
    import scipy.linalg
    import torch

    from raphson import newton_schulz as ns

    def true(a: Array, x: Any) -> float:
        power = np.linalg.matrix_power(np.asarray(x, dtype=float), p)
        return float(np.abs(a.astype(float) @ power - np.eye(n)).max())

    print(f"\ninverse 4th root, n = {n}, {dtype}: max|A X⁴ − I|")
    print("| cond | ours says | ours, true | steps | torch eigh | SciPy power | Shampoo says | Shampoo, true | steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for cond in conditions:
        a = positive(n, cond, 1).astype(dtype)
        result = ns.inverse_root(a, p, errors="status")
        x, said, steps = coupled_newton(torch.from_numpy(a), p)
        eigh = true(a, eigh_power(torch.from_numpy(a), -1 / p).numpy())
        power = true(a, np.real(scipy.linalg.fractional_matrix_power(a.astype(float), -1 / p)).astype(dtype))
        print(
            f"| {cond:.0e} | {result.residual:.1e} | {true(a, result.value):.1e} | {result.iterations} | {eigh:.1e} "
            f"| {power:.1e} | {said:.1e} | {true(a, x.numpy()):.1e} | {steps} |"
        )


def polar_table(dtype: str, conditions: list[float], n: int = 128) -> None:
    """Backward error and orthogonality."""
    import scipy.linalg

    import raphson

    print(f"\npolar, n = {n}, {dtype}: ‖UH − X‖_F/‖X‖_F and ‖UᵀU − I‖_F/√n")
    print("| cond | ours | orthogonality | steps | SciPy | orthogonality |")
    print("|---|---|---|---|---|---|")
    for cond in conditions:
        x = sample({"what": "polar", "shape": [n, n], "cond": cond, "dtype": dtype})
        result = raphson.polar(x)
        u, h = (part.astype(float) for part in scipy.linalg.polar(x))
        theirs = np.linalg.norm(u @ h - x) / np.linalg.norm(x)
        orthogonality = np.linalg.norm(u.T @ u - np.eye(n)) / np.sqrt(n)
        print(
            f"| {cond:.0e} | {result.residual:.1e} | {result.orthogonality:.1e} | {result.iterations} "
            f"| {theirs:.1e} | {orthogonality:.1e} |"
        )


def sqrt_table(conditions: list[float], n: int = 128) -> None:
    """‖X² − A‖_F/‖A‖_F of symmetric and general matrices."""
    import scipy.linalg

    from raphson import newton_schulz as ns

    def error(a: Array, x: Any) -> float:
        return float(np.linalg.norm(x @ x - a) / np.linalg.norm(a))

    print(f"\nsqrt and sign, n = {n}, float64: ‖X² − A‖_F/‖A‖_F, max|S² − I|")
    print("| cond | symmetric | SciPy | general | steps | SciPy | sign, general | steps | SciPy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for cond in conditions:
        a, b, c = positive(n, cond, 1), general(n, cond, 1, False), general(n, cond, 1, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root, sign = ns.sqrt(b, errors="status"), ns.sign(c, errors="status")
            s = np.real(scipy.linalg.signm(c))
            schur_a, schur_b = error(a, scipy.linalg.sqrtm(a)), error(b, scipy.linalg.sqrtm(b))
            square = np.abs(s @ s - np.eye(n)).max()
            print(
                f"| {cond:.0e} | {ns.sqrt(a).residual:.1e} | {schur_a:.1e} | {root.residual:.1e} | {root.iterations} "
                f"| {schur_b:.1e} | {sign.residual:.1e} | {sign.iterations} | {square:.1e} |"
            )


def picture(path: str, n: int = 128, p: int = 4) -> None:
    """True and reported residuals of inverse fourth roots over the condition number."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from raphson import newton_schulz as ns

    def true(a: Array, x: Array) -> float:
        return float(np.abs(a.astype(float) @ np.linalg.matrix_power(x.astype(float), p) - np.eye(n)).max())

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, dtype, top in zip(axes, ("float64", "float32"), (12, 6), strict=True):
        conditions = np.logspace(1, top, 2 * top - 1)
        lines: dict[str, list[float]] = {
            name: []
            for name in ("raphson, true", "raphson says", "torch eigh, true", "coupled Newton, true", "it says")
        }
        for cond in conditions:
            a = positive(n, float(cond), 1).astype(dtype)
            result = ns.inverse_root(a, p, errors="status")
            x, said, _ = coupled_newton(torch.from_numpy(a), p)
            values = (
                true(a, result.value),
                result.residual,
                true(a, eigh_power(torch.from_numpy(a), -1 / p).numpy()),
                true(a, x.numpy()),
                said,
            )
            for name, value in zip(lines, values, strict=True):
                lines[name].append(value)
        for (name, values_), style in zip(lines.items(), ("o-", "x", "s-", "^-", "^:"), strict=True):
            axis.loglog(conditions, values_, style, label=name, markersize=5)
        axis.set_title(f"{dtype}, n = {n}, p = {p}")
        axis.set_xlabel("condition number")
    axes[0].set_ylabel("max|A Xᵖ − I|")
    axes[0].legend()
    figure.savefig(path, dpi=100)


def accuracy() -> None:
    wide, narrow = [10.0**k for k in (1, 2, 4, 6, 8, 10, 12)], [10.0**k for k in (1, 2, 4, 6)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root_table("float64", wide)
        root_table("float32", narrow)
        polar_table("float64", wide)
        polar_table("float32", narrow)
        sqrt_table(wide)


# ---- the run ---------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default=None, help="comma-separated, one table each (default: 1,2; --quick: 1)")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds: under a minute")
    parser.add_argument("--accuracy", action="store_true", help="the tables over the condition number instead")
    parser.add_argument("--plot", metavar="FILE", help="draw the residuals of inverse roots instead")
    parser.add_argument("--json", metavar="FILE", help="write machine facts and rows")


def run(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        picture(arguments.plot)
    if arguments.accuracy:
        accuracy()
    if arguments.accuracy or arguments.plot:
        return 0
    facts = harness.machine()
    wanted = arguments.threads or ("1" if arguments.quick else "1,2")
    here = [
        name for name in ("scipy", "numpy", "torch") if importlib.util.find_spec(name) is not None
    ]  # shampoo is torch
    contenders = [*here, "shampoo"] if "torch" in here else here
    effort = harness.QUICK if arguments.quick else harness.Effort(rounds=7, slice_seconds=0.15, row_seconds=20.0)
    rows: list[harness.Row] = []
    for threads in (int(t) for t in wanted.split(",")):
        with harness.field(threads, ["ours", *contenders]) as field_:
            print(f"\n{threads} threads\n{harness.HEADER}", flush=True)
            for case in CASES:
                if arguments.quick and not case.quick:
                    continue
                description = {
                    "what": case.function,
                    "shape": list(case.shape),
                    "dtype": case.dtype,
                    "cond": case.cond,
                }
                for row in field_.race(
                    "bench.matrix_functions",
                    description,
                    peers=[peer for peer in case.peers if peer in contenders],
                    flops=case.flops(),
                    tolerance=1e-7 if case.dtype == "float64" else 0.05,
                    reach={peer: reach for peer, reach in case.peers.items() if reach is not None},
                    effort=effort,
                ):
                    rows.append(row)
                    print(harness.line(row), flush=True)
    if arguments.json:
        harness.write_json(arguments.json, facts, rows)
    strangers = [row for row in rows if not row.agrees]
    for row in strangers:
        print(f"! {row.what} {row.shape} {row.dtype}, {row.peer}: results differ by {row.deviation:.1e}")
    return 1 if strangers else 0
