"""`torch.compiler.disable` for a method, without loading the compiler (a second and 150 MB) before somebody compiles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(method: Callable[P, R]) -> Callable[P, R]:
    """The method, which torch.compile calls as it is instead of looking inside."""
    disabled: list[Any] = []

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return method(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(method))
        return disabled[0](*args, **kwargs)  # type: ignore[no-any-return]

    return call
