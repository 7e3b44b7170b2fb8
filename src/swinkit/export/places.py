"""Where the tokens of a map lie once it is padded, shifted and cut into windows: as gathers, by arithmetic alone.

No size makes this branch, so height and width stay symbols under torch.export; with plain numbers it gives plain tensors.

    H W token grid | L = H * W | M window side | G windows per map | N tokens per window | K heads
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
    """The windows of a map: padding, shift, partition and the split into heads as one gather, and its inverse."""

    into: tuple[Tensor, Tensor, Tensor]
    """(G * K * N,) int64 each: rows of a map's (L * 3 * K, D), the queries, keys and values of all windows; padding names the nearest."""
    real: Tensor | None
    """(G, 1, N, 1) bool: whether a token is one of the map's, and not padding; None: all are."""
    back: Tensor
    """(L * K,) int64: rows of the windows' (G * K * N, D), the map's tokens and the heads of each."""
    sides: Tensor
    """(G, N) int64: on which side of the seam each token lies."""


def shift_of(grid: Grid, window: Size, half: Size, policy: SizePolicy) -> Grid:
    """How far windows move on a map, by the size policy: `half`, or 0 where the policy drops the shift. See SwinConfig.drop_shift."""
    if policy == "dense":
        return half
    if policy == "per_axis":
        rows, columns = (torch.sym_min(half[a], (_windows(grid[a], window[a]) - 1) * window[a]) for a in range(2))
        return rows, columns
    room = torch.sym_max(torch.sym_min(grid[0], grid[1]) - min(window), 0)  # 0: one window covers the smaller side
    return torch.sym_min(half[0], half[0] * room), torch.sym_min(half[1], half[1] * room)


def places(grid: Grid, window: Size, shift: Grid, heads: int, device: torch.device | None = None) -> Places:
    """Padding bottom and right, rolling by `-shift` and cutting into windows."""
    (row, row_real, row_back, row_side), (column, column_real, column_back, column_side) = (
        _axis(length, side, moved, device) for length, side, moved in zip(grid, window, shift, strict=True)
    )
    index = _cut(row * grid[1], column, window)  # G, N
    head = torch.arange(heads, device=device)
    query = (index[:, None] * (3 * heads) + head[:, None]).flatten()  # G * K * N
    of_window = row_back // window[0] * _windows(grid[1], window[1])
    of_window = of_window[:, None, None] + (column_back // window[1])[None, :, None]  # H, W, 1
    inside = (row_back % window[0] * window[1])[:, None, None] + (column_back % window[1])[None, :, None]
    back = (of_window * heads + head) * (window[0] * window[1]) + inside  # H, W, K
    real = _cut(row_real.long(), column_real.long(), window)[:, None, :, None] == 2
    sides = _cut(2 * row_side.long(), column_side.long(), window)
    return Places((query, query + heads, query + 2 * heads), real, back.flatten(), sides)


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
    """(source, real, back, side of the seam) along one axis; `back` has its length, the others the padded one."""
    padded = _windows(length, side) * side
    place, own = torch.arange(padded, device=device), torch.arange(length, device=device)
    beyond = place >= padded - shift
    source = place + shift - padded * beyond.long()
    back = own - shift + padded * (own < shift).long()
    return source.clamp(max=length - 1), source < length, back, beyond


def _cut(rows: Tensor, columns: Tensor, window: Size) -> Tensor:
    """(H'), (W') -> (G, N): the sum of a value per row and one per column, cut into windows."""
    rows, columns = rows.unflatten(0, (-1, window[0])), columns.unflatten(0, (-1, window[1]))
    return (rows[:, None, :, None] + columns[None, :, None, :]).flatten(2).flatten(0, 1)
