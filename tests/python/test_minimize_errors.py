"""minimize: bad input gets a clear error, wrong derivatives are named."""

from __future__ import annotations

import numpy as np
import pytest

from jets import HS
from raphson.newton import Equality, minimize

sparse = pytest.importorskip("scipy.sparse")

P = HS[77]
RIGHT = Equality(P.cons, P.jac)
TALL_JACOBIAN = Equality(P.cons, lambda x: np.ones((3, 5)))
SHORT_JACOBIAN = Equality(P.cons, lambda x: np.ones((1, 5)))
SMALL_HESSIAN = Equality(P.cons, P.jac, lambda x, v: np.ones((2, 2)))


def call(**changes):
    arguments = {
        "fun": P.fun, "x0": P.x0, "jac": P.grad, "hess": P.hess, "constraints": Equality(P.cons, P.jac, P.cons_hess),
    } | changes  # fmt: skip
    return minimize(arguments.pop("fun"), arguments.pop("x0"), **arguments)


@pytest.mark.parametrize(("changes", "error", "text"), [
    (dict(jac=lambda x: np.ones(4)), ValueError, r"jac must return shape \(5,\), got \(4,\)"),
    (dict(jac=lambda x: np.ones((5, 5))), ValueError, r"jac must return shape \(5,\), got \(5, 5\)"),
    (dict(hess=lambda x: np.ones((4, 5))), ValueError, r"hess must return shape \(5, 5\), got \(4, 5\)"),
    (dict(hess=lambda x: np.ones(5), constraints=()), ValueError, r"hess must return shape \(5, 5\), got \(5,\)"),
    (dict(fun=lambda x: np.ones(2)), ValueError, r"fun must return one number, got shape \(2,\)"),
    (dict(fun=lambda x: "no"), TypeError, "fun must return real numbers"),
    (dict(fun=lambda x: 1j), TypeError, "fun must return real numbers, got complex128"),
    (dict(jac=lambda x: np.ones(5) * 1j), TypeError, "jac must return real numbers, got complex128"),
    (dict(jac=True), ValueError, "with jac=True, fun must return"),
    (dict(constraints=TALL_JACOBIAN), ValueError, r"constraints' jac must return shape \(2, 5\), got \(3, 5\)"),
    (dict(constraints=SMALL_HESSIAN), ValueError, r"hess must return shape \(5, 5\), got \(2, 2\)"),
    (dict(constraints=[RIGHT, SHORT_JACOBIAN]), ValueError, r"jac must return shape \(2, 5\), got \(1, 5\)"),
    (dict(x0=[1.0, np.nan, 0, 0, 0]), ValueError, "x0 has NaN or Inf"),
    (dict(x0=np.ones((5, 1))), ValueError, r"x0 must have shape \(n,\), got \(5, 1\)"),
    (dict(x0=[]), ValueError, "at least one entry"),
    (dict(x0=np.ones(5, dtype=complex)), TypeError, "x0"),
    (dict(fun=lambda x: np.nan, constraints=()), ValueError, "no finite value and gradient at x0"),
    (dict(fun=lambda x: np.nan), ValueError, "no finite value and derivatives at x0"),
    (dict(jac=lambda x: np.full(5, np.inf), constraints=()), ValueError, "no finite value and gradient at x0"),
    (dict(method="bfgs"), ValueError, "method must be one of auto, gns, lazy, damped, adasketch"),
    (dict(method="gns"), ValueError, "constraints need method='adasketch'"),
    (dict(rule="best"), ValueError, "rule must be one of"),
    (dict(inner="lu"), ValueError, "inner must be one of ldlt"),
    (dict(tol=0), ValueError, "tol must be positive"),
    (dict(tol=np.inf), ValueError, "tol must be positive and finite"),
    (dict(options={"maxfun": 3}), ValueError, "options may hold max_iter"),
    (dict(options={"max_iter": -1}), ValueError, "at least 0"),
    (dict(options={"order": 5}), ValueError, r"order'\] must lie in \[2, 4\]"),
    (dict(options={"multipliers": [np.nan, 0]}), ValueError, "NaN or Inf"),
    (dict(hess=lambda x: sparse.eye(5, dtype=complex), constraints=()), TypeError, "hess must be real numbers"),
    (dict(fun=3), TypeError, "fun must be callable"),
    (dict(jac=None), TypeError, "jac must be callable or True"),
    (dict(hess="exact"), TypeError, "hess must be callable"),
    (dict(callback=3), TypeError, "callback must be callable"),
    (dict(seed=-1), ValueError, "seed must lie in"),
    (dict(bounds=[(0, 1)]), TypeError, "bounds on the variables are not supported"),
])  # fmt: skip
def test_bad_input(changes, error, text):
    with pytest.raises(error, match=text):
        call(**changes)


def test_equality_checks_its_parts():
    with pytest.raises(TypeError, match="jac must be callable"):
        Equality(P.cons, None)
    with pytest.raises(TypeError, match="hess must be callable or None"):
        Equality(P.cons, P.jac, 3)


@pytest.mark.parametrize(("changes", "text"), [
    (dict(jac=lambda x: P.grad(x) + 1e-3 * np.eye(5)[2]), r"jac differs from finite differences at index \(0, 2\)"),
    (dict(hess=lambda x: P.hess(x) + 1e-2 * np.eye(5)), "hess differs from finite differences"),
    (dict(hess=None, hessp=lambda x, v: 1.01 * P.hess(x) @ v), "hessp differs"),
    (dict(constraints=Equality(P.cons, lambda x: 1.001 * P.jac(x))), "constraint 0's jac differs"),
    (dict(constraints=Equality(P.cons, P.jac, lambda x, v: -P.cons_hess(x, v))), "constraint 0's hess differs"),
    (dict(jac=lambda x: np.ones(3)), r"jac must return shape \(1, 5\), got \(1, 3\)"),
])  # fmt: skip
def test_wrong_derivatives_are_named(changes, text):
    with pytest.raises(ValueError, match=text):
        call(check_derivatives=True, **changes)


def test_right_derivatives_pass():
    for problem in HS.values():
        equality = Equality(problem.cons, problem.jac, problem.cons_hess)
        assert minimize(
            problem.fun, problem.x0, jac=problem.grad, hess=problem.hess, constraints=equality, check_derivatives=True
        ).success


def test_zero_constraints():
    for none in ((), [], Equality(lambda x: np.zeros(0), lambda x: np.zeros((0, 2)), lambda x, v: np.zeros((2, 2)))):
        found = minimize(
            lambda x: x @ x, [1.0, 2.0], jac=lambda x: 2 * x, hess=lambda x: 2 * np.eye(2), constraints=none
        )
        assert found.success
        assert found.multipliers.shape == (0,)
