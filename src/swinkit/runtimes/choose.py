"""Which runtime a model gets on a device."""

from __future__ import annotations

import torch

from swinkit.model import SwinTransformer
from swinkit.runtimes.device import pick_amp
from swinkit.runtimes.prepared import PreparedRuntime
from swinkit.runtimes.pytorch import TorchRuntime
from swinkit.standard import difference


def open_runtime(model: SwinTransformer, device: torch.device, amp: bool | None) -> TorchRuntime | PreparedRuntime:
    """On the CPU a prepared copy, elsewhere the model itself. amp: bfloat16 (None: where the hardware computes in it)."""
    dtype = pick_amp(amp, device)
    # A model in float64 is meant to be exact, and what is prepared sums in float32.
    if device.type == "cpu" and difference(model) is None and model.norm.weight.dtype != torch.float64:
        return PreparedRuntime(model, dtype or torch.float32)
    return TorchRuntime(model, device, dtype)
