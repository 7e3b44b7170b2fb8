"""LayerNorm with its gradients: in C++ on a CPU, otherwise PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swinkit.kernels.ordinary import once_differentiable
from swinkit.kernels.products import PANEL, in_memory, is_plain_float


def native(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None) -> bool:
    """Whether the C++ library takes these: F.layer_norm over whole panels of channels, with weight and bias."""
    if weight is None or bias is None or len(shape) != 1 or shape[0] % PANEL or x.shape[-1:] != tuple(shape):
        return False
    if not (is_plain_float(weight) and is_plain_float(bias) and weight.shape == bias.shape == tuple(shape)):
        return False
    if not in_memory(x):
        return False
    from swinkit.kernels.cpu.calls import has

    return has(x.dtype)


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """`F.layer_norm`, in the dtype of the input."""
    if not native(input, normalized_shape, weight, bias):
        return F.layer_norm(input, list(normalized_shape), weight, bias, eps)
    return _LayerNorm.apply(input, weight, bias, eps)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Normed:
    """How a LayerNorm's output was made, but for the tensors: x and, where they are there, weight and bias."""

    shape: Sequence[int]
    eps: float
    has_weight: bool
    has_bias: bool

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Sequence[int], Tensor | None, Tensor | None, float]:
        """Those of `layer_norm`."""
        x, *affine = tensors
        weight = affine.pop(0) if self.has_weight else None
        return x, self.shape, weight, affine.pop(0) if self.has_bias else None, self.eps


def recipe(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Normed, list[Tensor]]:
    """How `layer_norm` makes its output of these, and the tensors."""
    tensors = [tensor for tensor in (input, weight, bias) if tensor is not None]
    return Normed(normalized_shape, eps, weight is not None, bias is not None), tensors


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        from swinkit.kernels.cpu import norm

        x = x.contiguous()
        ctx.eps = eps
        ctx.save_for_backward(x, weight)
        return norm.forward(x, weight, bias, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from swinkit.kernels.cpu import norm

        x, weight = ctx.saved_tensors
        grads = norm.backward(grad.contiguous(), x, weight, ctx.eps)
        return *(grad if wanted else None for grad, wanted in zip(grads, ctx.needs_input_grad, strict=False)), None
