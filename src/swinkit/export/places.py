"""Where the tokens of a map lie once it is padded, shifted and cut into windows: one gather and its inverse, by arithmetic alone.

No size makes this branch, so height and width stay symbols under torch.export; with plain numbers it gives plain tensors.

    H W token grid | M window side | G windows per map | N tokens per window
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swinkit.config import Size, SizePolicy

Int = Any
"""A whole number, or a symbol for one under torch.export."""
Grid = tuple[Int, Int]


@dataclass(frozen=True)
class Places:
    """The windows of a map of H x W tokens."""

    index: Tensor
    """(G * N,) int64: which token of the map each token of each window is; a padded one names the nearest there is."""
    real: Tensor
    """(G * N, 1) bool: whether it is one of the map's, and not padding."""
    back: Tensor
    """(H * W,) int64: where each token of the map is among those of all windows."""


def shift_of(grid: Grid, window: Size, half: Size, policy: SizePolicy) -> Grid:
    """How far windows move on a map, by the size policy: `half`, or 0 where the policy drops the shift. See SwinConfig.drop_shift."""
    if policy == "dense":
        return half
    if policy == "per_axis":
        rows, columns = (torch.sym_min(half[a], (_windows(grid[a], window[a]) - 1) * window[a]) for a in range(2))
        return rows, columns
    room = torch.sym_max(torch.sym_min(grid[0], grid[1]) - min(window), 0)  # 0: one window covers the smaller side
    return torch.sym_min(half[0], half[0] * room), torch.sym_min(half[1], half[1] * room)


def places(grid: Grid, window: Size, shift: Grid, device: torch.device | None = None) -> tuple[Places, Tensor]:
    """Padding bottom and right, rolling by `-shift` and cutting into windows, as indices.

    The second is (G, N) int64: on which side of the seam each token of each window lies.
    """
    (row, row_real, row_back, row_side), (column, column_real, column_back, column_side) = (
        _axis(length, side, moved, device) for length, side, moved in zip(grid, window, shift, strict=True)
    )
    across = _windows(grid[1], window[1])
    window_of, inside = row_back // window[0] * across, row_back % window[0]
    row_start = window_of * (window[0] * window[1]) + inside * window[1]
    column_start = column_back // window[1] * (window[0] * window[1]) + column_back % window[1]
    where = Places(
        index=_cut(row * grid[1], column, window).flatten(),
        real=_cut(row_real.long(), column_real.long(), window).flatten()[:, None] == 2,
        back=(row_start[:, None] + column_start).flatten(),
    )
    return where, _cut(2 * row_side.long(), column_side.long(), window)


def merging(grid: Grid, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Patch merging as a gather: (H/2 * W/2 * 4,) int64 and, (..., 1) bool, which are real, for halves rounded up.

    The four neighbours of a token follow each other in the originals' order, in which rows change fastest.
    """
    half = halves(grid)
    rows = 2 * torch.arange(half[0], device=device)[:, None] + torch.arange(2, device=device)  # H/2, 2
    columns = 2 * torch.arange(half[1], device=device)[:, None] + torch.arange(2, device=device)
    real = (rows < grid[0])[:, None, None, :] & (columns < grid[1])[None, :, :, None]  # H/2, W/2, column, row
    rows, columns = rows.clamp(max=grid[0] - 1), columns.clamp(max=grid[1] - 1)
    index = (rows * grid[1])[:, None, None, :] + columns[None, :, :, None]
    return index.flatten(), real.flatten()[:, None]


def halves(grid: Grid) -> Grid:
    """The map after merging."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def _windows(length: Int, side: int) -> Int:
    return (length + side - 1) // side


def _axis(length: Int, side: int, shift: Int, device: torch.device | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(source, real, back, side of the seam) along one axis; the first, second and last have the padded length."""
    padded = _windows(length, side) * side
    place = torch.arange(padded, device=device)
    beyond = place >= padded - shift
    source = place + shift - padded * beyond.long()
    own = torch.arange(length, device=device)
    back = own - shift + padded * (own < shift).long()
    return source.clamp(max=length - 1), source < length, back, beyond


def _cut(rows: Tensor, columns: Tensor, window: Size) -> Tensor:
    """(H'), (W') -> (G, N): the sum of a value per row and one per column, cut into windows."""
    rows, columns = rows.unflatten(0, (-1, window[0])), columns.unflatten(0, (-1, window[1]))
    return (rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)
