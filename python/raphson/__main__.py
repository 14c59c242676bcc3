"""``python -m raphson`` says what is installed; ``python -m raphson demo`` trains, prunes and transports."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from raphson import build_info


def _describe() -> str:
    info = build_info()
    cuda = "not built" if not info["cuda_built"] else "available" if info["cuda_available"] else "built, no device"
    return (
        f"raphson {info['version']}\n"
        f"  instruction set  {info['isa']} (built: {', '.join(info['isas'])})\n"
        f"  threads          {info['threads']}\n"
        f"  CUDA             {cuda}\n"
        f"  Eigen            {info['eigen']}"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raphson", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="train a small network by Muon beside SGD, prune it, and transport digit images",
        description="Trains a small network on scikit-learn's digit images in NumPy, once with a Muon step made of "
        "raphson.orthogonalize and once by SGD with momentum, prints accuracy and time a step, and draws the curves; "
        "then prunes the network by magnitude and by FisherInverse.obs_prune, and draws accuracy against sparsity; "
        "then transports digit images into others by raphson.sinkhorn, and draws them on their way.",
    )
    demo.add_argument("--quick", action="store_true", help="5 epochs and 2 runs")
    demo.add_argument("--out", metavar="FILE", default="raphson_demo.png", help="the picture (default: %(default)s)")
    demo.add_argument(
        "--prune-out", metavar="FILE", default="raphson_prune.png", help="the second picture (default: %(default)s)"
    )
    demo.add_argument(
        "--transport-out", metavar="FILE", default="raphson_transport.png", help="the third (default: %(default)s)"
    )
    demo.add_argument("--epochs", type=_positive, metavar="N", help="length of a run (default: 20)")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="first seed (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        print(_describe(), end="\n\n")
        parser.print_help()
        return 0
    if arguments.seed < 0:
        parser.error("--seed must not be negative")
    from raphson import demo

    try:
        demo.run(
            out=arguments.out,
            epochs=arguments.epochs or (5 if arguments.quick else 20),
            runs=2 if arguments.quick else 5,
            seed=arguments.seed,
            pruned=arguments.prune_out,
            images=200 if arguments.quick else 400,
            transported=arguments.transport_out,
        )
    except demo.MissingPackage as error:
        print(f"raphson: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
