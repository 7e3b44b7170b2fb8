"""2. Attention stays inside windows (paper, section 3.2): `to_windows` run on the tokens of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from swinkit.config import Size
from swinkit.explain.figures import DARK, STRONG, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, fill, frame, hatch, lattice, on, write
from swinkit.explain.mechanism.geometry import Geometry, by
from swinkit.explain.mechanism.partition import mean_colours, tokens_of
from swinkit.model import pad_map, to_windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED = 9
"""Longest side of a window whose tokens are numbered."""


def cut(values: Array, window: Size) -> Array:
    """(H, W, ...) -> (G, N, ...): padded with zeros up to whole windows, then cut by the model's `to_windows`."""
    return to_windows(pad_map(torch.from_numpy(np.ascontiguousarray(values))[None], window), window)[0].numpy()


def token_numbers(sizes: Geometry) -> Array:
    """(G, N): row * W + column of each token of each window, -1 for padding."""
    H, W = sizes.grid
    return cut(np.arange(1, H * W + 1).reshape(H, W), sizes.window) - 1


@styled
def draw_windows(colours: Array, sizes: Geometry) -> Figure:
    """The map under its windows, and one window with its tokens; colours: (H, W, 3), one per token."""
    wide = min(max(sizes.padded[1] / sizes.padded[0], 0.7), 1.6)
    left, right = 8.6 * wide / (1 + wide), 8.6 / (1 + wide)
    tall = max(left * sizes.padded[0] / sizes.padded[1], right * sizes.window[0] / sizes.window[1])
    figure = new_figure(9, min(tall, 7) + 0.4)
    whole, one = figure.subplots(1, 2, width_ratios=(wide, 1))
    place = (sizes.windows[0] // 2, sizes.windows[1] // 2)
    count = sizes.windows[0] * sizes.windows[1]
    canvas(whole, sizes.padded, f"{by(sizes.padded)} tokens in {count} window{'s' if count > 1 else ''}", margin=0.3)
    whole.imshow(colours, extent=(0, sizes.grid[1], sizes.grid[0], 0))
    hatch(whole, sizes.grid, sizes.padded)
    lattice(whole, sizes.padded, sizes.window, color="#ffffff", linewidth=1.3)
    corner = (place[0] * sizes.window[0], place[1] * sizes.window[1])
    frame(whole, corner, sizes.window, edgecolor="#ffffff", linewidth=4)
    frame(whole, corner, sizes.window, edgecolor=STRONG[1], linewidth=2.2)
    _one(one, colours, sizes, place)
    return figure


def _one(axes: Axes, colours: Array, sizes: Geometry, place: Size) -> None:
    """The window at `place`, from the model's partition."""
    number = place[0] * sizes.windows[1] + place[1]
    inside = cut(colours, sizes.window)[number].reshape(*sizes.window, 3)
    canvas(axes, sizes.window, f"Window {number}: {sizes.tokens} tokens", margin=0.1)
    fill(axes, inside)
    lattice(axes, sizes.window, (1, 1), color="#ffffff", linewidth=0.8)
    outside = token_numbers(sizes)[number].reshape(sizes.window) < 0
    for r, c in np.argwhere(outside):
        frame(axes, (r, c), (1, 1), facecolor="#ffffff", fill=True, hatch="/////", edgecolor="#888888", linewidth=0.5)
    frame(axes, (0, 0), sizes.window, edgecolor=STRONG[1], linewidth=2.2)
    if max(sizes.window) <= NUMBERED:
        ink = np.where(outside, DARK, on(inside))
        for n, (r, c) in enumerate(np.ndindex(*sizes.window)):
            write(axes, r + 0.5, c + 0.5, n, fontsize=8, color=ink[r, c])


def windows(picture: Array, sizes: Geometry) -> Chapter:
    """The chapter on windows; picture: (height, width, 3) uint8."""
    from markupsafe import Markup

    tokens, count = sizes.padded[0] * sizes.padded[1], sizes.windows[0] * sizes.windows[1]
    pairs, all_pairs = count * sizes.tokens**2, (sizes.grid[0] * sizes.grid[1]) ** 2
    padding = sizes.padded != sizes.grid
    filled = (
        f" Hatched: the map is padded from {by(sizes.grid)} to {by(sizes.padded)} tokens, at the bottom and the right." if padding else ""
    )
    text = Markup(
        "Global attention compares every token with every other one: here {:,} pairs. Swin's attention (W-MSA) stays inside windows of {} "
        "tokens, so only {:,} pairs are compared, and four times the tokens cost four times the work instead of sixteen times. A map "
        "that the windows do not divide is padded at the bottom and the right; padded tokens take part as keys, as in the original "
        "detection code (<code>to_windows</code>, <code>pad_map</code>; paper, section 3.2)."
    ).format(all_pairs, by(sizes.window), pairs)
    return Chapter(
        "windows", "Attention stays inside windows", (text,), draw_windows(mean_colours(tokens_of(picture, sizes)), sizes),
        f"A map of {by(sizes.padded)} tokens cut into {by(sizes.windows)} windows; one of them is shown with its {sizes.tokens} tokens.",
        f"One colour per token. Right: the framed window as to_windows returns it, its tokens in the order of attention's rows.{filled}",
        {"Windows": f"{by(sizes.windows)} = {count}", "Pairs, all tokens": f"{all_pairs:,}",
         "Pairs, inside windows": f"{pairs:,} ({all_pairs / pairs:.3g} times fewer)"},
        {"windows": sizes.windows, "padded_grid": sizes.padded, "padded_tokens": tokens - sizes.grid[0] * sizes.grid[1],
         "pairs_windows": pairs, "pairs_global": all_pairs},
    )  # fmt: skip
