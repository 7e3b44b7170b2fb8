"""3. Every second block moves its windows (paper, section 3.2, figure 4): the roll, its seam, and where each piece of the map goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from swinkit.config import SIZE_POLICIES, Size
from swinkit.explain.figures import DARK, FILLS, SOFT, STRONG, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, fill, frame, hatch, lattice, paint, panels, rgb, write
from swinkit.explain.mechanism.geometry import Geometry, by
from swinkit.model import from_windows, seam_sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 16
"""Longest side of the tokens that are shown with their places."""
PIECES = ("A", "C", "B", "D")
"""By side of the seam as the model numbers them: 1 came from the left edge, 2 from the top, 3 from the corner."""
PIECE_FILLS = (FILLS[0], FILLS[1], FILLS[2], FILLS[3])

ON_PIECE = ((0.68, 0.32), (0.3, 0.5), (0.5, 0.68), (0.5, 0.5))
"""Where on a piece, down and across, its letter stands, so that arrows and letters do not meet."""


def sides_rolled(sizes: Geometry) -> Array:
    """(H', W') 0 to 3: the side of the seam of each token of the rolled map, from the model's `seam_sides`."""
    sides = seam_sides(sizes.padded, sizes.window, sizes.shift)
    return from_windows(sides[None], sizes.window, sizes.padded)[0].numpy()


def places_rolled(sizes: Geometry) -> Array:
    """(H', W', 2): which (row, column) of the padded map each place of the rolled map holds; the model's own roll."""
    rows, columns = np.meshgrid(*(np.arange(side) for side in sizes.padded), indexing="ij")
    places = torch.from_numpy(np.stack((rows, columns), -1))
    return places.roll((-sizes.shift[0], -sizes.shift[1]), dims=(0, 1)).numpy()


def sides_unrolled(sizes: Geometry) -> Array:
    """(H', W') 0 to 3: the same sides on the map as it was."""
    sides, places = sides_rolled(sizes), places_rolled(sizes)
    unrolled = np.empty_like(sides)
    unrolled[places[..., 0], places[..., 1]] = sides
    return unrolled


@styled
def draw_shift(sizes: Geometry) -> Figure:
    """The map under its moved windows with the pieces that travel, the rolled map, and its last windows from near."""
    heights = 0.5 + 4.3 * _tall(sizes.padded), max(0.5 + 5.4 * 0.8 * _tall(sizes.window), 3.4)
    figure = new_figure(9, sum(heights))
    rows = figure.add_gridspec(2, 1, height_ratios=heights, hspace=0.04)
    left, right = panels(figure, rows[0], (1, 1))
    near, legend = panels(figure, rows[1], (1.25, 0.75))
    _before(left, sizes)
    _after(right, sizes)
    _near(near, sizes)
    _legend(legend, sizes)
    return figure


def _tall(size: Size) -> float:
    """Height over width, within what fits on a page."""
    return min(max(size[0] / size[1], 0.3), 1.5)


def _before(axes: Axes, sizes: Geometry) -> None:
    """The map in place; the moved windows reach over the bottom and the right, where copies of the first rows and columns belong."""
    (H, W), (down, right) = sizes.padded, sizes.shift
    canvas(axes, (H + down, W + right), "1  Windows move; pieces travel" if any(sizes.shift) else "1  No shift", margin=0.4)
    sides = sides_unrolled(sizes)
    fill(axes, paint(sides, PIECE_FILLS))
    hatch(axes, sizes.grid, sizes.padded)
    lattice(axes, (H, W), sizes.window, sizes.shift, linewidth=0.9)
    for side, (corner, size, to) in _travellers(sizes).items():
        frame(axes, to, size, facecolor=0.5 + 0.5 * rgb(PIECE_FILLS[side]), fill=True, linewidth=0)
        frame(axes, to, size, linestyle=(0, (3, 2)), edgecolor=SOFT, linewidth=0.9)
        _arrow(axes, corner, to, size, ON_PIECE[side])
        _name(axes, to, size, PIECES[side], ON_PIECE[side])
        _name(axes, corner, size, PIECES[side], ON_PIECE[side])
    _name(axes, (down, right), (H - down, W - right), "A", ON_PIECE[0])


def _travellers(sizes: Geometry) -> dict[int, tuple[Size, Size, Size]]:
    """side -> (where the piece is, its size, where it goes), for the pieces there are; rows and columns of the map."""
    (H, W), (down, right) = sizes.padded, sizes.shift
    pieces = {
        1: ((down, 0), (H - down, right), (down, W)),
        2: ((0, right), (down, W - right), (H, right)),
        3: ((0, 0), (down, right), (H, W)),
    }
    return {side: piece for side, piece in pieces.items() if min(piece[1]) > 0}


def _arrow(axes: Axes, start: Size, end: Size, size: Size, at: tuple[float, float]) -> None:
    middle = (size[0] * at[0], size[1] * at[1])
    axes.annotate(
        "", (end[1] + middle[1], end[0] + middle[0]), (start[1] + middle[1], start[0] + middle[0]), zorder=4,
        arrowprops={"arrowstyle": "-|>", "color": STRONG[1], "linewidth": 1.4, "shrinkA": 7, "shrinkB": 7, "mutation_scale": 12},
    )  # fmt: skip


def _name(axes: Axes, corner: Size, size: Size, text: str, at: tuple[float, float] = (0.5, 0.5)) -> None:
    x, y = corner[1] + size[1] * at[1], corner[0] + size[0] * at[0]
    axes.text(x, y, text, ha="center", va="center", fontsize=9, weight="bold", color=DARK, zorder=5)


def _after(axes: Axes, sizes: Geometry) -> None:
    canvas(axes, sizes.padded, f"2  {'Rolled: ' if any(sizes.shift) else ''}{by(sizes.windows)} whole windows", margin=0.4)
    fill(axes, paint(sides_rolled(sizes), PIECE_FILLS))
    (H, W), (down, right), (h, w) = sizes.padded, sizes.shift, sizes.grid
    for corner, size in (((h - down, 0), (H - h, W)), ((0, w - right), (H, W - w))):
        if min(size) > 0:
            frame(axes, corner, size, hatch="/////", edgecolor=SOFT, linewidth=0.0)
    lattice(axes, sizes.padded, sizes.window, linewidth=0.9, zorder=3)
    _name(axes, (0, 0), (H - down, W - right), "A", ON_PIECE[0])
    for side, (_, size, to) in _travellers(sizes).items():
        _name(axes, (to[0] - down, to[1] - right), size, PIECES[side], ON_PIECE[side])


def _near(axes: Axes, sizes: Geometry) -> None:
    """The last windows of the rolled map, each token with the row and column it has on the map."""
    corner = tuple(max(whole - 2 * side, 0) for whole, side in zip(sizes.padded, sizes.window, strict=True))
    sides, places = sides_rolled(sizes)[corner[0] :, corner[1] :], places_rolled(sizes)[corner[0] :, corner[1] :]
    shown: Size = (sides.shape[0], sides.shape[1])
    canvas(axes, shown, "3  The last windows: tokens by row, column on the map", margin=0.15)
    fill(axes, paint(sides, PIECE_FILLS))
    lattice(axes, shown, (1, 1), color="#ffffff", linewidth=0.7)
    for r, c in np.argwhere((places[..., 0] >= sizes.grid[0]) | (places[..., 1] >= sizes.grid[1])):
        frame(axes, (r, c), (1, 1), hatch="/////", edgecolor=SOFT, linewidth=0.0)
    if max(shown) <= NUMBERED:
        for r, c in np.ndindex(shown):
            text = f"{places[r, c, 0]},{places[r, c, 1]}"
            write(axes, r + 0.5, c + 0.5, text, fontsize=5.0 if max(shown) > 10 else 6.5)
    lattice(axes, shown, sizes.window, linewidth=1.8)


def _legend(axes: Axes, sizes: Geometry) -> None:
    """What the letters mean."""
    moved = _travellers(sizes)
    words = {0: "A  moves up and left,\nits tokens stay neighbours" if moved else "A  stays where it is"}
    words |= {1: f"C  first {sizes.shift[1]} columns:\nfrom the left to the right edge"} if 1 in moved else {}
    words |= {2: f"B  first {sizes.shift[0]} rows:\nfrom the top to the bottom"} if 2 in moved else {}
    words |= {3: "D  the corner:\nto the opposite corner"} if 3 in moved else {}
    canvas(axes, (12, 9))
    for line, (side, text) in enumerate(sorted(words.items(), key=lambda item: item[1])):
        frame(axes, (1 + 2.3 * line, 0.2), (1.3, 1.3), facecolor=PIECE_FILLS[side], fill=True, linewidth=0.8)
        axes.text(2.0, 1.65 + 2.3 * line, text, va="center", fontsize=9, linespacing=1.35)
    last = 1 + 2.3 * len(words)
    rest = "Different letters in one window:\nglued together by the roll, so\nthe mask keeps them apart."
    if not moved:
        rest = f"One window covers the map\nof {by(sizes.grid)}: no shift." if sizes.dropped else "No shift was asked for."
    axes.text(0.2, last + 0.8, rest, va="center", fontsize=9, linespacing=1.35, color=SOFT)


def policies(sizes: Geometry) -> dict[str, Size]:
    """Size policy -> the shift of an odd block on this map, from the configuration's own rule."""
    shifts = {}
    for policy in SIZE_POLICIES:
        config = sizes.config.replace(size_policy=policy)
        dropped = config.drop_shift(sizes.grid, config.windows[0])
        shifts[policy] = (0 if dropped[0] else sizes.asked_shift[0], 0 if dropped[1] else sizes.asked_shift[1])
    return shifts


def shift(sizes: Geometry) -> Chapter:
    """The chapter on the cyclic shift."""
    from markupsafe import Markup

    text = [
        Markup(
            "If windows never moved, nothing would ever leave them. So every second block (SW-MSA) moves the windows by {} tokens, half a "
            "window unless told otherwise. Windows at the edges would then be cut off and irregular. The trick is to roll the map instead: "
            "what sticks out at one edge is glued on at the opposite edge, and the same {} whole windows fit again "
            "(<code>torch.roll</code> in <code>window_attention</code>; paper, section 3.2, equation 3 and figure 4)."
        ).format(by(sizes.asked_shift), by(sizes.windows)),
        Markup(
            "A shift only helps where there is more than one window. The size policy decides (<code>SwinConfig.drop_shift</code>): "
            "“official”, the original classifier, drops it on both axes where one window covers the shorter side of the map; “per_axis” "
            "drops it on each axis that one window covers; “dense”, the original detection backbone, always shifts.{}"
        ).format(_dropped(sizes)),
    ]
    kinds = {frozenset(row) for row in seam_sides(sizes.padded, sizes.window, sizes.shift).tolist()}
    data = {f"Shift, policy “{policy}”": by(moved) for policy, moved in policies(sizes).items()}
    data |= {"Windows with a seam": f"{_seamed(sizes)} of {sizes.windows[0] * sizes.windows[1]}"}
    return Chapter(
        "shift", "The shift moves windows, and pieces of the map travel", tuple(text), draw_shift(sizes),
        "Three views of a map: moved windows with arrows from the first rows and columns to the opposite edges; the rolled map in whole "
        "windows; and its last windows with the original row and column of each token.",
        f"Colours are the sides of the seam that seam_sides returns. Windows hold {' or '.join(_kinds(kinds))}.",
        data, {"shift": sizes.shift, "shift_dropped": sizes.dropped, "windows_with_seam": _seamed(sizes)},
    )  # fmt: skip


def _kinds(kinds: set[frozenset[int]]) -> list[str]:
    names = sorted(("".join(sorted(PIECES[side] for side in kind)) for kind in kinds), key=lambda name: (len(name), name))
    return [" + ".join(name) for name in names]


def _seamed(sizes: Geometry) -> int:
    sides = seam_sides(sizes.padded, sizes.window, sizes.shift)
    return int((sides != sides[:, :1]).any(1).sum())


def _dropped(sizes: Geometry) -> str:
    if not sizes.dropped:
        return ""
    return f" Here one window of {by(sizes.window)} covers the map of {by(sizes.grid)}, so the shift is dropped."
