"""Functions with the signature of `model.window_attention`, and the one choice between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swinkit.model import Attend, window_attention


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


FUSED = {"cpu": "one pass over the map in C++, forward and backward, without copies or scores in memory"}
"""Kind of device -> what runs there."""


def attend(qkv: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """`model.window_attention`, by the fastest kernel for these tensors; by its definition where none takes them."""
    if qkv.device.type == "cpu" and _eager_enough(qkv):
        from swinkit.kernels.cpu import attention

        if attention.why_not(qkv, options.get("dropout_p", 0.0)) is None:
            return attention.attend(qkv, bias, **options)
    if torch.compiler.is_compiling():
        return window_attention(qkv, bias, **options)
    from swinkit.kernels import chunked

    return chunked.attend(qkv, bias, **options)


def _missing(device: str) -> str | None:
    if device != "cpu":
        return f"there is no faster one for {device} devices"
    from swinkit.kernels.cpu import attention  # here also so that torch.compile meets it imported

    return attention.OBSTACLE


def _eager_enough(qkv: Tensor) -> bool:
    """Whether an operation outside of PyTorch may take part: not where graphs are made for other machines, nor under torch.func."""
    if torch.compiler.is_exporting() or qkv.numel() == 0:
        return False
    if torch.compiler.is_compiling():
        return True
    return torch._C._get_tracing_state() is None and torch._C._functorch.peek_interpreter_stack() is None
