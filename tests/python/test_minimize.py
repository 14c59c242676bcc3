"""minimize without constraints: every method to the same minimiser, saddle points, counts, callbacks, states."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import raphson
from jets import HS
from raphson.newton import Equality, minimize

optimize = pytest.importorskip("scipy.optimize")
sparse = pytest.importorskip("scipy.sparse")

rosen = {"jac": optimize.rosen_der, "hess": optimize.rosen_hess}


def logistic(n=400, d=12, seed=0, ridge=1e-3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * np.logspace(0, -2, d)
    y = rng.integers(0, 2, n) * 2.0 - 1

    def fun(w):
        return np.logaddexp(0, -y * (X @ w)).mean() + ridge / 2 * w @ w

    def grad(w):
        p = -y / (1 + np.exp(y * (X @ w)))
        return X.T @ p / n + ridge * w

    def hess(w, rows=slice(None)):
        A = X[rows]
        p = 1 / (1 + np.exp(-(A @ w)))
        return (A.T * (p * (1 - p))) @ A / len(A) + ridge * np.eye(d)

    return fun, grad, hess, d


@pytest.mark.parametrize("method", ["auto", "gns", "lazy", "damped"])
@pytest.mark.parametrize("n", [2, 5, 12])
def test_rosenbrock(method, n):
    found = minimize(optimize.rosen, np.full(n, 1.3), method=method, **rosen)
    assert found.success
    assert np.abs(optimize.rosen_der(found.x)).max() == found.optimality
    assert found.optimality <= 1e-8
    np.testing.assert_allclose(found.x, 1, atol=1e-7)
    assert found.method == ("gns" if method == "auto" else method)


@pytest.mark.parametrize("method", ["gns", "lazy", "damped"])
def test_convex_problems_agree_with_scipy(method):
    fun, grad, hess, d = logistic()
    found = minimize(fun, np.zeros(d), jac=grad, hess=hess, method=method, tol=1e-10)
    peer = optimize.minimize(fun, np.zeros(d), jac=grad, hess=hess, method="trust-exact", options={"gtol": 1e-10})
    assert found.success
    assert found.fun <= peer.fun + 1e-14
    np.testing.assert_allclose(found.x, peer.x, atol=1e-7)


def test_products_only():
    found = minimize(optimize.rosen, np.full(50, 1.3), jac=optimize.rosen_der, hessp=optimize.rosen_hess_prod)
    assert found.success
    assert found.nhev == 0
    assert found.nhvp > found.nit
    np.testing.assert_allclose(found.x, 1, atol=1e-6)


def test_gradients_only():
    found = minimize(optimize.rosen, [-1.2, 1.0], jac=optimize.rosen_der)
    assert found.success
    np.testing.assert_allclose(found.x, 1, atol=1e-6)


def test_value_and_gradient_together():
    calls = []

    def both(x):
        calls.append(x)
        return optimize.rosen(x), optimize.rosen_der(x)

    found = minimize(both, [-1.2, 1.0], jac=True, hess=optimize.rosen_hess)
    apart = minimize(optimize.rosen, [-1.2, 1.0], **rosen)
    assert np.array_equal(found.x, apart.x)
    assert len(calls) == found.nfev


def test_calls_are_counted():
    counts = {"fun": 0, "jac": 0, "hess": 0}

    def counted(name, f):
        def g(x):
            counts[name] += 1
            return f(x)

        return g

    found = minimize(
        counted("fun", optimize.rosen),
        [-1.2, 1.0],
        jac=counted("jac", optimize.rosen_der),
        hess=counted("hess", optimize.rosen_hess),
    )
    assert (found.nfev, found.njev, found.nhev) == (counts["fun"], counts["jac"], counts["hess"])


def test_arguments_travel():
    found = minimize(
        lambda x, a, b: ((x - a) ** 2).sum() * b, np.zeros(3), (np.arange(3.0), 2.0),
        jac=lambda x, a, b: 2 * (x - a) * b, hess=lambda x, a, b: 2 * b * np.eye(3),
    )  # fmt: skip
    np.testing.assert_allclose(found.x, [0, 1, 2], atol=1e-8)


def test_sparse_hessians_stay_sparse():
    n = 3000
    main = sparse.diags([np.full(n - 1, -1.0), np.full(n, 2.5), np.full(n - 1, -1.0)], [-1, 0, 1]).tocsr()
    found = minimize(
        lambda x: 0.5 * x @ (main @ x) + 0.25 * (x**4).sum() - x.sum(), np.zeros(n),
        jac=lambda x: main @ x + x**3 - 1, hess=lambda x: main + sparse.diags(3 * x**2),
    )  # fmt: skip
    assert found.success
    assert np.abs(main @ found.x + found.x**3 - 1).max() <= 1e-8


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("start", [(0.0, 0.0), (1.0, 0.0), (0.3, 1e-12)])
def test_saddle_points_are_left(start, products):
    # x² − y² + y⁴/2: a saddle at 0, minimisers at (0, ±1)
    fun = lambda x: x[0] ** 2 - x[1] ** 2 + 0.5 * x[1] ** 4  # noqa: E731
    grad = lambda x: np.array([2 * x[0], -2 * x[1] + 2 * x[1] ** 3])  # noqa: E731
    hess = lambda x: np.diag([2, -2 + 6 * x[1] ** 2])  # noqa: E731
    second = {"hessp": lambda x, v: hess(x) @ v} if products else {"hess": hess}
    found = minimize(fun, start, jac=grad, **second)
    assert found.success
    assert abs(found.x[1]) == pytest.approx(1, abs=1e-6)
    assert found.fun == pytest.approx(-0.5)
    assert not found.indefinite


def test_a_degenerate_saddle_is_named():
    # −x⁴ seen through a wrong, negative Hessian: the value does not fall along it
    found = minimize(lambda x: x @ x, [0.0, 0.0], jac=lambda x: 2 * x, hess=lambda x: -np.eye(2))
    assert found.success
    assert found.indefinite


def test_approximate_hessians():
    fun, grad, hess, d = logistic()
    gauss = minimize(fun, np.zeros(d), jac=grad, hess=lambda w: hess(np.zeros(d)), tol=1e-9)
    assert gauss.success, "a constant approximation: linear convergence"
    assert gauss.nit > minimize(fun, np.zeros(d), jac=grad, hess=hess, tol=1e-9).nit


def test_fresh_random_hessians_do_not_stop_it():
    # a new sample of the rows in every step: the published rule rejects its way to λ = ∞ near the solution
    fun, grad, hess, d = logistic(2000, 20, 1, 1e-2)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        found = minimize(
            fun, np.zeros(d), jac=grad, hess=lambda w, r=rng: hess(w, r.choice(2000, 200, replace=False)), tol=1e-8
        )
        assert found.success
        assert found.nit <= 60
        assert found.nfev <= 2 * found.nit


def test_lazy_keeps_its_hessian():
    fun, grad, hess, d = logistic()
    every = minimize(fun, np.zeros(d), jac=grad, hess=hess, method="gns")
    kept = minimize(fun, np.zeros(d), jac=grad, hess=hess, method="lazy", options={"period": 5})
    assert kept.success
    assert kept.nhev < every.nhev + 2
    assert kept.nhev <= kept.nit / 3 + 2
    assert kept.factorisations < kept.nit


def test_lazy_measures_costs():
    fun, grad, hess, d = logistic()

    def slow(w):
        total = 0.0
        for _ in range(60):  # a Hessian that costs sixty of itself
            total = hess(w)
        return total

    found = minimize(fun, np.zeros(d), jac=grad, hess=slow, method="lazy")
    assert found.success
    assert found.nhev < found.nit


@pytest.mark.parametrize("order", [2, 2.5, 3, 4])
def test_damped_schedules(order):
    fun, grad, hess, d = logistic()
    found = minimize(fun, 30 * np.ones(d), jac=grad, hess=hess, method="damped", options={"order": order})
    assert found.success
    values = []
    minimize(
        fun,
        30 * np.ones(d),
        jac=grad,
        hess=hess,
        method="damped",
        options={"order": order},
        callback=lambda s: values.append(s.fun),
    )
    assert all(later <= earlier + 1e-14 for earlier, later in itertools.pairwise(values)), "damped steps only descend"


def test_nan_shortens_the_step():
    # −log x is NaN from 0 on: a full Newton step from 3 goes there
    with np.errstate(invalid="ignore"):
        for method in ("gns", "lazy", "damped"):
            found = minimize(
                lambda x: 2 * x[0] - np.log(x[0]) if x[0] > 0 else np.nan, [3.0],
                jac=lambda x: 2 - 1 / x, hess=lambda x: np.diag(1 / x**2), method=method,
            )  # fmt: skip
            assert found.success
            assert found.x[0] == pytest.approx(0.5, abs=1e-7)
        found = minimize(
            lambda x: 2 * x[0] - np.log(x[0]) if x[0] > 0 else np.nan,
            [3.0],
            jac=lambda x: 2 - 1 / x,
            hessp=lambda x, v: v / x**2,
        )
        assert found.x[0] == pytest.approx(0.5, abs=1e-7)


def test_unbounded_functions():
    with pytest.warns(raphson.ConvergenceWarning, match="breakdown|max_iter"):
        found = minimize(lambda x: -(x @ x), [1.0, 2.0], jac=lambda x: -2 * x, hess=lambda x: -2 * np.eye(2))
    assert not found.success


def test_callbacks_and_stopping():
    seen = []

    def watch(state):
        seen.append(state)
        return state.iteration == 3

    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        found = minimize(optimize.rosen, [-1.2, 1.0], callback=watch, **rosen)
    assert found.status == "stopped"
    assert found.nit == 3
    assert [s.iteration for s in seen] == [1, 2, 3]
    assert np.array_equal(seen[-1].x, found.x)
    assert seen[-1].fun == found.fun == optimize.rosen(found.x)

    def raising(state):
        raise StopIteration

    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        assert minimize(optimize.rosen, [-1.2, 1.0], callback=raising, **rosen).nit == 1


@pytest.mark.parametrize("where", ["fun", "jac", "hess", "callback", "cons"])
def test_exceptions_pass_with_the_state_so_far(where):
    problem = HS[77]
    calls = []

    def failing(name, f):
        def g(*a):
            if name == where:
                calls.append(a)
                if len(calls) == 4:
                    raise ZeroDivisionError("mine")
            return f(*a)

        return g

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        minimize(
            failing("fun", problem.fun),
            problem.x0,
            jac=failing("jac", problem.grad),
            hess=failing("hess", problem.hess),
            constraints=Equality(failing("cons", problem.cons), problem.jac, problem.cons_hess),
            callback=failing("callback", lambda s: None),
        )
    state = caught.value.state
    assert state.status == "stopped"
    assert not state.success
    assert state.x.shape == (5,)
    assert problem.fun(state.x) == pytest.approx(state.fun)


def test_keyboard_interrupts_pass():
    def interrupt(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize(optimize.rosen, [0.0, 0.0], jac=interrupt, hess=optimize.rosen_hess)


def test_users_may_keep_and_change_what_they_get():
    kept = []

    def fun(x):
        kept.append(x)
        value = optimize.rosen(x)
        x[:] = 99
        return value

    found = minimize(fun, [-1.2, 1.0], **rosen)
    assert np.array_equal(found.x, minimize(optimize.rosen, [-1.2, 1.0], **rosen).x)
    assert len({id(x) for x in kept}) == len(kept)


def test_result_is_read_as_scipys():
    found = minimize(optimize.rosen, [-1.2, 1.0], **rosen)
    for name in (
        "x",
        "fun",
        "success",
        "status",
        "message",
        "nit",
        "nfev",
        "njev",
        "nhev",
        "multipliers",
        "constraint_violation",
        "optimality",
    ):
        assert found[name] is getattr(found, name) or found[name] == getattr(found, name)
    with pytest.raises(KeyError):
        found["nothing"]
    assert found.converged is found.success
    assert found.multipliers.shape == (0,)
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert np.array_equal(other.x, found.x)
    assert len(repr(found)) < 300


def test_same_again():
    first = minimize(optimize.rosen, np.full(30, 1.3), jac=optimize.rosen_der, hessp=optimize.rosen_hess_prod, seed=3)
    second = minimize(optimize.rosen, np.full(30, 1.3), jac=optimize.rosen_der, hessp=optimize.rosen_hess_prod, seed=3)
    assert np.array_equal(first.x, second.x)
    assert first.nhvp == second.nhvp


def test_starts_of_any_kind():
    for start in ([1, 2], (1.0, 2.0), np.array([1, 2]), np.array([1.0, 2.0], dtype=np.float32)):
        assert minimize(lambda x: x @ x, start, jac=lambda x: 2 * x, hess=lambda x: 2 * np.eye(2)).success
    torch = pytest.importorskip("torch")
    found = minimize(
        lambda x: x @ x, torch.ones(2, dtype=torch.float64), jac=lambda x: 2 * x, hess=lambda x: 2 * np.eye(2)
    )
    assert isinstance(found.x, torch.Tensor)


def test_nested_calls():
    inner = lambda a: minimize(lambda x: (x @ x - a) ** 2, [1.0], jac=lambda x: 4 * x * (x @ x - a)).fun  # noqa: E731
    found = minimize(lambda x: x @ x + inner(2.0), [3.0], jac=lambda x: 2 * x, hess=lambda x: 2 * np.eye(1))
    assert found.success


@pytest.mark.parametrize("start", [(0.0,), (5.0,)])
def test_one_variable_numbers(start):
    found = minimize(lambda x: np.array([(x[0] - 1) ** 2]), start, jac=lambda x: 2 * (x - 1), hess=lambda x: [[2]])
    assert found.x[0] == pytest.approx(1)
