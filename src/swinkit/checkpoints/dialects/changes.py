"""What a dialect stores differently from ours, beyond the name: exact in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swinkit.errors import CheckpointError

Convert = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """Tensors of theirs -> ours, and the inverse."""

    read: Convert
    write: Convert
    shapes: Callable[[Sequence[Shape]], Sequence[Shape]]
    """The shapes of what `read` makes, from theirs. Errors: CheckpointError for shapes that it cannot read."""


SAME = Change(read=lambda tensors: tensors, write=lambda tensors: tensors, shapes=lambda shapes: shapes)


def _stacked(shapes: Sequence[Shape]) -> Sequence[Shape]:
    if any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
        raise CheckpointError(f"queries, keys and values have shapes that do not go together: {', '.join(map(str, shapes))}.")
    return [(sum(shape[0] for shape in shapes), *shapes[0][1:])]


SPLIT = Change(read=lambda parts: [torch.cat(list(parts))], write=lambda whole: whole[0].chunk(3), shapes=_stacked)
"""transformers: queries, keys and values are three layers; ours is one, their rows stacked."""


def _merge_bias(ours: Sequence[Tensor]) -> Sequence[Tensor]:
    queries, values = ours
    return [torch.cat((queries, torch.zeros_like(queries), values))]


def _thirds(shapes: Sequence[Shape]) -> Sequence[Shape]:
    if len(shapes[0]) != 1 or not shapes[0][0] or shapes[0][0] % 3:
        raise CheckpointError(f"the bias of queries, keys and values has the shape {shapes[0]}, expected a vector of three equal parts.")
    return [(shapes[0][0] // 3,)] * 2


KEYLESS_BIAS = Change(read=lambda theirs: [theirs[0].chunk(3)[0], theirs[0].chunk(3)[2]], write=_merge_bias, shapes=_thirds)
"""torchvision V2: one bias for q, k, v whose key third it sets to zero at each forward; ours has none for keys."""


def _to_unfold(ours: Sequence[Tensor]) -> Sequence[Tensor]:
    return [ours[0].unflatten(-1, (2, 2, -1)).transpose(-1, -3).flatten(-3)]  # ..., column, row, channel -> ..., channel, row, column


def _from_unfold(theirs: Sequence[Tensor]) -> Sequence[Tensor]:
    return [theirs[0].unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3)]


def _fourfold(shapes: Sequence[Shape]) -> Sequence[Shape]:
    if not shapes[0] or shapes[0][-1] % 4:
        raise CheckpointError(f"a patch merging has the shape {shapes[0]}, whose last side is no multiple of the four tokens that merge.")
    return shapes


UNFOLD = Change(read=_from_unfold, write=_to_unfold, shapes=_fourfold)
"""mm*: merging through nn.Unfold, whose 4C inputs are channel-major and whose tokens run along the row first."""
