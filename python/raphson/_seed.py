"""Seeds of the keyed generator (Philox4x32-10)."""

from __future__ import annotations

import operator

import numpy as np

__all__ = ["Seed", "as_key"]

Seed = int | np.random.Generator


def as_key(seed: Seed, *, function: str) -> int:
    """The 64-bit key of the generator.

    Parameters
    ----------
    seed : int or numpy.random.Generator
        An integer in [0, 2**64) is the key itself; from a generator one uint64 is drawn.
    function : str
        Name for error messages.

    Raises
    ------
    TypeError
        For anything else, ``None`` and legacy ``RandomState`` included: results must be repeatable.
    ValueError
        For an integer out of range.
    """
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(0, 2**64, dtype=np.uint64))
    if isinstance(seed, (bool, np.bool_)):
        raise TypeError(f"{function}: seed must be an int or a numpy.random.Generator, got bool")
    try:
        key = operator.index(seed)
    except TypeError:
        kind = type(seed).__name__
        raise TypeError(f"{function}: seed must be an int or a numpy.random.Generator, got {kind}") from None
    if not 0 <= key < 2**64:
        raise ValueError(f"{function}: seed must lie in [0, 2**64), got {key}")
    return key
