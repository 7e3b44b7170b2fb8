"""Window attention and its gradients in C++, as PyTorch operations: registered ones, so that torch.compile takes them as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from swinkit.config import Size
from swinkit.errors import SwinkitError
from swinkit.kernels.cpu import library
from swinkit.kernels.cpu.calls import DTYPES, has, openmp, run
from swinkit.kernels.cpu.calls import OBSTACLE as OBSTACLE
from swinkit.kernels.cpu.heap import empty
from swinkit.kernels.forked import keep_one_thread_after_a_fork

SIZES = "int[] window, int[] shift, bool cosine"
"""How the schemas below end; shift per axis, cosine for V2."""
NAME, BACKWARD = "swinkit::cpu_window_attention", "swinkit::cpu_window_attention_backward"

torch.library.define(NAME, f"(Tensor qkv, Tensor bias, Tensor pad, Tensor scale, {SIZES}) -> (Tensor, Tensor)")
_INPUTS = "Tensor grad, Tensor qkv, Tensor bias, Tensor pad, Tensor scale, Tensor lse"
torch.library.define(BACKWARD, f"({_INPUTS}, {SIZES}, bool scale_wanted=True) -> (Tensor, Tensor, Tensor, Tensor)")


def attend(
    qkv: Tensor,
    bias: Tensor,
    *,
    window: Size,
    shift: Size,
    scale: float | Tensor,
    cosine: bool = False,
    pad: Tensor | float = 0.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """`model.window_attention` on a CPU, without dropout; scores are never in memory, and copies neither.

    qkv (B, H, W, 3, K, D) float32 or bfloat16, bias (K, N, N), scale a float or (K, 1, 1), pad (3, K, D) -> (B, H, W, K * D), in the dtype
    of qkv. Softmax and sums are float32. Gradients do not depend on the number of threads. `why_not` says what it does not take.
    """
    heads, tokens = qkv.shape[4], window[0] * window[1]
    factors = torch.as_tensor(scale, dtype=torch.float32, device=qkv.device).flatten().expand(heads)
    padding = torch.as_tensor(pad, dtype=torch.float32, device=qkv.device).expand(qkv.shape[3:])
    position = bias.float().expand(heads, tokens, tokens)
    inputs = (qkv.contiguous(), position.contiguous(), padding.contiguous(), factors.contiguous())
    return torch.ops.swinkit.cpu_window_attention(*inputs, list(window), list(shift), cosine)[0]  # type: ignore[no-any-return]


def why_not(qkv: Tensor, dropout_p: float, window: Size = (1, 1), shift: Size = (0, 0)) -> str | None:
    """Why `attend` does not take this, in a sentence; None if it does."""
    if qkv.device.type != "cpu":
        return f"the C++ window attention runs on a CPU, not on {qkv.device.type}"
    if qkv.dtype not in DTYPES:
        return f"the C++ window attention computes in float32 and bfloat16, not in {qkv.dtype}"
    if dropout_p > 0:
        return "the C++ window attention has no dropout"
    if not all(0 <= moved < side for moved, side in zip(shift, window, strict=True)):
        return f"the C++ window attention moves windows by less than their sides, {window}, not by {shift}"
    return OBSTACLE


def _job(qkv: Tensor, tensors: dict[str, Tensor], window: Size, shift: Size, cosine: bool) -> library.Attention:
    batch, height, width, _, heads, dim = qkv.shape
    keep_one_thread_after_a_fork()
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    return library.Attention(
        batch, height, width, heads, dim, *window, *shift, cosine, qkv=qkv.data_ptr(), **pointers,
        threads=torch.get_num_threads(), parallel=openmp(),
    )  # fmt: skip


def _sizes(qkv: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the output and of its log-sum-exp."""
    *grid, _, heads, dim = qkv.shape
    return (*grid, heads * dim), (*grid, heads)


def forward(qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor, window: Size, shift: Size, cosine: bool) -> tuple[Tensor, Tensor]:
    """As `attend`, with all tensors of full size and scale (K): the output and its log-sum-exp (B, H, W, K), which the way back takes."""
    if not has(qkv.dtype):  # bfloat16 on a machine without its instructions
        out, lse = forward(qkv.float(), bias, pad, scale, window, shift, cosine)
        return out.to(qkv.dtype), lse
    qkv, bias, pad, scale = (tensor.contiguous() for tensor in (qkv, bias, pad, scale))
    sizes, lse_sizes = _sizes(qkv)
    out, lse = empty(sizes, qkv.dtype), empty(lse_sizes, torch.float32)
    job = _job(qkv, {"bias": bias, "pad": pad, "scale": scale, "out": out, "lse": lse}, window, shift, cosine)
    run(library.load().swk_attention_forward, qkv.dtype, job)
    return out, lse


@torch.library.register_fake(NAME)  # type: ignore[untyped-decorator]
def _(qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor, window: Size, shift: Size, cosine: bool) -> tuple[Tensor, Tensor]:
    sizes, lse_sizes = _sizes(qkv)
    return qkv.new_empty(sizes), qkv.new_empty(lse_sizes, dtype=torch.float32)


def backward(
    grad: Tensor, qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor, lse: Tensor, window: Size, shift: Size, cosine: bool,
    scale_wanted: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of qkv, bias, pad and scale, zeros where that of scale is not wanted, from the gradient of the output."""
    if not has(qkv.dtype):
        wide = backward(grad.float(), qkv.float(), bias, pad, scale, lse, window, shift, cosine, scale_wanted)
        return wide[0].to(qkv.dtype), *wide[1:]
    names = ("out_grad", "qkv", "bias", "pad", "scale", "lse")
    given = {name: tensor.contiguous() for name, tensor in zip(names, (grad, qkv, bias, pad, scale, lse), strict=True)}
    qkv = given.pop("qkv")
    grads = (*(empty(tensor.shape, tensor.dtype) for tensor in (qkv, given["bias"], given["pad"])), torch.zeros_like(given["scale"]))
    made = dict(zip(("qkv_grad", "bias_grad", "pad_grad", "scale_grad"), grads, strict=True))
    if not scale_wanted:
        del made["scale_grad"]
    run(library.load().swk_attention_backward, qkv.dtype, _job(qkv, {**given, **made}, window, shift, cosine))
    return grads  # type: ignore[return-value]


@torch.library.register_fake(BACKWARD)  # type: ignore[untyped-decorator]
def _(
    grad: Tensor, qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor, lse: Tensor, window: Size, shift: Size, cosine: bool,
    scale_wanted: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(qkv), torch.empty_like(bias), torch.empty_like(pad), torch.empty_like(scale)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.window, ctx.shift, ctx.cosine = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    inputs = (grad.contiguous(), *ctx.saved_tensors, ctx.window, ctx.shift, ctx.cosine, ctx.needs_input_grad[3])
    return (*torch.ops.swinkit.cpu_window_attention_backward(*inputs), None, None, None)


torch.library.impl(NAME, "CPU", forward)
torch.library.impl(BACKWARD, "CPU", backward)
torch.library.register_autograd(NAME, _differentiate, setup_context=_save)


def _refuse(ctx: Any, *grads: Tensor) -> None:
    raise SwinkitError("The C++ window attention has no second derivatives; build the model with attend=swinkit.model.window_attention.")


torch.library.register_autograd(BACKWARD, _refuse)
