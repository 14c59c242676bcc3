"""Compiled jax programs that call raphson beside programs of jax alone.

`orthogonalize` against the same five Newton–Schulz steps in jax.numpy, compiled by XLA; `muon` against
optax.contrib.muon, on the matrices of a transformer, six layers and 512 wide, both with their parameters' update, the
iteration in the parameters' dtype. Results are waited for.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

from bench import harness, muon
from bench.worker import Call

STEPS = 5
COEFFICIENTS = (3.4445, -4.775, 2.0315)
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
CASES = [
    {"what": "orthogonalize", "shape": [1024, 1024], "dtype": "float32"},
    {"what": "orthogonalize", "shape": [1024, 1024], "dtype": "bfloat16"},
    {"what": "orthogonalize", "shape": [768, 3072], "dtype": "float32"},
    {"what": "orthogonalize", "shape": [32, 128, 128], "dtype": "float32"},
    {"what": "orthogonalize", "shape": [12, 768, 768], "dtype": "float32"},
    {"what": "muon", "shape": [6, 512], "dtype": "float32"},
]
QUICK = [
    {"what": "orthogonalize", "shape": [256, 256], "dtype": "float32"},
    {"what": "muon", "shape": [1, 128], "dtype": "float32"},
]


def iterate(x: Any) -> Any:
    """What optax.contrib.muon computes, on matrices (…, m, n) with m ≤ n."""
    import jax.numpy as jnp

    a, b, c = COEFFICIENTS
    x = x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True).astype(x.dtype)
    for _ in range(STEPS):
        gram = x @ jnp.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def variants(contender: str, case: dict[str, Any]) -> dict[str, Call]:
    """Called by ``bench.worker``: one call of a compiled program."""
    # XLA takes as many threads as there are CPUs; this is a process of its own, and jax is not imported yet
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case["threads"]])
    import jax

    generator = np.random.default_rng(0)
    if case["what"] == "orthogonalize":
        x = jax.numpy.asarray(generator.standard_normal(case["shape"]), case["dtype"])
        run: Any = jax.jit(iterate)
        if contender == "ours":
            from raphson.jax import orthogonalize

            run = jax.jit(lambda y: orthogonalize(y, schedule=[COEFFICIENTS] * STEPS, method="standard"))
        return {"": lambda: np.asarray(run(x).astype("float32"))}

    shapes = muon.shapes(*case["shape"])
    params = [jax.numpy.asarray(0.02 * generator.standard_normal(shape), case["dtype"]) for shape in shapes]
    gradients = [jax.numpy.asarray(generator.standard_normal(shape), case["dtype"]) for shape in shapes]
    if contender == "ours":
        from raphson.jax import muon as make

        transform: Any = make(0.02, weight_decay=0.0, ns_steps=STEPS, precision=case["dtype"])
    else:
        from optax.contrib import muon as theirs

        transform = theirs(0.02, ns_steps=STEPS)
    state = transform.init(params)

    @jax.jit
    def step(grads: Any, state: Any, weights: Any) -> Any:
        changes, state = transform.update(grads, state, weights)
        return [w + change for w, change in zip(weights, changes, strict=True)], state

    def call() -> Any:
        moved, _ = step(gradients, state, params)
        jax.block_until_ready(moved)
        return np.concatenate([(np.asarray(p) - np.asarray(m)).ravel() for p, m in zip(params, moved, strict=True)])

    return {"": call}


def flops(case: dict[str, Any]) -> float:
    if case["what"] == "muon":
        return muon.flops(*case["shape"])
    *batch, rows, cols = case["shape"]
    m, n = sorted((rows, cols))
    return STEPS * float(np.prod(batch)) * (3.0 * m * m * n + float(m) ** 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", default="1,2", help="comma-separated, one table each")
    parser.add_argument("--quick", action="store_true", help="two small cases, few rounds")
    parser.add_argument("--json", metavar="FILE", help="write machine facts and rows")


def run(arguments: argparse.Namespace) -> int:
    effort = harness.QUICK if arguments.quick else harness.Effort(rounds=5, row_seconds=60.0)
    contests = [
        harness.Contest(case, flops(case), TOLERANCE[case["dtype"]]) for case in (QUICK if arguments.quick else CASES)
    ]
    return harness.tables("bench.jax_programs", "jax", contests, arguments, effort)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.jax_programs", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
