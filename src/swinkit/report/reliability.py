"""Whether the model can be believed: the reliability diagram and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swinkit.report.drawing import GRID, INK, SERIES, draw, plain_axes
from swinkit.tasks.calibration import CalibrationBin
from swinkit.tasks.scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (4.6, 4.3)
ABOUT_EQUAL = 0.01


@dataclass(frozen=True)
class Reliability:
    """The diagram, sentences, and a row of text per bin that holds images: confidence, images, mean confidence, accuracy."""

    svg: str
    words: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Filled:
    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


def reliability(scores: Scores) -> Reliability | None:
    """None where the scores hold no bins, as those of an early version."""
    bins = [filled for one in scores.calibration if (filled := _filled(one))]
    if not bins:
        return None
    rows = tuple(
        (f"{_whole(one.lower)} to {_whole(one.upper)}", f"{one.count:,}", _percent(one.confidence), _percent(one.accuracy)) for one in bins
    )
    return Reliability(draw("reliability", SIZE, lambda figure: _paint(figure, bins)), _words(scores, bins), rows)


def _filled(one: CalibrationBin) -> _Filled | None:
    if one.confidence is None or one.accuracy is None:
        return None
    return _Filled(one.lower, one.upper, one.count, one.confidence, one.accuracy)


def _words(scores: Scores, bins: Sequence[_Filled]) -> tuple[str, ...]:
    said, right = (sum(one.count * value for one, value in zip(bins, values, strict=True)) / scores.count for values in _columns(bins))
    worst = max(bins, key=lambda one: one.count * abs(one.accuracy - one.confidence))
    whole = f"On average it says {_percent(said)} and is right {_percent(right)} of the time: {_verdict(said - right)}."
    part = (
        f"What adds most to the error: where it says about {_whole(worst.confidence)} ({worst.count:,} images), "
        f"it is right {_whole(worst.accuracy)} of the time."
    )
    ece = (
        f"The calibration error (ECE) is {_percent(scores.ece)}: how far accuracy is from confidence in each of {len(scores.calibration)} "
        "bins, averaged over the images."
    )
    return whole, part, ece


def _columns(bins: Sequence[_Filled]) -> tuple[list[float], list[float]]:
    return [one.confidence for one in bins], [one.accuracy for one in bins]


def _verdict(gap: float) -> str:
    if abs(gap) < ABOUT_EQUAL:
        return "as sure as it is right"
    return f"{100 * abs(gap):.1f} points too {'sure' if gap > 0 else 'cautious'}"


def _paint(figure: Figure, bins: Sequence[_Filled]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    places, width = [one.lower for one in bins], [one.upper - one.lower for one in bins]
    upper.bar(places, [one.accuracy for one in bins], width, align="edge", color=SERIES[0], alpha=0.85, linewidth=0.6, edgecolor=GRID)
    upper.plot((0, 1), (0, 1), color=INK, linewidth=1.2, dashes=(4, 3))
    upper.hlines([one.confidence for one in bins], places, [one.upper for one in bins], color=SERIES[1], linewidth=2.4)
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    upper.set_ylabel("accuracy", color=INK)
    lower.bar(places, [one.count for one in bins], width, align="edge", color=INK, alpha=0.6, linewidth=0.6, edgecolor=GRID)
    lower.set_xlabel("confidence", color=INK)
    lower.set_ylabel("images", color=INK)
    for axes, percent, ticks in ((upper, True, 6), (lower, False, 2)):
        plain_axes(axes, percent)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=not percent))
    lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}\u00a0%"


def _whole(fraction: float) -> str:
    return f"{100 * fraction:.0f}\u00a0%"
