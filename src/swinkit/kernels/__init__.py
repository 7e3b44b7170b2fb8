"""What a model computes with: functions with the signature of `model.window_attention`, and the one choice between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swinkit.kernels.ordinary import transforming
from swinkit.model import Attend, Mlp, PatchEmbed, window_attention


@dataclass(frozen=True)
class Kernel:
    """A window attention, by name, and why it was chosen."""

    name: str
    attend: Attend
    reason: str


def choose(device: str = "cpu") -> Kernel:
    """The window attention that a model built now will use on a kind of device: one function, which looks at each call's tensors."""
    reason = _missing(device)
    return Kernel("definition", attend, f"plain PyTorch operations: {reason}") if reason else Kernel("fused", attend, FUSED[device])


FUSED = {
    "cpu": "one pass over the map in C++, forward and backward, without copies or scores in memory",
    "cuda": "one pass over the map in Triton, forward and backward, without copies or scores in memory; MLPs in half precision with GELU "
    "at the end of a product",
}
"""Kind of device -> what runs there."""


def attend(qkv: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """`model.window_attention`, by the fastest kernel for these tensors; by its definition where none takes them."""
    if (fused := _fused(qkv, options)) is not None:
        return fused(qkv, bias, **options)
    if torch.compiler.is_compiling():
        return window_attention(qkv, bias, **options)
    from swinkit.kernels import chunked

    return chunked.attend(qkv, bias, **options)


def feed(mlp: Mlp, x: Tensor) -> Tensor | None:
    """`Mlp.forward` by the fastest kernel; None where that is the definition."""
    layers = _layers(x)
    return layers.feed(mlp, x) if layers else None


def embed(patches: PatchEmbed, x: Tensor) -> Tensor | None:
    """`PatchEmbed`'s tokens before its norm, by the fastest kernel; None where that is the definition."""
    layers = _layers(x)
    return layers.embed(patches, x) if layers else None


attend.feed = feed  # type: ignore[attr-defined]
attend.embed = embed  # type: ignore[attr-defined]


def _layers(x: Tensor) -> Any:
    """The module that has both for the device of x, if any."""
    if x.device.type != "cuda" or not _may_leave_pytorch(x):
        return None
    from swinkit.kernels import gpu

    return gpu.layers if gpu.OBSTACLE is None else None


def _fused(qkv: Tensor, options: dict[str, Any]) -> Attend | None:
    dropout_p = options.get("dropout_p", 0.0)
    if not _may_leave_pytorch(qkv):
        return None
    if qkv.device.type == "cpu":
        from swinkit.kernels.cpu import attention

        return attention.attend if attention.why_not(qkv, dropout_p, options["window"], options["shift"]) is None else None
    if qkv.device.type == "cuda":
        from swinkit.kernels import gpu

        obstacle = gpu.why_not(qkv.dtype, qkv.shape[-1], options["window"], dropout_p, options["shift"])
        return gpu.attend if gpu.OBSTACLE is None and obstacle is None else None
    return None


def _may_leave_pytorch(qkv: Tensor) -> bool:
    """Whether an operation of ours may take part: not in transformed functions, nor, on a CPU, where graphs are made for other machines."""
    # The flag itself: PyTorch 2.11 takes is_exporting() for true wherever it compiles.
    if qkv.numel() == 0 or (torch.compiler._is_exporting_flag and qkv.device.type == "cpu"):
        return False
    if torch.compiler.is_compiling():
        return True
    return not transforming()


def _missing(device: str) -> str | None:
    # Imported here also so that torch.compile meets them imported.
    if device == "cpu":
        from swinkit.kernels.cpu import attention

        return attention.OBSTACLE
    if device == "cuda":
        from swinkit.kernels import gpu

        return gpu.OBSTACLE
    return f"there is no faster one for {device} devices"
