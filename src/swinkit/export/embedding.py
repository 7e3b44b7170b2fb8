"""Patch and position embedding as they are exported.

B images | H W token grid | L = H * W | C channels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinkit.config import Size, SwinConfig, pair
from swinkit.export.layers import constant
from swinkit.export.places import Grid
from swinkit.model import SwinTrunk


class Embedding(nn.Module):
    """Patch and position embedding; `size` is that of all images, or None."""

    def __init__(self, model: SwinTrunk, size: Size | None) -> None:
        super().__init__()
        self.config, self.size = model.config, size
        self.patch, self.proj, self.norm = model.patch_embed.patch, model.patch_embed.proj, model.patch_embed.norm
        table: Tensor | None = model.absolute_pos_embed
        if table is not None:
            table = table if table.ndim == 4 else table.transpose(1, 2).unflatten(2, model.config.grids[0])  # 1, C, H, W
            grid = table.shape[2:] if size is None else grid_of(model.config, size)
            table = table if tuple(grid) == tuple(table.shape[2:]) else F.interpolate(table, size=grid, mode="bicubic")
        self.position = constant(table)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """(B, in_chans, height, width) -> (B, L, C) and the grid (H, W)."""
        bottom, right = padding(self.config, self.size or (images.shape[2], images.shape[3]))
        if self.size is None or bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        x = self.proj(images).permute(0, 2, 3, 1)
        grid = (x.shape[1], x.shape[2])
        x = self.norm(x)
        if self.position is not None:
            # At equal sizes the interpolation is the identity, exactly.
            position = self.position if self.size else F.interpolate(self.position, size=grid, mode="bicubic")
            x = x + position.permute(0, 2, 3, 1)
        return x.flatten(1, 2), grid


def padding(config: SwinConfig, image: Grid) -> Grid:
    """Pixels to add at the bottom and on the right so that patches divide an image; none where its policy drops the rest."""
    patch, planned = pair(config.patch_size), pair(config.img_size)
    if config.size_policy == "per_axis":
        return (0, 0)
    missing = tuple((length + side - 1) // side * side - length for length, side in zip(image, patch, strict=True))
    if config.size_policy == "dense" or not any(length % side for length, side in zip(planned, patch, strict=True)):
        return missing[0], missing[1]
    # The original classifier drops the rest at the one size that it accepts.
    other = torch.sym_max(*(torch.sym_max(length - wanted, wanted - length) for length, wanted in zip(image, planned, strict=True)))
    return torch.sym_min(missing[0], missing[0] * other), torch.sym_min(missing[1], missing[1] * other)


def grid_of(config: SwinConfig, image: Size) -> Size:
    """The tokens of an image along its sides."""
    rows, columns = (
        (length + more) // side for length, more, side in zip(image, padding(config, image), pair(config.patch_size), strict=True)
    )
    return rows, columns
