"""Checks of single values, which say what came and what was expected. All raise ConfigError."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

from swinkit.errors import ConfigError

Size = tuple[int, int]
"""(height, width)"""
SizeLike = int | Size


def pair(size: SizeLike) -> Size:
    """7 -> (7, 7); (7, 5) stays."""
    return size if isinstance(size, tuple) else (size, size)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {least}.") from None
    if isinstance(value, bool) or number < least:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {least}.")
    return number


def wholes(name: str, values: Any) -> tuple[int, ...]:
    """One positive whole number per stage."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ConfigError(f"{name} is {values!r}; expected a list with one whole number per stage.")
    return tuple(whole(f"{name}[{stage}]", value, 1) for stage, value in enumerate(values))


def size(name: str, value: Any, least: int = 1) -> SizeLike:
    """A whole number or a (height, width) pair of them."""
    if not isinstance(value, Sequence):
        return whole(name, value, least)
    if isinstance(value, str) or len(value) != 2:
        raise ConfigError(f"{name} is {value!r}; expected a whole number or a (height, width) pair.")
    return whole(f"{name}[0]", value[0], least), whole(f"{name}[1]", value[1], least)


def positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} is {value!r}; expected a finite number above 0.")
    return float(value)


def rate(name: str, value: Any) -> float:
    """A probability below 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= float(value) < 1.0:
        raise ConfigError(f"{name} is {value!r}; expected a probability from 0 up to, not including, 1.")
    return float(value)


def check_flag(name: str, value: Any) -> None:
    """True or False and nothing else."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; expected True or False.")


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raise unless the condition holds: "NAME is VALUE; expected EXPECTED."."""
    if not condition:
        raise ConfigError(f"{name} is {value!r}; expected {expected}.")
