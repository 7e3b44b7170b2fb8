"""Window attention and MLPs on GPUs in Triton, forward and backward; nothing of Triton is imported before it is needed."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from swinkit.config import Size
from swinkit.errors import InputError
from swinkit.kernels.gpu.layers import embed, feed, on_device_of

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MOST = 24
"""The longest side of a window."""


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
    """`model.window_attention` on a GPU, without dropout: the map is read and written in place, and scores are never in memory.

    qkv (B, H, W, 3, K, D) float32, float16 or bfloat16, bias (K, N, N), scale a float or (K, 1, 1), pad (3, K, D); a shift is shorter
    than its window -> (B, H, W, K * D) in the dtype of qkv. Scores, softmax and sums are float32, so float16 scores neither overflow
    nor are clamped. Gradients of qkv, bias, scale and pad are the same from run to run. Errors: InputError with the sentence of `why_not`.
    """
    obstacle = why_not(qkv.dtype, qkv.shape[-1], window, dropout_p, shift)
    if obstacle is not None:
        raise InputError(f"Fused window attention cannot run: {obstacle}.")
    from swinkit.kernels.gpu import ops

    padding = pad if isinstance(pad, Tensor) else qkv.new_full(qkv.shape[3:], pad)
    factors, factor = (scale, 1.0) if isinstance(scale, Tensor) else (None, scale)
    with on_device_of(qkv):
        return ops.forward(qkv, bias, padding, factors, factor, list(window), list(shift), cosine)[0]  # type: ignore[no-any-return]


attend.feed = feed  # type: ignore[attr-defined]
attend.embed = embed  # type: ignore[attr-defined]


def why_not(dtype: torch.dtype, head_dim: int, window: Size, dropout_p: float = 0.0, shift: Size = (0, 0)) -> str | None:
    """Why `attend` does not take such a call, in a sentence; None if it does."""
    if dtype not in DTYPES:
        return f"the Triton window attention computes in float32, float16 and bfloat16, not in {dtype}"
    if not 8 <= head_dim <= 64 or head_dim % 8:
        return f"the Triton window attention takes heads of 8 to 64 channels in steps of 8, not {head_dim}"
    if max(window) > MOST:
        return f"the Triton window attention takes windows up to {MOST} x {MOST} tokens, not {window[0]} x {window[1]}"
    if not all(0 <= moved < side for moved, side in zip(shift, window, strict=True)):
        return f"the Triton window attention moves windows by less than their sides, not by {shift[0]} x {shift[1]}"
    if dropout_p > 0:
        return "the Triton window attention has no dropout"
    return None


def missing() -> str | None:
    """What this machine lacks for `attend`, in a sentence; None if it can run."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; it comes with PyTorch's wheels for CUDA"
    if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
        return "no CUDA device was found"
    return None


OBSTACLE = missing()
"""The same, found out once: torch.compile cannot look into folders."""
