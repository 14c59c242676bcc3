"""minimize and solve_kkt: the CUTEst problems of S2MPJ, constrained logistic regression, Poisson control, KKT systems.

Every solver gets the same functions with exact derivatives, and a problem counts as solved when the first-order
conditions, computed by the bench, hold to 1e-6. Evaluations are points at which f or c was asked for. Times of the
S2MPJ problems are mostly theirs: interpreted Python, milliseconds a call.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import harness, newton_peers, newton_problems, newton_systems, s2mpj

# Value and derivatives of one point take tens of seconds in pure Python.
SLOW = {
    f"D{kind}LS" for kind in ("IAMON2D", "IAMON3D", "MN15102", "MN15103", "MN15332", "MN15333", "MN37142", "MN37143")
}
PARTS = ("overhead", "kkt", "projection", "poisson", "logistic", "equality", "unconstrained")
Rows = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma separated, of {', '.join(PARTS)}")
    parser.add_argument("--solvers", default=",".join(newton_peers.SOLVERS))
    parser.add_argument("--limit", type=float, default=10.0, help="seconds for a solver on a problem")
    parser.add_argument("--names", default="", help="of S2MPJ problems, comma separated; all of n ≤ 500 by default")
    parser.add_argument("--json", default="", help="file for all outcomes")
    parser.add_argument("--plot", default="", help="file for the performance profiles")
    parser.add_argument("--quick", action="store_true", help="a few small problems")


# ---- S2MPJ ---------------------------------------------------------------------------------------------------------
def s2mpj_names(kind: str) -> list[str]:
    constrained = kind == "equality"
    extra = [name for name in s2mpj.ADASKETCH if name not in s2mpj.catalogue()] if constrained else []
    return [name for name in s2mpj.names(constrained) + extra if name not in SLOW]


def _here(solver: str, load: Callable[[], Any], seconds: float) -> newton_peers.Outcome:
    return newton_peers.measure(solver, load(), seconds)


def run_problems(names: list[str], solvers: list[str], seconds: float) -> Rows:
    found = []
    for number, name in enumerate(names):
        for solver in solvers:
            run = newton_peers.measure_apart if solver != "raphson" else _here
            found.append(run(solver, functools.partial(s2mpj.load, name), seconds).as_dict())
        marks = " ".join("*" if row["solved"] else "." for row in found[-len(solvers) :])
        print(f"  {number + 1}/{len(names)} {name} {marks}", flush=True)
    return found


def summary(rows: Rows, title: str) -> None:
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    everywhere = set.intersection(*({r["problem"] for r in rows if r["solver"] == s and r["solved"]} for s in solvers))
    count = len({row["problem"] for row in rows})
    print(f"\n{title}: {count} problems, {len(everywhere)} solved by all")
    heads = ("solved", "false claims", "it", "evals", "hess", "s, total", "evals, common")
    print(f"{'solver':14}" + "".join(f" {head:>{max(6, len(head))}}" for head in heads))
    for solver in solvers:
        mine = [row for row in rows if row["solver"] == solver]
        good = [row for row in mine if row["solved"]]
        false = sum(
            row["status"] in ("converged", "Solve_Succeeded", "0", "1", "2") and not row["solved"] for row in mine
        )
        common = [row["evaluations"] for row in good if row["problem"] in everywhere]

        def middle(key: str, of: Rows = good) -> float:
            return statistics.median(row[key] for row in of) if of else float("nan")

        shown = (
            f"{len(good)}",
            f"{false}",
            f"{middle('iterations'):.0f}",
            f"{middle('evaluations'):.0f}",
            f"{middle('hessians'):.0f}",
            f"{sum(row['seconds'] for row in mine):.1f}",
            f"{statistics.median(common) if common else float('nan'):.1f}",
        )
        print(f"{solver:14}" + "".join(f" {v:>{max(6, len(h))}}" for h, v in zip(heads, shown, strict=True)))


def profile(rows: Rows, file: str) -> None:
    """Dolan and Moré's performance profiles of evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, (title, constrained) in zip(
        axes, (("equality constraints", True), ("unconstrained", False)), strict=True
    ):
        of = [row for row in rows if (row["m"] > 0) == constrained]
        if not of:
            continue
        problems = sorted({row["problem"] for row in of})
        table = {(r["problem"], r["solver"]): r["evaluations"] for r in of if r["solved"]}
        best = {p: min((v for (name, _), v in table.items() if name == p), default=None) for p in problems}
        solvable = [p for p in problems if best[p]]
        for solver in dict.fromkeys(row["solver"] for row in of):
            ratios = np.sort([table[p, solver] / best[p] for p in solvable if (p, solver) in table])
            axis.step(
                np.r_[1, ratios, 100],
                np.r_[0, np.arange(1, len(ratios) + 1), len(ratios)] / len(solvable),
                where="post",
                label=solver,
            )
        axis.set(
            xscale="log",
            xlim=(1, 100),
            ylim=(0, 1.02),
            xlabel="evaluations, over the fewest",
            title=f"{title}, {len(solvable)} problems",
        )
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share solved to 1e-6")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


# ---- the others ----------------------------------------------------------------------------------------------------
def overhead() -> None:
    """Microseconds an iteration that are not spent in the user's functions, n = 10."""
    from raphson.newton import Equality, minimize

    n, m = 10, 3
    A = np.random.default_rng(0).standard_normal((m, n))
    H = np.diag(np.arange(1.0, n + 1))
    spent = [0.0]

    def timed(f: Callable[..., Any]) -> Callable[..., Any]:
        def g(*given: Any) -> Any:
            start = time.perf_counter()
            value = f(*given)
            spent[0] += time.perf_counter() - start
            return value

        return g

    equality = Equality(
        timed(lambda x: A @ x - 1 + 0.1 * (x**2).sum()),
        timed(lambda x: A + 0.2 * x),
        timed(lambda x, v: 0.2 * v.sum() * np.eye(n)),
    )
    for title, given in (("unconstrained", {}), ("3 constraints", {"constraints": equality})):
        best = np.inf
        for _ in range(40):
            spent[0], start = 0.0, time.perf_counter()
            found = minimize(
                timed(lambda x: 0.5 * x @ H @ x + 0.25 * (x**4).sum()), np.full(n, 30.0),
                jac=timed(lambda x: H @ x + x**3), hess=timed(lambda x: H + np.diag(3 * x**2)), **given,
            )  # fmt: skip
            best = min(best, (time.perf_counter() - start - spent[0]) / found.nit)
        print(f"outer loop, n = 10, {title}: {1e6 * best:.1f} µs an iteration beyond user functions (limit 60)")


def logistic(quick: bool, solvers: list[str], seconds: float) -> Rows:
    rows = []
    print("\nconstrained logistic regression, exact Hessians for all")
    for name in ("mushrooms",) if quick else ("mushrooms", "a9a", "w8a"):
        if not (newton_problems.DATA / f"{name}.txt.gz").is_file():
            print(f"  {name}: no data under {newton_problems.DATA}")
            continue
        for solver in solvers:
            row = newton_peers.measure(solver, newton_problems.Logistic(name), 6 * seconds).as_dict()
            rows.append(row)
            print(
                f"  {name} {solver:13} {row['seconds']:7.2f} s, {row['iterations']} iterations,"
                f" {row['evaluations']} evaluations, {row['hessians']} Hessians, optimality {row['optimality']:.1e},"
                f" violation {row['violation']:.1e}, f {row['objective']:.8f}",
                flush=True,
            )
    return rows


def run(arguments: argparse.Namespace) -> int:
    parts = [part for part in arguments.parts.split(",") if part]
    solvers = [solver for solver in arguments.solvers.split(",") if solver]
    unknown = [part for part in parts if part not in PARTS] + [s for s in solvers if s not in newton_peers.SOLVERS]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}")
    print(json.dumps(harness.machine()))
    rows: Rows = []
    if "overhead" in parts:
        overhead()
    if "kkt" in parts:
        newton_systems.kkt(arguments.quick)
    if "projection" in parts:
        newton_systems.projection(arguments.quick)
    if "poisson" in parts:
        newton_systems.poisson(arguments.quick)
    if "logistic" in parts:
        rows += logistic(arguments.quick, ["raphson", "trust-constr"] if arguments.quick else solvers, arguments.limit)
    problems: Rows = []
    for kind in ("equality", "unconstrained"):
        if kind not in parts or (arguments.quick and not s2mpj.installed()):
            continue
        names = arguments.names.split(",") if arguments.names else s2mpj_names(kind)
        if arguments.quick:
            names = [
                n for n in names if n in ("HS6", "HS7", "HS78", "BT1", "MARATOS", "BOOTH", "ROSENBR", "BEALE", "CUBE")
            ]
        if arguments.names:
            names = [n for n in names if (s2mpj.load(n).m > 0) == (kind == "equality")]
        found = run_problems(names, ["raphson", "trust-constr"] if arguments.quick else solvers, arguments.limit)
        summary(found, kind)
        if kind == "equality":
            paper = [row for row in found if row["problem"] in s2mpj.ADASKETCH]
            if paper:
                summary(paper, "of the AdaSketch paper")
        problems += found
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"machine": harness.machine(), "rows": rows + problems}, file)
    if arguments.plot and problems:
        profile(problems, arguments.plot)
    wrong = [
        row
        for row in rows + problems
        if row["solver"] == "raphson"
        and row["status"] == "converged"
        and not (row["optimality"] <= 2e-6 and row["violation"] <= 1e-6)
    ]
    for row in wrong:
        print(f"FALSE CLAIM: {row['problem']}: optimality {row['optimality']:.2g}, violation {row['violation']:.2g}")
    return 1 if wrong else 0
