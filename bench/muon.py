"""A step of raphson.torch.Muon beside one of torch.optim.Muon.

The parameters are the matrices of a transformer in float32, six layers and 512 wide by default: in each layer four of
512×512 and two of 512×2048. `dtype` is the arithmetic of the iteration. torch.optim.Muon iterates in bfloat16 only; for
the float32 row its iteration is replaced, in its own process, by the same sequence of fused products in float32.
`deviation` compares what the first step takes off the parameters. `of floor` is the time of 3m²n + m³ flops a matrix
and iteration at the multiply-add peak of the same threads, over ours.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.worker import Call

STEPS = 5
RATE = 0.02
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
REACH = {"float32": 2.5, "bfloat16": 1.3}


def shapes(layers: int, width: int) -> list[tuple[int, int]]:
    return [*[(width, width)] * 4, (4 * width, width), (width, 4 * width)] * layers


def flops(layers: int, width: int) -> float:
    sides = [(min(s), max(s)) for s in shapes(layers, width)]
    return STEPS * float(sum(3.0 * m * m * n + float(m) ** 3 for m, n in sides))


class Moved:
    """What an optimizer has taken off, worked out only when somebody looks."""

    def __init__(self, params: list[Any], starts: list[Any]) -> None:
        self.pairs = list(zip(params, starts, strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[np.float64]:
        return np.concatenate([(s - p.detach()).double().numpy().ravel() for p, s in self.pairs])


def iterate_in_float32(grad: Any, coefficients: tuple[float, float, float], steps: int, eps: float) -> Any:
    """What torch.optim.Muon would do, were its dtype float32."""
    import torch

    a, b, c = coefficients
    x = grad.mT if grad.size(0) > grad.size(1) else grad
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if grad.size(0) > grad.size(1) else x


def variants(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    """Called by ``bench.worker``: a step of the contender's optimizer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(0.02 * torch.randn(s, generator=generator)) for s in shapes(*case["shape"])]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    starts = [param.detach().clone() for param in params]
    optimizer: torch.optim.Optimizer
    if contender == "ours":
        from raphson.torch import Muon

        optimizer = Muon(params, lr=RATE, ns_steps=STEPS, precision=case["dtype"])
    else:
        if case["dtype"] == "float32":
            import torch.optim._muon as theirs

            # nothing else runs in this process
            setattr(theirs, "_zeropower_via_newtonschulz", iterate_in_float32)  # noqa: B010
        optimizer = torch.optim.Muon(params, lr=RATE, ns_steps=STEPS)

    def step() -> Moved:
        optimizer.step()
        return Moved(params, starts)

    return {"": step}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1,2", help="comma-separated, one table each")
    parser.add_argument("--quick", action="store_true", help="two layers, 256 wide, few rounds")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", metavar="FILE", help="write machine facts and rows")


def run(arguments: argparse.Namespace) -> int:
    layers, width = (2, 256) if arguments.quick else (arguments.layers, arguments.width)
    effort = harness.QUICK if arguments.quick else harness.Effort(rounds=5, row_seconds=60.0)
    contests = [
        harness.Contest(
            {"what": "Muon.step", "shape": [layers, width], "dtype": dtype},
            flops(layers, width),
            TOLERANCE[dtype],
            REACH[dtype],
        )
        for dtype in ("bfloat16", "float32")  # in this order: the float32 row changes torch's process
    ]
    return harness.tables("bench.muon", "torch", contests, arguments, effort)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.muon", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
