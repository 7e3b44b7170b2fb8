"""5. The relative position index (paper, section 3.2, equation 4): which row of the bias table belongs to which pair of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from swinkit.config import Size
from swinkit.explain.figures import STRONG, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, fill, frame, lattice, on, paint, panels, write
from swinkit.explain.mechanism.geometry import Geometry, by
from swinkit.model import relative_position_index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORKED: Size = (3, 3)
"""The window of the worked example: small enough for every number to be read."""
NUMBERED = 15
"""Longest side of a table whose numbers are written."""
COLLISION = ((2, 1), (1, 2))
SHADES = ("#a9d4f0", "#f7c98b", "#92d6bd", "#e9bcd6", "#f3e79b", "#c3c5f0", "#f2b59b", "#d4d9de", "#b5e3e0")


def index_of(window: Size) -> Array:
    """(N, N): the model's index."""
    return relative_position_index(window).numpy()


def table_of(window: Size) -> Array:
    """(2M - 1, 2M - 1): the row of the bias table by offset, row offset down and column offset across, read off the model's index.

    The first token sees every offset to the upper left, the last every one to the lower right, the other two corners the rest.
    """
    index, (h, w) = index_of(window), window
    table = np.full((2 * h - 1, 2 * w - 1), -1)
    places = np.stack(np.unravel_index(np.arange(h * w), window), -1)
    offset = places[:, None] - places[None]  # i - j
    table[offset[..., 0] + h - 1, offset[..., 1] + w - 1] = index
    return table


def naive_of(window: Size) -> Array:
    """(2M - 1, 2M - 1): what adding row and column offset, both counted from 0, would give."""
    return np.add.outer(np.arange(2 * window[0] - 1), np.arange(2 * window[1] - 1))


@styled
def draw_index(window: Size) -> Figure:
    """A worked example on 3 x 3 tokens: offsets, the naive sum, the model's rows; then the table and the index of the real window."""
    figure = new_figure(9, 8.2)
    rows = figure.add_gridspec(2, 1, height_ratios=(0.8, 1), hspace=0.05)
    offsets, naive, right = panels(figure, rows[0], (1, 1, 1))
    table, pairs = panels(figure, rows[1], (1, 1))
    _offsets(offsets)
    _numbers(naive, naive_of(WORKED), "Row + column: collides", cycle=True)
    _numbers(right, table_of(WORKED), "Row · 5 + column: does not", cycle=False)
    _table(table, window)
    _pairs(pairs, window)
    return figure


def _offsets(axes: Axes) -> None:
    """The middle token's offsets to the tokens of its window, as i - j."""
    canvas(axes, WORKED, "A 3 × 3 window, offsets", margin=0.12)
    index, middle = index_of(WORKED)[4], (1, 1)
    fill(axes, paint(np.zeros(WORKED, int), (SHADES[0],)))
    lattice(axes, WORKED, (1, 1), color="#ffffff", linewidth=1.2)
    for n, (r, c) in enumerate(np.ndindex(*WORKED)):
        text = f"({middle[0] - r}, {middle[1] - c})".replace("-", "−")
        write(axes, r + 0.4, c + 0.5, text, fontsize=8.5)
        write(axes, r + 0.68, c + 0.5, f"row {index[n]}", fontsize=7.5, color="#44494f")
    frame(axes, middle, (1, 1), edgecolor=STRONG[1], linewidth=2.2)
    axes.set_xlabel("from each token to the framed one", labelpad=3)


def _numbers(axes: Axes, table: Array, title: str, cycle: bool) -> None:
    """A table over offsets -2 to 2 with its numbers; equal numbers have equal colours."""
    canvas(axes, (5, 5), title, margin=0.12)
    shades = paint(table % len(SHADES) if cycle else np.zeros_like(table), SHADES)
    fill(axes, shades)
    lattice(axes, (5, 5), (1, 1), color="#ffffff", linewidth=1.2)
    for r, c in np.ndindex(5, 5):
        write(axes, r + 0.5, c + 0.5, table[r, c], fontsize=9)
    for dy, dx in COLLISION:
        frame(axes, (dy + 2, dx + 2), (1, 1), edgecolor=STRONG[1], linewidth=2.4)
    _offset_axes(axes, WORKED)


def _offset_axes(axes: Axes, window: Size) -> None:
    """Ticks that name offsets, every one or a few."""
    for axis, side, name in ((axes.yaxis, window[0], "row offset"), (axes.xaxis, window[1], "column offset")):
        step = max(1, -(-side // 7))
        marks = [o for o in range(1 - side, side) if o % step == 0]
        axis.set_ticks([o + side - 0.5 for o in marks], [str(o).replace("-", "−") for o in marks])
        axis.set_tick_params(length=0)
        axis.set_label_text(name)


def _table(axes: Axes, window: Size) -> None:
    table = table_of(window)
    title = f"Window {by(window)}: {table.shape[0]} · {table.shape[1]} = {table.size} rows of the table"
    canvas(axes, (table.shape[0], table.shape[1]), title, margin=0.15)
    image = fill(axes, table, cmap="viridis")
    if max(table.shape) <= NUMBERED:
        inks = on(image.cmap(image.norm(table))[..., :3])
        for r, c in np.ndindex(*table.shape):
            write(axes, r + 0.5, c + 0.5, table[r, c], fontsize=6.2, color=inks[r, c])
    _offset_axes(axes, window)


def _pairs(axes: Axes, window: Size) -> None:
    index = index_of(window)
    N = len(index)
    canvas(axes, (N, N), f"The index: {N} × {N} pairs → {index.max() + 1} rows", margin=0.02 * N)
    fill(axes, index, cmap="viridis")
    frame(axes, (0, 0), (N, N), linewidth=0.8)
    axes.set(xlabel=f"token j, 0 to {N - 1}", ylabel=f"token i, 0 to {N - 1}")


def index(sizes: Geometry) -> Chapter:
    """The chapter on relative positions."""
    from markupsafe import Markup

    window, stride = sizes.window, 2 * sizes.window[1] - 1
    table = table_of(window)
    text = [
        Markup(
            "Attention itself does not know where tokens are. V1 adds a learned number per head to the score of each pair, which depends "
            "only on the offset from one token to the other. A window of {} tokens has {} × {} offsets, so the table has {} rows, and "
            "<code>relative_position_index</code> says which row each of the {:,} pairs reads (paper, section 3.2, equation 4)."
        ).format(by(window), *table.shape, table.size, sizes.tokens**2),
        Markup(
            "Both offsets are first counted from 0: −2 … 2 becomes 0 … 4. Adding them would give (2, 1) and (1, 2) the same row, 4 + 3 = "
            "3 + 4 = 7, although “two down, one right” is another direction than “one down, two right”. So the row offset is multiplied "
            "by the number of column offsets, here 2 · 3 − 1 = 5: (2, 1) reads row 4 · 5 + 3 = 23 and (1, 2) row 3 · 5 + 4 = 19. In a "
            "window {} tokens wide the factor is {}."
        ).format(window[1], stride),
    ]
    naive = len(np.unique(naive_of(window)))
    return Chapter(
        "index", "Every offset has a row of its own", tuple(text), draw_index(window),
        f"Tables over row and column offsets: the naive sum gives two framed offsets the same number, the model's index does not; "
        f"below, the {table.size} rows of the real window's table and its {sizes.tokens} by {sizes.tokens} index.",
        "Above, a window of 3 × 3 tokens: framed in the tables are (2, 1) and (1, 2). Equal colours: equal rows, so the naive sum shares "
        "a row along every diagonal. Below, the model's index for the real window.",
        {"Rows of the table": f"{table.shape[0]} × {table.shape[1]} = {table.size}", "Rows a naive sum could tell apart": naive,
         "Pairs that share the table": f"{sizes.tokens**2:,}"},
        {"bias_table_rows": int(table.size), "naive_rows": naive},
    )  # fmt: skip
