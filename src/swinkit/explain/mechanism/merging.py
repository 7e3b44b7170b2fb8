"""6. Patch merging and the order of its four tokens (paper, section 3.1): PatchMerging run on numbered tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from swinkit.config import Size
from swinkit.explain.figures import FILLS, SOFT, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, fill, frame, lattice, paint, panels, write
from swinkit.model import PatchMerging

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EVEN: Size = (4, 4)
ODD: Size = (3, 5)
SLICES = ("x[0::2, 0::2]", "x[1::2, 0::2]", "x[0::2, 1::2]", "x[1::2, 1::2]")
"""The four tokens of a 2 x 2 square in the order of their channels, as the original code slices them."""
COLOURS = FILLS[:4]


def merged(tokens: Array) -> Array:
    """(H, W, C) -> (H/2, W/2, 4C): what PatchMerging hands to its norm and its linear layer; odd maps get zeros."""
    layer = PatchMerging(tokens.shape[-1], version=1)
    layer.norm = layer.reduction = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        return layer(torch.from_numpy(tokens.astype(np.float32))[None])[0].numpy()  # type: ignore[no-any-return]


def numbered(grid: Size) -> Array:
    """(H, W, 1): 1, 2, 3 ... row by row, so that 0 is padding."""
    return np.arange(1, grid[0] * grid[1] + 1).reshape(*grid, 1)


@styled
def draw_merging() -> Figure:
    """An even and an odd map with numbered tokens, and the channels that each merged token gets."""
    figure = new_figure(9, 6.4)
    rows = figure.add_gridspec(2, 1, hspace=0.08)
    for row, (grid, title) in enumerate(((EVEN, "4 × 4 tokens"), (ODD, "3 × 5 tokens: a row and a column of zeros"))):
        before, after = panels(figure, rows[row], (1, 1.55))
        _before(before, grid, title)
        _after(after, merged(numbered(grid)), legend=row == 0)
    return figure


def _before(axes: Axes, grid: Size, title: str) -> None:
    tall, wide = grid[0] + grid[0] % 2, grid[1] + grid[1] % 2
    canvas(axes, (tall, wide), title, margin=0.12)
    r, c = np.indices((tall, wide))
    fill(axes, paint(r % 2 + 2 * (c % 2), COLOURS))
    lattice(axes, (tall, wide), (1, 1), color="#ffffff", linewidth=1.2)
    lattice(axes, (tall, wide), (2, 2), linewidth=2.0)
    for (row, column), number in np.ndenumerate(np.pad(numbered(grid)[..., 0], ((0, tall - grid[0]), (0, wide - grid[1])))):
        if not number:
            frame(axes, (row, column), (1, 1), hatch="/////", edgecolor=SOFT, linewidth=0.0, zorder=1.5)
        write(axes, row + 0.5, column + 0.5, number, fontsize=11, weight="bold")


def _after(axes: Axes, vectors: Array, legend: bool) -> None:
    """Each merged token as a row of four numbers, in its place."""
    H, W, channels = vectors.shape
    gap = 0.55
    width = W * (channels + gap) - gap
    canvas(axes, (1, 1), f"{H} × {W} tokens of 4C channels")
    axes.set(xlim=(-0.2, width + 0.2), ylim=(H * 1.6 + 0.1, -0.3 - 2.2 * legend))
    if legend:
        _legend(axes)
    for r, c, k in np.ndindex(H, W, channels):
        corner = (1.6 * r, c * (channels + gap) + k)
        frame(axes, corner, (1, 1), facecolor=COLOURS[k], fill=True, edgecolor="#ffffff", linewidth=1.2, zorder=1)
        if vectors[r, c, k] == 0:
            frame(axes, corner, (1, 1), hatch="/////", edgecolor=SOFT, linewidth=0.0, zorder=1.5)
        write(axes, corner[0] + 0.5, corner[1] + 0.5, f"{vectors[r, c, k]:g}", fontsize=11, weight="bold")
    for r, c in np.ndindex(H, W):
        frame(axes, (1.6 * r, c * (channels + gap)), (1, channels), linewidth=2.0)


def _legend(axes: Axes) -> None:
    """The slices in the order of the channels, two by two, above the tokens."""
    for k, name in enumerate(SLICES):
        top, left = -2.0 + 0.8 * (k // 2), 4.55 * (k % 2)
        frame(axes, (top, left), (0.5, 0.5), facecolor=COLOURS[k], fill=True, linewidth=0.8)
        axes.text(left + 0.75, top + 0.25, f"{k + 1}.  {name}", va="center", fontsize=9)


def merging() -> Chapter:
    """The chapter on patch merging."""
    from markupsafe import Markup

    first = [int(value) for value in merged(numbered(EVEN))[0, 0]]
    text = Markup(
        "After each stage but the last, every square of 2 × 2 tokens becomes one token: the 4C numbers of the four are put side by side "
        "and a linear layer halves them to 2C, so the map has a quarter of the tokens and twice the channels. The order is the original "
        "code's: {}; rows change fastest. The first token here gets {}. Weights trained with another order do not fit until the columns of "
        "<code>reduction</code> are swapped, and nothing warns about it. V1 normalises before the linear layer, V2 after it "
        "(<code>PatchMerging</code>; paper, section 3.1; V2 code)."
    ).format(Markup(", ").join(Markup("<code>{}</code>").format(one) for one in SLICES), ", ".join(map(str, first)))
    return Chapter(
        "merging", "Merging makes a pyramid", (text,), draw_merging(),
        "Numbered tokens of a 4 by 4 map in squares of 2 by 2, coloured by their place in the square; beside them each merged token with "
        "the "
        f"numbers of its four tokens: first {first}. Below the same for 3 by 5 tokens with zeros added.",
        "Tokens with one channel each through the real PatchMerging, its norm and linear layer taken out. Colour: the place in the "
        "square, in "
        f"the order {', '.join(SLICES)}. Hatched: zeros that complete an odd map.",
        {f"Quarter {k} of the channels": one for k, one in enumerate(SLICES, 1)},
        {"merging_order": list(SLICES)},
    )  # fmt: skip
