# mypy: ignore-errors
# ruff: noqa: SIM102 (conditions known when compiling, and those that are not, stay apart)
"""Window attention, forward and backward, of windows that fit on the chip as a whole: up to 64 tokens.

A program takes one head and `per` windows one after the other, and keeps the bias, and in the backward pass its gradient, on the chip
meanwhile. Heads are the fastest axis of the grid: neighbouring programs read neighbouring bytes of the same tokens.
"""

import triton
import triton.language as tl

from swinkit.kernels.gpu.tile import (
    add_pad,
    dot,
    load,
    load_bias,
    load_row,
    load_scale,
    place,
    reaches_over,
    scores,
    seams,
    sides,
    store_bias,
    store_grad,
    store_row,
    through_unit,
    unit,
)


@triton.jit
def forward(
    qkv, bias, pad, factors, out, lse, factor, windows, per, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, FACTORS: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """out (B, H, W, K * D); lse (windows, K, N), the log-sum-exp of each query in units of log 2."""
    N: tl.constexpr = MH * MW
    head, first = tl.program_id(0) % K, tl.program_id(0) // K * per
    t = tl.arange(0, BLOCK_N)
    side = sides(t, shift_y, shift_x, MH, MW)
    table = load_bias(bias, head, t, t, N)
    scale = load_scale(factors, factor, head, FACTORS)
    for window in range(first, tl.minimum(first + per, windows)):
        image, row, inside = place(window, t, H, W, shift_y, shift_x, MH, MW, HUGE)
        q = unit(load(qkv, pad, image, row, inside, 0, head, K, D, BLOCK_D, PADDED), COSINE)[0]
        k = unit(load(qkv, pad, image, row, inside, 1, head, K, D, BLOCK_D, PADDED), COSINE)[0]
        v = load(qkv, pad, image, row, inside, 2, head, K, D, BLOCK_D, PADDED)
        s = scores(q, k, table, side, side, seams(window, H, W, MH, MW), scale, SHIFTED)
        most = tl.max(s, 1)
        p = tl.exp2(s - most[:, None])
        total = tl.sum(p, 1)
        o = dot(p.to(v.dtype), v) / total[:, None]
        store_row(out, o, image, row, inside, head, K, D, BLOCK_D)
        tl.store(lse + (tl.cast(window, tl.int64) * K + head) * N + t, most + tl.log2(total), mask=t < N)


@triton.jit
def backward(
    grad, qkv, bias, pad, factors, lse, qkv_grad, bias_grad, pad_grad, factors_grad, factor, windows, per, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, FACTORS: tl.constexpr, HUGE: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """qkv_grad like qkv; one part per program of bias_grad (parts, K, N, N), pad_grad (parts, 3, K, D; zeros before) and
    factors_grad (parts, K).

    A whole row of probabilities is at hand, so neither the output nor its product with the gradient is read from memory.
    """
    N: tl.constexpr = MH * MW
    head, part = tl.program_id(0) % K, tl.program_id(0) // K
    t = tl.arange(0, BLOCK_N)
    side = sides(t, shift_y, shift_x, MH, MW)
    table = load_bias(bias, head, t, t, N)
    scale = load_scale(factors, factor, head, FACTORS)
    table_grad = tl.zeros((BLOCK_N, BLOCK_N), tl.float32)
    scale_grad = 0.0
    for window in range(part * per, tl.minimum(part * per + per, windows)):
        image, row, inside = place(window, t, H, W, shift_y, shift_x, MH, MW, HUGE)
        q, shrunk_q = unit(load(qkv, pad, image, row, inside, 0, head, K, D, BLOCK_D, PADDED), COSINE)
        k, shrunk_k = unit(load(qkv, pad, image, row, inside, 1, head, K, D, BLOCK_D, PADDED), COSINE)
        do = load_row(grad, image, row, inside, head, K, D, BLOCK_D)
        # Queries outside the map have no output: with an infinite sum their probabilities are zero.
        total = tl.load(lse + (tl.cast(window, tl.int64) * K + head) * N + t, mask=inside, other=float("inf"))
        p = tl.exp2(scores(q, k, table, side, side, seams(window, H, W, MH, MW), scale, SHIFTED) - total[:, None])
        dv = dot(tl.trans(p.to(do.dtype)), do)
        store_grad(qkv_grad, dv, image, row, inside, 2, head, K, D, BLOCK_D)
        if PADDED:
            if reaches_over(window, H, W, MH, MW):
                add_pad(pad_grad, dv, inside, 2, part, head, K, D, BLOCK_D)
        dp = dot(do, tl.trans(load(qkv, pad, image, row, inside, 2, head, K, D, BLOCK_D, PADDED)))
        ds = p * (dp - tl.sum(p * dp, 1)[:, None])
        if BIAS:
            table_grad += ds
        ds = ds.to(q.dtype)
        dq, along = through_unit(q, shrunk_q, dot(ds, k), COSINE)
        if FACTORS:
            scale_grad += tl.sum(along)
        store_grad(qkv_grad, dq * scale, image, row, inside, 0, head, K, D, BLOCK_D)
        dk = through_unit(k, shrunk_k, dot(tl.trans(ds), q), COSINE)[0] * scale
        store_grad(qkv_grad, dk, image, row, inside, 1, head, K, D, BLOCK_D)
        if PADDED:
            if reaches_over(window, H, W, MH, MW):
                add_pad(pad_grad, dk, inside, 1, part, head, K, D, BLOCK_D)
    if BIAS:
        store_bias(bias_grad, table_grad, part * K + head, t, t, N)
    if FACTORS:
        tl.store(factors_grad + part * K + head, scale_grad)
