"""The forward pass of training: linear layers, LayerNorm and V1's whole branches in C++ on a CPU, and in less memory if wanted.

In lean memory, what LayerNorm and GELU give is not kept for the backward pass but computed again. Both are cheap next to the linear layer
that takes their output and would keep it: of a block's activations, about 40 % need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from swinkit.fields import require
from swinkit.kernels import branches, norms, products
from swinkit.kernels.ordinary import all_hooked, checkpointing, dropping, hooked, once_differentiable, transforming
from swinkit.model import Mlp, SwinBlock

MADE: MutableMapping[Tensor, tuple[norms.Normed, Sequence[Tensor], list[int]]] = WeakTensorKeyDictionary()
"""LayerNorm's output -> how it can be made again, from which tensors, and the versions of the output and of these."""
MEMORY = ("full", "lean")


@contextmanager
def training(model: nn.Module, memory: str = "full") -> Iterator[None]:
    """A context for the forward pass of training `model`; the backward pass may come after it. Gradients are the plain ones up to rounding,
    without second derivatives where our layers take part.

    memory: "full" keeps what PyTorch keeps, but for V1's blocks on a CPU, which are lean in both; "lean" computes LayerNorm and GELU again.
    Without effect where a stage is checkpointed, which keeps less still, and for compiled models, which `compiling` is for. Errors:
    ConfigError for another memory.
    """
    require(memory in MEMORY, "memory", memory, "full or lean")
    if any(getattr(module, "grad_checkpointing", False) for module in model.modules()):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(_Layers(lean=memory == "lean"))
        stack.enter_context(_become(_BranchBlock, SwinBlock, model))
        if memory == "lean":
            stack.enter_context(_become(_LeanMlp, Mlp, model))
        yield


def compiling(memory: str = "full") -> AbstractContextManager[Any]:
    """A context for calls of a model that torch.compile has taken; what is kept is settled at the first of them.

    memory: "full" leaves that to torch.compile; "lean" lets it compute again what costs only bandwidth, such as LayerNorm's outputs, though
    a matrix product on the way back takes them. Errors: ConfigError for another memory.
    """
    require(memory in MEMORY, "memory", memory, "full or lean")
    from torch._functorch import config

    known = memory == "lean" and hasattr(config, "ban_recompute_materialized_backward")
    return config.patch(ban_recompute_materialized_backward=False) if known else nullcontext()


class _Layers(TorchFunctionMode):
    """While entered, `F.linear` and `F.layer_norm` are ours; in lean memory the one keeps what the other takes instead of what it gives."""

    def __init__(self, lean: bool) -> None:
        super().__init__()
        self.lean = lean

    def __torch_function__(self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        """Every function of PyTorch on a tensor comes through here."""
        kwargs = kwargs or {}
        if func is F.linear and _recording(*args, **kwargs) and (self.lean or _native(*args, **kwargs)):
            return linear(*args, **kwargs)
        if func is F.layer_norm and _recording(*args, **kwargs):
            return self._layer_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _layer_norm(self, *args: Any, **kwargs: Any) -> Tensor:
        out = norms.layer_norm(*args, **kwargs)
        if self.lean:
            normed, sources = norms.recipe(*args, **kwargs)
            MADE[out] = normed, sources, _versions(out, *sources)
        return out


def _recording(input: Tensor, *_: Any, **__: Any) -> bool:
    """Whether a backward pass follows whose operations are ours to choose. The meta device has none, and no autocast."""
    if "torch._dynamo" in sys.modules and torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() and input.device.type != "meta" and not transforming() and not checkpointing()


def _dtype(input: Tensor) -> torch.dtype:
    """What autocast makes of an input; it leaves float64 as it is."""
    device = input.device.type
    casts = torch.is_autocast_enabled(device) and input.dtype != torch.float64
    return torch.get_autocast_dtype(device) if casts else input.dtype


def _native(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    return products.native(input, weight, bias, _dtype(input), False)


def _versions(*tensors: Tensor) -> list[int]:
    """How often each was written to in place."""
    return [tensor._version for tensor in tensors]


def _made(input: Tensor) -> tuple[norms.Normed | None, Sequence[Tensor]]:
    """How an input was made, unless it or what it was made from has been written to since."""
    normed, sources, versions = MADE.get(input, (None, (), []))
    return (normed, sources) if normed is not None and _versions(input, *sources) == versions else (None, ())


@contextmanager
def _become(kind: type[nn.Module], usual: type[nn.Module], model: nn.Module) -> Iterator[None]:
    """The model's layers of a usual kind are of one that computes the same."""
    layers = [module for module in model.modules() if type(module) is usual]
    try:
        for layer in layers:
            layer.__class__ = kind
        yield
    finally:
        for layer in (layer for layer in layers if type(layer) is kind):
            layer.__class__ = usual


class _BranchBlock(SwinBlock):
    """What a model's blocks are: on a CPU, V1's two branches are a function each."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if not _recording(x) or x.device.type != "cpu" or type(self.mlp) not in (Mlp, _LeanMlp):
            return super().forward(x)
        shift, dtype = self.shift((x.shape[1], x.shape[2])), _dtype(x)
        if not branches.takes(self, x, shift, dtype):
            return super().forward(x)
        return branches.feed(self, branches.attend(self, x, shift, dtype), dtype)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies outlive the context, so they are usual ones."""
        return object.__new__, (SwinBlock,), self.__dict__


class _LeanMlp(Mlp):
    """What a model's MLPs are in lean memory: GELU is a part of the second linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not _recording(x) or not self._is_usual():
            return super().forward(x)
        return self.drop(linear(self.fc1(x), self.fc2.weight, self.fc2.bias, gelu=True))  # type: ignore[no-any-return]

    def _is_usual(self) -> bool:
        """Whether nothing would be missed by going around `drop` and `fc2`."""
        hooks = all_hooked() or hooked(self.fc2) or hooked(self.drop)
        return type(self.fc2) is nn.Linear and not dropping(self.drop) and not hooks

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies outlive the context, so they are usual ones."""
        return object.__new__, (Mlp,), self.__dict__


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """`F.linear` of the input or its GELU, which keeps how the input was made where that is known. Takes part in autocast."""
    normed, sources = _made(input)
    dtype = _dtype(input)
    return _Linear.apply(input, weight, bias, dtype, gelu, normed, *(source.detach() for source in sources))  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        gelu: bool,
        normed: norms.Normed | None,
        *sources: Tensor,
    ) -> Tensor:
        ctx.dtype, ctx.gelu, ctx.normed, ctx.like = dtype, gelu, normed, input.dtype
        ctx.autocast = torch.is_autocast_enabled(input.device.type)
        if not (weight.requires_grad or gelu):
            sources = ()
        elif normed is None:
            sources = (input.detach() if gelu else input.detach().to(dtype),)
        ctx.save_for_backward(weight, *sources)
        return products.forward(input, weight, bias, dtype, gelu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *sources = ctx.saved_tensors
        input, norm = _input_of(ctx, sources, grad.device.type)
        grads = products.backward(grad, input, weight, ctx.dtype, ctx.gelu, tuple(ctx.needs_input_grad[:3]), ctx.like, norm)
        return *grads, *[None] * (len(ctx.needs_input_grad) - 3)


def _input_of(ctx: Any, sources: Sequence[Tensor], device: str) -> tuple[Tensor | None, products.Norm | None]:
    """What a linear layer took; or what LayerNorm made that of, and the norm, where the library computes it along with the gradients."""
    if ctx.normed is None or not sources:
        return (sources[0] if sources else None), None
    x, shape, weight, bias, eps = ctx.normed.arguments(sources)
    if weight is not None and bias is not None and not ctx.gelu and norms.native(x, shape, weight, bias):
        return x, (weight, bias, eps)
    with torch.autocast(device, ctx.dtype, enabled=ctx.autocast):
        return norms.layer_norm(x, shape, weight, bias, eps), None
