"""8. What it costs (paper, section 3.2, equations 1 and 2): the formulas, and the operations of the real layers counted by torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from swinkit.config import Size, SwinConfig
from swinkit.explain.figures import RULE, SOFT, STRONG, new_figure, styled
from swinkit.explain.mechanism.chapter import Chapter
from swinkit.explain.mechanism.drawing import Array
from swinkit.explain.mechanism.geometry import Geometry, by
from swinkit.model import WindowAttention, window_attention

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DIM, HEADS = 96, 3
"""The first stage of Swin-T."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Sides to draw, in sides of the picture."""


@dataclass(frozen=True)
class Cost:
    """One attention layer on one map."""

    grid: Size
    window: Size
    operations: int
    """Multiply-adds, as the paper counts them: without softmax and bias."""
    scores: int
    """Entries of the attention matrices of all heads."""


def msa(grid: Size, dim: int = DIM) -> int:
    """Equation 1, multiply-adds of global attention: 4 hw C^2 + 2 (hw)^2 C."""
    tokens = grid[0] * grid[1]
    return 4 * tokens * dim**2 + 2 * tokens**2 * dim


def window_msa(grid: Size, window: Size, dim: int = DIM) -> int:
    """Equation 2, of window attention: 4 hw C^2 + 2 M^2 hw C; in the second term h and w are padded to whole windows."""
    padded = _padded(grid, window)
    return 4 * grid[0] * grid[1] * dim**2 + 2 * window[0] * window[1] * padded[0] * padded[1] * dim


def counted(grid: Size, window: Size, dim: int = DIM, heads: int = HEADS) -> int:
    """Multiply-adds of the real WindowAttention on a map of `grid`, counted by torch's flop counter; nothing is computed or stored.

    Global attention is the same layer with one window as large as the map.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config = SwinConfig(
        img_size=grid, patch_size=1, window_size=window, embed_dim=dim, depths=(1,), num_heads=(heads,), size_policy="dense"
    )
    with torch.device("meta"), torch.no_grad():
        layer = WindowAttention(config, 0, window_attention)
        with FlopCounterMode(display=False) as counter:
            layer(torch.empty(1, *grid, dim), (0, 0))
    return int(counter.get_total_flops()) // 2


def cost_of(grid: Size, window: Size) -> Cost:
    """Operations and scores of one layer."""
    padded = _padded(grid, window)
    return Cost(grid, window, counted(grid, window), HEADS * padded[0] * padded[1] * window[0] * window[1])


def _padded(grid: Size, window: Size) -> Size:
    return grid[0] + -grid[0] % window[0], grid[1] + -grid[1] % window[1]


def costs(sizes: Geometry) -> dict[str, list[Cost]]:
    """ "global" and "window" -> costs for pictures from a quarter to eight times the sides of this one."""
    H, W = sizes.grid
    grids = sorted({(max(1, round(H * f)), max(1, round(W * f))) for f in FACTORS})
    grids = [grid for grid in grids if grid[0] >= sizes.window[0] and grid[1] >= sizes.window[1]]
    return {"global": [cost_of(grid, grid) for grid in grids], "window": [cost_of(grid, sizes.window) for grid in grids]}


@styled
def draw_cost(sizes: Geometry, found: dict[str, list[Cost]]) -> Figure:
    """Operations and memory over image size, both axes logarithmic; lines: the equations, dots: counted."""
    figure = new_figure(9, 4.0)
    left, right = figure.subplots(1, 2)
    grids = _between(found["window"])
    for axes, unit, title in (
        (left, 1e9, "Operations of one layer, 10⁹ multiply-adds"),
        (right, 2**20, "Attention scores of one layer, MiB"),
    ):
        _axes(axes, sizes, title)
        for (name, costs_), colour, marker in zip(found.items(), (STRONG[1], STRONG[0]), "so", strict=True):
            windows = [grid if name == "global" else sizes.window for grid in grids]
            line = [_operations(g, w, name) if axes is left else _bytes(g, w) for g, w in zip(grids, windows, strict=True)]
            axes.plot(_sides(grids, sizes), np.array(line) / unit, color=colour, linewidth=1.8)
            dots = [c.operations if axes is left else 4 * c.scores for c in costs_]
            axes.plot(_sides([c.grid for c in costs_], sizes), np.array(dots) / unit, marker, color=colour, markersize=5)
            axes.annotate(name, (_sides(grids, sizes)[-1], line[-1] / unit), (6, 0), textcoords="offset points", color=colour, va="center",
                          weight="bold", annotation_clip=False)  # fmt: skip
    return figure


def _operations(grid: Size, window: Size, name: str) -> float:
    return msa(grid) if name == "global" else window_msa(grid, window)


def _bytes(grid: Size, window: Size) -> float:
    padded = _padded(grid, window)
    return 4 * HEADS * padded[0] * padded[1] * window[0] * window[1]


def _between(found: list[Cost]) -> list[Size]:
    """Maps of whole windows from the smallest to the largest, spaced evenly on a logarithmic axis."""
    first, last, window = found[0].grid, found[-1].grid, found[0].window
    steps = np.geomspace(1, max(last[0] / first[0], 1.001), 60)
    return [_padded((round(first[0] * s), round(first[1] * s)), window) for s in steps]


def _sides(grids: list[Size], sizes: Geometry) -> Array:
    """The height of the picture in pixels."""
    return np.array([grid[0] * sizes.patch[0] for grid in grids])


def _axes(axes: Axes, sizes: Geometry, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set(
        xscale="log",
        yscale="log",
        xlabel="side of the picture, pixels" if sizes.size[0] == sizes.size[1] else "height of the picture, pixels",
    )
    axes.set_title(title)
    ticks = [f * sizes.size[0] for f in FACTORS]
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.axvline(sizes.size[0], color=SOFT, linewidth=1.0, linestyle=(0, (2, 2)))
    axes.annotate("this picture", (sizes.size[0], 0.97), (5, 0), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
                  color=SOFT, fontsize=8)  # fmt: skip


def cost(sizes: Geometry) -> Chapter:
    """The chapter on cost."""
    from markupsafe import Markup

    found = costs(sizes)
    everywhere, inside = cost_of(sizes.grid, sizes.grid), cost_of(sizes.grid, sizes.window)
    text = Markup(
        "With h · w tokens of C channels, global attention takes 4hwC² + 2(hw)²C multiply-adds and windows of M × M take 4hwC² + 2M²hwC "
        "(paper, equations 1 and 2): quadratic against linear in the number of tokens. The numbers here are for C = {}, {} heads, the "
        "first stage of Swin-T. The scores are what attention keeps in memory if they are written out; kernels that do not write them "
        "out save the memory but not the operations."
    ).format(DIM, HEADS)
    words = {}
    for name, one in (("global", everywhere), ("windows", inside)):
        words[f"Operations, {name}"] = f"{one.operations / 1e9:,.3f} · 10⁹"
        words[f"Scores in float32, {name}"] = f"{4 * one.scores / 2**20:,.1f} MiB"
    return Chapter(
        "cost", "The cost grows with the picture, not with its square", (text,), draw_cost(sizes, found),
        f"Two charts over image size. At {by(sizes.size)} pixels global attention takes {everywhere.operations / inside.operations:.3g} "
        f"times the operations and {everywhere.scores / inside.scores:.3g} times the scores of windows, and the gap widens.",
        "Lines: equations 1 and 2, for maps of whole windows. Dots: the real layer, its multiply-adds counted by torch's flop counter on "
        "tensors without storage; where windows do not divide the map, padding adds to them.",
        words, {"operations_global": everywhere.operations, "operations_windows": inside.operations,
                "score_bytes_global": 4 * everywhere.scores, "score_bytes_windows": 4 * inside.scores},
    )  # fmt: skip
