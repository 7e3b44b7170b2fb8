"""An MLP as a PyTorch operation: two linear layers with GELU between them, of which only what GELU takes is kept for the backward pass.

What GELU gives, four times as wide as the map, is made where it is needed: at the end of the first product, and again on the way back
at the end of the product with the second layer's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from swinkit.kernels.gpu import ops, plan
from swinkit.kernels.gpu.flops import count_mlp
from swinkit.kernels.gpu.mlp import contract_backward, expand
from swinkit.kernels.gpu.ops import wrap_triton

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of the input, and of weight and bias of both layers; empty where not wanted."""


def _forward(
    x: Tensor, expanding: Tensor, expanding_bias: Tensor, contracting: Tensor, contracting_bias: Tensor, keep: bool
) -> tuple[Tensor, Tensor]:
    hidden_channels, channels = expanding.shape
    rows = x.reshape(-1, channels).contiguous()
    out = rows.new_empty(rows.shape[0], hidden_channels)
    hidden = torch.empty_like(out) if keep else rows.new_empty(0)
    launch = plan.tiles("expand", channels)
    wrap_triton(expand)[(_programs(launch, rows, hidden_channels),)](
        rows, expanding.contiguous(), expanding_bias.contiguous(), out, hidden, rows.shape[0],
        C=channels, F=hidden_channels, KEEP=keep, **launch.options(),
    )  # fmt: skip
    return torch.addmm(contracting_bias, out, contracting.t()).view(x.shape), hidden


def _programs(launch: plan.Launch, rows: Tensor, hidden_channels: int) -> int:
    return _blocks(launch, rows) * -(-hidden_channels // launch.sizes["BLOCK_F"])


def _blocks(launch: plan.Launch, rows: Tensor) -> int:
    return -(-rows.shape[0] // launch.sizes["BLOCK_M"])  # not len, which would fix the batch of a traced function


def _backward(
    grad: Tensor, x: Tensor, hidden: Tensor, expanding: Tensor, contracting: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    hidden_channels, channels = expanding.shape
    rows, grad_rows = x.reshape(-1, channels), grad.reshape(-1, channels).contiguous()
    hidden_grad, out = torch.empty_like(hidden), torch.empty_like(hidden)
    launch = plan.tiles("contract_backward", channels)
    parts = hidden.new_empty(_blocks(launch, rows), hidden_channels, dtype=torch.float32)
    wrap_triton(contract_backward)[(_programs(launch, rows, hidden_channels),)](
        grad_rows, contracting.contiguous(), hidden, hidden_grad, out, parts, rows.shape[0],
        C=channels, F=hidden_channels, **launch.options(),
    )  # fmt: skip
    return (
        (hidden_grad @ expanding).view(x.shape) if wanted[0] else x.new_empty(0),
        hidden_grad.t() @ rows if wanted[1] else x.new_empty(0),
        parts.sum(0).to(x.dtype) if wanted[2] else x.new_empty(0),
        grad_rows.t() @ out if wanted[3] else x.new_empty(0),
        grad_rows.sum(0, dtype=torch.float32).to(x.dtype) if wanted[4] else x.new_empty(0),
    )


def _forward_fake(x: Tensor, expanding: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    hidden_channels, channels = expanding.shape
    rows = x.numel() // channels
    return x.new_empty(x.shape), x.new_empty((rows, hidden_channels) if rest[-1] else (0,))


def _backward_fake(grad: Tensor, x: Tensor, hidden: Tensor, expanding: Tensor, contracting: Tensor, wanted: Sequence[bool]) -> Grads:
    shapes = (x.shape, expanding.shape, expanding.shape[:1], contracting.shape, contracting.shape[:1])
    x_grad, *rest = (x.new_empty(shape if there else (0,)) for shape, there in zip(shapes, wanted, strict=True))
    return (x_grad, rest[0], rest[1], rest[2], rest[3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, expanding, _, contracting, _, keep = inputs
    assert keep, "what GELU took is needed for gradients"
    ctx.save_for_backward(x, output[1], expanding, contracting)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:5])
    grads = torch.ops.swinkit.gpu_mlp_backward(grad, *ctx.saved_tensors, wanted)
    return *(value if there else None for value, there in zip(grads, wanted, strict=True)), None


GIVEN = "Tensor x, Tensor expanding, Tensor expanding_bias, Tensor contracting, Tensor contracting_bias, bool keep"
forward = ops.operation("gpu_mlp", f"({GIVEN}) -> (Tensor, Tensor)", _forward, _forward_fake)
backward = ops.operation(
    "gpu_mlp_backward",
    "(Tensor grad, Tensor x, Tensor hidden, Tensor expanding, Tensor contracting, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
forward.register_autograd(_differentiate, setup_context=_save)
backward.register_autograd(ops.no_second)
count_mlp(torch.ops.swinkit.gpu_mlp, torch.ops.swinkit.gpu_mlp_backward)
