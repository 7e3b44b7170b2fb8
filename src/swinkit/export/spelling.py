"""A whole model in the spelling that is exported: for any size, and for one size with everything that follows from it computed before.

    B images | H W token grid | L = H * W | C channels
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from swinkit.backbone import SwinBackbone
from swinkit.config import Size
from swinkit.export.embedding import Embedding, grid_of
from swinkit.export.places import Grid, halves
from swinkit.export.stages import Stage, StoredStage
from swinkit.model import SwinTransformer, SwinTrunk


def spell(model: SwinTransformer | SwinBackbone, size: Size | None = None) -> nn.Module:
    """(B, in_chans, height, width) -> what `model` returns, maps as a tuple; for any size, or for images of `size` alone.

    The new module shares the weights of `model`, which is in eval mode and not changed. Bit for bit it computes the same in float32.
    """
    return Maps(model, size) if isinstance(model, SwinBackbone) else Classifier(model, size)


class Trunk(nn.Module):
    """Patch embedding and stages."""

    def __init__(self, model: SwinTrunk, wanted: Sequence[int], size: Size | None) -> None:
        super().__init__()
        self.wanted, policy = tuple(wanted), model.config.size_policy
        self.embedding, self.stages = Embedding(model, size), nn.ModuleList()
        grid: Grid | None = None if size is None else grid_of(model.config, size)
        for stage in model.layers:
            self.stages.append(Stage(stage, policy) if grid is None else StoredStage(stage, policy, grid))
            grid = None if grid is None else halves(grid)

    def forward(self, images: Tensor) -> list[tuple[Tensor, Grid]]:
        """(B, in_chans, height, width) -> (B, L, C) and grid of each wanted stage, before merging."""
        found = []
        x, grid = self.embedding(images)
        for number, stage in enumerate(self.stages):
            x = stage.run_blocks(x, grid)
            if number in self.wanted:
                found.append((x, grid))
            x, grid = stage.merge(x, grid)
        return found


class Classifier(nn.Module):
    """Final norm, average and linear layer after a trunk."""

    def __init__(self, model: SwinTransformer, size: Size | None) -> None:
        super().__init__()
        self.trunk, self.norm, self.head = Trunk(model, (len(model.layers) - 1,), size), model.norm, model.head

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, num_classes), or pooled features (B, C) where there are no classes."""
        ((x, _),) = self.trunk(images)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


class Maps(nn.Module):
    """The maps of a backbone, normed where the dense policy wants it."""

    def __init__(self, model: SwinBackbone, size: Size | None) -> None:
        super().__init__()
        self.trunk = Trunk(model, model.out_indices, size)
        dense = model.config.size_policy == "dense"
        self.norms = nn.ModuleList(model.get_submodule(f"norm{stage}") if dense else nn.Identity() for stage in model.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, in_chans, height, width) -> a (B, C, H, W) per stage in `out_indices`."""
        found = zip(self.trunk(images), self.norms, strict=True)
        return tuple(norm(x).reshape(-1, *grid, x.shape[2]).permute(0, 3, 1, 2).contiguous() for (x, grid), norm in found)
