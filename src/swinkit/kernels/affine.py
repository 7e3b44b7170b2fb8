"""What is done to an engine's outputs in PyTorch: a dense backbone's norms, and the classifier on pooled features from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.backbone import SwinBackbone
from swinkit.model import SwinTrunk


@dataclass(frozen=True)
class Affine:
    """Copies of these layers."""

    norms: dict[int, tuple[Tensor, Tensor]]
    head: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, model: SwinTrunk) -> Affine:
        """Those of a model."""

        def copy(layer: Any) -> tuple[Tensor, Tensor]:
            return layer.weight.detach().float().clone(), layer.bias.detach().float().clone()

        dense = isinstance(model, SwinBackbone) and model.config.size_policy == "dense"
        norms = {stage: copy(model.get_submodule(f"norm{stage}")) for stage in (cast(SwinBackbone, model).out_indices if dense else ())}
        head = getattr(model, "head", None)
        return cls(norms, copy(head) if isinstance(head, nn.Linear) else None)

    @property
    def bytes(self) -> int:
        """Memory of the copies."""
        pairs = [*self.norms.values(), *([self.head] if self.head else [])]
        return sum(tensor.nbytes for pair in pairs for tensor in pair)

    def norm_map(self, stage: int, x: Tensor) -> Tensor:
        """(B, H, W, C) of a stage -> the same after its norm, if it has one."""
        if stage not in self.norms:
            return x
        weight, bias = self.norms[stage]
        return F.layer_norm(x.float(), weight.shape, weight, bias).to(x.dtype)

    def classify(self, pooled: Tensor) -> Tensor:
        """(B, C) -> (B, num_classes), or the same without a classifier."""
        return pooled if self.head is None else F.linear(pooled.float(), *self.head).to(pooled.dtype)
