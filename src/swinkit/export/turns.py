"""How the images of a batch go through a trunk of one size: together, or in turns where what all of them need would leave the cache.

A stage's widest tensor is the hidden layer of its MLPs, which halves from stage to stage. While those of all images are larger than the
cache, a runtime that computes layer by layer waits for memory; one image after the other, it waits less. Later stages are the other way
round: weights are large and maps small, and a product over all images reads its weights once.
"""

from __future__ import annotations

from dataclasses import dataclass

from swinkit.config import Size, SwinConfig
from swinkit.export.embedding import grid_of
from swinkit.export.places import halves

LARGE = 4 * 2**20
"""Bytes of the hidden layer for all images, in float32, above which they go in turns: a few times what is next to a processor."""
MOST = 16
"""Turns; each has its own nodes in a graph, with the same weights."""


@dataclass(frozen=True)
class Turns:
    """How the images of a batch go through the stages."""

    images: int | None = None
    """In the batch; None: any number."""
    stages: int = 0
    """Through how many of the first stages they go in turns."""
    at_a_time: int = 1
    """Images per turn."""

    def one_image(self, stage: int) -> bool:
        """Whether a stage never sees more than one."""
        return self.images == 1 or (stage < self.stages and self.at_a_time == 1)


def plan_turns(config: SwinConfig, size: Size, images: int | None) -> Turns:
    """What is best for batches of so many images of a size."""
    if images is None or images == 1:
        return Turns(images)
    grid, stages = grid_of(config, size), 0
    for dim in config.dims:
        tokens = grid[0] * grid[1]
        if tokens < dim or 4 * images * tokens * int(dim * config.mlp_ratio) <= LARGE:
            break  # weights count for more than tokens, or all images have room
        grid, stages = halves(grid), stages + 1
    return Turns(images, stages, -(-images // MOST))
