# mypy: ignore-errors
# ruff: noqa: SIM102 (conditions known when compiling, and those that are not, stay apart)
"""Window attention of windows beyond 64 tokens, forward and backward: blocks of queries against blocks of keys, as in FlashAttention.

(arXiv 2205.14135.) Scores are computed again wherever they are needed. The backward pass takes three kernels, each of which owns what it
writes, so that nothing is added up in memory: `queries` for dq, `keys` for dk and dv, `pairs` for the gradient of the bias, which stays on
the chip over many windows.
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
def mine(K: tl.constexpr, blocks: tl.constexpr):
    """Which head, which block of tokens and which part of the windows a program takes; heads are the fastest axis."""
    program = tl.program_id(0)
    return program % K, program // K % blocks, program // (K * blocks)


@triton.jit
def forward(
    qkv, bias, pad, factors, out, lse, factor, windows, per, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, FACTORS: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """out (B, H, W, K * D); lse (windows, K, N), the log-sum-exp of each query in units of log 2."""
    N: tl.constexpr = MH * MW
    head, block, part = mine(K, tl.cdiv(N, BLOCK_Q))
    t = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    side = sides(t, shift_y, shift_x, MH, MW)
    scale = load_scale(factors, factor, head, FACTORS)
    for window in range(part * per, tl.minimum(part * per + per, windows)):
        crossed = seams(window, H, W, MH, MW)
        image, row, inside = place(window, t, H, W, shift_y, shift_x, MH, MW, HUGE)
        q = unit(load(qkv, pad, image, row, inside, 0, head, K, D, BLOCK_D, PADDED), COSINE)[0]
        most = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        total, o = tl.zeros((BLOCK_Q,), tl.float32), tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
        for start in range(0, N, BLOCK_K):
            u = start + tl.arange(0, BLOCK_K)
            side_u = sides(u, shift_y, shift_x, MH, MW)
            image_u, row_u, inside_u = place(window, u, H, W, shift_y, shift_x, MH, MW, HUGE)
            k = unit(load(qkv, pad, image_u, row_u, inside_u, 1, head, K, D, BLOCK_D, PADDED), COSINE)[0]
            v = load(qkv, pad, image_u, row_u, inside_u, 2, head, K, D, BLOCK_D, PADDED)
            s = scores(q, k, load_bias(bias, head, t, u, N), side, side_u, crossed, scale, SHIFTED)
            higher = tl.maximum(most, tl.max(s, 1))
            p, shrink = tl.exp2(s - higher[:, None]), tl.exp2(most - higher)
            total = total * shrink + tl.sum(p, 1)
            o = o * shrink[:, None] + dot(p.to(v.dtype), v)
            most = higher
        o = o / total[:, None]
        store_row(out, o, image, row, inside, head, K, D, BLOCK_D)
        tl.store(lse + (tl.cast(window, tl.int64) * K + head) * N + t, most + tl.log2(total), mask=t < N)


@triton.jit
def queries(
    grad, qkv, bias, pad, factors, out, lse, delta, qkv_grad, factors_grad, factor, windows, per, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, FACTORS: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """dq into qkv_grad; one part per program of factors_grad (parts * blocks, K); delta (windows, K, N).

    delta is the product of each query's output and its gradient.
    """
    N: tl.constexpr = MH * MW
    head, block, part = mine(K, tl.cdiv(N, BLOCK_Q))
    t = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    side = sides(t, shift_y, shift_x, MH, MW)
    scale, scale_grad = load_scale(factors, factor, head, FACTORS), 0.0
    for window in range(part * per, tl.minimum(part * per + per, windows)):
        crossed = seams(window, H, W, MH, MW)
        image, row, inside = place(window, t, H, W, shift_y, shift_x, MH, MW, HUGE)
        q, shrunk = unit(load(qkv, pad, image, row, inside, 0, head, K, D, BLOCK_D, PADDED), COSINE)
        do = load_row(grad, image, row, inside, head, K, D, BLOCK_D)
        mean = tl.sum(do.to(tl.float32) * load_row(out, image, row, inside, head, K, D, BLOCK_D).to(tl.float32), 1)
        at = (tl.cast(window, tl.int64) * K + head) * N + t
        tl.store(delta + at, mean, mask=t < N)
        total = tl.load(lse + at, mask=inside, other=float("inf"))
        dq = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
        for start in range(0, N, BLOCK_K):
            u = start + tl.arange(0, BLOCK_K)
            side_u = sides(u, shift_y, shift_x, MH, MW)
            image_u, row_u, inside_u = place(window, u, H, W, shift_y, shift_x, MH, MW, HUGE)
            k = unit(load(qkv, pad, image_u, row_u, inside_u, 1, head, K, D, BLOCK_D, PADDED), COSINE)[0]
            v = load(qkv, pad, image_u, row_u, inside_u, 2, head, K, D, BLOCK_D, PADDED)
            p = tl.exp2(scores(q, k, load_bias(bias, head, t, u, N), side, side_u, crossed, scale, SHIFTED) - total[:, None])
            ds = p * (dot(do, tl.trans(v)) - mean[:, None])
            dq += dot(ds.to(k.dtype), k)
        dq, along = through_unit(q, shrunk, dq, COSINE)
        if FACTORS:
            scale_grad += tl.sum(along)
        store_grad(qkv_grad, dq * scale, image, row, inside, 0, head, K, D, BLOCK_D)
    if FACTORS:
        tl.store(factors_grad + (part * tl.cdiv(N, BLOCK_Q) + block) * K + head, scale_grad)


@triton.jit
def keys(
    grad, qkv, bias, pad, factors, lse, delta, qkv_grad, pad_grad, factor, windows, per, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, FACTORS: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """dk and dv into qkv_grad; one part per program of pad_grad (parts * blocks, 3, K, D; zeros before)."""
    N: tl.constexpr = MH * MW
    head, block, part = mine(K, tl.cdiv(N, BLOCK_K))
    u = block * BLOCK_K + tl.arange(0, BLOCK_K)
    side = sides(u, shift_y, shift_x, MH, MW)
    scale = load_scale(factors, factor, head, FACTORS)
    for window in range(part * per, tl.minimum(part * per + per, windows)):
        image, row, inside = place(window, u, H, W, shift_y, shift_x, MH, MW, HUGE)
        k, shrunk = unit(load(qkv, pad, image, row, inside, 1, head, K, D, BLOCK_D, PADDED), COSINE)
        v = load(qkv, pad, image, row, inside, 2, head, K, D, BLOCK_D, PADDED)
        dk, dv = tl.zeros((BLOCK_K, BLOCK_D), tl.float32), tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
        for start in range(0, N, BLOCK_Q):
            t = start + tl.arange(0, BLOCK_Q)
            p, ds, q, do = pair(
                grad, qkv, load_bias(bias, head, t, u, N), pad, lse, delta, k, v, side, scale, window, t, head, H, W, shift_y, shift_x,
                K, D, MH, MW, BLOCK_D, COSINE, SHIFTED, PADDED, HUGE,
            )  # fmt: skip
            dv += dot(tl.trans(p.to(do.dtype)), do)
            dk += dot(tl.trans(ds.to(q.dtype)), q)
        store_grad(qkv_grad, dv, image, row, inside, 2, head, K, D, BLOCK_D)
        dk = through_unit(k, shrunk, dk, COSINE)[0] * scale
        store_grad(qkv_grad, dk, image, row, inside, 1, head, K, D, BLOCK_D)
        if PADDED:
            if reaches_over(window, H, W, MH, MW):
                add_pad(pad_grad, dk, inside, 1, part * tl.cdiv(N, BLOCK_K) + block, head, K, D, BLOCK_D)
                add_pad(pad_grad, dv, inside, 2, part * tl.cdiv(N, BLOCK_K) + block, head, K, D, BLOCK_D)


@triton.jit
def pairs(
    grad, qkv, bias, pad, factors, lse, delta, bias_grad, factor, windows, per, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr, COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, FACTORS: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """One part per program of bias_grad (parts, K, N, N): a block of queries and a block of keys of many windows."""
    N: tl.constexpr = MH * MW
    COLUMNS: tl.constexpr = tl.cdiv(N, BLOCK_K)
    head, block, part = mine(K, tl.cdiv(N, BLOCK_Q) * COLUMNS)
    t = block // COLUMNS * BLOCK_Q + tl.arange(0, BLOCK_Q)
    u = block % COLUMNS * BLOCK_K + tl.arange(0, BLOCK_K)
    side = sides(u, shift_y, shift_x, MH, MW)
    scale, table = load_scale(factors, factor, head, FACTORS), load_bias(bias, head, t, u, N)
    table_grad = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for window in range(part * per, tl.minimum(part * per + per, windows)):
        image, row, inside = place(window, u, H, W, shift_y, shift_x, MH, MW, HUGE)
        k = unit(load(qkv, pad, image, row, inside, 1, head, K, D, BLOCK_D, PADDED), COSINE)[0]
        v = load(qkv, pad, image, row, inside, 2, head, K, D, BLOCK_D, PADDED)
        ds = pair(
            grad, qkv, table, pad, lse, delta, k, v, side, scale, window, t, head, H, W, shift_y, shift_x,
            K, D, MH, MW, BLOCK_D, COSINE, SHIFTED, PADDED, HUGE,
        )[1]  # fmt: skip
        table_grad += ds
    store_bias(bias_grad, table_grad, part * K + head, t, u, N)


@triton.jit
def pair(
    grad, qkv, table, pad, lse, delta, k, v, side_k, scale, window, t, head, H, W, shift_y, shift_x,
    K: tl.constexpr, D: tl.constexpr, MH: tl.constexpr, MW: tl.constexpr, BLOCK_D: tl.constexpr,
    COSINE: tl.constexpr, SHIFTED: tl.constexpr, PADDED: tl.constexpr, HUGE: tl.constexpr,
):  # fmt: skip
    """Probabilities of queries t and given keys and the gradient of their scores; with them the queries and the gradient of their output.

    Queries outside the map have no output: with an infinite sum their probabilities are zero.
    """
    image, row, inside = place(window, t, H, W, shift_y, shift_x, MH, MW, HUGE)
    q = unit(load(qkv, pad, image, row, inside, 0, head, K, D, BLOCK_D, PADDED), COSINE)[0]
    do = load_row(grad, image, row, inside, head, K, D, BLOCK_D)
    at = (tl.cast(window, tl.int64) * K + head) * MH * MW + t
    total = tl.load(lse + at, mask=inside, other=float("inf"))
    mean = tl.load(delta + at, mask=inside, other=0.0)
    s = scores(q, k, table, sides(t, shift_y, shift_x, MH, MW), side_k, seams(window, H, W, MH, MW), scale, SHIFTED)
    p = tl.exp2(s - total[:, None])
    return p, p * (dot(do, tl.trans(v)) - mean[:, None]), q, do
