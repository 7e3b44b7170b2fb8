"""A Swin block for inference: a few windows at a time go through all of it, so that what lies between the layers stays in the caches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.config import Size
from swinkit.kernels.packed.linear import PackedLinear, for_inference
from swinkit.kernels.packed.windows import batch_places, pieces, seam_of, window_kinds
from swinkit.model import SwinBlock

TILE_TOKENS = 1568
"""Tokens per thread that go through a block together. Measured: half as many are slower, more are not faster and take more memory."""


class PackedAttention(nn.Module):
    """`WindowAttention` with its position bias and scale evaluated once; takes windows instead of maps."""

    def __init__(self, block: SwinBlock, dtype: torch.dtype) -> None:
        super().__init__()
        attn = block.attn
        self.heads, self.window, self.cosine = attn.heads, attn.window, attn.version == 2
        self.qkv = PackedLinear(attn.qkv.weight, attn.qkv_bias(), dtype)
        self.proj = PackedLinear.of(attn.proj, dtype)
        scale = attn.scale()
        self.scale = scale if isinstance(scale, float) else 1.0
        self.head_scale = None if isinstance(scale, float) else scale.detach().float().clone()  # K, 1, 1
        self.bias = attn.bias().detach().float().contiguous()[None]  # 1, K, N, N

    def bias_of(self, kind: int, shift: Size) -> Tensor:
        """(1, K, N, N): position bias and mask of windows of this kind (see windows.py)."""
        return self.bias if kind == 0 else self.bias + seam_of(self.window, (shift[0] if kind & 2 else 0, shift[1] if kind & 1 else 0))

    def heads_of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(G * N, C) -> q, k, v, each (G, K, N, D); cosine attention's have length 1, and q its head's scale."""
        N = self.window[0] * self.window[1]
        qkv = self.qkv.narrow(x).unflatten(0, (-1, N)).unflatten(-1, (3, self.heads, -1))  # G, N, 3, K, D
        if self.head_scale is not None:
            both = qkv[:, :, :2]
            factor = torch.linalg.vector_norm(both, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(1e-12).reciprocal_()
            factor[:, :, 0] *= self.head_scale[:, :, 0]
            both.mul_(factor)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, x: Tensor, kinds: list[tuple[int, int, int]], shift: Size) -> Tensor:
        """(G * N, C) -> (G * N, C), before the output projection."""
        q, k, v = self.heads_of(x)
        parts = [
            F.scaled_dot_product_attention(q[a:b], k[a:b], v[a:b], attn_mask=self.bias_of(kind, shift), scale=self.scale).transpose(1, 2)
            for kind, a, b in kinds
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(2).flatten(0, 1)


class PackedBlock(SwinBlock):
    """`SwinBlock` for inference. Maps and the residual stream are float32; the layers compute in `dtype`."""

    def __init__(self, block: SwinBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.config, self.window, self.half_window = block.config, block.window, block.half_window
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attention = PackedAttention(block, dtype)
        self.fc1, self.fc2 = PackedLinear.of(block.mlp.fc1, dtype), PackedLinear.of(block.mlp.fc2, dtype)

    @for_inference
    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        B, H, W, _ = x.shape
        grid, shift = (H, W), self.shift((H, W))
        rows, back, padding = batch_places(grid, self.window, shift, B)
        N = self.window[0] * self.window[1]
        largest = max(1, TILE_TOKENS * max(2, torch.get_num_threads()) // N)
        tokens, done, start = x.flatten(0, 2), list[Tensor](), 0
        for kinds in pieces(window_kinds(grid, self.window, shift), B, largest):
            span = slice(start, start + kinds[-1][2] * N)
            done.append(self.tile(tokens.index_select(0, rows[span]), kinds, shift, None if padding is None else padding[span]))
            start = span.stop
        whole = done[0] if len(done) == 1 else torch.cat(done)
        maps: Tensor = whole.index_select(0, back).unflatten(0, (B, H, W))
        return maps

    def tile(self, x: Tensor, kinds: list[tuple[int, int, int]], shift: Size, padding: Tensor | None) -> Tensor:
        """(G * N, C) -> (G * N, C): whole windows through the block. Padded tokens are zero where the projection takes them."""
        windows: Tensor = self.norm1(x) if self.config.version == 1 else x
        if padding is not None:
            windows = windows.masked_fill_(padding[:, None], 0.0)
        attended = self.attention.attend(windows, kinds, shift)
        if self.config.version == 1:
            x = self.attention.proj.add(attended, x)
            return self.fc2.add(self.fc1.gelu(self.norm2(x)), x)
        x = x + self.norm1(self.attention.proj.narrow(attended).float())
        added: Tensor = self.norm2(self.fc2.narrow(self.fc1.gelu(x)).float())
        return x + added
