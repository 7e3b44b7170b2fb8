"""What is put around a spelled model: preparation of images and probabilities, and another dtype.

B images | C channels of an image
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from swinkit.data import Preprocess


class WithPreprocessing(nn.Module):
    """(B, height, width, C) uint8 -> probabilities (B, num_classes), or a backbone's maps."""

    def __init__(self, net: nn.Module, preprocess: Preprocess, classifies: bool) -> None:
        super().__init__()
        self.net, self.classifies = net, classifies
        self.mean = nn.Buffer(torch.tensor(preprocess.mean))
        self.std = nn.Buffer(torch.tensor(preprocess.std))

    def forward(self, images: Tensor) -> Any:
        """Normalises as swinkit.data does, to the bit."""
        prepared = (images.float() * (1 / 255) - self.mean) / self.std
        # Not contiguous(): PyTorch would ask whether there is more than one image, and a column more than one wide.
        outputs = self.net(prepared.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format))
        return outputs.softmax(-1) if self.classifies else outputs


class InDtype(nn.Module):
    """A model that computes in `dtype`, and takes and gives float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net.to(dtype), dtype

    def forward(self, images: Tensor) -> Any:
        """float32 -> float32"""
        outputs = self.net(images.to(self.dtype))
        return outputs.float() if isinstance(outputs, Tensor) else tuple(output.float() for output in outputs)
