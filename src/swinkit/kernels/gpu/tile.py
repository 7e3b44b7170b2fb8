# mypy: ignore-errors
"""What the kernels share: where the tokens of a shifted window lie, what they hold, their scores, and the way back through unit vectors.

Scores are in units of log 2, so that exp2, the exponential that a GPU has, needs no further product. Sums and softmax are float32 in every
dtype: float16 scores cannot overflow here and are not clamped.

    K heads | D channels per head | MH, MW window | N tokens per window
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
MASK = tl.constexpr(-100.0 * 1.4426950408889634)
"""The originals' additive mask between the two sides of the seam."""
WIDEN = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Triton's interpreter multiplies bfloat16 as if it were integers; float32 holds such products exactly."""


@triton.jit
def dot(a, b):
    """Matrix product with float32 sums; float32 operands are not rounded to tf32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def place(window, t, H, W, shift_y, shift_x, MH: tl.constexpr, MW: tl.constexpr):
    """Tokens t of a window (counted over the whole batch): their rows in the map, whether they are inside it, their side of the seam.

    The map is padded to whole windows, then rolled, as in the definition: what runs over the end of the padded map comes from its start.
    """
    down, across = tl.cdiv(H, MH), tl.cdiv(W, MW)
    image, cell = window // (down * across), window % (down * across)
    y = cell // across * MH + t // MW + shift_y
    x = cell % across * MW + t % MW + shift_x
    wrapped_y, wrapped_x = y >= down * MH, x >= across * MW
    y, x = tl.where(wrapped_y, y - down * MH, y), tl.where(wrapped_x, x - across * MW, x)
    row = (tl.cast(image, tl.int64) * H + y) * W + x
    return row, (t < MH * MW) & (y < H) & (x < W), wrapped_y.to(tl.int32) * 2 + wrapped_x.to(tl.int32)


@triton.jit
def channels(rows, width: tl.constexpr, start, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Offsets (rows, BLOCK_D) of D channels from `start` on, in rows of `width`."""
    return rows[:, None] * width + start + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def known(inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D): which of those are there."""
    return inside[:, None] & (tl.arange(0, BLOCK_D) < D)[None, :]


@triton.jit
def load(qkv, pad, row, inside, part: tl.constexpr, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr):
    """q, k or v (part 0, 1, 2) of a head: (rows, BLOCK_D). A token outside the map holds `pad`, and so do rows beyond the window."""
    start = part * K * D + head * D
    x = tl.load(qkv + channels(row, 3 * K * D, start, D, BLOCK_D), mask=known(inside, D, BLOCK_D), other=0.0)
    if PADDED:
        d = tl.arange(0, BLOCK_D)
        fill = tl.load(pad + start + d, mask=d < D, other=0.0).to(x.dtype)
        x = tl.where(inside[:, None], x, fill[None, :])
    return x


@triton.jit
def load_row(out, row, inside, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) of a map (B, H, W, K * D), zero outside of it."""
    return tl.load(out + channels(row, K * D, head * D, D, BLOCK_D), mask=known(inside, D, BLOCK_D), other=0.0)


@triton.jit
def load_bias(bias, head, t, u, N: tl.constexpr):
    """(t, u) of the bias of a head, in units of log 2. Keys beyond the window get minus infinity, which leaves them out."""
    at = bias + head * N * N + t[:, None] * N + u[None, :]
    table = tl.load(at, mask=(t < N)[:, None] & (u < N)[None, :], other=0.0).to(tl.float32) * LOG2E
    return tl.where((u < N)[None, :], table, float("-inf"))


@triton.jit
def load_scale(factors, factor, head, FACTORS: tl.constexpr):
    """What a product of q and k is multiplied by: one factor for all heads (V1) or one for each (V2)."""
    if FACTORS:
        return tl.load(factors + head).to(tl.float32)
    return factor


@triton.jit
def unit(x, COSINE: tl.constexpr):
    """Rows of length 1, computed in float32 and rounded to the dtype of x (V2), or the rows as they are (V1)."""
    if COSINE:
        wide = x.to(tl.float32)
        length = tl.sqrt(tl.sum(wide * wide, 1))
        return (wide / tl.maximum(length, 1e-12)[:, None]).to(x.dtype)
    return x


@triton.jit
def through_unit(x, grad, COSINE: tl.constexpr):
    """The gradient of x from that of `unit(x)`, float32; a row shorter than the epsilon is only scaled."""
    if COSINE:
        wide = x.to(tl.float32)
        length = tl.sqrt(tl.sum(wide * wide, 1))
        along = wide / tl.maximum(length, 1e-12)[:, None]
        turned = grad - along * tl.sum(along * grad, 1)[:, None]
        return tl.where((length >= 1e-12)[:, None], turned, grad) / tl.maximum(length, 1e-12)[:, None]
    return grad


@triton.jit
def scores(q, k, bias, side_q, side_k, scale, SHIFTED: tl.constexpr):
    """(q, k) in units of log 2: what the softmax takes."""
    s = dot(q, tl.trans(k)) * (scale * LOG2E) + bias
    if SHIFTED:
        s = tl.where(side_q[:, None] == side_k[None, :], s, s + MASK)
    return s


@triton.jit
def store_grad(grads, grad, row, inside, part: tl.constexpr, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Writes the gradient of q, k or v to where it was read; padded tokens have no place there."""
    at = grads + channels(row, 3 * K * D, part * K * D + head * D, D, BLOCK_D)
    tl.store(at, grad.to(grads.dtype.element_ty), mask=known(inside, D, BLOCK_D))
