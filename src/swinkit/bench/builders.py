"""swinkit's own ways to run a model, made in a worker's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import swinkit
from swinkit.bench.jobs import Call, Engine, Job
from swinkit.errors import ConfigError


def images(job: Job) -> np.ndarray:
    """(batch_size, channels, height, width) float32"""
    return np.ascontiguousarray(np.load(job.images, mmap_mode="r")[: job.batch_size])


def arrays(outputs: Any) -> Sequence[np.ndarray]:
    """A tensor, or a sequence of tensors, as float32 arrays."""
    tensors = [outputs] if isinstance(outputs, Tensor) else outputs
    return [tensor.float().numpy() for tensor in tensors]


def in_pytorch(job: Job, model: nn.Module, says: str, pick: Callable[[Any], Any] = lambda outputs: outputs) -> Engine:
    """A module of PyTorch on the job's images; bfloat16 is autocast. pick: from what it returns to the outputs."""
    x, model = torch.from_numpy(images(job)), model.eval()
    how = "autocast" if job.dtype == "bfloat16" else "eager"
    if job.compile:
        model, how = compiled(model), "torch.compile" if job.dtype == "float32" else "torch.compile of autocast"

    def call() -> Sequence[np.ndarray]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=job.dtype == "bfloat16"):
            return arrays(pick(model(x)))

    return Engine(call, f"{says}, {how}")


def compiled(model: nn.Module) -> nn.Module:
    """Through torch.compile with the weights as constants, which is its fastest way for inference."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(model)  # type: ignore[return-value]


def plain(job: Job) -> Engine:
    """The model as it is."""
    return in_pytorch(job, swinkit.from_pretrained(job.weights), f"swinkit {swinkit.__version__}")


def prepared(job: Job) -> Engine:
    """`swinkit.prepare`, with the engine that it chooses. The original is dropped, as a program that only infers would do."""
    fast = swinkit.prepare(swinkit.from_pretrained(job.weights), dtype=getattr(torch, job.dtype))
    if str(fast.engine.dtype) != f"torch.{job.dtype}":
        raise ConfigError(f"The engine computes in {fast.engine.dtype} and not in {job.dtype}.")
    x = torch.from_numpy(images(job))
    call: Call = lambda: arrays(fast(x))  # noqa: E731
    return Engine(call, f"{fast.engine.name}: {fast.engine.reason}")
