"""The model as it is, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swinkit.runtimes.device import autocast, pick_amp, pick_device


class TorchRuntime:
    """A model in eval mode on one device, in one precision."""

    def __init__(self, model: nn.Module, device: str | torch.device = "auto", amp: bool | None = False) -> None:
        self.device = device if isinstance(device, torch.device) else pick_device(device)
        self.amp = pick_amp(amp, self.device)
        self.model = model.to(self.device).eval()

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32 on the CPU."""
        with torch.inference_mode(), autocast(self.device, self.amp):
            logits: Tensor = self.model(images.to(self.device, non_blocking=True))
        return logits.float().cpu()
