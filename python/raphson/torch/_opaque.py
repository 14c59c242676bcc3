"""What torch.compile is not to look into: it calls these functions as they are, between the graphs it makes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

__all__ = ["opaque"]

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def opaque(function: FunctionT) -> FunctionT:
    """:func:`torch.compiler.disable`, but that its import, of a second, waits until somebody compiles."""
    hidden: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not hidden:
            disable: Callable[..., Any] = torch.compiler.disable
            hidden.append(disable(function, reason="raphson is compiled already"))
        return hidden[0](*args, **kwargs)

    return cast(FunctionT, call)
