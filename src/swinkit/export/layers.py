"""The layers of the model in the spelling that is exported: the same weights and numbers, tokens in one row, at most five axes, no roll.

What depends on weights alone (position bias, scale, the bias of queries, keys and values) is computed once, when a layer is made.

    B images | L tokens of a map | C channels | K heads | D channels per head | G windows | N tokens per window
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swinkit.config import Size
from swinkit.export.places import Places
from swinkit.model import PatchMerging, SwinBlock, WindowAttention, seam_mask, unit


def constant(tensor: Tensor | None) -> Any:
    """A value that goes into the artefact as it is, as a buffer; None stays."""
    return None if tensor is None else nn.Buffer(tensor.detach().clone(memory_format=torch.contiguous_format))


@dataclass(frozen=True)
class Form:
    """How attention is spelled for a runtime."""

    separate: bool = False
    """Queries, keys and values have a product each, so that a runtime has nothing to split, and weights take in scale and biases where
    they can. Sums are then rounded otherwise."""
    operator: bool = False
    """With `separate`: ONNX's Attention (opset 23) where one table is for all images; it adds biases and leaves heads where they are."""
    one_image: bool = False
    """There is never more than one, so that its windows and their tables are as many."""


class Attention(nn.Module):
    """Window attention on tokens that lie window after window, or on a map's with `places` for the way there and back."""

    def __init__(self, attn: WindowAttention, form: Form) -> None:
        super().__init__()
        self.heads, self.tokens, self.cosine, self.form = attn.heads, attn.window[0] * attn.window[1], attn.version == 2, form
        with torch.no_grad():
            bias, scale = attn.bias(), attn.scale()
            self.bias, self.masked = constant(bias), constant(bias - 100)  # between the sides of the seam, as the originals
            self.scale: Any = scale if isinstance(scale, float) else constant(scale)
            products, self.proj = _folded(attn) if form.separate else ([_linear(attn.qkv.weight, attn.qkv_bias())], attn.proj)
        self.products, self.scaled = nn.ModuleList(products), self.cosine or not form.separate

    def table(self, sides: Tensor) -> Tensor:
        """(G, N) -> (G, K, N, N): position bias and mask of every window of a shifted map."""
        return torch.where(seam_mask(sides)[:, None], self.bias, self.masked)

    def forward(self, x: Tensor, places: Places | None = None, table: Tensor | None = None) -> Tensor:
        """(B, L, C) -> (B, L, C). table: of shifted windows; None: no window holds a seam."""
        parts = [self._windows(product, x, places) for product in self.products]  # B * G, N, C or 3C
        out = self._operator(parts, table) if self.form.operator and (table is None or self.form.one_image) else self._attend(parts, table)
        out = out.reshape(-1, x.shape[1] if places is None else places.index.shape[0], x.shape[2])
        return self.proj(out if places is None else out.index_select(1, places.back))

    def _attend(self, parts: list[Tensor], table: Tensor | None) -> Tensor:
        """One of (B * G, N, 3C) or three of (B * G, N, C) -> (B * G, N, K, D)"""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts) if len(parts) == 3 else self._split(*parts)
        if self.cosine:
            q, k = unit(q), unit(k)
        scores = (q * self.scale if self.scaled else q) @ k.transpose(-2, -1)  # B * G, K, N, N
        if scores.dtype == torch.float16:
            scores = scores.clamp(-3e4, 3e4)
        return (self._normalised(scores, table).to(v.dtype) @ v).transpose(1, 2)

    def _operator(self, parts: list[Tensor], table: Tensor | None) -> Tensor:
        """Three of (B * G, N, C) -> (B * G, N, C)"""
        q, k, v = parts
        if self.cosine:
            q, k = (unit(part.unflatten(2, (self.heads, -1))) for part in (q, k))
            q, k = (q * self.scale.squeeze(2)).flatten(2), k.flatten(2)
        mask = self.bias[None] if table is None else table
        return torch.onnx.ops.attention(q, k, v, mask, q_num_heads=self.heads, kv_num_heads=self.heads, scale=1.0)[0]

    def _windows(self, product: nn.Module, x: Tensor, places: Places | None) -> Tensor:
        """(B, L, C) -> (B * G, N, C'). How many windows is left open (-1), which is a constant in a graph."""
        x = product(x)
        if places is not None:
            pad: Any = product.bias
            x = torch.where(places.real, x.index_select(1, places.index), 0.0 if pad is None else pad)
        return x.reshape(-1, self.tokens, x.shape[2])

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """(B * G, N, 3C) -> three of (B * G, K, N, D)"""
        return qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _normalised(self, scores: Tensor, table: Tensor | None) -> Tensor:
        """(B * G, K, N, N) -> the same, biased, masked, and as weights whose sum is 1."""
        if table is None or self.form.one_image:
            return (scores + (self.bias if table is None else table)).softmax(-1)
        every = scores.reshape(-1, *table.flatten(0, 1).shape) + table.flatten(0, 1)  # B, G * K, N, N
        return every.softmax(-1).reshape(-1, *self.bias.shape)


def _folded(attn: WindowAttention) -> tuple[list[nn.Linear], nn.Linear]:
    """Queries', keys' and values' products, and the projection, with all that weights can take in.

    V1's scale is the queries'. A key's bias adds as much to all scores of a query, which softmax does not feel (V2 has none). The weights
    of a query sum to 1, so that values' bias comes out as it went in, and is the projection's. A padded token then has neither.
    """
    biases, scale = attn.qkv_bias(), attn.scale()
    q, k, v = attn.qkv.weight.chunk(3)
    bias, _, last = (None, None, None) if biases is None else biases.double().chunk(3)
    if isinstance(scale, float):
        q, bias = (q.double() * scale).to(q), None if bias is None else bias * scale
    proj, out = attn.proj, attn.proj.bias.double()
    out = out if last is None else out + proj.weight.double() @ last
    return [_linear(q, None if bias is None else bias.to(q)), _linear(k, None), _linear(v, None)], _linear(proj.weight, out.to(q))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    linear.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)  # type: ignore[assignment]
    return linear


class Block(nn.Module):
    """A block on a row of tokens."""

    def __init__(self, block: SwinBlock, form: Form) -> None:
        super().__init__()
        self.window: Size = block.window
        self.half_window: Size = block.half_window
        self.version = block.config.version
        self.attn = Attention(block.attn, form)
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp

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
        self.version = merging.version
        self.norm, self.reduction = merging.norm, merging.reduction

    def forward(self, x: Tensor, index: Tensor, real: Tensor | None) -> Tensor:
        """(B, L, C), (L' * 4,), (L' * 4, 1) or None where all are real -> (B, L', 2C)"""
        channels = x.shape[2]
        x = x.index_select(1, index)
        x = x if real is None else torch.where(real, x, 0.0)
        x = x.reshape(-1, index.shape[0] // 4, 4 * channels)
        out: Any = self.reduction(self.norm(x)) if self.version == 1 else self.norm(self.reduction(x))
        return out
