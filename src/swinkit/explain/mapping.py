"""From tokens of windows that were shifted and padded back to the pixels of the picture; attention maps and attention rollout.

H W token grid | G windows per map | N tokens per window
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from swinkit.config import Size
from swinkit.errors import InputError
from swinkit.explain.recording import BlockAttention, Place, Recording
from swinkit.model import from_windows, to_windows

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Attention mass on a picture: `values` (height, width) >= 0, and the share that went to padding; together they sum to one."""

    values: Floats
    padding: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able facts: size, padding's share, and the pixel with the most mass."""
        peak = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return {"height": self.values.shape[0], "width": self.values.shape[1], "padding": self.padding, "peak": [int(at) for at in peak]}


def cell(recording: Recording, stage: int) -> Size:
    """(height, width) in pixels of a token of a stage."""
    return recording.patch[0] * 2**stage, recording.patch[1] * 2**stage


def token_at(recording: Recording, block: BlockAttention, pixel: Size) -> Size:
    """The token (row, column) of a block that holds a pixel (y, x). Errors: InputError for a pixel that no token holds."""
    height, width = recording.image
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise InputError(f"The query pixel {pixel} lies outside the picture; expected y below {height} and x below {width}.")
    side = cell(recording, block.place[0])
    token = (pixel[0] // side[0], pixel[1] // side[1])
    if token[0] >= block.grid[0] or token[1] >= block.grid[1]:
        raise InputError(
            f"The pixel {pixel} lies in the remainder that the patches of this model leave out; choose one further up or left."
        )
    return token


def window_of(block: BlockAttention, token: Size) -> tuple[int, int]:
    """(window, place in it) of a token (row, column) after the shift: the indices g and n into (G, ..., N, N)."""
    (mh, mw), padded = block.window, block.padded
    y, x = ((at - moved) % length for at, moved, length in zip(token, block.shift, padded, strict=True))
    return (y // mh) * (padded[1] // mw) + x // mw, (y % mh) * mw + x % mw


def to_grid(block: BlockAttention, tokens: Tensor) -> Tensor:
    """(G, N), as the windows lie -> (H', W'), as the map lies, padding included."""
    return from_windows(tokens[None], block.window, block.padded)[0].roll(block.shift, dims=(0, 1))


def from_grid(block: BlockAttention, mass: Tensor) -> Tensor:
    """(H', W') -> (G, N), the inverse of `to_grid`."""
    return to_windows(mass.roll((-block.shift[0], -block.shift[1]), dims=(0, 1))[None], block.window)[0]


def attention_tokens(block: BlockAttention, token: Size, head: int | None = None) -> Floats:
    """(H', W'): how much the query `token` (row, column) attends to every token; sums to one, padding stands below and right of (H, W).

    head: None is the mean over heads.
    """
    window, place = window_of(block, token)
    weights = block.of_head(head)[window, place].double()
    everywhere = torch.zeros(block.weights.shape[0], weights.shape[0], dtype=torch.float64, device=weights.device)
    everywhere[window] = weights
    return to_grid(block, everywhere).cpu().numpy()


def attention_map(recording: Recording, query: Size, block: Place | None = None, head: int | None = None) -> PixelMap:
    """How much the token that holds the pixel `query` (y, x) attends to each pixel, in one block (None: the last) and head (None: mean).

    A token's mass is spread evenly over its pixels in the picture.
    """
    chosen = recording.block(block)
    tokens, (H, W) = attention_tokens(chosen, token_at(recording, chosen, query), head), chosen.grid
    values = spread(tokens[:H, :W], cell(recording, chosen.place[0]), recording.image)
    return PixelMap(values, float(tokens[H:].sum() + tokens[:H, W:].sum()))


def spread(tokens: Floats, side: Size, image: Size) -> Floats:
    """(H, W) masses of tokens of `side` pixels -> (height, width), each spread evenly over its pixels in the picture; the sum stays."""
    counts = [np.clip(length - np.arange(n) * s, 0, s) for n, s, length in zip(tokens.shape, side, image, strict=True)]
    per_pixel = tokens / np.maximum(counts[0][:, None] * counts[1], 1)
    whole = per_pixel.repeat(side[0], 0).repeat(side[1], 1)[: image[0], : image[1]]
    # Pixels of a remainder that the patches leave out belong to no token.
    missing = [(0, length - have) for length, have in zip(image, whole.shape, strict=True)]
    return np.pad(whole, missing)


def rollout(recording: Recording, query: Size | None = None, residual: float = 0.5) -> PixelMap:
    """Attention rollout (Abnar and Zuidema 2020) over all blocks, shifts and mergings, from the last map back to the pixels.

    Every block mixes a token with what it attends to: residual * I + (1 - residual) * mean over heads; 0.5 is the paper's. A merged token
    passes its mass in equal parts to the children that it has (two or one at an odd edge). Mass that reaches a padded token stays there.
    query: a pixel (y, x) of the token to start from; None: all tokens of the last map alike, which the classifier averages.
    Only products of windows with vectors, so the cost is linear in the number of pixels.
    """
    if not 0 <= residual <= 1:
        raise InputError(f"residual is {residual}; expected a number from 0 to 1.")
    blocks = list(recording.blocks.values())
    mass, padding = _start(recording, blocks[-1], query), 0.0
    for later, block in zip([None, *reversed(blocks)], reversed(blocks), strict=False):
        if later is not None and later.place[0] != block.place[0]:
            mass = unmerge(mass, block.grid)
        mass, lost = _back(block, mass, residual)
        padding += lost
    values = spread(mass.cpu().numpy(), recording.patch, recording.image)
    return PixelMap(values, padding)


def _start(recording: Recording, last: BlockAttention, query: Size | None) -> Tensor:
    start = torch.zeros(last.grid, dtype=torch.float64, device=last.weights.device)
    if query is None:
        return start + 1 / start.numel()
    start[token_at(recording, last, query)] = 1
    return start


def _back(block: BlockAttention, mass: Tensor, residual: float) -> tuple[Tensor, float]:
    """(H, W) mass after a block -> (mass before it, what went to padding)."""
    (H, W), (height, width) = block.grid, block.padded
    windows = from_grid(block, F.pad(mass, (0, width - W, 0, height - H)))
    passed = torch.einsum("gn,gnm->gm", windows, block.of_head(None).double())
    attended = to_grid(block, passed)
    kept = residual * mass + (1 - residual) * attended[:H, :W]
    return kept, float((1 - residual) * (attended[H:].sum() + attended[:H, W:].sum()))


def unmerge(mass: Tensor, grid: Size) -> Tensor:
    """(ceil(H / 2), ceil(W / 2)) mass of merged tokens -> (H, W) of the map before merging, in equal parts to the children there are."""
    down, across = ((length - 2 * torch.arange(merged)).clamp(max=2) for length, merged in zip(grid, mass.shape, strict=True))
    children = (down[:, None] * across).to(mass)
    return (mass / children).repeat_interleave(2, 0).repeat_interleave(2, 1)[: grid[0], : grid[1]]
