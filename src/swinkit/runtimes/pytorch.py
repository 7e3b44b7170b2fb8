"""The model as it is, in PyTorch."""

from __future__ import annotations

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

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32 on the CPU."""
        with self.no_grad(), autocast(self.device, self.amp):
            logits: Tensor = self.model(images.to(self.device, non_blocking=True))
        return logits.float().cpu()
