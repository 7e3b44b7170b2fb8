"""Curves as SVG that takes its colours and its type from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swinkit.report.history import Line, Record, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours nobody else draws with; the finished SVG has the page's variables in their place, so it follows the theme.
INK, GRID, SERIES = "#010203", "#010204", ("#010205", "#010206")
PAGE_COLOURS = {INK: "var(--soft)", GRID: "var(--rule)", SERIES[0]: "var(--one)", SERIES[1]: "var(--two)"}
SIZE = (5.4, 2.7)
MARKED_POINTS = 40


@dataclass(frozen=True)
class Plan:
    """What a chart shows: its lines as (name, kind of record, key), and how its values are written and summed up."""

    title: str
    lines: tuple[tuple[str, str, str], ...]
    form: str
    landmark: str
    landmark_of: Callable[[NDArray[np.float64]], Any]
    percent: bool = False


PLANS = (
    Plan("Loss", (("training", "train", "loss"), ("validation", "val", "loss")), "{:.3g}", "lowest", np.min),
    Plan("Accuracy", (("training", "train", "accuracy"), ("validation", "val", "top1")), "{:.1%}", "best", np.max, percent=True),
    Plan("Learning rate", (("learning rate", "train", "lr"),), "{:.2g}", "highest", np.max),
    Plan("Images per second", (("training", "train", "images_per_s"),), "{:,.0f}", "median", np.median),
)


@dataclass(frozen=True)
class Chart:
    """A drawn chart: heading, a sentence per line in the order of the page's colours, the SVG, and how many records make a point."""

    title: str
    words: tuple[str, ...]
    svg: str
    records_per_point: int


def charts(history: Sequence[Record]) -> list[Chart]:
    """Loss, accuracy, learning rate and throughput over epochs, each where the history has at least one finite value."""
    drawn = []
    for plan in PLANS:
        lines = [line(name, history, kind, key) for name, kind, key in plan.lines]
        lines = [one for one in lines if len(one.finite)]
        if lines:
            words = tuple(_words(plan, one) for one in lines)
            drawn.append(Chart(plan.title, words, _draw(plan, lines), max(one.records_per_point for one in lines)))
    return drawn


def _words(plan: Plan, one: Line) -> str:
    last, landmark = (plan.form.format(value).replace("%", "\u00a0%") for value in (one.finite[-1], plan.landmark_of(one.finite)))
    return f"{one.name}: {last} at the end, {plan.landmark} {landmark}"


def _draw(plan: Plan, lines: Sequence[Line]) -> str:
    # The object interface: pyplot would keep every figure alive and choose a screen to draw on.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": plan.title, "font.size": 10}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        for one, colour in zip(lines, SERIES, strict=False):
            few = len(one.x) <= MARKED_POINTS
            axes.plot(one.x, one.y, color=colour, linewidth=1.8, marker="o" if few else "", markersize=3, solid_joinstyle="round")
        _dress(plan, axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(out.getvalue())


def _dress(plan: Plan, axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    unit, scale = (" %", 100) if plan.percent else ("", 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:,g}{unit}"))
    if not plan.percent:
        axes.set_ylim(bottom=0)


def _adopt(svg: str) -> str:
    """The drawing without what a page around it should decide: prolog, size, ids, styles for everything, fonts, colours."""
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r' id="[a-z_A-Z0-9.]*_\d+"', r"font-family:[^;\"]*;?"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    for mark, variable in PAGE_COLOURS.items():
        svg = svg.replace(mark, variable)
    return re.sub(r"\s*\n\s*", "\n", svg)
