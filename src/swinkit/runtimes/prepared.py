"""The model made ready for the CPU by `swinkit.prepare`."""

from __future__ import annotations

import torch
from torch import Tensor

from swinkit.model import SwinTransformer
from swinkit.prepare import prepare


class PreparedRuntime:
    """A prepared copy of a classifier; the model that was given is not kept."""

    def __init__(self, model: SwinTransformer, dtype: torch.dtype) -> None:
        self.model = prepare(model, dtype=dtype)

    @property
    def about(self) -> str:
        """What runs, in words: "fused engine, float32, 2 threads"."""
        engine = self.model.engine
        return f"{engine.name} engine, {str(engine.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32."""
        logits: Tensor = self.model(images.cpu())
        return logits.float()

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> what the classifier would take: pooled features (B, D) float32."""
        return self.model.pooled(images.cpu()).float()
