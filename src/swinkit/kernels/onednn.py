"""Matrix products through oneDNN, where that is faster than what PyTorch takes by itself."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


@cache
def wins() -> bool:
    """Whether float32 products are faster through oneDNN here: PyTorch takes MKL, which on x86 processors of others than Intel leaves
    AVX-512 unused. Decided by the processor and not by timing, so that two runs on one machine compute alike."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "GenuineIntel" not in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (..., K) times b (N, K) transposed, plus bias (N,) -> (..., N)."""
    if a.dtype == torch.float32 and a.device.type == "cpu" and wins():
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(a, b, bias)
