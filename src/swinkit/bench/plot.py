"""A benchmark of models as a picture: one panel per dtype and batch size, one bar per runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swinkit.bench.results import ModelSpeed, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHERS, LIMIT = "#1f6feb", "#9aa4b2", "#b42318"
BAR, FRAME = 0.34, 0.75
"""Inches of height that a bar and the frame of a panel take."""
WIDTH = 8.0


def plot(speed: ModelSpeed, path: Path) -> None:
    """Write a PNG. Runtimes without numbers are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(cell, [row for row in speed.at(*cell) if row.median is not None]) for cell in speed.cells]
    panels = [(cell, rows) for cell, rows in panels if rows]
    heights = [BAR * len(rows) + FRAME for _, rows in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + FRAME), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{speed.model}: images per second\n{speed.cpu}, {speed.threads} threads", fontsize=11)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, ((dtype, batch_size), rows) in zip(axes, panels, strict=True):
        _panel(axis, f"{dtype}, batch {batch_size}", rows, speed.limit(dtype))
    figure.savefig(path, dpi=150)


def _panel(axis: Axes, title: str, rows: list[Row], limit: float | None) -> None:
    """Bars with quartiles, the fastest on top, and the limit of matrix products as a line."""
    rows = sorted(rows, key=_rate)
    rates = [_rate(row) for row in rows]
    spread = [[rate - row.batch_size / (row.high or 1) for rate, row in zip(rates, rows, strict=True)],
              [row.batch_size / (row.low or 1) - rate for rate, row in zip(rates, rows, strict=True)]]  # fmt: skip
    colours = [OURS if row.runtime.startswith("swinkit") else OTHERS for row in rows]
    axis.barh([row.runtime for row in rows], rates, xerr=spread, color=colours, height=0.72, error_kw={"elinewidth": 1, "capsize": 2})
    highest = max([*(rate + above for rate, above in zip(rates, spread[1], strict=True)), limit or 0.0])
    for place, (rate, above) in enumerate(zip(rates, spread[1], strict=True)):
        axis.text(rate + above + 0.01 * highest, place, f"{rate:,.1f}", va="center", fontsize=8.5)
    if limit:
        axis.axvline(limit, color=LIMIT, linestyle="--", linewidth=1, label="matrix products alone")
        axis.legend(loc="lower right", fontsize=7.5, frameon=True, framealpha=0.9)
    axis.set_xlim(0, 1.12 * highest)
    axis.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axis.tick_params(labelsize=8.5)
    axis.spines[["top", "right"]].set_visible(False)


def _rate(row: Row) -> float:
    return row.images_per_second or 0.0
