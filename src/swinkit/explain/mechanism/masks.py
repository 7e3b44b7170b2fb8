"""4. The mask of every window (paper, section 3.2), from `seam_mask`, and the proof that it does what it should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from swinkit.explain.figures import DARK, SOFT, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, fill, frame, lattice, paint, panels, rgb
from swinkit.explain.mechanism.geometry import Geometry, by
from swinkit.explain.mechanism.proof import Proof, prove
from swinkit.explain.mechanism.shift import PIECE_FILLS, PIECES
from swinkit.model import seam_mask, seam_sides

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLOCKED = "#454b55"
MOSAIC = 1600
"""Longest side of the picture of all masks, in entries; larger ones are thinned out."""


@dataclass(frozen=True)
class Kind:
    """Windows whose masks are equal."""

    name: str
    windows: tuple[int, ...]
    sides: Array
    """(N,) side of the seam of each token."""
    mask: Array
    """(N, N) bool: may row attend to column?"""


def masks_of(sizes: Geometry) -> tuple[Array, Array]:
    """((G, N) sides of the seam, (G, N, N) bool masks), from the model's functions."""
    sides = seam_sides(sizes.padded, sizes.window, sizes.shift)
    return sides.numpy(), seam_mask(sides).numpy()


def kinds(sizes: Geometry) -> list[Kind]:
    """The different masks, at most four: without a seam, with one across, one down, and with both."""
    sides, masks = masks_of(sizes)
    groups: dict[bytes, list[int]] = {}
    for number, mask in enumerate(masks):
        groups.setdefault(mask.tobytes(), []).append(number)
    return [Kind(_name(sides[w[0]]), tuple(w), sides[w[0]], masks[w[0]]) for w in groups.values()]


def _name(sides: Array) -> str:
    return " + ".join(sorted(PIECES[side] for side in np.unique(sides)))


def colours_of(sides: Array, mask: Array) -> Array:
    """(N, N, 3): allowed pairs in the colour of their piece, forbidden ones dark."""
    allowed = np.broadcast_to(paint(sides, PIECE_FILLS)[:, None], (*mask.shape, 3))
    return np.where(mask[..., None], allowed, rgb(BLOCKED))


@styled
def draw_masks(sizes: Geometry, proof: Proof) -> Figure:
    """All masks in their windows' places, what goes wrong without them, and each kind of mask from near."""
    found = kinds(sizes)
    tall = max(side[0] / side[1] for side in (sizes.windows, sizes.grid))
    heights = 0.9 + 3.6 * min(max(tall, 0.3), 1.5), 3.8
    figure = new_figure(9, sum(heights))
    halves = figure.add_gridspec(2, 1, height_ratios=heights, hspace=0.04)
    left, right = panels(figure, halves[0], (1, 1))
    _all(left, sizes)
    _without(right, sizes, proof)
    rows = halves[1].subgridspec(2, 4, height_ratios=(0.5, 1))
    for column, kind in enumerate(found):
        _window(figure.add_subplot(rows[0, column]), kind, sizes)
        _mask(figure.add_subplot(rows[1, column]), kind)
    return figure


def _all(axes: Axes, sizes: Geometry) -> None:
    """(G, N, N) as one picture; the window in row i and column j of the map has its mask there."""
    sides, masks = masks_of(sizes)
    thin = max(1, -(-max(sizes.windows) * sizes.tokens // MOSAIC))
    small = np.stack([colours_of(side[::thin], mask[::thin, ::thin]) for side, mask in zip(sides, masks, strict=True)])
    n = small.shape[1]
    picture = small.reshape(*sizes.windows, n, n, 3).transpose(0, 2, 1, 3, 4).reshape(sizes.windows[0] * n, sizes.windows[1] * n, 3)
    count = sizes.windows[0] * sizes.windows[1]
    canvas(axes, sizes.windows, f"The mask of {f'each of {count} windows' if count > 1 else 'the window'}", margin=0.05)
    axes.imshow(picture, extent=(0, sizes.windows[1], sizes.windows[0], 0))
    lattice(axes, sizes.windows, (1, 1), color="#ffffff", linewidth=1.2)


def _without(axes: Axes, sizes: Geometry, proof: Proof) -> None:
    """Where outputs change when the mask is left out."""
    canvas(axes, sizes.grid, "Without the mask: error of each token", margin=0.3)
    image = fill(axes, proof.error_map, cmap="inferno", vmin=0, vmax=max(proof.unmasked, 1e-12))
    lattice(axes, sizes.grid, sizes.window, sizes.shift, color="#ffffff", linewidth=0.5, alpha=0.5)
    frame(axes, (0, 0), sizes.grid, linewidth=0.8)
    if any(sizes.shift):
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.72, pad=0.02, aspect=14)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    words = f"largest error without the mask  {proof.unmasked:.2g}\nlargest error with the mask  {proof.masked:.1g}"
    axes.text(0.0, -0.04, words, transform=axes.transAxes, va="top", fontsize=9, linespacing=1.5)


def _window(axes: Axes, kind: Kind, sizes: Geometry) -> None:
    canvas(axes, sizes.window, kind.name, margin=0.1)
    fill(axes, paint(kind.sides.reshape(sizes.window), PIECE_FILLS))
    lattice(axes, sizes.window, (1, 1), color="#ffffff", linewidth=0.6)
    frame(axes, (0, 0), sizes.window, linewidth=1.2)
    grid = kind.sides.reshape(sizes.window)
    for side in np.unique(grid):
        r, c = np.argwhere(grid == side).mean(0) + 0.5
        axes.text(c, r, PIECES[side], ha="center", va="center", weight="bold", color=DARK)


def _mask(axes: Axes, kind: Kind) -> None:
    N = len(kind.sides)
    canvas(axes, (N, N), margin=0.2)
    fill(axes, colours_of(kind.sides, kind.mask))
    frame(axes, (0, 0), (N, N), linewidth=0.8)
    count = len(kind.windows)
    axes.set_xlabel(f"{N} keys\n{count} window{'s' if count > 1 else ''} of this kind", labelpad=3, color=SOFT)
    axes.set_ylabel(f"{N} queries", labelpad=3, color=SOFT)


def masks(sizes: Geometry) -> Chapter:
    """The chapter on masks, with its proof."""
    from markupsafe import Markup

    proof = prove(sizes)
    text = [
        Markup(
            "After the roll, some windows hold tokens from opposite edges of the map. They must not see each other: to the score of such "
            "a pair −100 is added before the softmax, and e<sup>−100</sup> is about 4 · 10<sup>−44</sup> (<code>seam_sides</code>, "
            "<code>seam_mask</code>; paper, section 3.2, figure 4). Two tokens may see each other exactly where they lie on the same "
            "side of the seam, which four numbers per window describe."
        ),
        Markup(
            "Does this equal attention inside the irregular windows? It was computed again without roll, mask or partition: the {:,} "
            "regions of the map one by one, from coordinates alone. Largest difference of the two in float64: <b>{:.1e}</b>. Without the "
            "mask it would be {:.2g}."
        ).format(proof.regions, proof.masked, proof.unmasked),
    ]
    if not any(sizes.shift):
        text[1] = Markup("On this map nothing is rolled, so there is no seam, and every pair may attend.")
    found = kinds(sizes)
    data: dict[str, object] = {f"Windows of kind {kind.name}": len(kind.windows) for kind in found}
    data |= {"Largest difference, masked": f"{proof.masked:.1e}", "Largest difference, no mask": f"{proof.unmasked:.2g}"}
    facts = {"mask_difference": proof.masked, "difference_without_mask": proof.unmasked, "regions": proof.regions, "mask_kinds": len(found)}
    return Chapter(
        "masks", "The mask keeps glued pieces apart", tuple(text), draw_masks(sizes, proof),
        f"The masks of all windows as pictures of {sizes.tokens} by {sizes.tokens} pairs, of {len(found)} kinds; a map of the errors that "
        "leaving the mask out would cause, largest at the edges.",
        f"Bright: may attend, in the colour of the piece; dark: −100 is added. Below, the kinds of windows with their "
        f"{by((sizes.tokens, sizes.tokens))} masks. Errors are against attention in each region separately, on random values.",
        data, facts,
    )  # fmt: skip
