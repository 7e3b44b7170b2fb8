"""A linear layer, perhaps after GELU, and its gradients as plain functions: in C++ on a CPU, otherwise in PyTorch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PANEL = 32
"""Channels that a matrix kernel takes at a time."""
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: bool) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O): F.linear of x or gelu(x), computed in `dtype`."""
    if native(x, weight, dtype, gelu):
        from swinkit.kernels.cpu import linear

        return linear.forward(x.contiguous(), weight, bias, dtype, gelu)
    narrow = x.to(dtype)
    return F.linear(F.gelu(narrow) if gelu else narrow, weight.to(dtype), None if bias is None else bias.to(dtype))


def backward(
    grad: Tensor, x: Tensor | None, weight: Tensor, dtype: torch.dtype, gelu: bool, wanted: tuple[bool, ...], like: torch.dtype
) -> Grads:
    """Gradients of x (in the dtype `like`), weight and bias, those that are wanted; x may be missing where only its own is."""
    if native(grad, weight, dtype, False):
        from swinkit.kernels.cpu import linear

        given = None if x is None else x.contiguous()
        return linear.backward(grad.contiguous(), given, weight, dtype, gelu, (wanted[0], wanted[1], wanted[2]), like)
    with torch.autocast(grad.device.type, enabled=False):
        return _plain_backward(grad, x, weight, dtype, gelu, wanted, like)


def _plain_backward(
    grad: Tensor, x: Tensor | None, weight: Tensor, dtype: torch.dtype, gelu: bool, wanted: tuple[bool, ...], like: torch.dtype
) -> Grads:
    rows, x_grad, weight_grad, bias_grad = grad.to(dtype).flatten(0, -2), None, None, None
    if wanted[0]:
        x_grad = (rows @ weight.to(dtype)).view(*grad.shape[:-1], -1)
        if gelu and x is not None:
            x_grad = torch.ops.aten.gelu_backward(x_grad, x.to(dtype))
        x_grad = x_grad.to(like)
    if wanted[1] and x is not None:
        narrow = x.to(dtype)
        weight_grad = (rows.t() @ (F.gelu(narrow) if gelu else narrow).flatten(0, -2)).to(weight.dtype)
    if wanted[2]:
        bias_grad = rows.sum(0, dtype=torch.promote_types(dtype, torch.float32)).to(weight.dtype)
    return x_grad, weight_grad, bias_grad


def native(x: Tensor, weight: Tensor, dtype: torch.dtype, gelu: bool) -> bool:
    """Whether the C++ library takes these. It takes others too, but is faster only in whole panels of channels."""
    if x.device.type != "cpu" or weight.dtype != torch.float32 or not weight.is_contiguous() or x.numel() == 0:
        return False
    if any(side % PANEL for side in weight.shape):
        return False
    if x.dtype not in (dtype, torch.float32) or (gelu and x.dtype != dtype):
        return False
    from swinkit.kernels.cpu.calls import has

    return has(dtype)
