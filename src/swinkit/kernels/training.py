"""The forward pass of training: linear layers in C++ on a CPU, and in less memory if wanted.

In lean memory, what LayerNorm and GELU give is not kept for the backward pass but computed again. Both are cheap next to the linear layer
that takes their output and would keep it: of a block's activations, about 40 % need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from swinkit.fields import require
from swinkit.kernels import products
from swinkit.model import Mlp

MADE = "_swinkit_made"
"""Attribute of an output that can be made again: the function, the tensors that it takes, and the versions of these and of the output."""
MEMORY = ("full", "lean")
Remake = tuple[Callable[..., Tensor] | None, Sequence[Tensor]]
"""A function, or None, and the tensors that it takes."""


@contextmanager
def training(model: nn.Module, memory: str = "full") -> Iterator[None]:
    """A context for the forward pass of training `model`; the backward pass may come after it. Gradients are the plain ones up to rounding.

    memory: "full" keeps what PyTorch keeps; "lean" computes LayerNorm and GELU again. Without effect where a stage is checkpointed, which
    keeps less still, and while compiling, since torch.compile decides for itself what to keep. Errors: ConfigError for another memory.
    """
    require(memory in MEMORY, "memory", memory, "full or lean")
    if any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_Linears(lean=memory == "lean"))
        if memory == "lean":
            stack.enter_context(_lean_mlps([module for module in model.modules() if type(module) is Mlp]))
        yield


class _Linears(TorchFunctionMode):
    """While entered, `F.linear` is ours; in lean memory it keeps the input of a LayerNorm instead of its output."""

    def __init__(self, lean: bool) -> None:
        super().__init__()
        self.lean = lean

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        """Every function of PyTorch on a tensor comes through here."""
        kwargs = kwargs or {}
        if func is F.linear and torch.is_grad_enabled() and not _compiling() and (self.lean or _native(*args, **kwargs)):
            return linear(*args, **kwargs)
        out = func(*args, **kwargs)
        if self.lean and func is F.layer_norm and not _compiling():
            again, sources = _recipe(*args, **kwargs)
            setattr(out, MADE, (again, sources, _versions(out, *sources)))
        return out


def _compiling() -> bool:
    return "torch._dynamo" in sys.modules and torch.compiler.is_compiling()


def _dtype(input: Tensor) -> torch.dtype:
    device = input.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype


def _native(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return products.native(input, weight, _dtype(input), False)


def _versions(*tensors: Tensor) -> list[int]:
    """How often each was written to in place."""
    return [tensor._version for tensor in tensors]


def _made(input: Tensor) -> Remake:
    """How an input was made, unless it or what it was made from has been written to since."""
    again, sources, versions = getattr(input, MADE, (None, (), []))
    return (again, sources) if again is not None and _versions(input, *sources) == versions else (None, ())


def _recipe(
    input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Remake:
    """How to make a LayerNorm's output again."""

    def again(x: Tensor, *affine: Tensor) -> Tensor:
        found = iter(affine)
        g, b = (None if tensor is None else next(found) for tensor in (weight, bias))
        return F.layer_norm(x, normalized_shape, g, b, eps)

    return again, [tensor for tensor in (input, weight, bias) if tensor is not None]


@contextmanager
def _lean_mlps(layers: list[Mlp]) -> Iterator[None]:
    try:
        for layer in layers:
            layer.forward = partial(_mlp, layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _mlp(layer: Mlp, x: Tensor) -> Tensor:
    """`Mlp.forward`, with GELU as a part of the second linear layer."""
    parts = (layer.fc2, layer.drop)
    hooked = any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks for part in parts)
    dropping = layer.training and layer.drop.p > 0
    if type(layer.fc2) is not nn.Linear or hooked or dropping or _compiling() or not torch.is_grad_enabled():
        return Mlp.forward(layer, x)
    return layer.drop(linear(layer.fc1(x), layer.fc2.weight, layer.fc2.bias, gelu=True))  # type: ignore[no-any-return]


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """`F.linear` of the input or its GELU, which keeps how the input was made where that is known. Takes part in autocast."""
    again, sources = _made(input)
    dtype = _dtype(input)
    return _Linear.apply(input, weight, bias, dtype, gelu, again, *(source.detach() for source in sources))  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, gelu: bool, again: Any, *sources: Tensor
    ) -> Tensor:
        device = input.device.type
        ctx.dtype, ctx.gelu, ctx.again, ctx.like, ctx.autocast = dtype, gelu, again, input.dtype, torch.is_autocast_enabled(device)
        if not (weight.requires_grad or gelu):
            sources = ()
        elif again is None:
            sources = (input.detach() if gelu else input.detach().to(dtype),)
        ctx.save_for_backward(weight, *sources)
        with torch.autocast(device, enabled=False):
            return products.forward(input, weight, bias, dtype, gelu)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *sources = ctx.saved_tensors
        input = sources[0] if sources else None
        if ctx.again is not None and sources:
            with torch.autocast(grad.device.type, ctx.dtype, enabled=ctx.autocast):
                input = ctx.again(*sources)
        grads = products.backward(grad, input, weight, ctx.dtype, ctx.gelu, tuple(ctx.needs_input_grad[:3]), ctx.like)
        return *grads, *[None] * (len(ctx.needs_input_grad) - 3)
