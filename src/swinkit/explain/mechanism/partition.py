"""1. Patches become tokens (paper, section 3.1): PatchEmbed run on a picture, with weights that change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from swinkit.explain.figures import INK, RULE, STRONG, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, fill, frame, hatch, lattice, on, rgb, write
from swinkit.explain.mechanism.geometry import Geometry, by
from swinkit.model import PatchEmbed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HUES = {"red": "#f08a80", "green": "#8fd08f", "blue": "#86b2f5"}


def tokens_of(picture: Array, sizes: Geometry) -> Array:
    """(height, width, 3) uint8 -> (H, W, 3, patch height, patch width): what PatchEmbed makes of it when its weights are the identity.

    Each token then holds the numbers of its patch and nothing else; pixels that do not fill a patch are padded with zeros.
    """
    numbers = 3 * sizes.patch[0] * sizes.patch[1]
    config = sizes.config.replace(embed_dim=numbers, depths=(1,), num_heads=(1,), patch_norm=False)
    embed = PatchEmbed(config)
    with torch.no_grad():
        embed.proj.weight.copy_(torch.eye(numbers).unflatten(1, (3, *sizes.patch)))
        embed.proj.bias.zero_()  # type: ignore[union-attr]
        tokens = embed(torch.from_numpy(picture.copy()).float().permute(2, 0, 1)[None])
    return tokens[0].unflatten(-1, (3, *sizes.patch)).round().numpy().astype(np.uint8)  # type: ignore[no-any-return]


def mosaic(tokens: Array) -> Array:
    """(H, W, 3, h, w) -> (H h, W w, 3): the patches put together again."""
    H, W, _, h, w = tokens.shape
    return tokens.transpose(0, 3, 1, 4, 2).reshape(H * h, W * w, 3)


def mean_colours(tokens: Array) -> Array:
    """(H, W, 3, h, w) -> (H, W, 3) in [0, 1]: one colour per token."""
    return np.asarray(tokens.mean((3, 4)) / 255)


@styled
def draw_partition(tokens: Array, sizes: Geometry) -> Figure:
    """The picture cut into patches, one patch as pixels, and that patch as a token."""
    figure = new_figure(9, 3.9)
    whole, patch, token = figure.subplots(1, 3, width_ratios=(1.6 * min(sizes.size[1] / sizes.size[0], 1.6), 1.1, 0.75))
    r, c = _interesting(tokens)
    _whole(whole, tokens, sizes, (r, c))
    _patch(patch, tokens[r, c], f"Patch ({r}, {c}): {sizes.patch[0]} × {sizes.patch[1]} pixels")
    _token(token, tokens[r, c])
    return figure


def _interesting(tokens: Array) -> tuple[int, int]:
    """The patch with the most contrast, down and across, in the middle of the map: an edge says more than a plain sky."""
    H, W = tokens.shape[:2]
    across, down = (tokens.mean(axis).std(-1).sum(2) for axis in (3, 4))
    contrast = np.minimum(across, down)[H // 4 : max(H - H // 4, 1), W // 4 : max(W - W // 4, 1)]
    r, c = np.unravel_index(int(contrast.argmax()), contrast.shape)
    return int(r) + H // 4, int(c) + W // 4


def _whole(axes: Axes, tokens: Array, sizes: Geometry, at: tuple[int, int]) -> None:
    canvas(axes, sizes.grid, f"{by(sizes.size)} pixels → {by(sizes.grid)} tokens", margin=0.3)
    image = mosaic(tokens)
    axes.imshow(image, extent=(0, sizes.grid[1], sizes.grid[0], 0))
    lattice(axes, sizes.grid, (1, 1), color="#ffffff", linewidth=0.35, alpha=0.55)
    real = sizes.size[0] / sizes.patch[0], sizes.size[1] / sizes.patch[1]
    hatch(axes, real, sizes.grid)
    frame(axes, at, (1, 1), edgecolor="#ffffff", linewidth=3.4)
    frame(axes, at, (1, 1), edgecolor=STRONG[1], linewidth=1.8)


def _patch(axes: Axes, token: Array, title: str) -> None:
    _, h, w = token.shape
    canvas(axes, (h, w), title)
    colours = token.transpose(1, 2, 0) / 255
    fill(axes, colours)
    lattice(axes, (h, w), (1, 1), color=RULE, linewidth=0.8)
    if max(h, w) <= 4:
        texts = np.array([["\n".join(str(v) for v in colours_) for colours_ in row] for row in token.transpose(1, 2, 0)])
        inks = on(colours)
        for r, c in np.ndindex(h, w):
            write(axes, r + 0.5, c + 0.5, texts[r, c], fontsize=7, color=inks[r, c], linespacing=1.25)


def _token(axes: Axes, token: Array) -> None:
    """The numbers of the patch in the order in which the convolution reads them, one block per colour channel."""
    channels, h, w = token.shape
    gap = 0.6
    canvas(axes, (channels * h + int(2 * gap + 1), w), f"{token.size} numbers", margin=0.3)
    for channel, (name, hue) in enumerate(HUES.items()):
        block = (0.2 + 0.8 * token[channel] / 255)[..., None] * rgb(hue)
        top = channel * (h + gap)
        axes.imshow(block, extent=(0, w, top + h, top))
        axes.text(-0.15, top + h / 2, name, ha="right", va="center", color=INK, rotation=90)
        if max(h, w) <= 4:
            inks = on(block)
            for r, c in np.ndindex(h, w):
                write(axes, top + r + 0.5, c + 0.5, token[channel, r, c], fontsize=7, color=inks[r, c])


def partition(picture: Array, sizes: Geometry) -> Chapter:
    """The chapter on patches; picture: (height, width, 3) uint8."""
    from markupsafe import Markup

    tokens = tokens_of(picture, sizes)
    numbers, padding = tokens[0, 0].size, tuple(side * p - s for side, p, s in zip(sizes.grid, sizes.patch, sizes.size, strict=True))
    filled = f" Hatched: {padding[0]} rows and {padding[1]} columns of zeros that fill the last patches." if any(padding) else ""
    text = Markup(
        "A Swin Transformer does not read pixels one by one. The picture is cut into patches of {} pixels that do not overlap; the {} "
        "numbers of a patch (three colours per pixel) become one <em>token</em>, and a linear layer maps each token to C channels. Both "
        "steps are one convolution whose stride is its kernel size (<code>PatchEmbed</code>; paper, section 3.1)."
    ).format(by(sizes.patch), numbers)
    return Chapter(
        "partition", "Patches become tokens", (text,), draw_partition(tokens, sizes),
        f"A picture of {by(sizes.size)} pixels under a grid of {by(sizes.grid)} patches; one patch is shown as pixels and as {numbers} "
        f"numbers.",
        f"The real PatchEmbed, with the identity as its weights: each token holds exactly the {numbers} numbers of its patch.{filled}",
        {"Picture": f"{by(sizes.size)} pixels", "Map": f"{by(sizes.grid)} = {sizes.grid[0] * sizes.grid[1]:,} tokens",
         "Numbers per patch": numbers},
        {"size": sizes.size, "patch": sizes.patch, "grid": sizes.grid, "numbers_per_patch": numbers, "padded_pixels": padding},
    )  # fmt: skip
