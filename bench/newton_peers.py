"""minimize and its peers on one problem, all asked alike: f, c and exact derivatives, tolerance 1e-6, a time limit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
TOL = 1e-6
MAX_ITER = 1000


@dataclass
class Outcome:
    problem: str
    solver: str
    n: int
    m: int
    status: str
    iterations: int
    evaluations: int
    gradients: int
    hessians: int
    seconds: float
    objective: float
    optimality: float
    violation: float

    @property
    def solved(self) -> bool:
        """First-order conditions at 1e-6, computed by the bench for whoever claims them."""
        return self.optimality <= TOL and self.violation <= TOL

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"solved": self.solved}


class TooLong(Exception):
    pass


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again: S2MPJ has bare excepts
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stdout and stderr, whoever writes: IPOPT and casadi do so from C++."""
    with open(os.devnull, "w") as sink:
        kept = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])


Found = tuple[Doubles, str, int]


def raphson(test: Any, seconds: float) -> Found:
    from raphson.newton import Equality, minimize

    given = {"constraints": Equality(test.cons, test.cons_jac, test.cons_hess)} if test.m else {}
    try:
        found = minimize(
            test.fun, test.x0, jac=test.grad, hess=test.hess, tol=TOL, options={"max_iter": MAX_ITER}, **given
        )
    except TooLong as late:
        return late.state.x, "time", late.state.nit  # type: ignore[attr-defined]
    return found.x, found.status, found.nit


def trust_constr(test: Any, seconds: float) -> Found:
    from scipy.optimize import NonlinearConstraint, minimize

    given = [NonlinearConstraint(test.cons, 0, 0, jac=test.cons_jac, hess=test.cons_hess)] if test.m else []
    found = minimize(
        test.fun, test.x0, jac=test.grad, hess=test.hess, method="trust-constr", constraints=given,
        options={"gtol": TOL, "xtol": 1e-12, "maxiter": MAX_ITER},
    )  # fmt: skip
    return found.x, str(found.status), found.nit


def slsqp(test: Any, seconds: float) -> Found:
    from scipy.optimize import minimize

    given = [{"type": "eq", "fun": test.cons, "jac": test.cons_jac}] if test.m else []
    found = minimize(
        test.fun,
        test.x0,
        jac=test.grad,
        method="SLSQP",
        constraints=given,
        options={"ftol": 1e-14, "maxiter": MAX_ITER},
    )
    return found.x, str(found.status), found.nit


def ipopt(test: Any, seconds: float) -> Found:
    """IPOPT with MUMPS from casadi's wheel, its NLP made of callbacks with exact derivatives, dense."""
    import casadi

    n, m = test.n, test.m
    dense, upper = casadi.Sparsity.dense, casadi.Sparsity.upper(n)
    column, rows = np.tril_indices(n)  # of the upper triangle, column after column

    class Call(casadi.Callback):  # type: ignore[misc]
        def __init__(self, name: str, ins: list[Any], outs: list[Any], f: Callable[..., list[Any]]) -> None:
            casadi.Callback.__init__(self)
            self.ins, self.outs, self.f = ins, outs, f
            self.construct(name, {})

        def get_n_in(self) -> int:
            return len(self.ins)

        def get_n_out(self) -> int:
            return len(self.outs)

        def get_sparsity_in(self, k: int) -> Any:
            return self.ins[k]

        def get_sparsity_out(self, k: int) -> Any:
            return self.outs[k]

        def eval(self, given: Any) -> list[Any]:
            return self.f(*[np.array(v).ravel() for v in given])

    x_, p_, c_ = dense(n, 1), dense(0, 0), dense(m, 1)
    none = casadi.DM(0, 1)

    def curvature(x: Doubles, p: Doubles, factor: Doubles, multipliers: Doubles) -> list[Any]:
        h = float(factor[0]) * test.hess(x)
        if m:
            h = h + test.cons_hess(x, multipliers)
        return [casadi.DM(upper, h[rows, column].tolist())]

    values = Call("values", [x_], [dense(1, 1), c_], lambda x: [test.fun(x), test.cons(x) if m else none])
    slope = Call("slope", [x_, p_], [dense(1, 1), x_], lambda x, p: [0.0, test.grad(x)])
    slopes = Call(
        "slopes",
        [x_, p_],
        [c_, dense(m, n)],
        lambda x, p: [np.zeros((m, 1)) if m else none, test.cons_jac(x) if m else casadi.DM(0, n)],
    )
    second = Call("second", [x_, p_, dense(1, 1), c_], [upper], curvature)
    x = casadi.MX.sym("x", n)
    f, g = values(x)
    options = {
        "ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes", "ipopt.tol": TOL, "ipopt.max_iter": MAX_ITER,
        # of the problem as it is given, not as IPOPT scales it
        "ipopt.dual_inf_tol": TOL, "ipopt.constr_viol_tol": TOL,
        "ipopt.max_wall_time": seconds, "error_on_fail": False, "grad_f": slope, "jac_g": slopes, "hess_lag": second,
        "no_nlp_grad": True, "calc_lam_p": False, "calc_lam_x": False, "calc_f": False, "calc_g": False,
    }  # fmt: skip
    solver = casadi.nlpsol("solver", "ipopt", {"x": x, "f": f, "g": g} if m else {"x": x, "f": f}, options)
    found = solver(x0=test.x0, lbg=0, ubg=0) if m else solver(x0=test.x0)
    stats = solver.stats()
    return np.array(found["x"]).ravel(), stats["return_status"], stats["iter_count"]


SOLVERS: dict[str, Callable[[Any, float], Found]] = {
    "raphson": raphson,
    "IPOPT": ipopt,
    "trust-constr": trust_constr,
    "SLSQP": slsqp,
}


def measure(solver: str, test: Any, seconds: float) -> Outcome:
    """One run. ``test`` is fresh: its counts are this solver's."""
    x, status, iterations = test.x0, "time", -1
    start = time.perf_counter()
    with warnings.catch_warnings(), quiet(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            with limit(seconds):
                x, status, iterations = SOLVERS[solver](test, seconds)
        except TooLong:
            pass
        except Exception as error:  # a peer that breaks on a problem has not solved it
            status = f"{type(error).__name__}: {error}"[:80]
        took = time.perf_counter() - start
        counts = (test.counts.evaluations, test.counts.gradients, test.counts.hessians)
        try:
            with limit(60):
                optimality, violation = test.residuals(x)
                objective = test.objective(x)
        except Exception:
            optimality = violation = objective = float("nan")
    return Outcome(
        test.name, solver, test.n, test.m, str(status), iterations, *counts, took, objective, optimality, violation
    )


def measure_apart(solver: str, load: Callable[[], Any], seconds: float) -> Outcome:
    """The same in a forked process: SciPy 1.17's SLSQP corrupts its memory where there are many more constraints than
    variables, and takes the process with it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        sender.send(measure(solver, load(), seconds))

    process = context.Process(target=child, daemon=True)
    process.start()
    sender.close()
    start = time.perf_counter()
    try:
        if receiver.poll(seconds + 90):
            outcome: Outcome = receiver.recv()
            process.join(10)
            return outcome
    except EOFError:
        pass
    process.kill()
    test = load()
    nothing = float("nan")
    took = time.perf_counter() - start
    return Outcome(test.name, solver, test.n, test.m, "crashed", -1, 0, 0, 0, took, nothing, nothing, nothing)
