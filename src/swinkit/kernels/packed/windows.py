"""Where the tokens of a map stand when its windows are processed a few at a time.

Windows that the seam does not cross come first. Those that it crosses stand in the last row or column of windows, and all windows with the
seam on the same axes look alike, so that one position bias serves each of at most four kinds:

    0 no seam | 1 between columns | 2 between rows | 3 both
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from swinkit.config import Size
from swinkit.model import constant, pad_map, seam_mask, seam_sides, to_windows


def _windows(grid: Size, window: Size) -> Size:
    return -(-grid[0] // window[0]), -(-grid[1] // window[1])


def window_kinds(grid: Size, window: Size, shift: Size) -> list[tuple[int, int]]:
    """(kind, how many windows of it) in the order of `window_tokens`."""
    rows, columns = _windows(grid, window)
    bottom, right = int(shift[0] > 0), int(shift[1] > 0)
    counts = ((rows - bottom) * (columns - right), (rows - bottom) * right, bottom * (columns - right), bottom * right)
    return [(kind, count) for kind, count in enumerate(counts) if count]


def window_tokens(grid: Size, window: Size, shift: Size) -> Tensor:
    """(G, N) int64: which token of the map stands where in which window; -1: padding."""
    tokens = pad_map(torch.arange(grid[0] * grid[1]).view(1, *grid), window, -1)
    tokens = to_windows(tokens.roll((-shift[0], -shift[1]), dims=(1, 2)), window)[0]
    rows, columns = _windows(grid, window)
    bottom = (torch.arange(rows) == rows - 1) & (shift[0] > 0)
    right = (torch.arange(columns) == columns - 1) & (shift[1] > 0)
    return tokens[(2 * bottom[:, None] + 1 * right).flatten().argsort(stable=True)]


def token_places(grid: Size, window: Size, shift: Size) -> Tensor:
    """(H * W,) int64: where each token stands in the flattened `window_tokens`, the way back."""
    tokens = window_tokens(grid, window, shift).flatten()
    places = torch.empty(grid[0] * grid[1], dtype=torch.int64)
    places[tokens[tokens >= 0]] = (tokens >= 0).nonzero().flatten()
    return places


def seam(window: Size, shift: Size) -> Tensor:
    """(N, N): -100 between tokens on different sides of the seam, else 0, in a window that the seam crosses on every shifted axis."""
    return -100.0 * ~seam_mask(seam_sides(window, window, shift))[0]


_tokens, _places, seam_of = constant(window_tokens), constant(token_places), constant(seam)


def batch_places(grid: Size, window: Size, shift: Size, images: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """For a batch of maps as (B * H * W, C): the rows to take for (G, B, N) tokens in windows, the rows that take them back to maps, and
    (G * B * N,) which of the taken ones are padding (their rows stand for nothing); None: none of them."""
    tokens, places, N = _tokens(grid, window, shift), _places(grid, window, shift), window[0] * window[1]
    image = torch.arange(images)[:, None]
    rows = tokens.clamp_min(0)[:, None] + image * (grid[0] * grid[1])  # G, B, N
    back = places // N * (images * N) + places % N + image * N  # B, H * W
    padded = grid[0] % window[0] or grid[1] % window[1]
    padding = (tokens < 0)[:, None].expand(-1, images, -1).flatten() if padded else None
    return rows.flatten(), back.flatten(), padding


def pieces(kinds: list[tuple[int, int]], images: int, largest: int) -> list[list[tuple[int, int, int]]]:
    """Windows of `images` images in tiles of at most about `largest`: per tile, the (kind, first, last + 1) of windows that look alike.

    Windows are counted from the first one of the tile; all images' windows of one place stand together.
    """
    total = images * sum(count for _, count in kinds)
    tiles = -(-total // largest)
    edges = [total * tile // tiles for tile in range(tiles + 1)]
    found: list[list[tuple[int, int, int]]] = []
    for first, last in pairwise(edges):
        found.append([])
        start = 0
        for kind, count in kinds:
            low, high = max(start, first), min(start + images * count, last)
            if low < high:
                found[-1].append((kind, low - first, high - first))
            start += images * count
    return found
