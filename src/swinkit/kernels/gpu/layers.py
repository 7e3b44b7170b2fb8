"""What a model asks on a GPU before it computes an MLP or the tokens of patches by their definition; None: nothing here is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.kernels.ordinary import hooked
from swinkit.model import Mlp, PatchEmbed

HALF = (torch.float16, torch.bfloat16)
STEP = 16
"""Channels in steps of which the kernels take them."""


def feed(mlp: Mlp, x: Tensor) -> Tensor | None:
    """`Mlp.forward` in half precision, GELU at the end of the first product: (..., C) -> (..., C). Takes part in autocast."""
    device, dtype = x.device.type, x.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if dtype not in HALF or x.numel() == 0 or not _is_usual(mlp):
        return None
    from swinkit.kernels.gpu import mlp_ops

    with torch.autocast(device, enabled=False):
        given = [tensor.to(dtype) for tensor in (x, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)]
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        return mlp_ops.forward(*given, keep)[0]  # type: ignore[no-any-return]


def _is_usual(mlp: Mlp) -> bool:
    """Whether nothing would be missed by going around the modules inside."""
    layers = (mlp.fc1, mlp.fc2)
    if any(type(layer) is not nn.Linear or layer.bias is None or any(side % STEP for side in layer.weight.shape) for layer in layers):
        return False
    return not (mlp.training and mlp.drop.p > 0) and not any(hooked(part) for part in (*layers, mlp.drop))


def embed(patches: PatchEmbed, x: Tensor) -> Tensor | None:
    """The tokens of `PatchEmbed` before its norm, as one product of all patches: (B, in_chans, height, width) -> (B, H, W, C).

    A convolution would first bring channels together, and leave those of its output apart for the layers that follow.
    """
    conv, (height, width) = patches.proj, patches.patch
    plain = type(conv) is nn.Conv2d and conv.stride == conv.kernel_size == (height, width) and not hooked(conv)
    if not plain or conv.groups != 1 or conv.padding != (0, 0) or conv.dilation != (1, 1):
        return None
    x = x[:, :, : x.shape[2] // height * height, : x.shape[3] // width * width]
    x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # B, in_chans, H, height, W, width
    return F.linear(x.permute(0, 2, 4, 1, 3, 5).flatten(3), conv.weight.flatten(1), conv.bias)
