"""The model as it is, in PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swinkit.runtimes.device import autocast


class TorchRuntime:
    """A model in eval mode on one device; `amp` is the dtype of mixed precision, None: the model's own."""

    def __init__(self, model: nn.Module, device: torch.device, amp: torch.dtype | None = None) -> None:
        self.device, self.amp = device, amp
        self.model = model.to(self.device).eval()

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32 on the CPU."""
        with torch.inference_mode(), autocast(self.device, self.amp):
            logits: Tensor = self.model(images.to(self.device, non_blocking=True))
        return logits.float().cpu()
