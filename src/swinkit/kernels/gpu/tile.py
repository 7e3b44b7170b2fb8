# mypy: ignore-errors
# ruff: noqa: SIM102 (conditions known when compiling, and those that are not, stay apart)
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
EPSILON = tl.constexpr(1e-12)
"""The shortest length that a vector is divided by, as in torch.nn.functional.normalize."""
WIDEN = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Triton's interpreter multiplies bfloat16 as if it were integers; float32 holds such products exactly."""


@triton.jit
def dot(a, b):
    """Matrix product with float32 sums; float32 operands are not rounded to tf32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def place(window, t, H, W, shift_y, shift_x, MH: tl.constexpr, MW: tl.constexpr, HUGE: tl.constexpr):
    """Tokens t of a window (counted over the whole batch): the row where their image starts, their rows in it, whether they are inside it.

    The map is padded to whole windows, then rolled, as in the definition: what runs over the end of the padded map comes from its start.
    Offsets within an image are 32 bits wide unless it is HUGE; they are many, and registers are few.
    """
    down, across = tl.cdiv(H, MH), tl.cdiv(W, MW)
    image, cell = window // (down * across), window % (down * across)
    y = cell // across * MH + t // MW + shift_y
    x = cell % across * MW + t % MW + shift_x
    y = tl.where(y >= down * MH, y - down * MH, y)
    x = tl.where(x >= across * MW, x - across * MW, x)
    row = y * W + x
    if HUGE:
        row = row.to(tl.int64)
    return tl.cast(image, tl.int64) * H * W, row, (t < MH * MW) & (y < H) & (x < W)


@triton.jit
def seams(window, H, W, MH: tl.constexpr, MW: tl.constexpr):
    """Which seams run through a window: 2 for the one between rows, in the last windows of a column, 1 for the other."""
    down, across = tl.cdiv(H, MH), tl.cdiv(W, MW)
    cell = window % (down * across)
    return tl.where(cell // across == down - 1, 2, 0) + tl.where(cell % across == across - 1, 1, 0)


@triton.jit
def sides(t, shift_y, shift_x, MH: tl.constexpr, MW: tl.constexpr):
    """Beyond which seams tokens t lie in a window that has them. The same for all windows, so a program finds it once."""
    return (t // MW >= MH - shift_y).to(tl.int32) * 2 + (t % MW >= MW - shift_x).to(tl.int32)


@triton.jit
def channels(rows, width: tl.constexpr, start, BLOCK_D: tl.constexpr):
    """Offsets (rows, BLOCK_D) of channels from `start` on, in rows of `width`."""
    return rows[:, None] * width + start + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def known(inside, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) or broadcast to it: which of those are there."""
    there = inside[:, None]
    if D < BLOCK_D:
        there = there & (tl.arange(0, BLOCK_D) < D)[None, :]
    return there


@triton.jit
def load(
    qkv, pad, image, row, inside, part: tl.constexpr, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, PADDED: tl.constexpr
):
    """q, k or v (part 0, 1, 2) of a head: (rows, BLOCK_D). A token outside the map holds `pad`, and so do rows beyond the window."""
    start = part * K * D + head * D
    at = qkv + image * (3 * K * D) + channels(row, 3 * K * D, start, BLOCK_D)
    if PADDED:
        at = tl.where(inside[:, None], at, pad + channels(row, 0, start, BLOCK_D))
        inside = inside | True
    return tl.load(at, mask=known(inside, D, BLOCK_D), other=0.0)


@triton.jit
def load_row(out, image, row, inside, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) of a map (B, H, W, K * D), zero outside of it."""
    return tl.load(out + image * (K * D) + channels(row, K * D, head * D, BLOCK_D), mask=known(inside, D, BLOCK_D), other=0.0)


@triton.jit
def store_row(out, o, image, row, inside, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Writes to where `load_row` reads; padded tokens have no place there."""
    at = out + image * (K * D) + channels(row, K * D, head * D, BLOCK_D)
    tl.store(at, o.to(out.dtype.element_ty), mask=known(inside, D, BLOCK_D))


@triton.jit
def load_bias(bias, head, t, u, N: tl.constexpr):
    """(t, u) of the bias of a head, in units of log 2. Keys beyond the window get minus infinity, which leaves them out."""
    at = bias + head * N * N + t[:, None] * N + u[None, :]
    table = tl.load(at, mask=(t < N)[:, None] & (u < N)[None, :], other=0.0).to(tl.float32) * LOG2E
    return tl.where((u < N)[None, :], table, float("-inf"))


@triton.jit
def load_scale(factors, factor, head, FACTORS: tl.constexpr):
    """What a product of q and k is multiplied by: one factor for all heads (V1) or one for each (V2).

    A number comes as float32, but as float64 from torch.compile, and would make everything float64 that it meets.
    """
    if FACTORS:
        return tl.load(factors + head).to(tl.float32)
    return tl.cast(factor, tl.float32)


@triton.jit
def unit(x, COSINE: tl.constexpr):
    """Rows of length 1, found in float32 and rounded to x's dtype, and what they were multiplied by (V2); the rows as they are (V1)."""
    if COSINE:
        wide = x.to(tl.float32)
        inverse = 1.0 / tl.maximum(tl.sqrt(tl.sum(wide * wide, 1)), EPSILON)
        u = (wide * inverse[:, None]).to(x.dtype)
    else:
        inverse, u = 1.0, x
    return u, inverse


@triton.jit
def through_unit(u, inverse, grad, COSINE: tl.constexpr):
    """The gradient of x from that of u, where u, inverse = unit(x), and how much of each row was along u; float32.

    A row shorter than the epsilon was only scaled.
    """
    wide = u.to(tl.float32)
    along = tl.sum(wide * grad, 1)
    if COSINE:
        turned = tl.where((inverse < 0.999 / EPSILON)[:, None], grad - wide * along[:, None], grad)
        grad = turned * inverse[:, None]
    return grad, along


@triton.jit
def scores(q, k, bias, side_q, side_k, seams, scale, SHIFTED: tl.constexpr):
    """(q, k) in units of log 2: what the softmax takes. Tokens on two sides of a seam get the mask."""
    s = dot(q, tl.trans(k)) * (scale * LOG2E) + bias
    if SHIFTED:
        if seams != 0:
            s = tl.where((side_q & seams)[:, None] == (side_k & seams)[None, :], s, s + MASK)
    return s


@triton.jit
def store_grad(grads, grad, image, row, inside, part: tl.constexpr, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Writes the gradient of q, k or v to where it was read."""
    at = grads + image * (3 * K * D) + channels(row, 3 * K * D, part * K * D + head * D, BLOCK_D)
    tl.store(at, grad.to(grads.dtype.element_ty), mask=known(inside, D, BLOCK_D))


@triton.jit
def store_bias(parts, grad, part, t, u, N: tl.constexpr):
    """Writes one part of the gradient of the bias. Its rows are counted from the start of all parts, in 64 bits: offsets in common with
    `load_bias` would be kept in registers from the first window to the last."""
    row = tl.cast(part, tl.int64) * N + t
    tl.store(parts + row[:, None] * N + u[None, :], grad, mask=(t < N)[:, None] & (u < N)[None, :])


@triton.jit
def reaches_over(window, H, W, MH: tl.constexpr, MW: tl.constexpr):
    """Whether some tokens of a window can lie outside the map: after the roll that takes the last two windows of a row or a column."""
    down, across = tl.cdiv(H, MH), tl.cdiv(W, MW)
    cell = window % (down * across)
    return (cell // across >= down - 2) | (cell % across >= across - 2)


@triton.jit
def add_pad(parts, grad, inside, which: tl.constexpr, part, head, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Adds what tokens outside the map got for their k or v (1, 2) to one part of the gradient of `pad` (3, K, D).

    A padded token's query has no output and hence no gradient. Few windows come here, so the sum waits in memory, where no other program
    touches it, and leaves registers to the others. The barrier makes it one sum for all threads.
    """
    d = tl.arange(0, BLOCK_D)
    at = parts + (part * 3 + which) * K * D + head * D + d
    tl.debug_barrier()
    before = tl.load(at, mask=d < D, other=0.0)
    tl.debug_barrier()
    tl.store(at, before + tl.sum(tl.where(inside[:, None], 0.0, grad), 0), mask=d < D)
