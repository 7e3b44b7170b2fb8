"""The two branches of a V1 block in training on a CPU, each as one autograd function in C++.

LayerNorm is a part of the product that follows it, the residual is added by the branch's last product, and its gradient on the way back by
LayerNorm's. What is kept for the backward pass is what lean memory keeps: the input, q, k and v, and what proj and GELU take.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from swinkit.config import Size
from swinkit.kernels import norms, products
from swinkit.kernels.ordinary import all_hooked, dropping, hooked, once_differentiable
from swinkit.model import DropPath, SwinBlock, WindowAttention

Norm = tuple[Tensor, Tensor, float]


class Layout(NamedTuple):
    """What one call of window attention computes, but for the tensors."""

    heads: int
    window: Size
    shift: Size
    scale: float


def takes(block: SwinBlock, x: Tensor, shift: Size, dtype: torch.dtype) -> bool:
    """Whether a block's branches can be computed here: layers as the model builds them, without hooks and dropout, on plain tensors.

    dtype: what linear layers compute in, under autocast or not.
    """
    attn, mlp = block.attn, block.mlp
    if block.config.version != 1 or type(attn) is not WindowAttention or type(block.drop_path) is not DropPath or not x.requires_grad:
        return False
    if x.dtype != dtype or not (dtype == torch.float32 or torch.is_autocast_enabled("cpu")):
        return False
    parts = (block.norm1, block.norm2, attn, attn.qkv, attn.proj, attn.proj_drop, mlp, mlp.fc1, mlp.fc2, mlp.drop, block.drop_path)
    if any(hooked(part) for part in parts) or all_hooked() or _dropping(block) or not _fused(block, shift):
        return False
    attention = _takes_branch(block.norm1, attn.qkv, attn.proj, 3, x, dtype) and attn.proj.weight.shape[1] % attn.heads == 0
    return attention and _takes_branch(block.norm2, mlp.fc1, mlp.fc2, 1, x, dtype)


def _fused(block: SwinBlock, shift: Size) -> bool:
    """Whether attention and MLP are what they are by default."""
    from swinkit import kernels

    attn = block.attn
    if attn.attend is not kernels.attend or block.mlp.feed is not kernels.feed or type(attn.scale()) not in (int, float):
        return False
    inside = all(0 <= moved < side for moved, side in zip(shift, attn.window, strict=True))
    return inside and attn.qkv.bias is not None and attn.qkv_bias() is attn.qkv.bias


def _dropping(block: SwinBlock) -> bool:
    return (block.attn.training and block.attn.attn_drop > 0) or dropping(block.attn.proj_drop) or dropping(block.mlp.drop)


def _takes_branch(norm: nn.LayerNorm, first: nn.Linear, last: nn.Linear, ratio: int, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether a norm and two layers follow one another, the first with `ratio` times as many outputs as the last takes."""
    channels = x.shape[-1]
    if type(norm) is not nn.LayerNorm or type(first) is not nn.Linear or type(last) is not nn.Linear:
        return False
    if first.weight.shape != (ratio * last.weight.shape[1], channels) or last.weight.shape[0] != channels:
        return False
    return norms.native(x, norm.normalized_shape, norm.weight, norm.bias) and all(
        products.takes_weights(layer.weight, layer.bias, dtype) for layer in (first, last)
    )


def attend(block: SwinBlock, x: Tensor, shift: Size, dtype: torch.dtype) -> Tensor:
    """x (B, H, W, C) plus what its first branch makes of it."""
    attn, norm, tokens = block.attn, block.norm1, block.attn.window[0] * block.attn.window[1]
    layout = Layout(attn.heads, attn.window, shift, float(attn.scale()))
    bias = attn.bias().float().expand(attn.heads, tokens, tokens)
    weights = (norm.weight, norm.bias, attn.qkv.weight, attn.qkv.bias, bias, attn.proj.weight, attn.proj.bias)
    return _Attention.apply(x, _kept_share(block, x), norm.eps, layout, dtype, *weights)  # type: ignore[no-any-return]


def feed(block: SwinBlock, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (B, H, W, C) plus what its second branch makes of it."""
    mlp, norm = block.mlp, block.norm2
    weights = (norm.weight, norm.bias, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    return _Feed.apply(x, _kept_share(block, x), norm.eps, dtype, *weights)  # type: ignore[no-any-return]


def _kept_share(block: SwinBlock, x: Tensor) -> Tensor | None:
    """By what stochastic depth multiplies the branch of each sample, drawn as DropPath draws it; None: by nothing."""
    rate = block.drop_path.rate
    if not block.drop_path.training or rate == 0.0:
        return None
    return x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1 - rate).div_(1 - rate)


def _add(x: Tensor, share: Tensor | None, y: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: bool) -> Tensor:
    """x plus, by its share, the branch's last layer on y."""
    from swinkit.kernels.cpu import linear

    if share is None:
        return linear.forward(y, weight, bias, dtype, gelu, residual=x)
    return torch.addcmul(x, linear.forward(y, weight, bias, dtype, gelu), share)


class _Branch(torch.autograd.Function):
    """The ends that both branches have in common on their way back."""

    @staticmethod
    def last(ctx: Any, grad: Tensor, y: Tensor | None, weight: Tensor, gelu: bool, at: int) -> products.Grads:
        """Through the branch's last layer, whose weight and bias are arguments `at` and the next."""
        from swinkit.kernels.cpu import linear

        wanted = (True, *ctx.needs_input_grad[at : at + 2])
        return linear.backward(grad, y, weight, ctx.dtype, gelu, wanted, ctx.dtype)

    @staticmethod
    def first(ctx: Any, grad: Tensor, passed: Tensor, x: Tensor, norm: Norm, weight: Tensor, at: int) -> tuple[Tensor | None, ...]:
        """Through the first layer, whose weight and bias are arguments `at` and the next, and the norm before it; what was `passed` by the
        branch is added: the gradients of x, of the norm's weight and bias, of the layer's.
        """
        from swinkit.kernels.cpu import linear
        from swinkit.kernels.cpu import norm as cpu_norm

        wanted = (True, *ctx.needs_input_grad[at : at + 2])
        normed_grad, weight_grad, bias_grad = linear.backward(grad, x, weight, ctx.dtype, False, wanted, x.dtype, norm)
        assert normed_grad is not None
        return *cpu_norm.backward(normed_grad, x, norm[0], norm[2], passed), weight_grad, bias_grad


class _Attention(_Branch):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor | None, eps: float, layout: Layout, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        from swinkit.kernels.cpu import attention, linear

        norm_weight, norm_bias, qkv_weight, qkv_bias, bias, proj_weight, proj_bias = weights
        ctx.layout, ctx.dtype, ctx.eps = layout, dtype, eps
        x, bias = x.contiguous(), bias.contiguous()
        qkv = linear.forward(x, qkv_weight, qkv_bias, dtype, norm=(norm_weight, norm_bias, eps))
        qkv = qkv.view(*x.shape[:-1], 3, layout.heads, -1)
        pad, factors = qkv_bias.view(qkv.shape[3:]), bias.new_full((layout.heads,), layout.scale)
        out, lse = attention.forward(qkv, bias, pad, factors, layout.window, layout.shift, False)
        kept = out if proj_weight.requires_grad else None
        ctx.save_for_backward(x, *weights[:4], bias, proj_weight, qkv, factors, kept, lse, *([share] if share is not None else []))
        return _add(x, share, out, proj_weight, proj_bias, dtype, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from swinkit.kernels.cpu import attention

        x, norm_weight, norm_bias, qkv_weight, qkv_bias, bias, proj_weight, qkv, factors, out, lse, *share = ctx.saved_tensors
        layout, grad = ctx.layout, grad.resolve_neg().contiguous()
        out_grad, *proj_grads = _Branch.last(ctx, grad * share[0] if share else grad, out, proj_weight, False, 10)
        assert out_grad is not None
        pad, sizes = qkv_bias.view(qkv.shape[3:]), (layout.window, layout.shift, False)
        qkv_grad, position_grad, pad_grad, _ = attention.backward(out_grad, qkv, bias, pad, factors, lse, *sizes, scale_wanted=False)
        norm = (norm_weight, norm_bias, ctx.eps)
        x_grad, *norm_grads, weight_grad, bias_grad = _Branch.first(ctx, qkv_grad.flatten(3), grad, x, norm, qkv_weight, 7)
        if bias_grad is not None:
            bias_grad += pad_grad.flatten()
        grads = (x_grad, None, None, None, None, *norm_grads, weight_grad, bias_grad, position_grad, *proj_grads)
        return _wanted(ctx, grads)


class _Feed(_Branch):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor | None, eps: float, dtype: torch.dtype, *weights: Tensor) -> Tensor:
        from swinkit.kernels.cpu import linear

        norm_weight, norm_bias, weight, bias, last_weight, last_bias = weights
        ctx.dtype, ctx.eps = dtype, eps
        x = x.contiguous()
        hidden = linear.forward(x, weight, bias, dtype, norm=(norm_weight, norm_bias, eps))
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, last_weight, hidden, *([share] if share is not None else []))
        return _add(x, share, hidden, last_weight, last_bias, dtype, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, weight, last_weight, hidden, *share = ctx.saved_tensors
        grad = grad.resolve_neg().contiguous()
        hidden_grad, *last_grads = _Branch.last(ctx, grad * share[0] if share else grad, hidden, last_weight, True, 8)
        assert hidden_grad is not None
        x_grad, *grads = _Branch.first(ctx, hidden_grad, grad, x, (norm_weight, norm_bias, ctx.eps), weight, 6)
        return _wanted(ctx, (x_grad, None, None, None, *grads, *last_grads))


def _wanted(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(grad if there else None for grad, there in zip(grads, ctx.needs_input_grad, strict=True))
