"""The layers of the model in the spelling that is exported: the same weights and numbers, tokens in one row, at most five axes, no roll.

What depends on weights alone (position bias, scale, the bias of queries, keys and values) is computed once, when a layer is made.

    B images | L tokens of a map | C channels | K heads | D channels per head | G windows | N tokens per window
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.config import Size
from swinkit.export.places import Places
from swinkit.model import PatchMerging, SwinBlock, WindowAttention, seam_mask, unit


def constant(tensor: Tensor | None) -> nn.Buffer | None:
    """A value that goes into the artefact as it is."""
    return None if tensor is None else nn.Buffer(tensor.detach().clone())


class Attention(nn.Module):
    """Window attention on tokens that lie window after window, or on a map's with `places` for the way there and back."""

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        self.heads, self.tokens, self.cosine = attn.heads, attn.window[0] * attn.window[1], attn.version == 2
        with torch.no_grad():
            bias, scale, qkv_bias = attn.bias(), attn.scale(), attn.qkv_bias()
            self.weight, self.proj = attn.qkv.weight, attn.proj
            self.qkv_bias = constant(qkv_bias)
            self.pad = constant(bias.new_zeros(len(self.weight)) if qkv_bias is None else qkv_bias)
            self.bias, self.masked = constant(bias), constant(bias - 100)  # between the sides of the seam, as the originals
            self.scale = scale if isinstance(scale, float) else constant(scale)

    def table(self, sides: Tensor) -> Tensor:
        """(G, N) -> (G * K, N, N): position bias and mask of every window of a shifted map."""
        return torch.where(seam_mask(sides)[:, None], self.bias, self.masked).flatten(0, 1)

    def forward(self, x: Tensor, places: Places | None = None, table: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C). table: of shifted windows; None: the windows hold no seam."""
        qkv = F.linear(x, self.weight, self.qkv_bias)
        if places is not None:
            qkv = torch.where(places.real, qkv.index_select(1, places.index), self.pad)
        out = self._attend(qkv, table)
        return self.proj(out if places is None else out.index_select(1, places.back))

    def _attend(self, qkv: Tensor, table: Tensor | None) -> Tensor:
        """(B, G * N, 3C) -> (B, G * N, C). Only the number of images is left open (-1), which is a constant in a graph."""
        tokens, channels = qkv.shape[1], qkv.shape[2] // 3
        q, k, v = qkv.reshape(-1, self.tokens, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4).unbind(0)  # B * G, K, N, D
        if self.cosine:
            q, k = unit(q), unit(k)
        q = q * self.scale
        if table is not None:  # as if every window had heads of its own, so that one table of four axes serves all images
            q, k, v = (part.reshape(-1, table.shape[0], self.tokens, channels // self.heads) for part in (q, k, v))
        scores = q @ k.transpose(-2, -1)
        if scores.dtype == torch.float16:
            scores = scores.clamp(-3e4, 3e4)
        out = (scores + (self.bias if table is None else table)).softmax(-1) @ v
        out = out.reshape(-1, self.heads, self.tokens, channels // self.heads).transpose(1, 2)
        return out.reshape(-1, tokens, channels)


class Block(nn.Module):
    """A block on a row of tokens."""

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.window: Size = block.window
        self.half_window: Size = block.half_window
        self.version = block.config.version
        self.attn, self.norm1, self.norm2, self.mlp = Attention(block.attn), block.norm1, block.norm2, block.mlp

    def forward(self, x: Tensor, places: Places | None = None, table: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C)"""
        if self.version == 1:
            x = x + self.attn(self.norm1(x), places, table)
            return x + self.mlp(self.norm2(x))
        x = x + self.norm1(self.attn(x, places, table))
        return x + self.norm2(self.mlp(x))


class Merging(nn.Module):
    """Patch merging, given where the four neighbours of each new token are."""

    def __init__(self, merging: PatchMerging) -> None:
        super().__init__()
        self.version, self.norm, self.reduction = merging.version, merging.norm, merging.reduction

    def forward(self, x: Tensor, index: Tensor, real: Tensor | None) -> Tensor:
        """(B, L, C), (L' * 4,), (L' * 4, 1) or None where all are real -> (B, L', 2C)"""
        channels = x.shape[2]
        x = x.index_select(1, index)
        x = x if real is None else torch.where(real, x, 0.0)
        x = x.reshape(-1, index.shape[0] // 4, 4 * channels)
        out: Any = self.reduction(self.norm(x)) if self.version == 1 else self.norm(self.reduction(x))
        return out  # type: ignore[no-any-return]
