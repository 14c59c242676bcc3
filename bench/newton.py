"""minimize and solve_kkt: the CUTEst problems of S2MPJ, constrained logistic regression, Poisson control, KKT systems.

Every solver gets the same functions with exact derivatives, and a problem counts as solved when the first-order conditions,
computed by the bench, hold to 1e-6. Evaluations are points at which f or c was asked for. Times of the S2MPJ problems are
mostly theirs: interpreted Python, milliseconds a call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import harness, newton_peers, newton_problems, s2mpj

# Value and derivatives of one point take tens of seconds in pure Python.
SLOW = {f"D{kind}LS" for kind in ("IAMON2D", "IAMON3D", "MN15102", "MN15103", "MN15332", "MN15333", "MN37142", "MN37143")}
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


def best_of(call: Callable[[], Any], repeats: int = 5) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


# ---- S2MPJ -------------------------------------------------------------------------------------------------------------
def s2mpj_names(kind: str) -> list[str]:
    constrained = kind == "equality"
    extra = [name for name in s2mpj.ADASKETCH if name not in s2mpj.catalogue()] if constrained else []
    return [name for name in s2mpj.names(constrained) + extra if name not in SLOW]


def run_problems(names: list[str], solvers: list[str], seconds: float) -> Rows:
    found = []
    for number, name in enumerate(names):
        for solver in solvers:
            found.append(newton_peers.measure(solver, s2mpj.load(name), seconds).as_dict())
        marks = " ".join("*" if row["solved"] else "." for row in found[-len(solvers) :])
        print(f"  {number + 1}/{len(names)} {name} {marks}", flush=True)
    return found


def summary(rows: Rows, title: str) -> None:
    solvers = list(dict.fromkeys(row["solver"] for row in rows))
    everywhere = set.intersection(*({r["problem"] for r in rows if r["solver"] == s and r["solved"]} for s in solvers))
    count = len({row["problem"] for row in rows})
    print(f"\n{title}: {count} problems, {len(everywhere)} solved by all")
    print(f"{'solver':14} {'solved':>7} {'claims, false':>13} {'it':>6} {'evals':>6} {'hess':>6} {'s, total':>9} {'evals, common':>14}")
    for solver in solvers:
        mine = [row for row in rows if row["solver"] == solver]
        good = [row for row in mine if row["solved"]]
        false = sum(row["status"] in ("converged", "Solve_Succeeded", "0", "1", "2") and not row["solved"] for row in mine)
        common = [row["evaluations"] for row in good if row["problem"] in everywhere]

        def middle(key: str, of: Rows = good) -> float:
            return statistics.median(row[key] for row in of) if of else float("nan")

        print(
            f"{solver:14} {len(good):7d} {false:13d} {middle('iterations'):6.0f} {middle('evaluations'):6.0f} {middle('hessians'):6.0f}"
            f" {sum(row['seconds'] for row in mine):9.1f} {statistics.median(common) if common else float('nan'):14.1f}"
        )


def profile(rows: Rows, file: str) -> None:
    """Dolan and Moré's performance profiles of evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, (title, constrained) in zip(axes, (("equality constraints", True), ("unconstrained", False)), strict=True):
        of = [row for row in rows if (row["m"] > 0) == constrained]
        if not of:
            continue
        problems = sorted({row["problem"] for row in of})
        table = {(r["problem"], r["solver"]): r["evaluations"] for r in of if r["solved"]}
        best = {p: min((v for (name, _), v in table.items() if name == p), default=None) for p in problems}
        solvable = [p for p in problems if best[p]]
        for solver in dict.fromkeys(row["solver"] for row in of):
            ratios = np.sort([table[p, solver] / best[p] for p in solvable if (p, solver) in table])
            axis.step(np.r_[1, ratios, 100], np.r_[0, np.arange(1, len(ratios) + 1), len(ratios)] / len(solvable), where="post", label=solver)
        axis.set(xscale="log", xlim=(1, 100), ylim=(0, 1.02), xlabel="evaluations, over the fewest", title=f"{title}, {len(solvable)} problems")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share solved to 1e-6")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


# ---- the others --------------------------------------------------------------------------------------------------------
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
        timed(lambda x: A @ x - 1 + 0.1 * (x**2).sum()), timed(lambda x: A + 0.2 * x), timed(lambda x, v: 0.2 * v.sum() * np.eye(n))
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


def kkt(quick: bool) -> None:
    """Direct solvers beside LAPACK's and SuperLU's; ratios are theirs over ours."""
    import scipy.linalg
    from scipy.sparse.linalg import splu

    from raphson.newton import solve_kkt

    print("\ndense LDLᵀ and solution beside scipy.linalg.solve(assume_a='sym')")
    for n, m in ((8, 2), (80, 20), (400, 100)) if quick else ((8, 2), (80, 20), (400, 100), (800, 200), (2400, 600)):
        rng = np.random.default_rng(0)
        q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        B, G, rhs = (q * np.logspace(0, 1, n)) @ q.T, rng.standard_normal((m, n)), rng.standard_normal(n + m)
        B = (B + B.T) / 2
        K = np.block([[B, G.T], [G, np.zeros((m, m))]])
        ours = best_of(lambda: solve_kkt(B, G, rhs))
        peer = best_of(lambda: scipy.linalg.solve(K, rhs, assume_a="sym"))
        lu = best_of(lambda: np.linalg.solve(K, rhs))
        residual = np.linalg.norm(K @ solve_kkt(B, G, rhs).x - rhs) / np.linalg.norm(rhs)
        theirs = np.linalg.norm(K @ scipy.linalg.solve(K, rhs, assume_a="sym") - rhs) / np.linalg.norm(rhs)
        print(
            f"  {n}+{m}: {1e3 * ours:9.3f} ms, sysv {1e3 * peer:9.3f} ({peer / ours:.2f}), LU {1e3 * lu:9.3f} ({lu / ours:.2f});"
            f" residual {residual:.1e}, sysv {theirs:.1e}"
        )
    print("sparse LDLᵀ and solution of Poisson control beside SuperLU (splu)")
    for size in (18,) if quick else (18, 40, 80, 180):
        p = newton_problems.poisson(size)
        ours = best_of(lambda: solve_kkt(p["B"], p["G"], p["rhs"]), 3)
        line = f"  N = {size}, {3 * p['q']} unknowns: {1e3 * ours:9.1f} ms"
        if size <= 80:
            peer = best_of(lambda: splu(p["K"]).solve(p["rhs"]), 3)
            line += f", splu {1e3 * peer:9.1f} ({peer / ours:.2f})"
        minres = best_of(lambda: solve_kkt(p["B"], p["G"], p["rhs"], method="minres"), 3)
        print(line + f"; MINRES + Schur {1e3 * minres:9.1f}")


def projection(quick: bool) -> None:
    """Where could sketching pay? Seconds to 1e-2 and 1e-6, or the residual at the limit."""
    from raphson.newton import solve_kkt

    rng = np.random.default_rng(0)
    cases: list[tuple[str, Any, Any]] = []
    for size in (3,) if quick else (3, 18):
        p = newton_problems.poisson(size)
        cases.append((f"Poisson N = {size}", p["B"], p["G"]))
    n = 60 if quick else 400
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    for title, values in (
        ("flat spectrum", np.ones(n)),
        ("condition 10", np.logspace(0, 1, n)),
        ("10 outliers of 1e3, flat tail", np.r_[np.full(10, 1e3), np.ones(n - 10)]),
    ):
        B = (q * values) @ q.T
        cases.append((f"dense {n}, {title}", (B + B.T) / 2, None))
    print("\nsketch-and-project: seconds (steps), beside LDLᵀ and MINRES")
    most = 20_000 if quick else 2_000_000
    for title, B, G in cases:
        size = B.shape[0] + (0 if G is None else G.shape[0])
        rhs = np.random.default_rng(1).standard_normal(size)
        line = f"  {title}, size {size}:"
        for method in ("ldlt", "minres"):
            line += f" {method} {1e3 * best_of(lambda b=B, g=G, r=rhs, k=method: solve_kkt(b, g, r, method=k, tol=1e-6), 3):.2f} ms"
        for tol in (1e-2, 1e-6):
            for method, given in (("kaczmarz", {}), ("block", {"block_size": 32}), ("gaussian", {})):
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    steps = most // (32 if method == "block" else 20 if method == "gaussian" else 1)
                    found = solve_kkt(B, G, rhs, method=method, tol=tol, max_iter=steps, **given)
                took = time.perf_counter() - start
                line += f"; {method} {tol:g}: " + (f"{1e3 * took:.1f} ms ({found.iterations})" if found.converged else f"{found.residual:.1e} after {took:.1f} s")
        print(line, flush=True)


def poisson(quick: bool) -> None:
    from raphson.newton import Equality, minimize

    print("\nPoisson control by minimize")
    for size in (3, 18) if quick else (3, 18, 40, 80, 180):
        p = newton_problems.poisson(size)
        q, target, B, G = p["q"], p["target"], p["B"], p["G"]
        empty = B * 0.0
        empty.eliminate_zeros()
        call = lambda: minimize(  # noqa: E731
            lambda x: 0.5 * ((x[:q] - target) ** 2).sum() + 0.05 * (x[q:] ** 2).sum(), np.ones(2 * q),
            jac=lambda x: np.r_[x[:q] - target, 0.1 * x[q:]], hess=lambda x: B,
            constraints=Equality(lambda x: G @ x, lambda x: G, lambda x, v: empty),
        )  # fmt: skip
        found = call()
        print(f"  N = {size}, {3 * q} unknowns: {best_of(call, 3):.4f} s, {found.nit} iterations, optimality {found.optimality:.1e}, violation {found.constraint_violation:.1e}")


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
                f"  {name} {solver:13} {row['seconds']:7.2f} s, {row['iterations']} iterations, {row['evaluations']} evaluations,"
                f" {row['hessians']} Hessians, optimality {row['optimality']:.1e}, violation {row['violation']:.1e}, f {row['objective']:.8f}",
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
        kkt(arguments.quick)
    if "projection" in parts:
        projection(arguments.quick)
    if "poisson" in parts:
        poisson(arguments.quick)
    if "logistic" in parts:
        rows += logistic(arguments.quick, ["raphson", "trust-constr"] if arguments.quick else solvers, arguments.limit)
    problems: Rows = []
    for kind in ("equality", "unconstrained"):
        if kind not in parts or (arguments.quick and not s2mpj.installed()):
            continue
        names = arguments.names.split(",") if arguments.names else s2mpj_names(kind)
        if arguments.quick:
            names = [n for n in names if n in ("HS6", "HS7", "HS78", "BT1", "MARATOS", "BOOTH", "ROSENBR", "BEALE", "CUBE")]
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
    wrong = [row for row in rows + problems if row["solver"] == "raphson" and row["status"] == "converged" and not (row["optimality"] <= 2e-6 and row["violation"] <= 1e-6)]
    for row in wrong:
        print(f"FALSE CLAIM: {row['problem']}: optimality {row['optimality']:.2g}, violation {row['violation']:.2g}")
    return 1 if wrong else 0
