"""8. What it costs (paper, section 3.2, equations 1 and 2): the formulas, and the operations of the real layers counted by torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


def msa(grid: tuple[float, float], dim: int = DIM) -> float:
    """Equation 1, multiply-adds of global attention on h x w tokens: 4 hw C^2 + 2 (hw)^2 C."""
    tokens = grid[0] * grid[1]
    return 4 * tokens * dim**2 + 2 * tokens**2 * dim


def window_msa(grid: tuple[float, float], window: Size, dim: int = DIM) -> float:
    """Equation 2, of window attention on h x w tokens that the window divides: 4 hw C^2 + 2 M^2 hw C."""
    tokens = grid[0] * grid[1]
    return 4 * tokens * dim**2 + 2 * window[0] * window[1] * tokens * dim


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
    heights = np.geomspace(found["window"][0].grid[0], found["window"][-1].grid[0], 100)
    maps = [(float(h), float(h) * sizes.grid[1] / sizes.grid[0]) for h in heights]
    tokens, inside = np.array([h * w for h, w in maps]), sizes.window[0] * sizes.window[1]
    operations = {"global": np.array([msa(one) for one in maps]), "window": np.array([window_msa(one, sizes.window) for one in maps])}
    scores = {"global": 4.0 * HEADS * tokens**2, "window": 4.0 * HEADS * tokens * inside}
    for axes, lines, unit in ((left, operations, 1e9), (right, scores, 2**20)):
        for (name, costs_), colour, marker in zip(found.items(), (STRONG[1], STRONG[0]), "so", strict=True):
            dots = [one.operations if axes is left else 4 * one.scores for one in costs_]
            _line(axes, sizes, heights, lines[name] / unit, colour, name)
            axes.plot([one.grid[0] * sizes.patch[0] for one in costs_], np.array(dots) / unit, marker, color=colour, markersize=5)
    _axes(left, sizes, found["window"], "Operations of one layer, 10⁹ multiply-adds")
    _axes(right, sizes, found["window"], "Attention scores of one layer, MiB")
    return figure


def _line(axes: Axes, sizes: Geometry, heights: Array, values: Array, colour: str, name: str) -> None:
    """A line with its name at its end."""
    x = heights * sizes.patch[0]
    axes.plot(x, values, color=colour, linewidth=1.8)
    axes.annotate(
        name, (x[-1], values[-1]), (7, 0), textcoords="offset points", color=colour, va="center", weight="bold", annotation_clip=False
    )


def _axes(axes: Axes, sizes: Geometry, found: list[Cost], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set(
        xscale="log",
        yscale="log",
        xlabel="side of the picture, pixels" if sizes.size[0] == sizes.size[1] else "height of the picture, pixels",
    )
    axes.set_title(title)
    ticks = [one.grid[0] * sizes.patch[0] for one in found]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    here = sizes.grid[0] * sizes.patch[0]
    axes.axvline(here, color=SOFT, linewidth=1.0, linestyle=(0, (2, 2)))
    at: Any = ("data", "axes fraction")
    axes.annotate("this picture", (here, 0.97), (5, 0), xycoords=at, textcoords="offset points", va="top", color=SOFT, fontsize=8)


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
        "Lines: equations 1 and 2. Dots: the real layer, its multiply-adds counted by torch's flop counter on "
        "tensors without storage; where windows do not divide the map, padding adds to them.",
        words, {"operations_global": everywhere.operations, "operations_windows": inside.operations,
                "score_bytes_global": 4 * everywhere.scores, "score_bytes_windows": 4 * inside.scores},
    )  # fmt: skip
