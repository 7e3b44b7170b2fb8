"""The model as it is, in PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from swinkit.runtimes.device import autocast


class TorchRuntime:
    """A model in eval mode on one device; `amp` is the dtype of mixed precision, None: the model's own.

    sharded: the model's weights are spread over processes, which put them together to compute; all must run equally often.
    """

    def __init__(self, model: nn.Module, device: torch.device, amp: torch.dtype | None = None, sharded: bool = False) -> None:
        self.device, self.amp = device, amp
        # Weights put together in inference mode could not be trained on afterwards.
        self.no_grad = torch.no_grad if sharded else torch.inference_mode
        self.model = model.to(self.device).eval()

    @property
    def about(self) -> str:
        """What runs, in words."""
        weight: Any = next(self.model.parameters())
        return f"PyTorch on {self.device}, {str(self.amp or weight.dtype).removeprefix('torch.')}"

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32 on the CPU."""
        with self.no_grad(), autocast(self.device, self.amp):
            logits: Tensor = self.model(images.to(self.device, non_blocking=True))
        return logits.float().cpu()

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> what the classifier would take: pooled features (B, D) float32 on the CPU."""
        model: Any = self.model
        with torch.inference_mode(), autocast(self.device, self.amp):
            given = images.to(self.device, model.norm.weight.dtype, non_blocking=True)
            pooled: Tensor = model.forward_head(model.forward_features(given), pre_logits=True)
        return pooled.float().cpu()
