"""What a dialect stores differently from ours, beyond the name: exact in both directions, on values and on shapes (meta tensors) alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Convert = Callable[[Sequence[Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Change:
    """Tensors of theirs -> ours, and the inverse."""

    read: Convert
    write: Convert


SAME = Change(read=lambda tensors: tensors, write=lambda tensors: tensors)

SPLIT = Change(read=lambda parts: [torch.cat(list(parts))], write=lambda whole: whole[0].chunk(3))
"""transformers: queries, keys and values are three layers; ours is one, their rows stacked."""


def _merge_bias(ours: Sequence[Tensor]) -> Sequence[Tensor]:
    queries, values = ours
    return [torch.cat((queries, torch.zeros_like(queries), values))]


KEYLESS_BIAS = Change(read=lambda theirs: [theirs[0].chunk(3)[0], theirs[0].chunk(3)[2]], write=_merge_bias)
"""torchvision V2: one bias for q, k, v whose key third it sets to zero at each forward; ours has none for keys."""


ORDER = (0, 2, 1, 3)
"""The four tokens that merge, ours (rows fastest) in terms of nn.Unfold's (columns fastest), and the other way: its own inverse."""


def _to_unfold(ours: Sequence[Tensor]) -> Sequence[Tensor]:
    blocks = ours[0].unflatten(-1, (4, -1))  # ..., token, channel
    return [blocks[..., list(ORDER), :].transpose(-1, -2).flatten(-2)]


def _from_unfold(theirs: Sequence[Tensor]) -> Sequence[Tensor]:
    blocks = theirs[0].unflatten(-1, (-1, 4))  # ..., channel, token
    return [blocks[..., list(ORDER)].transpose(-1, -2).flatten(-2)]


UNFOLD = Change(read=_from_unfold, write=_to_unfold)
"""mm*: merging through nn.Unfold, whose 4C inputs are channel-major and whose tokens run along the row first."""
