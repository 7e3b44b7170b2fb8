"""Is masked attention on the rolled map really attention inside each irregular window? Computed twice and compared.

The second computation knows nothing of rolls, masks or partitions: it groups tokens by where they are on the map.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from swinkit.config import Size
from swinkit.explain.mechanism.drawing import Array
from swinkit.explain.mechanism.geometry import Geometry
from swinkit.model import relative_position_index, window_attention

HEADS, DIM = 2, 8


@dataclass(frozen=True)
class Proof:
    """Largest absolute differences from attention inside each region separately, outputs being averages of values of about 1."""

    masked: float
    """Of the model's `window_attention`: rolled, masked, rolled back."""
    unmasked: float
    """Of the same without the mask."""
    error_map: Array
    """(H, W): the largest difference at each token without the mask."""
    regions: int
    """Pieces of the map that attend inside themselves."""


def regions_of(grid: Size, window: Size, shift: Size) -> dict[Size, list[Size]]:
    """Tokens (row, column) of a map by the moved window they lie in, found one by one: the windows start at -window + shift."""
    regions = defaultdict(list)
    for r in range(grid[0]):
        for c in range(grid[1]):
            regions[(r - shift[0]) // window[0], (c - shift[1]) // window[1]].append((r, c))
    return dict(regions)


def by_regions(qkv: Tensor, table: Tensor, sizes: Geometry) -> Tensor:
    """(H, W, 3, K, D) of a whole number of windows -> (H, W, K, D): softmax attention inside each region, region after region.

    table: (2M - 1, 2M - 1, K), the bias by row and column offset from the middle.
    """
    out = torch.empty_like(qkv[:, :, 0])
    middle = (table.shape[0] // 2, table.shape[1] // 2)
    for places in regions_of(sizes.padded, sizes.window, sizes.shift).values():
        place = torch.tensor(places)
        q, k, v = (qkv[place[:, 0], place[:, 1], part] for part in range(3))  # n, K, D
        away = place[:, None] - place[None]  # n, n, 2
        bias = table[away[..., 0] + middle[0], away[..., 1] + middle[1]]  # n, n, K
        scores = torch.einsum("ikd,jkd->ijk", q, k) * DIM**-0.5 + bias
        out[place[:, 0], place[:, 1]] = torch.einsum("ijk,jkd->ikd", scores.softmax(1), v)
    return out


def prove(sizes: Geometry, seed: int = 0) -> Proof:
    """Compare on random queries, keys, values and biases in float64; the map may need padding (its tokens hold zeros here)."""
    random = torch.Generator().manual_seed(seed)
    qkv = torch.zeros(1, *sizes.padded, 3, HEADS, DIM, dtype=torch.float64)
    H, W = sizes.grid
    qkv[:, :H, :W] = torch.randn(H, W, 3, HEADS, DIM, generator=random, dtype=torch.float64)
    sides = tuple(2 * side - 1 for side in sizes.window)
    table = torch.randn(*sides, HEADS, generator=random, dtype=torch.float64)
    apart = by_regions(qkv[0], table, sizes)[:H, :W].flatten(2)
    bias = table.flatten(0, 1)[relative_position_index(sizes.window)].permute(2, 0, 1)
    with torch.no_grad():
        together = window_attention(qkv[:, :H, :W], bias, window=sizes.window, shift=sizes.shift, scale=DIM**-0.5)[0]
        rolled = qkv.roll((-sizes.shift[0], -sizes.shift[1]), dims=(1, 2))
        free = window_attention(rolled, bias, window=sizes.window, shift=(0, 0), scale=DIM**-0.5).roll(sizes.shift, dims=(1, 2))[0, :H, :W]
    error = (free - apart).abs().amax(-1)
    regions = len(regions_of(sizes.padded, sizes.window, sizes.shift))
    return Proof(float((together - apart).abs().max()), float(error.max()), np.asarray(error), regions)
