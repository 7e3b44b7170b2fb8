"""The rate of the machine's matrix products: what is made of them cannot be faster."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from swinkit.bench.jobs import Job
from swinkit.errors import SwinkitError
from swinkit.kernels.cpu import library

SECONDS = 0.1
"""How long each of the two is measured at a time."""
ROWS = 98
"""Two windows of 7 x 7: what the library works on at a time."""


def build(job: Job) -> Gemm:
    """A `Gemm` for the job's dtype, threads and shapes."""
    return Gemm(job)


class Gemm:
    """Measures GFLOP/s, best of several: swinkit's own kernel in cache, and oneDNN on the model's linear layers through PyTorch."""

    says = "GFLOP/s of matrix products"

    def __init__(self, job: Job) -> None:
        self.job = job
        dtype = getattr(torch, job.dtype)
        self.linears = [linear(rows, inputs, outputs, dtype) for rows, inputs, outputs in job.shapes]

    def rate(self) -> dict[str, float]:
        """ "swinkit" and "oneDNN" -> GFLOP/s; without those that cannot be measured here."""
        found = {"swinkit": self._library(), "oneDNN": self._onednn()}
        return {name: rate for name, rate in found.items() if rate > 0}

    def _library(self) -> float:
        try:
            isa, number = library.chosen_isa(), {"float32": library.FLOAT32, "bfloat16": library.BFLOAT16}[self.job.dtype]
            if self.job.dtype == "bfloat16" and not library.has(isa, library.BFLOAT16):
                return 0.0
            return library.gemm_rate(isa, number, rows=ROWS, seconds=SECONDS, threads=self.job.threads)
        except SwinkitError:
            return 0.0

    def _onednn(self) -> float:
        best = 0.0
        for (rows, inputs, outputs), call in zip(self.job.shapes, self.linears, strict=True):
            best = max(best, 2e-9 * rows * inputs * outputs / fastest(call, SECONDS / len(self.linears)))
        return best


def linear(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> Callable[[], object]:
    """A call of one linear layer; through oneDNN with its weight reordered, because F.linear in float32 is another library's."""
    x, weight, bias = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype), torch.zeros(outputs, dtype=dtype)
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return lambda: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def fastest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest call within about so many seconds."""
    until, best = time.perf_counter() + seconds, float("inf")
    call()
    while True:
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        best = min(best, ended - started)
        if ended >= until:
            return best
