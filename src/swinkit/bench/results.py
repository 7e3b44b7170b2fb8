"""What a benchmark of models found, as plain data and as tables."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""dtype -> by what fraction of the largest output one may differ from plain swinkit in float32."""
FORMAT = 1
"""Of results.json."""


@dataclass(frozen=True)
class Row:
    """One runtime in one dtype with one batch size. The numbers of time are None where its outputs were wrong or it failed."""

    runtime: str
    dtype: str
    batch_size: int
    says: str = ""
    """What ran, in words: versions, or swinkit's engine and why it was chosen."""
    failed: str = ""
    """Why there are no numbers, in a sentence."""
    difference: float | None = None
    """Largest difference of an output from plain swinkit's in float32, as a fraction of the largest output."""
    repetitions: int = 0
    median: float | None = None
    """Seconds for the batch."""
    fastest: float | None = None
    low: float | None = None
    """First quartile, seconds."""
    high: float | None = None
    """Third quartile, seconds."""
    images_per_second: float | None = None
    """batch_size / median"""
    gflops: float | None = None
    """Model FLOP/s in billions, at the median."""
    share: float | None = None
    """`gflops` as a fraction of the machine's rate of matrix products in this dtype."""
    peak_memory: int | None = None
    """Largest resident memory of the process while it computed, in bytes, beyond what it held before its model with the libraries imported:
    weights, activations, and what the runtime keeps. VmHWM on Linux; elsewhere the building of the model counts too."""


def row(runtime: str, dtype: str, batch_size: int, seconds: Sequence[float], gflop: float, **others: Any) -> Row:
    """A row from the seconds of all repetitions; gflop: billions of operations for one image."""
    if others.get("failed") or not seconds:
        return Row(runtime, dtype, batch_size, **others)
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else (median,) * 3
    rate = batch_size / median
    return Row(
        runtime, dtype, batch_size, **others, repetitions=len(seconds), median=median, fastest=min(seconds), low=low, high=high,
        images_per_second=rate, gflops=rate * gflop,
    )  # fmt: skip


@dataclass(frozen=True)
class ModelSpeed:
    """What `bench.model` measured."""

    model: str
    weights: str
    """Whose weights: random, as saved, as given."""
    input: tuple[int, int, int]
    """(channels, height, width)"""
    parameters: int
    gflop: float
    """Billions of floating-point operations for one image; twice the multiply-adds that papers print."""
    threads: int
    processors: int
    rounds: int
    cpu: str
    versions: dict[str, str]
    variables: dict[str, str]
    """Environment variables that change speed."""
    rows: tuple[Row, ...]
    gemm: dict[str, dict[str, float]]
    """dtype -> "swinkit" and "oneDNN" -> GFLOP/s of matrix products, the best of all rounds."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Peer -> why it was not measured."""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False
    """Ctrl-C ended it; what had been measured is here."""
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(dtype, batch size) of the rows, in their order."""
        return list(dict.fromkeys((row.dtype, row.batch_size) for row in self.rows))

    def at(self, dtype: str, batch_size: int) -> list[Row]:
        """Rows of one dtype and batch size, in the order of measuring."""
        return [row for row in self.rows if (row.dtype, row.batch_size) == (dtype, batch_size)]

    def limit(self, dtype: str) -> float | None:
        """Images per second if nothing but matrix products took time, at the best rate that was measured."""
        rates = self.gemm.get(dtype)
        return max(rates.values()) / self.gflop if rates else None

    def table(self) -> str:
        """For a terminal."""
        from swinkit.bench.tables import text

        return text(self)

    def markdown(self, heading: str = "#") -> str:
        """For a file; heading: the level that the model's name gets."""
        from swinkit.bench.tables import markdown

        return markdown(self, heading)
