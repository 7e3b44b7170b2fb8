"""Whether PyTorch only computes and records, so that an operation which it cannot look into may take part."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as every_module


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


def all_hooked() -> bool:
    """Whether there are hooks for the modules of all models."""
    forward = every_module._global_forward_hooks or every_module._global_forward_pre_hooks
    return bool(forward or every_module._global_backward_hooks or every_module._global_backward_pre_hooks)


def dropping(module: nn.Module) -> bool:
    """Whether a layer that stands for dropout does something, or may: only Dropout and Identity are known."""
    if type(module) is nn.Dropout:
        return module.training and module.p > 0
    return type(module) is not nn.Identity


def plain(tensor: Tensor | None) -> bool:
    """Whether a tensor is numbers and no subclass with arithmetic of its own, such as a quantised one; in exports stand-ins are as good."""
    return tensor is None or type(tensor) in (Tensor, nn.Parameter) or torch.compiler._is_exporting_flag


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For the backward pass of an autograd function that has no second derivatives: asked for, they are refused.

    PyTorch's own refuses them only where the gradient that comes in has a history; that of a plain sum has none.
    """
    once = torch.autograd.function.once_differentiable(backward)

    @wraps(backward)
    def guarded(ctx: Any, grad: Tensor) -> Any:
        return once(ctx, grad.detach().requires_grad_() if torch.is_grad_enabled() else grad)

    return guarded
