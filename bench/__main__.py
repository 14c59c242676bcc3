"""``python -m bench SUITE`` from the top of the repository."""

from __future__ import annotations

import argparse
from importlib import import_module

SUITES = (
    "accuracy",
    "blowup",
    "completion",
    "glm",
    "ihvp",
    "jax_programs",
    "matrix_functions",
    "muon",
    "newton",
    "newton_schulz",
    "ot",
    "ot_sparse",
    "overhead",
    "sketch",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    suites = parser.add_subparsers(dest="suite", required=True, metavar="suite")
    for name in SUITES:
        module = import_module(f"bench.{name}")
        suite = suites.add_parser(name, help=(module.__doc__ or "").splitlines()[0], description=module.__doc__)
        module.add_arguments(suite)
        suite.set_defaults(run=module.run)
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
