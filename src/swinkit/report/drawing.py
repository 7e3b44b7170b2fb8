"""SVG that takes its colours and its type from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swinkit.report.history import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours nobody else draws with; the finished SVG has the page's variables in their place, so it follows the theme.
INK, GRID, SERIES = "#010203", "#010204", tuple(f"#0102{number:02x}" for number in range(0x10, 0x18))
NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight")
PAGE_COLOURS = {INK: "var(--soft)", GRID: "var(--rule)"} | {mark: f"var(--{name})" for mark, name in zip(SERIES, NAMES, strict=True)}
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (6, 1.6, 1.2, 1.6))
SIZE = (5.4, 2.7)
MARKED_POINTS = 40
LABEL_GAP = 11
"""Smallest distance of two labels, in points."""


@dataclass(frozen=True)
class Stroke:
    """How a line looks: its number among the page's colours from 1, its dashes (on, off, ...) in widths, and what stands at its end."""

    colour: int
    dashes: tuple[float, ...]
    label: str = ""


def stroke(place: int, label: str = "") -> Stroke:
    """The place-th line's own look, from 0: colour and dashes differ, so that neither is needed alone."""
    return Stroke(place % len(SERIES) + 1, DASHES[(place + place // len(DASHES)) % len(DASHES)], label)


@dataclass(frozen=True)
class Scale:
    """The y axis: per cent or plain, logarithmic or from zero."""

    percent: bool = False
    log: bool = False


def curves(title: str, lines: Sequence[tuple[Line, Stroke]], scale: Scale, marks: Sequence[float] = ()) -> str:
    """Lines over epochs as SVG, with a dotted vertical line at each of `marks`."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        few = max(len(one.x) for one, _ in lines) <= MARKED_POINTS
        for one, look in lines:
            _plot(axes, one, look, few)
        for epoch in marks:
            axes.axvline(epoch, color=INK, linewidth=0.9, dashes=(1, 3))
        _dress(axes, scale)
        _label_ends(figure, axes, lines)

    return draw(title, SIZE, paint)


def draw(title: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> str:
    """What `paint` does to a figure of `size` inches, as SVG for the page; equal calls give equal text."""
    # The object interface: pyplot would keep every figure alive and choose a screen to draw on.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _adopt(out.getvalue())


def plain_axes(axes: Axes, percent_y: bool) -> None:
    """Grid lines behind, no box, ticks in the page's quiet colour."""
    from matplotlib.ticker import FuncFormatter

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, pad=6)
    unit, scale = (" %", 100) if percent_y else ("", 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{scale * value:,g}{unit}"))


def _plot(axes: Axes, one: Line, look: Stroke, marked: bool) -> None:
    marker = ("o" if look.colour % 2 else "s") if marked else ""
    style: Any = (0, look.dashes) if look.dashes else "-"
    colour = SERIES[look.colour - 1]
    axes.plot(one.x, one.y, color=colour, linewidth=1.8, linestyle=style, marker=marker, markersize=3, solid_joinstyle="round")


def _dress(axes: Axes, scale: Scale) -> None:
    from matplotlib.ticker import MaxNLocator, NullLocator

    if scale.log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    plain_axes(axes, scale.percent)
    axes.set_xlabel("epoch", color=INK)
    if axes.dataLim.x0 < 1:
        axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if not scale.percent and not scale.log:
        axes.set_ylim(bottom=0)


def _label_ends(figure: Figure, axes: Axes, lines: Sequence[tuple[Line, Stroke]]) -> None:
    """Each line's label right of its last point; labels that would lie on one another move up."""
    ends = [(one.last, look) for one, look in lines if look.label and one.last is not None]
    if not ends:
        return
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.05 * (right - left))
    figure.draw_without_rendering()
    points = axes.transData.transform([end for end, _ in ends]) * 72 / figure.dpi
    for (end, look), height in zip(ends, _spread(points), strict=True):
        offset = (5, float(height))
        colour = SERIES[look.colour - 1]
        text = axes.annotate(look.label, end, offset, textcoords="offset points", color=colour, weight="bold", size=9, va="center")
        text.set_in_layout(False)


def _spread(points: Any) -> list[float]:
    """How far up each label moves, in points, for ends at points (N, 2)."""
    placed: list[tuple[float, float]] = []
    moves = [0.0] * len(points)
    for place in np.argsort(points[:, 1], kind="stable"):
        x, y = points[place]
        for other_x, other_y in placed:
            if abs(x - other_x) < 1.5 * LABEL_GAP and y < other_y + LABEL_GAP:
                y = other_y + LABEL_GAP
        placed = sorted([*placed, (x, y)], key=lambda one: one[1])
        moves[int(place)] = y - points[place][1]
    return moves


def _adopt(svg: str) -> str:
    """The drawing without what a page around it should decide: prolog, size, ids, styles for everything, fonts, colours."""
    svg = svg[svg.index("<svg") :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r' id="[a-z_A-Z0-9.]*_\d+"', r"font-family:[^;\"]*;?"):
        svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', svg, count=1)
    for mark, variable in PAGE_COLOURS.items():
        svg = svg.replace(mark, variable)
    return re.sub(r"\s*\n\s*", "\n", svg)
