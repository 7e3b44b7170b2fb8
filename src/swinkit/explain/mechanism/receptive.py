"""7. How far a token sees: the gradient of one output token, block after block, in a small model with random weights in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from swinkit.config import Size
from swinkit.explain.figures import DARK, SOFT, STRONG, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array, canvas, frame, hatch, lattice
from swinkit.explain.mechanism.geometry import Geometry
from swinkit.explain.mechanism.partition import mean_colours, tokens_of
from swinkit.model import SwinBlock, SwinStage, SwinTrunk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT = 1e-30
"""Gradients smaller than this part of the largest count as none: the mask's -100 leaves e^-100 = 4e-44, every real path far more."""


@dataclass(frozen=True)
class Field:
    """What one token depends on after a block."""

    stage: int
    block: int
    """From 0; odd blocks shift."""
    shift: Size
    """As the block chose it for its map."""
    window: Size
    token: Size
    """Row and column on the stage's own map."""
    seen: Array
    """(H, W) bool on the first map: tokens with a gradient."""

    @property
    def count(self) -> int:
        """Tokens seen."""
        return int(self.seen.sum())


def model_of(sizes: Geometry, shifted: bool = True, seed: int = 0) -> SwinTrunk:
    """The small model of these sizes in float64, with weights large enough that no path vanishes; its odd blocks shift as asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SwinTrunk(sizes.config).double().eval()
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for stage in model.layers:
        for index, block in enumerate(blocks_of(stage)):
            if not shifted:
                block.half_window = (0, 0)
            elif index % 2 and block.window == sizes.window:
                block.half_window = sizes.asked_shift
    return model


def blocks_of(stage: SwinStage) -> list[SwinBlock]:
    """The stage's blocks, by their type."""
    return [block for block in stage.blocks if isinstance(block, SwinBlock)]


def fields(sizes: Geometry, shifted: bool = True, token: Size | None = None) -> list[Field]:
    """The receptive field of `token` (row, column on the first map; by default near the middle) after every block of every stage."""
    model = model_of(sizes, shifted)
    place = token or (sizes.grid[0] // 2, sizes.grid[1] // 2)
    random = torch.Generator().manual_seed(1)
    start = torch.randn(1, *sizes.grid, sizes.config.embed_dim, generator=random, dtype=torch.float64).requires_grad_()
    x: Tensor = start
    found = []
    for number, stage in enumerate(model.layers):
        for index, block in enumerate(blocks_of(stage)):
            shift = block.shift((x.shape[1], x.shape[2]))
            x = block(x)
            found.append(Field(number, index, shift, block.window, place, _seen(x[0, place[0], place[1]], start)))
        x, place = stage.merge(x), (place[0] // 2, place[1] // 2)
    return found


def _seen(token: Tensor, start: Tensor) -> Array:
    """(C,) -> (H, W) bool: where a random mixture of the token's channels has a gradient with respect to `start`."""
    mixture = torch.linspace(0.5, 1.5, len(token), dtype=token.dtype)
    (gradient,) = torch.autograd.grad((token * mixture).sum(), start, retain_graph=True)
    size = gradient[0].abs().sum(-1)
    return (size > FAINT * size.max()).numpy()


@styled
def draw_receptive_field(colours: Array, sizes: Geometry, moving: list[Field], still: list[Field]) -> Figure:
    """A column per stage: after its W-MSA block, after its SW-MSA block, and after both if no window ever moved."""
    stages = len(sizes.config.depths)
    width = 2.25 * stages if stages > 2 else 6.5
    height = (width / stages) * min(max(sizes.padded[0] / sizes.padded[1], 0.4), 1.7)
    figure = new_figure(width, 3 * (height + 0.45))
    axes = figure.subplots(3, stages, squeeze=False)
    rows = (("W-MSA", [f for f in moving if f.block == 0]), ("SW-MSA", [f for f in moving if f.block == 1]),
            ("if windows\nnever moved", [f for f in still if f.block == 1]))  # fmt: skip
    for row, (name, found) in enumerate(rows):
        for one, field in zip(axes[row], found, strict=True):
            _field(one, colours, sizes, field, shifts=row == 1)
        axes[row, 0].set_ylabel(name, fontsize=10, weight="bold", labelpad=8)
    for stage in range(stages):
        axes[0, stage].set_title(f"Stage {stage + 1}\n", fontsize=10)
    return figure


def _field(axes: Axes, colours: Array, sizes: Geometry, field: Field, shifts: bool) -> None:
    """The first map, dimmed where the token does not see; the stage's windows; the token, as large as it is."""
    from matplotlib.patches import Circle

    scale = 2**field.stage
    window = (field.window[0] * scale, field.window[1] * scale)
    start = (field.shift[0] * scale, field.shift[1] * scale)
    canvas(axes, sizes.padded, margin=0.02 * max(sizes.padded))
    dim = np.where(field.seen[..., None], colours, 0.72 + 0.28 * (0.25 * colours + 0.75 * colours.mean(-1, keepdims=True)))
    axes.imshow(dim, extent=(0, sizes.grid[1], sizes.grid[0], 0))
    hatch(axes, sizes.grid, sizes.padded)
    lattice(axes, sizes.grid, window, start, color="#6b717c", linewidth=0.6)
    _outline(axes, field.seen)
    corner = (field.token[0] * scale, field.token[1] * scale)
    frame(axes, corner, (scale, scale), facecolor=STRONG[1], fill=True, edgecolor="#ffffff", linewidth=0.8, zorder=5)
    if scale < 0.1 * max(sizes.padded):
        middle, radius = (corner[1] + scale / 2, corner[0] + scale / 2), 0.035 * max(sizes.padded) + scale / 2
        axes.add_patch(Circle(middle, radius, fill=False, color=STRONG[1], linewidth=1.3, zorder=6))
    share = field.count / field.seen.size
    words = f"{field.count:,} tokens ({100 * share:.3g} %)" + (" · no shift" if field.block and not any(field.shift) and shifts else "")
    axes.text(0.0, 1.02, words, transform=axes.transAxes, fontsize=8, color=SOFT, va="bottom")


def _outline(axes: Axes, seen: Array) -> None:
    """The edge of what is seen."""
    from matplotlib.collections import LineCollection

    inside = np.pad(seen, 1)
    segments = [[(c, r), (c + 1, r)] for r, c in np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])]
    segments += [[(c, r), (c, r + 1)] for r, c in np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])]
    axes.add_collection(LineCollection(segments, colors=DARK, linewidths=1.6, capstyle="projecting", zorder=4), autolim=False)


def receptive_field(picture: Array, sizes: Geometry) -> Chapter:
    """The chapter on receptive fields; picture: (height, width, 3) uint8."""
    from markupsafe import Markup

    moving, still = fields(sizes), fields(sizes, shifted=False)
    with_, without = max(zip(moving, still, strict=True), key=lambda pair: pair[0].count - pair[1].count)
    text = Markup(
        "Which tokens can one token know about? In a small model with random weights ({} stages of two blocks, {} to {} channels, float64) "
        "the gradient of one output token says exactly: where it is not zero, the token depends on it. After the first block (W-MSA) that "
        "is its window, {} tokens. The second block {}; merging and later blocks carry on. {} (paper, section 3.2)."
    ).format(
        len(sizes.config.depths), sizes.config.dims[0], sizes.config.dims[-1], moving[0].count,
        f"(SW-MSA) moves the windows, and it is {moving[1].count:,}" if any(moving[1].shift) else "has nowhere to move its one window",
        _difference(with_, without),
    )  # fmt: skip
    shown = {f"Stage {f.stage + 1}, {'SW-MSA' if any(f.shift) else 'W-MSA'}, block {f.block + 1}": f"{f.count:,} tokens" for f in moving}
    return Chapter(
        "receptive_field", "What a token sees grows block by block", (text,),
        draw_receptive_field(mean_colours(tokens_of(picture, sizes)), sizes, moving, still),
        "The picture's tokens, bright where the marked token depends on them: "
        + "; ".join(f"stage {f.stage + 1} block {f.block + 1}, {f.count} tokens" for f in moving)
        + f"; without any shift: {', '.join(str(f.count) for f in still)}.",
        "Bright: tokens with a gradient; circle: the output token, as large as merging has made it; lines: the windows of the block. "
        "Where one window covers the map, no shift is left to see.",
        shown, {"receptive_field": [f.count for f in moving], "receptive_field_without_shift": [f.count for f in still]},
    )  # fmt: skip


def _difference(moving: Field, still: Field) -> str:
    """What the shift is worth, where it is worth most."""
    if moving.count == still.count:
        return "On this map the shift adds nothing"
    return (
        f"Had no window moved, it would see {still.count:,} tokens instead of {moving.count:,} after stage {moving.stage + 1}, block "
        f"{moving.block + 1}: only merging would carry anything across a border, where it puts windows together"
    )
