"""minimize with equality constraints: Hock–Schittkowski problems, certificates, degenerate constraints."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import raphson
from jets import HS
from newton_reference import newton_lagrangian
from raphson.newton import Equality, minimize

sparse = pytest.importorskip("scipy.sparse")


def run(problem, **keywords):
    equality = Equality(problem.cons, problem.jac, problem.cons_hess)
    return minimize(problem.fun, problem.x0, jac=problem.grad, hess=problem.hess, constraints=equality, **keywords)


@pytest.mark.parametrize("number", HS)
def test_hock_schittkowski(number):
    problem = HS[number]
    found = run(problem)
    assert found.success
    assert found.method == "adasketch"
    left, violation = problem.residuals(found.x, found.multipliers)
    assert left <= 1e-8
    assert violation <= 1e-8
    assert left == pytest.approx(found.optimality, abs=1e-14)
    assert violation == pytest.approx(found.constraint_violation, abs=1e-14)
    assert found.fun == pytest.approx(problem.best, abs=2e-6 * max(1.0, abs(problem.best)))
    assert found.nit <= 40


# In HS47, HS50, HS52 and HS77 the limit of 1e5 inner steps is met: there the last digits of luck count.
@pytest.mark.parametrize("number", HS)
def test_the_papers_rule_takes_the_authors_iterations(number):
    problem = HS[number]
    found = run(problem, rule="paper", inner="gaussian", tol=1e-4, options={"inner_max_iter": 100_000})
    assert found.success
    assert abs(found.nit - problem.outer) <= (1 if number in (47, 50, 52, 77) else 0)
    left = problem.grad(found.x) + problem.jac(found.x).T @ found.multipliers
    assert np.hypot(np.linalg.norm(left), np.linalg.norm(problem.cons(found.x))) <= 1e-4


@pytest.mark.parametrize("inner", ["minres", "kaczmarz", "gaussian", "block"])
@pytest.mark.parametrize("number", [6, 28, 42, 48, 78, 79])
def test_inexact_inner_solvers(number, inner):
    problem = HS[number]
    found = run(problem, inner=inner, tol=1e-6)
    assert found.success
    assert max(problem.residuals(found.x, found.multipliers)) <= 1e-6
    assert found.inner_iterations > found.nit or inner == "block", "a block of all rows is a solution in one step"


def test_converges_quadratically():
    problem = HS[78]
    errors = []
    best, multipliers = newton_lagrangian(problem, *(lambda r: (r.x, r.multipliers))(run(problem, tol=1e-8)), 2)
    run(
        problem,
        callback=lambda s: errors.append(np.linalg.norm(np.r_[s.x - best, s.multipliers - multipliers])),
        tol=1e-12,
    )
    tail = [e for e in errors if 1e-7 < e < 1e-1]
    assert len(tail) >= 1
    assert all(later <= 10 * e * e + 1e-12 for e, later in zip(errors[-4:], errors[-3:], strict=False) if e < 1e-1)


def test_starting_multipliers():
    problem = HS[77]
    cold = run(problem)
    warm = minimize(
        problem.fun,
        cold.x + 1e-6,
        jac=problem.grad,
        hess=problem.hess,
        constraints=Equality(problem.cons, problem.jac, problem.cons_hess),
        options={"multipliers": cold.multipliers},
    )
    assert warm.nit <= 2
    with pytest.raises(ValueError, match=r"multipliers'\] must have shape \(2,\), got \(3,\)"):
        run(problem, options={"multipliers": np.ones(3)})


def test_without_hessians():
    problem = HS[79]
    found = minimize(
        problem.fun, problem.x0, jac=problem.grad, constraints=Equality(problem.cons, problem.jac), tol=1e-6
    )
    assert found.success
    assert found.fun == pytest.approx(problem.best, abs=1e-6)


def test_hessian_products_with_constraints():
    problem = HS[77]
    equality = Equality(problem.cons, problem.jac, problem.cons_hess)
    found = minimize(
        problem.fun, problem.x0, jac=problem.grad, hessp=lambda x, v: problem.hess(x) @ v, constraints=equality
    )
    assert found.success
    np.testing.assert_allclose(found.x, run(problem).x, atol=1e-6)


def test_scipys_constraints():
    from scipy.optimize import Bounds, LinearConstraint, NonlinearConstraint

    problem = HS[48]
    matrix = problem.jac(np.zeros(5))
    target = -problem.cons(np.zeros(5))
    mine = run(problem)
    for form in (
        LinearConstraint(matrix, target, target),
        LinearConstraint(sparse.csr_array(matrix), target, target),
        NonlinearConstraint(problem.cons, 0, 0, jac=problem.jac, hess=problem.cons_hess),
        NonlinearConstraint(problem.cons, 0, 0),
        [
            LinearConstraint(matrix[:1], target[:1], target[:1]),
            Equality(lambda x: problem.cons(x)[1:], lambda x: problem.jac(x)[1:]),
        ],
        {"type": "eq", "fun": problem.cons, "jac": problem.jac},
    ):
        found = minimize(problem.fun, problem.x0, jac=problem.grad, hess=problem.hess, constraints=form, tol=1e-6)
        assert found.success
        np.testing.assert_allclose(found.x, mine.x, atol=1e-5)
    for form in (Bounds(0, 1), {"type": "ineq", "fun": problem.cons}, 3):
        with pytest.raises(TypeError, match=r"equality|Equality|'eq'"):
            minimize(problem.fun, problem.x0, jac=problem.grad, constraints=form)
    with pytest.raises(ValueError, match="lb == ub"):
        minimize(problem.fun, problem.x0, jac=problem.grad, constraints=LinearConstraint(matrix, target, target + 1))
    with pytest.raises(TypeError, match="bounds on the variables"):
        minimize(problem.fun, problem.x0, jac=problem.grad, bounds=[(0, 1)] * 5)


def test_infeasible_constraints_are_said_to_be():
    equality = Equality(lambda x: np.array([x @ x + 1.0]), lambda x: 2 * x[None, :], lambda x, v: 2 * v[0] * np.eye(2))
    with pytest.warns(raphson.ConvergenceWarning, match="infeasible"):
        found = minimize(
            lambda x: x.sum(), [1.0, 2.0], jac=np.ones_like, hess=lambda x: np.zeros((2, 2)), constraints=equality
        )
    assert not found.success
    assert found.status == "infeasible"
    assert found.constraint_violation == pytest.approx(1.0, abs=1e-6), "the least there is"


def test_repeated_constraints():
    problem = HS[42]
    doubled = Equality(
        lambda x: np.tile(problem.cons(x), 2),
        lambda x: np.tile(problem.jac(x), (2, 1)),
        lambda x, v: problem.cons_hess(x, v[:2] + v[2:]),
    )
    found = minimize(problem.fun, problem.x0, jac=problem.grad, hess=problem.hess, constraints=doubled, tol=1e-7)
    assert found.success
    assert found.fun == pytest.approx(problem.best, abs=1e-5)


def test_contradicting_linear_constraints():
    matrix = np.array([[1.0, 1.0], [1.0, 1.0]])
    equality = Equality(lambda x: matrix @ x - [0, 1], lambda x: matrix, lambda x, v: np.zeros((2, 2)))
    with pytest.warns(raphson.ConvergenceWarning):
        found = minimize(
            lambda x: x @ x, [3.0, 4.0], jac=lambda x: 2 * x, hess=lambda x: 2 * np.eye(2), constraints=equality
        )
    assert found.status == "infeasible"
    assert found.constraint_violation == pytest.approx(0.5, abs=1e-6)


def test_more_constraints_than_variables():
    def cons(x):
        return np.array([x[0] - 1, x[1] - 2, x[0] * x[1] - 2])

    def jac(x):
        return np.array([[1, 0], [0, 1], [x[1], x[0]]])

    hess = lambda x, v: v[2] * np.array([[0.0, 1], [1, 0]])  # noqa: E731
    found = minimize(
        lambda x: x.sum(),
        [5.0, -3.0],
        jac=np.ones_like,
        hess=lambda x: np.zeros((2, 2)),
        constraints=Equality(cons, jac, hess),
    )
    assert found.success
    np.testing.assert_allclose(found.x, [1, 2], atol=1e-7)


def test_square_systems_are_newtons_method():
    # Powell's badly scaled system: 10⁴ x y = 1, e⁻ˣ + e⁻ʸ = 1.0001
    def cons(x):
        return np.array([1e4 * x[0] * x[1] - 1, np.exp(-x[0]) + np.exp(-x[1]) - 1.0001])

    def jac(x):
        return np.array([[1e4 * x[1], 1e4 * x[0]], [-np.exp(-x[0]), -np.exp(-x[1])]])

    def hess(x, v):
        return np.array([[v[1] * np.exp(-x[0]), 1e4 * v[0]], [1e4 * v[0], v[1] * np.exp(-x[1])]])

    found = minimize(
        lambda x: 0.0,
        [0.0, 1.0],
        jac=np.zeros_like,
        hess=lambda x: np.zeros((2, 2)),
        constraints=Equality(cons, jac, hess),
    )
    assert found.success
    np.testing.assert_allclose(found.x, [1.098e-5, 9.106], rtol=1e-3)
    assert 5 <= found.nit <= found.nfev <= 40


def test_a_constrained_maximum_is_not_where_it_ends():
    # on the circle, x₀ from the maximiser's side: the Lagrangian's curvature must be seen
    equality = Equality(lambda x: np.array([x @ x - 1]), lambda x: 2 * x[None, :], lambda x, v: 2 * v[0] * np.eye(2))
    found = minimize(
        lambda x: x[0],
        [0.99, 0.1],
        jac=lambda x: np.array([1.0, 0]),
        hess=lambda x: np.zeros((2, 2)),
        constraints=equality,
    )
    assert found.success
    np.testing.assert_allclose(found.x, [-1, 0], atol=1e-6)


@pytest.mark.parametrize("size", [3, 12])
def test_poisson_control_stays_sparse(size):
    q, h = size * size, 2 / (size + 1)
    t = sparse.diags([np.ones(size - 1), -2 * np.ones(size), np.ones(size - 1)], [-1, 0, 1])
    G = sparse.hstack(
        [(sparse.kron(sparse.eye(size), t) + sparse.kron(t, sparse.eye(size))) / h**2, sparse.eye(q)]
    ).tocsr()
    i = (np.arange(1, size + 1) - (size + 1) / 2) * 0.1 / np.sqrt(15)
    target = (np.sin(4 + i[:, None]) + np.cos(3 + i[None, :])).ravel()
    B = sparse.diags(np.r_[np.ones(q), np.full(q, 0.1)]).tocsr()
    seen = []

    def hess(x):
        seen.append(type(B))
        return B

    def fun(x):
        return 0.5 * ((x[:q] - target) ** 2).sum() + 0.05 * (x[q:] ** 2).sum()

    def jac(x):
        return np.r_[x[:q] - target, 0.1 * x[q:]]

    found = minimize(
        fun, np.ones(2 * q), jac=jac, hess=hess,
        constraints=Equality(lambda x: G @ x, lambda x: G, lambda x, v: sparse.csr_array((2 * q, 2 * q))),
    )  # fmt: skip
    assert found.success
    assert found.nit == 1, "a quadratic with linear constraints"
    K = sparse.bmat([[B, G.T], [G, None]]).toarray()
    exact = np.linalg.solve(K, np.r_[target, np.zeros(2 * q)])
    np.testing.assert_allclose(found.x, exact[: 2 * q], atol=1e-9)
    np.testing.assert_allclose(found.multipliers, exact[2 * q :], atol=1e-9)


def test_adasketch_without_constraints_takes_hessp():
    q = np.diag(np.arange(1.0, 6))
    keywords = {"jac": lambda x: q @ x - 1, "method": "adasketch"}
    found = minimize(lambda x: 0.5 * x @ q @ x - x.sum(), np.ones(5), hessp=lambda x, v: q @ v, **keywords)
    assert found.success
    np.testing.assert_allclose(found.x, 1 / np.arange(1.0, 6), atol=1e-8)


@pytest.mark.parametrize("inner", ["minres", "gaussian", "kaczmarz", "block"])
@pytest.mark.parametrize("limit", [1, 2, 5, 20])
def test_restorations_count_in_max_iter(inner, limit):
    rng = np.random.default_rng(0)
    for n, m in ((48, 2), (10, 2), (65, 5), (10, 1)):
        A, x = rng.standard_normal((m, n)), rng.standard_normal(n)
        equality = Equality(lambda x, A=A: A @ x - 1, lambda x, A=A: A)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", raphson.ConvergenceWarning)
            options = {"max_iter": limit, "inner_max_iter": 1}
            keywords = {"jac": lambda x: x**3 - x, "constraints": equality, "inner": inner, "options": options}
            found = minimize(lambda x: (x**4 / 4 - x**2 / 2).sum(), x, **keywords)
        assert found.nit <= limit
