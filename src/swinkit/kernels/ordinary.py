"""Whether PyTorch only computes and records, so that an operation which it cannot look into may take part."""

from __future__ import annotations

import torch
from torch import nn
from torch.autograd import forward_ad


def transforming() -> bool:
    """Whether functions are being transformed: traced, under torch.func, or differentiated forward."""
    # Imported as a module, since the level is a number that changes.
    return (
        torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def checkpointing() -> bool:
    """Whether this is inside `torch.utils.checkpoint`, which computes again on its way back and expects to meet the same operations."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint"


def hooked(module: nn.Module) -> bool:
    """Whether a module does something when it is called that its own function does not."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in vars(module)
