"""The layers of the model in the spelling that is exported: the same weights and numbers, tokens in a row, at most five axes, no roll.

What depends on weights alone (position bias, scale, the bias of queries, keys and values) is computed once, when a layer is made.

    B images | L tokens of a map | C channels | K heads | D channels per head | G windows | N tokens per window
"""

from __future__ import annotations

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
    """Window attention on a map's tokens, given where they lie in windows."""

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        self.heads, self.tokens, self.cosine = attn.heads, attn.window[0] * attn.window[1], attn.version == 2
        self.weight, self.proj = attn.qkv.weight, attn.proj
        with torch.no_grad():
            bias, scale, qkv_bias = attn.bias(), attn.scale(), attn.qkv_bias()
            self.qkv_bias = constant(qkv_bias)
            self.bias, self.masked = constant(bias), constant(bias - 100)  # between the sides of the seam, as the originals
            self.pad = constant(bias.new_zeros(3 * self.proj.in_features) if qkv_bias is None else qkv_bias)
            self.scale = scale if isinstance(scale, float) else constant(scale)

    def table(self, sides: Tensor) -> Tensor:
        """(G, N) -> (G, K, N, N): position bias and mask of every window of a shifted map."""
        return torch.where(seam_mask(sides)[:, None], self.bias, self.masked)

    def forward(self, x: Tensor, places: Places, table: Tensor | None) -> Tensor:
        """(B, L, C) -> (B, L, C). table: of shifted windows; None: no window holds a seam."""
        tokens, channels = x.shape[1:]
        qkv = F.linear(x, self.weight, self.qkv_bias).reshape(-1, tokens * 3 * self.heads, channels // self.heads)
        q, k, v = (self._windows(qkv, places, part) for part in range(3))
        if self.cosine:
            q, k = unit(q), unit(k)
        scores = q * self.scale @ k.transpose(-2, -1)
        if scores.dtype == torch.float16:
            scores = scores.clamp(-3e4, 3e4)
        out = self._normalised(scores, table).to(v.dtype) @ v
        out = out.reshape(-1, places.into[0].shape[0], v.shape[3]).index_select(1, places.back)
        return self.proj(out.reshape(-1, tokens, channels))  # type: ignore[no-any-return]

    def _windows(self, qkv: Tensor, places: Places, part: int) -> Tensor:
        """(B, L * 3 * K, D) -> (B * G, K, N, D). How many windows is left open (-1), which is a constant in a graph."""
        rows = qkv.index_select(1, places.into[part])
        if places.real is not None:
            pad = self.pad.unflatten(0, (3, self.heads, 1, -1))[part]  # K, 1, D
            rows = torch.where(places.real, rows.reshape(-1, places.real.shape[0], self.heads, self.tokens, qkv.shape[2]), pad)
        return rows.reshape(-1, self.heads, self.tokens, qkv.shape[2])

    def _normalised(self, scores: Tensor, table: Tensor | None) -> Tensor:
        """(B * G, K, N, N) -> the same, biased, masked, and as weights whose sum is 1."""
        if table is None:
            return (scores + self.bias).softmax(-1)
        every = scores.reshape(-1, *table.flatten(0, 1).shape) + table.flatten(0, 1)  # B, G * K, N, N
        return every.softmax(-1).reshape(-1, *self.bias.shape)


class Block(nn.Module):
    """A block on a row of tokens."""

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.window: Size = block.window
        self.half_window: Size = block.half_window
        self.version = block.config.version
        self.attn, self.norm1, self.norm2, self.mlp = Attention(block.attn), block.norm1, block.norm2, block.mlp

    def forward(self, x: Tensor, places: Places, table: Tensor | None) -> Tensor:
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
        return self.reduction(self.norm(x)) if self.version == 1 else self.norm(self.reduction(x))  # type: ignore[no-any-return]
