"""Rates with their spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 7


@dataclass(frozen=True)
class Rate:
    """Images per second over some rounds."""

    median: float
    low: float
    """The first quartile."""
    high: float
    """The third quartile."""

    def __str__(self) -> str:
        return f"{self.median:9,.1f} images/s  ({self.low:,.1f} to {self.high:,.1f})"


def rate(work: Callable[[], int], seconds: float) -> Rate:
    """Call `work`, which returns how many images it did, for about `seconds`, and at least once in each of some rounds."""
    low, middle, high = statistics.quantiles([_round(work, seconds / ROUNDS) for _ in range(ROUNDS)], n=4)
    return Rate(middle, low, high)


def _round(work: Callable[[], int], seconds: float) -> float:
    started, images = time.perf_counter(), 0
    while True:
        images += work()
        passed = time.perf_counter() - started
        if passed >= seconds:
            return images / passed
