"""The attention of every block, recorded in one forward pass behind the model's own door; the model is not touched.

B batch | H W token grid | K heads | D channels per head | G windows per map | N tokens per window
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from swinkit.config import Size, pair
from swinkit.errors import CheckpointError, InputError
from swinkit.model import Attend, SwinTransformer, SwinTrunk, pad_map, seam_mask, seam_sides, to_windows, unit

Trunk = TypeVar("Trunk", bound=SwinTrunk)
Place = tuple[int, int]
"""(stage, block in it), from 0, as in the parameter name layers.2.blocks.5."""
MOST_VALUES = 2**28
"""Attention values kept at a time; a gibibyte in float32."""


def attention_weights(
    qkv: Tensor,
    bias: Tensor,
    *,
    window: Size,
    shift: Size,
    scale: float | Tensor,
    cosine: bool = False,
    pad: Tensor | float = 0.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """What `model.window_attention` multiplies v by, from the same arguments: (B, H, W, 3, K, D) -> (B, G, K, N, N), rows sum to one.

    float32, or float64 from float64; dropout is left out.
    """
    wide = torch.promote_types(qkv.dtype, torch.float32)
    qkv = pad_map(qkv, window, pad).to(wide)
    grid = (qkv.shape[1], qkv.shape[2])
    qkv = qkv.roll((-shift[0], -shift[1]), dims=(1, 2))
    q, k, _ = to_windows(qkv, window).permute(3, 0, 1, 4, 2, 5)
    if cosine:
        q, k = unit(q), unit(k)
    scores = q * scale @ k.transpose(-2, -1) + bias.to(wide)
    if any(shift):
        mask = seam_mask(seam_sides(grid, window, shift, bias.device))[:, None]
        scores = torch.where(mask, scores, scores - 100)
    weights: Tensor = scores.softmax(-1)
    return weights


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """One block's attention on one picture: `weights` (G, K, N, N) as the windows lie after the shift, rows are queries."""

    place: Place
    weights: Tensor
    grid: Size
    """(H, W) tokens of the stage, without padding."""
    window: Size
    shift: Size
    """How far this block's windows moved on this map."""

    @property
    def name(self) -> str:
        """ "layers.2.blocks.5", as in the names of the parameters."""
        return f"layers.{self.place[0]}.blocks.{self.place[1]}"

    @property
    def heads(self) -> int:
        """K."""
        return self.weights.shape[1]

    @property
    def padded(self) -> Size:
        """(H', W'): the grid with the tokens that fill it up to whole windows."""
        (H, W), (mh, mw) = self.grid, self.window
        return H + -H % mh, W + -W % mw

    def of_head(self, head: int | None) -> Tensor:
        """(G, N, N) of one head, or the mean over heads (None). Errors: InputError for a head that is not there."""
        if head is None:
            return self.weights.mean(1)
        if not 0 <= head < self.heads:
            raise InputError(f"{self.name} has heads 0 to {self.heads - 1}; got head {head}.")
        return self.weights[:, head]


@dataclass(frozen=True, eq=False)
class Recording:
    """Everything one forward pass showed of one picture."""

    blocks: Mapping[Place, BlockAttention]
    """In the order in which they ran."""
    maps: tuple[Tensor, ...]
    """(H, W, C) of each stage before merging."""
    logits: Tensor
    """(num_classes,), or the pooled features of a model without a classifier."""
    image: Size
    """(height, width) of the picture as the model saw it, in pixels."""
    patch: Size

    def block(self, place: Place | None = None) -> BlockAttention:
        """One block; None: the last. Errors: InputError for one that was not recorded."""
        if place is None:
            return list(self.blocks.values())[-1]
        if place not in self.blocks:
            known = ", ".join(f"{stage}.{block}" for stage, block in self.blocks)
            raise InputError(f"There is no block {place[0]}.{place[1]} (stage.block, from 0); there are {known}.")
        return self.blocks[place]


def twin(model: Trunk) -> Trunk:
    """A model that can be changed and hooked: its own modules in eval mode around the same weights (no memory, nothing is written)."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared).eval()
    copied.set_grad_checkpointing(False)
    return copied


def record(model: SwinTransformer, x: Tensor, keep: Callable[[Tensor], Tensor] | None = None) -> Recording:
    """One picture (1, C, height, width) through the model, with the attention of every block.

    keep: what to keep of each block's (G, K, N, N), by default all of it; for large pictures, something smaller. It is kept on the CPU.
    Logits are those of the plain forward to the bit: the model's own kernel computes them, and the weights are computed beside it.
    Errors: InputError for more than one picture, and for a picture whose attention would take more than a gibibyte.
    """
    check_one(model, x)
    if keep is None:
        check_memory(model, (x.shape[2], x.shape[3]))
    watched, blocks = twin(model), dict[Place, BlockAttention]()
    for stage, layer in enumerate(watched.layers):
        for index, block in enumerate(layer.blocks):
            attention: Any = block.attn
            attention.attend = _listener(attention.attend, (stage, index), blocks, keep)
    with torch.no_grad():
        maps = watched.forward_intermediates(x.to(_like(model)), output_fmt="NHWC")
        logits = watched.forward_head(watched.norm(maps[-1]))[0].cpu()
    return Recording(blocks, tuple(m[0].cpu() for m in maps), logits, (x.shape[2], x.shape[3]), pair(model.config.patch_size))


def _listener(attend: Attend, place: Place, blocks: dict[Place, BlockAttention], keep: Callable[[Tensor], Tensor] | None) -> Attend:
    def listen(qkv: Tensor, bias: Tensor, **options: Any) -> Tensor:
        weights = attention_weights(qkv, bias, **options)[0]
        weights = (keep(weights) if keep else weights).cpu()
        grid = (qkv.shape[1], qkv.shape[2])
        blocks[place] = BlockAttention(place, weights, grid, options["window"], options["shift"])
        return attend(qkv, bias, **options)

    return listen


def _like(model: SwinTransformer) -> Tensor:
    return model.patch_embed.proj.weight


def check_one(model: SwinTransformer, x: Tensor) -> None:
    """Errors: CheckpointError for another kind of model, InputError for anything but one picture that the model takes."""
    if not isinstance(model, SwinTransformer):
        raise CheckpointError(f"Got a {type(model).__name__}; expected a SwinTransformer, whose blocks can be looked into.")
    model.config.check_input(x.shape, x.is_floating_point())
    if x.shape[0] != 1:
        raise InputError(f"Got a batch of {x.shape[0]} pictures; expected one, (1, channels, height, width).")


def check_memory(model: SwinTransformer, image: Size) -> None:
    """Errors: InputError where the attention of all blocks would have more than MOST_VALUES values."""
    values = attention_values(model, image)
    if values > MOST_VALUES:
        raise InputError(
            f"The attention of all blocks on {image[0]} x {image[1]} pixels has {values / 1e6:,.0f} million values; "
            f"at most {MOST_VALUES / 1e6:,.0f} million are kept. Use a smaller img_size, or pass keep= to keep less."
        )


def attention_values(model: SwinTransformer, image: Size) -> int:
    """How many attention values all blocks together have on a picture of (height, width) pixels."""
    config, total = model.config, 0
    sides = list(zip(image, pair(config.patch_size), strict=True))
    grid = tuple(side // patch if config.floors(image) else -(-side // patch) for side, patch in sides)
    for depth, heads, (mh, mw) in zip(config.depths, config.num_heads, config.windows, strict=True):
        windows = -(-grid[0] // mh) * -(-grid[1] // mw)
        total += depth * heads * windows * (mh * mw) ** 2
        grid = (-(-grid[0] // 2), -(-grid[1] // 2))
    return total
