"""Benchmarks against named peers and against ceilings measured in the same run: ``python -m bench --help``."""
