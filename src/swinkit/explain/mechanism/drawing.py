"""Maps of cells, of which the figures are made. The cell in row r and column c covers x from c to c + 1 and y from r to r + 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swinkit.config import Size
from swinkit.explain.figures import DARK, SOFT, bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

Array = NDArray[Any]


def panels(figure: Figure, place: SubplotSpec, widths: Sequence[float]) -> list[Axes]:
    """Axes side by side at `place`, as wide as `widths` have it."""
    cells = place.subgridspec(1, len(widths), width_ratios=widths)
    return [figure.add_subplot(cells[0, column]) for column in range(len(widths))]


def rgb(colour: str) -> Array:
    """ "#rrggbb" -> (3,) in [0, 1]."""
    from matplotlib.colors import to_rgb

    return np.array(to_rgb(colour))


def paint(places: Array, colours: tuple[str, ...]) -> Array:
    """(...) whole numbers -> (..., 3): the colour of each."""
    return np.stack([rgb(colour) for colour in colours])[places]


def canvas(axes: Axes, grid: Size, title: str = "", margin: float = 0.0) -> None:
    """Square cells, row 0 on top, nothing around but `margin` cells of room."""
    bare(axes)
    axes.set(xlim=(-margin, grid[1] + margin), ylim=(grid[0] + margin, -margin), aspect="equal")
    if title:
        axes.set_title(title)


def fill(axes: Axes, values: Array, **options: Any) -> Any:
    """Cells (H, W) by a colour map or (H, W, 3) by their own colour; keeps the limits of the axes."""
    H, W = values.shape[:2]
    limits = axes.get_xlim(), axes.get_ylim()
    image = axes.imshow(values, extent=(0, W, H, 0), **options)
    axes.set(xlim=limits[0], ylim=limits[1])
    return image


def lattice(axes: Axes, grid: Size, step: Size, start: Size = (0, 0), color: str = DARK, linewidth: float = 1.0, **options: Any) -> None:
    """Lines every `step` cells over a map of `grid`, at both edges too; `start`: where the first inner line is."""
    from matplotlib.collections import LineCollection

    H, W = grid
    rows = sorted({0, H, *range(start[0], H, step[0])})
    columns = sorted({0, W, *range(start[1], W, step[1])})
    segments = [[(0, r), (W, r)] for r in rows] + [[(c, 0), (c, H)] for c in columns]
    axes.add_collection(LineCollection(segments, colors=color, linewidths=linewidth, capstyle="projecting", **options), autolim=False)


def frame(axes: Axes, corner: tuple[float, float], size: tuple[float, float], **options: Any) -> None:
    """A rectangle of `size` (height, width) cells with its upper left at `corner` (row, column)."""
    from matplotlib.patches import Rectangle

    given = {"fill": False, "edgecolor": DARK, "linewidth": 1.5, "joinstyle": "miter", "zorder": 3, **options}
    axes.add_patch(Rectangle((corner[1], corner[0]), size[1], size[0], **given))


def hatch(axes: Axes, inside: tuple[float, float], outside: tuple[float, float]) -> None:
    """Hatch what `outside` (height, width) has more than `inside`, at the bottom and the right: padding."""
    (h, w), (H, W) = inside, outside
    for corner, size in (((h, 0), (H - h, W)), ((0, w), (h, W - w))):
        if min(size) > 0:
            frame(axes, corner, size, hatch="/////", edgecolor=SOFT, linewidth=0.0)
            frame(axes, corner, size, edgecolor=SOFT, linewidth=0.6)


def write(axes: Axes, row: float, column: float, text: object, **options: Any) -> None:
    """A text centred at a place of the map; it takes no part in the layout, being inside."""
    axes.text(column, row, str(text), ha="center", va="center", **{"color": DARK, **options}).set_in_layout(False)


def on(colours: Array) -> Array:
    """(..., 3) -> (...,) the colour of text that reads well on each: dark or white."""
    luminance = (colours**2.2) @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.18, DARK, "#ffffff")
