"""Training in less memory: what LayerNorm and GELU give is not kept for the backward pass but computed again, to the same bits.

Both are cheap next to the linear layer that takes their output and would keep it: of a block's activations, about 40 % need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from swinkit.kernels.onednn import multiply

MADE = "_swinkit_made"
"""Attribute of an output that can be made again: the function, and the tensors that it takes."""
REMAKE = {F.layer_norm, F.gelu}


def lean(model: nn.Module) -> AbstractContextManager[Any]:
    """A context for the forward pass of training. Gradients are those of the plain pass, bit for bit where the products are.

    Does nothing where a stage is checkpointed, which keeps less still, and while compiling: torch.compile decides for itself what to keep.
    """
    return nullcontext() if any(getattr(module, "grad_checkpointing", False) for module in model.modules()) else Lean()


class Lean(TorchFunctionMode):
    """While entered, linear layers keep the input of a LayerNorm or a GELU instead of its output."""

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        """Every function of PyTorch on a tensor comes through here."""
        kwargs = kwargs or {}
        if func is F.linear and torch.is_grad_enabled() and not _compiling():
            return linear(*args, **kwargs)
        out = func(*args, **kwargs)
        if func in REMAKE and not _compiling():
            setattr(out, MADE, _remake(func, args, kwargs))
        return out


def _compiling() -> bool:
    return "torch._dynamo" in sys.modules and torch.compiler.is_compiling()


def _remake(func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A function of the tensors among the arguments, and these."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]

    def again(*given: Tensor) -> Tensor:
        found = iter(given)
        positional = [next(found) if isinstance(value, Tensor) else value for value in args]
        return func(*positional, **{name: next(found) if isinstance(value, Tensor) else value for name, value in kwargs.items()})

    return again, tensors


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` that keeps for its backward pass how the input was made, where that is known. Takes part in autocast."""
    again, sources = getattr(input, MADE, (None, [input]))
    device = input.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
    if not weight.requires_grad:
        again, sources = None, []
    return _Linear.apply(input, weight, bias, dtype, again, *(source.detach() for source in sources))  # type: ignore[no-any-return,no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, again: Callable[..., Tensor] | None, *sources: Tensor
    ) -> Tensor:
        device = input.device.type
        ctx.dtype, ctx.again, ctx.autocast = dtype, again, torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            narrow = input.to(dtype)
            ctx.save_for_backward(weight, *(sources if again else [narrow for _ in sources]))
            return multiply(narrow, weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, *sources = ctx.saved_tensors
        device, (with_input, with_weight, with_bias) = grad.device.type, ctx.needs_input_grad[:3]
        rows = grad.to(ctx.dtype).flatten(0, -2)
        grads: list[Tensor | None] = [None, None, None]
        if with_input:
            grads[0] = multiply(rows, weight.to(ctx.dtype).t()).view(*grad.shape[:-1], -1)
        if with_weight:
            with torch.autocast(device, ctx.dtype, enabled=ctx.autocast):
                input = ctx.again(*sources) if ctx.again else sources[0]
            grads[1] = multiply(rows.t(), input.to(ctx.dtype).flatten(0, -2).t()).to(weight.dtype)
        if with_bias:
            grads[2] = rows.sum(0, dtype=torch.float32).to(weight.dtype)
        return *grads, None, None, *[None] * len(sources)
