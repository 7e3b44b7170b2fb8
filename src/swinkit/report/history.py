"""The records of a run as lines to draw.

A record is a line of metrics.jsonl. `train` records hold step, epoch (fractional), loss, accuracy, lr, images_per_s; `val` records hold
step, epoch, loss and top1; `train` records may hold grad_norm. Other keys and kinds are ignored. Any of them may be missing or not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """One quantity over epochs: x and y (N,) float64, and how many records each point is the mean of."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    records_per_point: int = 1

    @property
    def finite(self) -> NDArray[np.float64]:
        """The finite values of y, in order."""
        return self.y[np.isfinite(self.x) & np.isfinite(self.y)]

    @property
    def last(self) -> tuple[float, float] | None:
        """The last finite point."""
        places = np.flatnonzero(np.isfinite(self.x) & np.isfinite(self.y))
        return (float(self.x[places[-1]]), float(self.y[places[-1]])) if len(places) else None


def line(name: str, history: Sequence[Record], kind: str, key: str) -> Line:
    """What the records of one kind say about one key, averaged down to at most MOST_POINTS points."""
    pace = epochs_per_step(history)
    records = [record for record in history if record.get("kind") == kind and key in record]
    x = np.array([_epoch(record, pace) for record in records], dtype=np.float64)
    y = np.array([number(record, key) for record in records], dtype=np.float64)
    each = max(1, math.ceil(len(records) / MOST_POINTS))
    return Line(name, _means(x, each), _means(y, each), each)


def number(record: Record, key: str) -> float:
    """The value as a float; NaN when it is missing or no number."""
    value = record.get(key)
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.inf


def not_finite(history: Iterable[Record]) -> Record | None:
    """The first record whose loss is not a finite number."""
    return next((record for record in history if "loss" in record and not math.isfinite(number(record, "loss"))), None)


def _epoch(record: Record, pace: float) -> float:
    # A validation belongs after the steps it followed, however its epochs are counted.
    at = number(record, "step") * pace
    return at if math.isfinite(at) else number(record, "epoch")


def epochs_per_step(history: Sequence[Record]) -> float:
    """What part of an epoch one optimiser step is; NaN where the records do not say."""
    trained = [record for record in history if record.get("kind") == "train" and number(record, "step") > 0]
    return number(trained[-1], "epoch") / number(trained[-1], "step") if trained else math.nan


def _means(values: NDArray[np.float64], each: int) -> NDArray[np.float64]:
    finite = (part[np.isfinite(part)] for part in np.split(values, range(each, len(values), each)))
    return np.array([part.mean() if len(part) else math.nan for part in finite])
