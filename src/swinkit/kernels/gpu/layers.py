"""What a model asks on a GPU before it computes an MLP or the tokens of patches by their definition; None: nothing here is faster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.kernels.ordinary import all_hooked, dropping, hooked, plain
from swinkit.model import Mlp, PatchEmbed

HALF = (torch.float16, torch.bfloat16)
STEP = 16
"""Channels in steps of which the kernels take them."""


def feed(mlp: Mlp, x: Tensor) -> Tensor | None:
    """`Mlp.forward` in half precision, GELU at the end of the first product: (..., C) -> (..., C). Takes part in autocast."""
    weights = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    dtype = _dtype(x, weights)
    if dtype not in HALF or x.numel() == 0 or not _is_usual(mlp, x.shape[-1]):
        return None
    from swinkit.kernels.gpu import mlp_ops

    casts = torch.is_autocast_enabled(x.device.type)
    with on_device_of(x), torch.autocast(x.device.type, enabled=False) if casts else nullcontext():
        given = [tensor.to(dtype) for tensor in (x, *weights)]
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        return mlp_ops.forward(*given, keep)[0]  # type: ignore[no-any-return]


def _dtype(x: Tensor, weights: Sequence[Tensor | None]) -> torch.dtype | None:
    """What linear layers compute in; None where dtypes do not go together, in float64, and for tensors with arithmetic of their own."""
    dtypes = {x.dtype, *(weight.dtype for weight in weights if weight is not None)}
    if not all(plain(tensor) for tensor in (x, *weights)) or torch.float64 in dtypes:
        return None
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if len(dtypes) == 1 else None


def _is_usual(mlp: Mlp, channels: int) -> bool:
    """Whether nothing would be missed by going around the modules inside."""
    layers = (mlp.fc1, mlp.fc2)
    if any(type(layer) is not nn.Linear or layer.bias is None or any(side % STEP for side in layer.weight.shape) for layer in layers):
        return False
    if mlp.fc1.weight.shape != mlp.fc2.weight.shape[::-1] or mlp.fc1.weight.shape[1] != channels:
        return False
    return not dropping(mlp.drop) and not all_hooked() and not any(hooked(part) for part in (*layers, mlp.drop))


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton starts kernels on the current device, whichever that is; compiled code sees to that itself."""
    elsewhere = x.device.type == "cuda" and torch.cuda.is_available() and not torch.compiler.is_compiling()
    return torch.cuda.device(x.device) if elsewhere else nullcontext()


def embed(patches: PatchEmbed, x: Tensor) -> Tensor | None:
    """The tokens of `PatchEmbed` before its norm, as one product of all patches: (B, in_chans, height, width) -> (B, H, W, C).

    A convolution would first bring channels together, and leave those of its output apart for the layers that follow. Exported graphs,
    which may be for images of any size, have the convolution.
    """
    conv, (height, width) = patches.proj, patches.patch
    if type(conv) is not nn.Conv2d or hooked(conv) or all_hooked() or torch.compiler._is_exporting_flag:
        return None
    ours = conv.stride == conv.kernel_size == (height, width) and conv.padding == (0, 0) and conv.dilation == (1, 1)
    if not ours or conv.groups != 1 or conv.in_channels != x.shape[1] or not (plain(conv.weight) and plain(conv.bias)):
        return None
    x = x[:, :, : x.shape[2] // height * height, : x.shape[3] // width * width]
    x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # B, in_chans, H, height, W, width
    return F.linear(x.permute(0, 2, 4, 1, 3, 5).flatten(3), conv.weight.flatten(1), conv.bias)
