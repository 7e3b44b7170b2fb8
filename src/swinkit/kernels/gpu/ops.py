"""The kernels as PyTorch operations, so that torch.compile, torch.export and AOTInductor keep them.

`torch.library.triton_op` lets Inductor see the kernels inside. Under Triton's interpreter there is nothing to see: operations are opaque.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from swinkit.errors import SwinkitError
from swinkit.kernels.gpu import plan
from swinkit.kernels.gpu.blocks import forward as blocks_forward
from swinkit.kernels.gpu.blocks import keys as blocks_keys
from swinkit.kernels.gpu.blocks import pairs as blocks_pairs
from swinkit.kernels.gpu.blocks import queries as blocks_queries
from swinkit.kernels.gpu.flops import count_attention
from swinkit.kernels.gpu.plan import Call
from swinkit.kernels.gpu.whole import backward as whole_backward
from swinkit.kernels.gpu.whole import forward as whole_forward

INTERPRETED = bool(triton.knobs.runtime.interpret)
GIVEN = "Tensor qkv, Tensor bias, Tensor pad, Tensor? scale, float factor, int[] window, int[] shift, bool cosine"

if INTERPRETED:

    def wrap_triton(kernel: Any) -> Any:
        """An interpreted kernel as it is; older PyTorch refuses to wrap one."""
        return kernel

else:
    from torch.library import wrap_triton  # type: ignore[assignment]


def operation(name: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """An operation swinkit::`name` without side effects."""
    make: Any = torch.library.custom_op if INTERPRETED else torch.library.triton_op
    made = make(f"swinkit::{name}", function, mutates_args=(), schema=schema)
    made.register_fake(fake)
    return made


def _outputs(qkv: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    out = qkv.new_empty(call.batch, call.height, call.width, call.heads * call.dim)
    return out, qkv.new_empty(call.windows, call.heads, call.tokens, dtype=torch.float32)


def _forward(
    qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor | None, factor: float, window: Sequence[int], shift: Sequence[int], cosine: bool
) -> tuple[Tensor, Tensor]:
    call = Call.of(qkv, window, shift)
    out, lse = _outputs(qkv, call)
    given = (qkv.contiguous(), bias.contiguous(), pad.to(qkv.dtype).contiguous(), _pointer(scale, bias))
    launch = plan.launch("forward", call, qkv.dtype, _capability(qkv))
    arguments = (*given, out, lse, factor, *call.numbers(launch.blocks))
    flags = call.flags(cosine, scale is not None) | launch.options()
    if call.whole:
        wrap_triton(whole_forward)[(call.programs(launch.blocks),)](*arguments, **flags)
    else:
        wrap_triton(blocks_forward)[(call.programs(launch.blocks),)](*arguments, **flags)
    return out, lse


def _capability(tensor: Tensor) -> int:
    on_gpu = tensor.device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_capability(tensor.device)[0] if on_gpu else plan.HOPPER


def _pointer(scale: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes a tensor for each argument, used or not."""
    return other if scale is None else scale.contiguous()


def _backward(
    grad: Tensor, out: Tensor, lse: Tensor,
    qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor | None, factor: float, window: Sequence[int], shift: Sequence[int], cosine: bool,
    bias_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    call = Call.of(qkv, window, shift)
    given = (qkv.contiguous(), bias.contiguous(), pad.to(qkv.dtype).contiguous(), _pointer(scale, bias))
    saved, flags = (grad.contiguous(), out.contiguous(), lse.contiguous()), call.flags(cosine, scale is not None)
    qkv_grad = torch.empty_like(given[0])
    if call.whole:  # called by name: PyTorch looks through the source for kernels, to know when what it compiled is out of date
        bias_parts, pad_parts, scale_parts = _backward_whole(call, saved, given, qkv_grad, factor, flags, bias_wanted)
    else:
        bias_parts, pad_parts, scale_parts = _backward_blocks(call, saved, given, qkv_grad, factor, flags, bias_wanted)
    return (
        qkv_grad,
        bias_parts.sum(0).to(bias.dtype),
        pad_parts.sum(0).to(pad.dtype) if call.padded else torch.zeros_like(pad, memory_format=torch.contiguous_format),
        scale_parts.sum(0) if scale is None else scale_parts.sum(0).to(scale.dtype).view(scale.shape),
    )


Parts = tuple[Tensor, Tensor, Tensor]
"""Gradients of bias (parts, K, N, N), pad (parts, 3, K, D) and scale (parts, K), one part from each program, to be added up."""


def _parts(like: Tensor, wanted: bool, *shape: int) -> Tensor:
    return like.new_empty(shape if wanted else (0,), dtype=torch.float32)


def _zero_parts(like: Tensor, wanted: bool, *shape: int) -> Tensor:
    return like.new_zeros(shape if wanted else (0,), dtype=torch.float32)


def _backward_whole(
    call: Call,
    saved: tuple[Tensor, ...],
    given: tuple[Tensor, ...],
    qkv_grad: Tensor,
    factor: float,
    flags: dict[str, Any],
    bias_wanted: bool,
) -> Parts:
    grad, _, lse = saved
    launch = plan.launch("backward", call, qkv_grad.dtype, _capability(qkv_grad))
    parts, K, N = call.parts(1), call.heads, call.tokens
    bias_parts = _parts(grad, bias_wanted, parts, K, N, N)
    pad_parts = _zero_parts(grad, call.padded, parts, 3, K, call.dim)
    scale_parts = _parts(grad, flags["FACTORS"], parts, K)
    wrap_triton(whole_backward)[(call.programs(1),)](
        grad, *given, lse, qkv_grad, bias_parts, pad_parts, scale_parts, factor, *call.numbers(1),
        **flags, BIAS=bias_wanted, **launch.options(),
    )  # fmt: skip
    return bias_parts, pad_parts, scale_parts


def _backward_blocks(
    call: Call,
    saved: tuple[Tensor, ...],
    given: tuple[Tensor, ...],
    qkv_grad: Tensor,
    factor: float,
    flags: dict[str, Any],
    bias_wanted: bool,
) -> Parts:
    grad, out, lse = saved
    K, N, delta = call.heads, call.tokens, torch.empty_like(lse)
    for_q, for_k, for_bias = (plan.launch(kernel, call, qkv_grad.dtype, _capability(qkv_grad)) for kernel in ("queries", "keys", "pairs"))
    pad_parts = _zero_parts(grad, call.padded, call.parts(for_k.blocks) * for_k.blocks, 3, K, call.dim)
    scale_parts = _parts(grad, flags["FACTORS"], call.parts(for_q.blocks) * for_q.blocks, K)
    bias_parts = _parts(grad, bias_wanted, call.parts(for_bias.blocks), K, N, N)
    wrap_triton(blocks_queries)[(call.programs(for_q.blocks),)](
        grad, *given, out, lse, delta, qkv_grad, scale_parts, factor, *call.numbers(for_q.blocks), **flags, **for_q.options()
    )
    wrap_triton(blocks_keys)[(call.programs(for_k.blocks),)](
        grad, *given, lse, delta, qkv_grad, pad_parts, factor, *call.numbers(for_k.blocks), **flags, **for_k.options()
    )
    if bias_wanted:
        wrap_triton(blocks_pairs)[(call.programs(for_bias.blocks),)](
            grad, *given, lse, delta, bias_parts, factor, *call.numbers(for_bias.blocks), **flags, **for_bias.options()
        )
    return bias_parts, pad_parts, scale_parts


def _forward_fake(qkv: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    window, shift = rest[4:6]
    return _outputs(qkv, Call.of(qkv, window, shift))


def _backward_fake(grad: Tensor, out: Tensor, lse: Tensor, qkv: Tensor, bias: Tensor, pad: Tensor, scale: Tensor | None, *rest: Any) -> Any:
    return (
        torch.empty_like(qkv, memory_format=torch.contiguous_format),
        bias.new_empty(bias.shape if rest[-1] else ()),
        torch.empty_like(pad, memory_format=torch.contiguous_format),
        pad.new_empty((), dtype=torch.float32) if scale is None else torch.empty_like(scale, memory_format=torch.contiguous_format),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, bias, pad, scale, *ctx.rest = inputs
    ctx.save_for_backward(*output, qkv, bias, pad, scale)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    needed, saved = ctx.needs_input_grad, ctx.saved_tensors  # asked for once: a checkpointed stage computes them for that
    grads = torch.ops.swinkit.gpu_window_attention_backward(grad, *saved, *ctx.rest, needed[1])
    wanted = (True, needed[1], True, saved[-1] is not None)
    return (*(value if there else None for value, there in zip(grads, wanted, strict=True)), None, None, None, None)


def no_second(ctx: Any, *grads: Any) -> Any:
    """The backward pass of a backward pass."""
    raise SwinkitError("The fused layers of GPUs have no second derivatives; build the model with attend=window_attention for those.")


forward = operation("gpu_window_attention", f"({GIVEN}) -> (Tensor, Tensor)", _forward, _forward_fake)
backward = operation(
    "gpu_window_attention_backward",
    f"(Tensor grad, Tensor out, Tensor lse, {GIVEN}, bool bias_wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
forward.register_autograd(_differentiate, setup_context=_save)
backward.register_autograd(no_second)
count_attention(torch.ops.swinkit.gpu_window_attention, 2, qkv_at=0, window_at=5)
count_attention(torch.ops.swinkit.gpu_window_attention_backward, 4, qkv_at=3, window_at=8)
