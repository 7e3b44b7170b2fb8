"""A whole model in the spelling that is exported: for any size, and for one size with everything that follows from it computed before.

B images | H W token grid | L = H * W | C channels
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from swinkit.backbone import SwinBackbone
from swinkit.config import Size
from swinkit.export.embedding import Embedding
from swinkit.export.layers import Block, Form, Merging
from swinkit.export.one_size import OneSize, blocks_of
from swinkit.export.places import Grid, Places, halves, merging, places, shift_of
from swinkit.export.turns import Turns
from swinkit.model import SwinTransformer, SwinTrunk


def spell(
    model: SwinTransformer | SwinBackbone, size: Size | None = None, *, form: Form | None = None, turns: Turns | None = None
) -> nn.Module:
    """(B, in_chans, height, width) -> what `model` returns, maps as a tuple; for any size, or for images of `size` alone.

    The new module shares weights with `model`, which is in eval mode and not changed. It computes the same, bit for bit, with three
    exceptions, in which numbers are added in another order: the bias of wide layers on padded maps; attention in another `form`; and images
    of a `size` that go in `turns`.
    """
    wanted = model.out_indices if isinstance(model, SwinBackbone) else (len(model.layers) - 1,)
    form, turns = form or Form(), turns or Turns()
    trunk: nn.Module = AnySize(model, wanted) if size is None else OneSize(model, wanted, size, form, turns)
    return Maps(model, trunk) if isinstance(model, SwinBackbone) else Classifier(model, trunk)


class Classifier(nn.Module):
    """Final norm, average and linear layer after a trunk."""

    def __init__(self, model: SwinTransformer, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.norm, self.head = trunk, model.norm, model.head

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> (B, num_classes), or pooled features (B, C) where there are no classes."""
        ((x, _),) = self.trunk(images)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


class Maps(nn.Module):
    """The maps of a backbone, normed where the dense policy wants it."""

    def __init__(self, model: SwinBackbone, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        dense = model.config.size_policy == "dense"
        self.norms = nn.ModuleList(model.get_submodule(f"norm{stage}") if dense else nn.Identity() for stage in model.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, in_chans, height, width) -> a (B, C, H, W) per stage in `out_indices`."""
        found = zip(self.trunk(images), self.norms, strict=True)
        maps = (norm(x).reshape(-1, *grid, x.shape[2]).permute(0, 3, 1, 2) for (x, grid), norm in found)
        # Not contiguous(): PyTorch would ask whether a map is one token wide.
        return tuple(each.clone(memory_format=torch.contiguous_format) for each in maps)


class AnySize(nn.Module):
    """The trunk for images of any size; tokens keep the map's order between blocks."""

    def __init__(self, model: SwinTrunk, wanted: Sequence[int]) -> None:
        super().__init__()
        self.policy, self.wanted = model.config.size_policy, tuple(wanted)
        self.embedding = Embedding(model, None)
        self.stages = nn.ModuleList(nn.ModuleList(Block(block, Form()) for block in blocks_of(stage)) for stage in model.layers)
        self.mergings = nn.ModuleList(Merging(stage.downsample) for stage in model.layers if stage.downsample is not None)

    def forward(self, images: Tensor) -> list[tuple[Tensor, Grid]]:
        """(B, in_chans, height, width) -> (B, L, C) and grid of each wanted stage, before merging."""
        found = []
        x, grid = self.embedding(images)
        for number, blocks in enumerate(self.stages):
            x = self._run(blocks, x, grid)  # type: ignore[arg-type]
            if number in self.wanted:
                found.append((x, grid))
            if number < len(self.mergings):
                x, grid = self.mergings[number](x, *merging(grid, x.device)), halves(grid)
        return found

    def _run(self, blocks: Iterable[Block], x: Tensor, grid: Grid) -> Tensor:
        known: dict[Size, tuple[Places, Tensor]] = {}
        for block in blocks:
            half = block.half_window
            if half not in known:
                known[half] = places(grid, block.window, shift_of(grid, block.window, half, self.policy), x.device)
            where, sides = known[half]
            x = block(x, where, block.attn.table(sides) if any(half) else None)
        return x
