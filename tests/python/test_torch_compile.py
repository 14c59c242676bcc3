"""torch.compile leaves raphson.torch alone: the same results and gradients between the graphs it makes, no warning."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest

from conftest import child_environment

torch = pytest.importorskip("torch")
optimizers = pytest.importorskip("raphson.torch")
rt = optimizers

# Dynamo looks at the .grad of what its second graph is given
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

CASES = {
    "orthogonalize": lambda x: rt.orthogonalize(2 * x) + 1,
    "polar": lambda x: torch.sin(rt.polar(2 * x)[0]) + 1,
    "sqrt": lambda x: rt.sqrt(x @ x.T + 1) + 1,
    "inverse": lambda x: rt.inverse(x @ x.T + torch.eye(6, dtype=x.dtype)) * 2,
    "inverse_root": lambda x: rt.inverse_root(x @ x.T + 2 * torch.eye(6, dtype=x.dtype), 4) * 2,
    "lstsq": lambda x: rt.lstsq(3 * x.T, x[0].exp()).x + 1,
    "objective": lambda x: rt.sinkhorn(None, None, x**2, 0.5).objective + 1,
    "plan": lambda x: rt.sinkhorn(None, None, rt.PointCloud(x, x[:4].exp()), 0.5).plan * 2,
}


@pytest.mark.parametrize("name", list(CASES))
def test_compiled_around(rng, name):
    torch._dynamo.reset()
    function, values = CASES[name], rng.standard_normal((6, 9)) + 0.1 * np.eye(6, 9)
    if name == "sqrt":
        values = np.abs(values) + 3 * np.eye(6, 9)
    results, gradients = [], []
    for run in (function, torch.compile(function, backend="eager")):
        x = torch.tensor(values, requires_grad=True)
        y = run(x)
        (y**2).sum().backward()
        results.append(y.detach())
        gradients.append(x.grad)
    assert torch.equal(*results)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("make", [optimizers.Muon, optimizers.MFAC], ids=["Muon", "MFAC"])
def test_steps_compiled_around(rng, make):
    torch._dynamo.reset()
    start = torch.nn.Parameter(torch.tensor(rng.standard_normal((6, 9)), dtype=torch.float32))
    moved = []
    for compiled in (False, True):
        parameter = copy.deepcopy(start)
        optimizer = make([parameter], lr=0.1)

        def step(parameter=parameter, optimizer=optimizer):
            parameter.grad = parameter.detach().cos()
            optimizer.step()

        run = torch.compile(step, backend="eager") if compiled else step
        for _ in range(3):
            run()
        moved.append(parameter.detach())
    assert not torch.equal(moved[0], start)
    assert torch.equal(*moved)


def test_importing_does_not_import_the_compiler():
    code = (
        "import sys, torch, raphson.torch as rt\n"
        "x = torch.randn(3, 4, requires_grad=True)\n"
        "rt.orthogonalize(x).sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment())
