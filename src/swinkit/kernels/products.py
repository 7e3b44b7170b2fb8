"""A linear layer, perhaps after GELU, and its gradients as plain functions: in C++ on a CPU, otherwise in PyTorch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PANEL = 32
"""Channels that a matrix kernel takes at a time."""
PLAIN = (Tensor, nn.Parameter)
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]
Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and epsilon of a LayerNorm."""


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: bool) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O): F.linear of x or gelu(x), computed in `dtype`."""
    if native(x, weight, bias, dtype, gelu):
        from swinkit.kernels.cpu import linear

        return linear.forward(x.contiguous(), weight, bias, dtype, gelu)
    with torch.autocast(x.device.type, enabled=False):
        narrow = x.to(dtype)
        return F.linear(F.gelu(narrow) if gelu else narrow, weight.to(dtype), None if bias is None else bias.to(dtype))


def backward(
    grad: Tensor, x: Tensor | None, weight: Tensor, dtype: torch.dtype, gelu: bool, wanted: tuple[bool, ...], like: torch.dtype,
    norm: Norm | None = None,
) -> Grads:  # fmt: skip
    """Gradients of x (in the dtype `like`), weight and bias, those that are wanted; x may be missing where only its own is.

    norm: x goes through LayerNorm first, and its gradient is that of what comes out.
    """
    if (
        _takes_weight(weight, dtype)
        and _takes_rows(grad, len(weight), dtype)
        and (x is None or _takes_rows(x, weight.shape[1], dtype, gelu))
    ):
        from swinkit.kernels.cpu import linear

        given = None if x is None else x.contiguous()
        return linear.backward(grad.contiguous(), given, weight, dtype, gelu, (wanted[0], wanted[1], wanted[2]), like, norm)
    with torch.autocast(grad.device.type, enabled=False):
        if norm is not None and x is not None:
            x = F.layer_norm(x, x.shape[-1:], *norm)
        return _plain_backward(grad, x, weight, dtype, gelu, wanted, like)


def _plain_backward(
    grad: Tensor, x: Tensor | None, weight: Tensor, dtype: torch.dtype, gelu: bool, wanted: tuple[bool, ...], like: torch.dtype
) -> Grads:
    rows, x_grad, weight_grad, bias_grad = grad.to(dtype).reshape(-1, len(weight)), None, None, None
    if wanted[0]:
        x_grad = (rows @ weight.to(dtype)).view(*grad.shape[:-1], weight.shape[1])
        if gelu and x is not None:
            x_grad = torch.ops.aten.gelu_backward(x_grad, x.to(dtype))
        x_grad = x_grad.to(like)
    if wanted[1] and x is not None:
        narrow = x.to(dtype)
        weight_grad = (rows.t() @ (F.gelu(narrow) if gelu else narrow).reshape(-1, weight.shape[1])).to(weight.dtype)
    if wanted[2]:
        bias_grad = rows.sum(0, dtype=torch.promote_types(dtype, torch.float32)).to(weight.dtype)
    return x_grad, weight_grad, bias_grad


def native(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: bool) -> bool:
    """Whether the C++ library takes these. It takes others too, but is faster only in whole panels of channels."""
    return takes_weights(weight, bias, dtype) and _takes_rows(x, weight.shape[1], dtype, gelu)


def takes_weights(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
    """The same of a layer alone, for rows of its size."""
    return _takes_weight(weight, dtype) and (bias is None or (is_plain_float(bias) and bias.shape == weight.shape[:1]))


def in_memory(tensor: Tensor) -> bool:
    """Whether there are numbers in a CPU's memory behind a tensor, at least one: subclasses may be anything."""
    plain = type(tensor) in PLAIN and tensor.device.type == "cpu" and tensor.layout == torch.strided
    return plain and tensor.numel() > 0 and not tensor.is_neg()


def is_plain_float(tensor: Tensor) -> bool:
    """Whether a parameter lies in memory as the library reads it."""
    return in_memory(tensor) and tensor.dtype == torch.float32 and tensor.is_contiguous()


def _takes_weight(weight: Tensor, dtype: torch.dtype) -> bool:
    if not is_plain_float(weight) or weight.ndim != 2 or any(side % PANEL for side in weight.shape):
        return False
    from swinkit.kernels.cpu.calls import has

    return has(dtype)


def _takes_rows(x: Tensor, channels: int, dtype: torch.dtype, gelu: bool = False) -> bool:
    if not in_memory(x) or x.shape[-1:] != (channels,):
        return False
    return x.dtype == dtype or (x.dtype == torch.float32 and not gelu)
