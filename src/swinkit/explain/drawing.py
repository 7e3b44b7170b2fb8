"""Figures of a model on a picture: every function takes arrays and returns a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swinkit.config import Size
from swinkit.explain.blending import blend, enlarged
from swinkit.explain.faithfulness import area
from swinkit.explain.figures import SOFT, STRONG, bare, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Picture = NDArray[np.uint8]


@styled
def panels(pictures: Mapping[str, Picture | Floats], columns: int = 4, query: Size | None = None, side: float = 1.9) -> Figure:
    """Pictures (height, width, 3), uint8 or float in [0, 1], in a grid under their titles; `query` (y, x) is marked on each.

    side: inches of the longer side of a panel.
    """
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    height, width = next(iter(pictures.values())).shape[:2]
    tall, broad = side * height / max(height, width), side * width / max(height, width)
    figure = new_figure(columns * (broad + 0.15), rows * (tall + 0.35))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, picture) in zip(grid, pictures.items(), strict=False):
        _show(axes, picture, title)
        if query is not None:
            mark(axes, query)
    for axes in grid[len(pictures) :]:
        axes.set_visible(False)
    return figure


def _show(axes: Axes, picture: Picture | Floats, title: str) -> None:
    height, width = picture.shape[:2]
    # "none" puts the picture into an SVG as it is, without scaling it up.
    axes.imshow(enlarged(picture), extent=(0, width, height, 0), interpolation="none")
    # A class may be called "$5 or $10", which is no mathematics.
    axes.set_title(title, fontsize=8.5, fontweight="normal", pad=4, parse_math=False)
    bare(axes)


def mark(axes: Axes, query: Size) -> None:
    """A ring with a dark edge around the middle of a pixel (y, x): to be seen on any picture."""
    import matplotlib.patheffects as effects

    edge = [effects.withStroke(linewidth=3, foreground="black")]
    axes.plot(query[1] + 0.5, query[0] + 0.5, "o", markersize=6, markerfacecolor="none", markeredgecolor="white", path_effects=edge)


def heat_maps(picture: Picture, maps: Mapping[str, Floats], query: Size | None = None, columns: int = 4, shared: bool = False) -> Figure:
    """Maps (height, width) >= 0 on a picture (height, width, 3): bright where a map is high, the picture itself first.

    shared: one scale for all maps; else each has its own, from zero to its largest value.
    """
    top = max((float(values.max()) for values in maps.values()), default=0.0) if shared else None
    return panels({"picture": picture} | {name: blend(picture, values, top) for name, values in maps.items()}, columns, query)


@styled
def signed_map(picture: Picture, values: Floats, title: str) -> Figure:
    """A map (height, width) with signs beside its picture (height, width, 3): orange speaks for the class, blue against it."""
    height, width = values.shape
    figure = new_figure(6.2, 0.55 + 2.7 * height / width)
    left, right = figure.subplots(1, 2)
    _show(left, picture, "picture")
    limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
    drawn = right.imshow(values, cmap="PuOr_r", vmin=-limit, vmax=limit, extent=(0, width, height, 0))
    right.set_title(title, fontsize=8.5, fontweight="normal", pad=4, parse_math=False)
    bare(right)
    figure.colorbar(drawn, ax=right, fraction=0.046, pad=0.03)
    return figure


@styled
def bias_maps(maps: Floats, title: str, columns: int = 6) -> Figure:
    """Position bias (K, 2M - 1, 2M - 1) of each head over the offset from query to key, one scale for all heads."""
    heads, tall, broad = maps.shape
    columns = min(columns, heads)
    rows = math.ceil(heads / columns)
    figure = new_figure(columns * 1.35 + 0.8, rows * 1.35 * tall / broad + 0.6)
    limit = float(np.abs(maps).max()) or 1.0
    grid = figure.subplots(rows, columns, squeeze=False)
    for head, axes in enumerate(grid.flat):
        if head >= heads:
            axes.set_visible(False)
            continue
        shown = axes.imshow(maps[head], cmap="PuOr_r", vmin=-limit, vmax=limit)
        axes.plot(broad // 2, tall // 2, "+", color=SOFT, markersize=5)
        axes.set_title(f"head {head}", fontsize=8, fontweight="normal", pad=3)
        bare(axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    figure.colorbar(shown, ax=grid, fraction=0.03, pad=0.02, label="added to the score")
    return figure


@styled
def receptive_fields(fields: Mapping[str, tuple[Floats, int]], centre: tuple[float, float] | None = None) -> Figure:
    """Effective receptive fields: name -> (values (height, width), side of the square that holds half), on a scale of roots.

    centre: (y, x) in pixels of the squares; None: of the picture.
    """
    from matplotlib.patches import Rectangle

    figure = new_figure(2.9 * len(fields), 3.2)
    for axes, (name, (values, side)) in zip(figure.subplots(1, len(fields), squeeze=False).flat, fields.items(), strict=True):
        height, width = values.shape
        axes.imshow(np.sqrt(values / values.max()), cmap="inferno", extent=(0, width, height, 0))
        y, x = centre or (height / 2, width / 2)
        corner = (x - side / 2, y - side / 2)
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1, linestyle="--"))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_title(f"{name}: half lies in {side} x {side} pixels", fontsize=8.5, fontweight="normal", pad=4)
        bare(axes)
    return figure


@styled
def curves(lines: Mapping[str, Sequence[float]], title: str, ylabel: str) -> Figure:
    """Deletion or insertion curves over the share of the picture that is gone or there, each named with its mean height."""
    figure = new_figure(7.2, 3.2)
    axes = figure.subplots()
    styles: list[Any] = ["-", "--", ":", "-."]
    for index, (name, values) in enumerate(lines.items()):
        share = np.linspace(0, 1, len(values))
        colour, style = STRONG[index % len(STRONG)], styles[index // len(STRONG) % len(styles)]
        axes.plot(share, values, style, color=colour, label=f"{name}: {area(np.asarray(values)):.3f}")
    axes.set(title=title, xlabel="share of the picture", ylabel=ylabel, xlim=(0, 1), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="area under the curve", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
