"""raphson.torch.sinkhorn: gradients against torch's finite differences, and against the array function."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import raphson
from raphson import ot

torch = pytest.importorskip("torch")
rt = pytest.importorskip("raphson.torch")

TIGHT = {"tol": 1e-13}


def problem(seed=0, n=5, m=6):
    rng = np.random.default_rng(seed)
    return tuple(torch.from_numpy(x).requires_grad_() for x in (rng.random(n), rng.random(m), rng.random((n, m))))


def probabilities(x):
    return torch.softmax(x, 0)  # masses stay equal


@pytest.mark.parametrize("unbalanced", [None, 0.7, (0.5, np.inf)])
@pytest.mark.parametrize("what", ["objective", "cost", "plan", "all"])
@pytest.mark.filterwarnings("ignore::raphson.ConvergenceWarning")  # 1e-13 is the floor of some
def test_gradients_are_slopes(unbalanced, what):
    def value(a, b, cost):
        found = rt.sinkhorn(probabilities(a), probabilities(b), cost, 0.2, unbalanced=unbalanced, **TIGHT)
        return (found.objective, found.cost, found.plan) if what == "all" else getattr(found, what)

    assert torch.autograd.gradcheck(value, problem(), atol=1e-6)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.filterwarnings("ignore::raphson.ConvergenceWarning")
def test_gradients_of_points(metric):
    rng = np.random.default_rng(1)
    x, y = (torch.from_numpy(rng.random(shape)).requires_grad_() for shape in ((5, 2), (4, 2)))

    def value(x, y):
        found = rt.sinkhorn(None, None, rt.PointCloud(x, y, metric=metric, scale=1.5), 0.2, **TIGHT)
        return found.objective, found.cost, found.plan

    assert torch.autograd.gradcheck(value, (x, y), atol=1e-6)


def test_it_is_the_array_function():
    a, b, cost = problem()
    with torch.no_grad():
        a, b = probabilities(a), probabilities(b)
    plain = raphson.sinkhorn(a, b, cost.detach(), 0.1)
    result = rt.sinkhorn(a, b, cost, 0.1)
    with torch.no_grad():
        assert not result.plan.requires_grad
    assert isinstance(result, ot.TransportResult)
    for name in ("f", "g", "plan", "cost", "objective", "marginal_error", "row_marginal"):
        torch.testing.assert_close(getattr(result, name), getattr(plain, name), rtol=0, atol=0, check_dtype=True)
    assert (result.status, result.iterations, result.converged) == (plain.status, plain.iterations, True)
    assert result.cost.requires_grad
    assert result.plan is result.plan
    assert not result.f.requires_grad
    assert "converged" in repr(result)
    weight = torch.randn(5, 6, dtype=torch.float64)
    ((result.plan * weight).sum() + 2 * result.cost - result.objective).backward()
    expected = plain.vjp(plan_bar=weight)["cost"] + plain.vjp(cost_bar=2.0, objective_bar=-1.0)["cost"]
    torch.testing.assert_close(cost.grad, expected)


def test_only_what_requires_grad_gets_one():
    _, _, cost = problem()
    bare = rt.sinkhorn(None, None, cost.detach(), 0.1)
    assert not bare.objective.requires_grad
    assert not bare.plan.requires_grad
    with torch.no_grad():
        assert not rt.sinkhorn(None, None, cost, 0.1).objective.requires_grad
    found = rt.sinkhorn(None, None, rt.PointCloud(torch.rand(4, 2), torch.rand(3, 2).requires_grad_()), 0.5)
    found.objective.backward()


def test_float32_and_mixed_weights():
    a, _, cost = problem()
    a, narrow = probabilities(a).detach().requires_grad_(), cost.detach().float().requires_grad_()
    result = rt.sinkhorn(a, None, narrow, 0.2)
    assert result.plan.dtype == torch.float32
    (result.plan[0, 0] + result.objective).backward()
    assert (a.grad.dtype, narrow.grad.dtype) == (torch.float64, torch.float32)


def test_what_autograd_must_refuse():
    _, _, cost = problem()
    result = rt.sinkhorn(None, None, cost, 0.2)
    (slope,) = torch.autograd.grad(result.objective, cost, create_graph=True)
    with pytest.raises(RuntimeError):
        slope.sum().backward()
    moved = cost.detach().clone().requires_grad_() * 1.0
    result = rt.sinkhorn(None, None, moved, 0.2)
    moved.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        result.objective.backward()
    with pytest.raises(TypeError, match=r"raphson\.torch"):
        raphson.sinkhorn(None, None, cost, 0.2)


def test_copies_are_plain():
    _, _, cost = problem()
    result = rt.sinkhorn(None, None, cost, 0.2)
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert type(twin) is ot.TransportResult
        assert not twin.objective.requires_grad
        torch.testing.assert_close(twin.plan, result.plan.detach())
    small = result.detach()
    assert type(small) is ot.TransportResult
    with pytest.raises(ValueError, match="dropped"):
        _ = small.plan


def test_bad_input_is_refused_as_ever():
    with pytest.raises(ValueError, match="shape"):
        rt.sinkhorn(None, None, torch.rand(3), 0.1)
    with pytest.raises(ValueError, match="reg"):
        rt.sinkhorn(None, None, torch.rand(3, 3), -0.1)
    with pytest.raises(TypeError):
        rt.sinkhorn(np.full(3, 1 / 3), None, torch.rand(3, 3), 0.1)
