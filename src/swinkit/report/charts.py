"""The curves of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swinkit.report.drawing import Scale, curves, stroke
from swinkit.report.history import Line, Record, line

WIDE = 30
"""From so many medians on, the largest value of a positive quantity asks for a logarithmic scale."""


@dataclass(frozen=True)
class Plan:
    """What a chart shows: its lines as (name, kind of record, key), and how its values are written and summed up."""

    title: str
    lines: tuple[tuple[str, str, str], ...]
    form: str
    landmark: str
    landmark_of: Callable[[NDArray[np.float64]], Any]
    percent: bool = False
    may_be_log: bool = False

    def write(self, value: float) -> str:
        """A value with its unit."""
        return self.form.format(value).replace("%", "\u00a0%")


PLANS = (
    Plan("Loss", (("training", "train", "loss"), ("validation", "val", "loss")), "{:.3g}", "lowest", np.min),
    Plan("Accuracy", (("training", "train", "accuracy"), ("validation", "val", "top1")), "{:.1%}", "best", np.max, percent=True),
    Plan("Learning rate", (("learning rate", "train", "lr"),), "{:.2g}", "highest", np.max),
    Plan("Images per second", (("training", "train", "images_per_s"),), "{:,.0f}", "median", np.median),
    Plan("Gradient norm", (("before clipping", "train", "grad_norm"),), "{:.3g}", "highest", np.max, may_be_log=True),
)


@dataclass(frozen=True)
class Chart:
    """A drawn chart: heading, a sentence per line in the order of the page's colours, the SVG, and how many records make a point."""

    title: str
    words: tuple[str, ...]
    svg: str
    records_per_point: int


def charts(history: Sequence[Record], marks: Sequence[float] = ()) -> list[Chart]:
    """Loss, accuracy, learning rate, throughput and gradient norm over epochs, each where the history has a finite value.

    marks: epochs to draw a dotted vertical line at.
    """
    drawn = []
    for plan in PLANS:
        lines = [one for one in (line(name, history, kind, key) for name, kind, key in plan.lines) if len(one.finite)]
        if lines:
            words = tuple(_words(plan, one) for one in lines)
            svg = curves(plan.title, [(one, stroke(place)) for place, one in enumerate(lines)], scale_of(plan, lines), marks)
            drawn.append(Chart(plan.title, words, svg, max(one.records_per_point for one in lines)))
    return drawn


def scale_of(plan: Plan, lines: Sequence[Line]) -> Scale:
    """The y axis that suits the lines."""
    values = np.concatenate([one.finite for one in lines])
    wide = plan.may_be_log and values.min() > 0 and values.max() > WIDE * np.median(values)
    return Scale(plan.percent, bool(wide))


def _words(plan: Plan, one: Line) -> str:
    return f"{one.name}: {plan.write(one.finite[-1])} at the end, {plan.landmark} {plan.write(plan.landmark_of(one.finite))}"
