# mypy: ignore-errors
"""The two matrix products of an MLP that GELU follows, with it at their end: what is four times as wide as the map is moved less often.

M tokens | C channels | F hidden channels, four times as many
"""

import triton
import triton.language as tl

from swinkit.kernels.gpu.tile import dot

BOUND = tl.constexpr(4.6)
"""Beyond it the normal distribution is 0 or 1."""
SLOPE_BOUND = tl.constexpr(5.0)
"""Beyond it GELU's derivative is 0 or 1."""


@triton.jit
def gelu(x):
    """x Phi(x) of float32 within 1.1e-5, a hundredth of a step of half precision at 1.

    Phi(y) - 1/2 is odd, so it is y P(y^2); on [-BOUND, BOUND] P is a polynomial whose ends are right. A NaN stays one.
    """
    above = tl.maximum(x, -BOUND, propagate_nan=tl.PropagateNan.ALL)
    y = tl.minimum(above, BOUND, propagate_nan=tl.PropagateNan.ALL)
    z = y * y * (2 / (BOUND * BOUND)) - 1
    p = z * -1.841221642e-03 + 5.619350979e-03
    p = z * p + -7.849527698e-03
    p = z * p + 1.094909012e-02
    p = z * p + -1.901927117e-02
    p = z * p + 2.952801545e-02
    p = z * p + -4.061532939e-02
    p = z * p + 5.413687506e-02
    p = z * p + -7.575576642e-02
    p = z * p + 1.535434369e-01
    return above * (y * p + 0.5)


@triton.jit
def gelu_slope(x):
    """The derivative of GELU, Phi(x) + x phi(x), of float32 within 1.3e-5; less 1/2 it is odd too.

    A second polynomial takes fewer registers than the exponential, and less time.
    """
    y = tl.minimum(tl.maximum(x, -SLOPE_BOUND, propagate_nan=tl.PropagateNan.ALL), SLOPE_BOUND, propagate_nan=tl.PropagateNan.ALL)
    z = y * y * (2 / (SLOPE_BOUND * SLOPE_BOUND)) - 1
    p = z * -2.055810184e-02 + 4.653232524e-02
    p = z * p + -2.812750821e-02
    p = z * p + 2.118802418e-02
    p = z * p + -6.808211107e-02
    p = z * p + 9.515142059e-02
    p = z * p + -8.549795048e-02
    p = z * p + 7.707946447e-02
    p = z * p + -7.151963967e-02
    p = z * p + 6.682725067e-02
    p = z * p + -7.512373666e-02
    p = z * p + 1.421305628e-01
    return y * p + 0.5


@triton.jit
def tile(columns: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr):
    """Which block of tokens, which tokens and which hidden channels a program takes; channels are the fastest axis."""
    row = tl.program_id(0) // columns
    return row, row.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(0) % columns * BLOCK_F + tl.arange(0, BLOCK_F)


@triton.jit
def expand(
    x, weight, bias, out, hidden, M,
    C: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """out (M, F) = gelu(x weight^T + bias) of x (M, C), weight (F, C), bias (F); with KEEP also hidden (M, F), what GELU took.

    GELU takes what it would take from a linear layer: the sum, rounded to the dtype of x.
    """
    _, m, f = tile(tl.cdiv(F, BLOCK_F), BLOCK_M, BLOCK_F)
    c = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_M, BLOCK_F), tl.float32)
    for start in range(0, C, BLOCK_C):
        there = start + c < C
        a = tl.load(x + m[:, None] * C + start + c[None, :], mask=(m < M)[:, None] & there[None, :], other=0.0)
        b = tl.load(weight + f[:, None] * C + start + c[None, :], mask=(f < F)[:, None] & there[None, :], other=0.0)
        total += dot(a, tl.trans(b))
    h = (total + tl.load(bias + f, mask=f < F, other=0.0).to(tl.float32)[None, :]).to(out.dtype.element_ty)
    at, inside = m[:, None] * F + f[None, :], (m < M)[:, None] & (f < F)[None, :]
    if KEEP:
        tl.store(hidden + at, h, mask=inside)
    tl.store(out + at, gelu(h.to(tl.float32)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def contract_backward(
    grad, weight, hidden, hidden_grad, out, bias_grad, M,
    C: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """hidden_grad (M, F) = (grad weight) gelu'(hidden) of grad (M, C), weight (C, F), hidden (M, F); out (M, F) = gelu(hidden), again.

    bias_grad (parts, F): the sum of hidden_grad over the tokens of each block, float32.
    """
    row, m, f = tile(tl.cdiv(F, BLOCK_F), BLOCK_M, BLOCK_F)
    c = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_M, BLOCK_F), tl.float32)
    for start in range(0, C, BLOCK_C):
        there = start + c < C
        a = tl.load(grad + m[:, None] * C + start + c[None, :], mask=(m < M)[:, None] & there[None, :], other=0.0)
        b = tl.load(weight + (start + c)[:, None] * F + f[None, :], mask=there[:, None] & (f < F)[None, :], other=0.0)
        total += dot(a, b)
    at, inside = m[:, None] * F + f[None, :], (m < M)[:, None] & (f < F)[None, :]
    h = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, gelu(h).to(out.dtype.element_ty), mask=inside)
    h_grad = total.to(grad.dtype.element_ty).to(tl.float32) * gelu_slope(h)
    tl.store(hidden_grad + at, h_grad.to(hidden_grad.dtype.element_ty), mask=inside)
    tl.store(bias_grad + row * F + f, tl.sum(h_grad, 0), mask=f < F)
