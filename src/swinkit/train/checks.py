"""What is found out before the first step: in the data, and where the recipe does not fit it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from swinkit.config import pair
from swinkit.console import Bar
from swinkit.data import Splits
from swinkit.data.check import Findings, look
from swinkit.runtimes.device import pick_device
from swinkit.train.plan import Start
from swinkit.train.recipe import Recipe
from swinkit.train.world import World

if TYPE_CHECKING:
    from rich.console import Console

    from swinkit.train.loop import Trainer


def check_device(recipe: Recipe, world: World) -> None:
    """A mistake in the recipe need not wait for the end of a long look. Errors: ConfigError."""
    pick_device(recipe.device, world.local_rank if world.size > 1 else None)


def look_for_all(start: Start, splits: Splits, world: World, console: Console | None) -> Findings:
    """What is in the images; of several processes the first looks and tells the others."""
    found = None
    with world.together():
        if world.first:
            found = _look(splits, pair(start.config.patch_size), console)
    return Findings.from_dict(world.share(found))


def _look(splits: Splits, patch: tuple[int, int], console: Console | None) -> dict[str, Any]:
    with Bar("looking at the images", console=console) as update:
        return look(splits, patch=patch, progress=update).to_dict()


def adjustments(trainer: Trainer) -> Iterator[str]:
    """Sentences on what is not as the recipe asks for, or hardly meant."""
    recipe, images, grid = trainer.recipe, len(trainer.splits.train), trainer.config.grids[0]
    if trainer.batch_size < recipe.batch_size:
        yield f"batch_size {recipe.batch_size:,} is more than the {images:,} training images allow; {trainer.batch_size:,} is used instead"
    if trainer.accumulate < recipe.grad_accum_steps:
        yield (f"grad_accum_steps {recipe.grad_accum_steps:,} is more than the batches of an epoch; {trainer.accumulate:,} is used instead")
    if recipe.shard and trainer.world.size == 1:
        yield "shard shares the weights out among processes, and there is only this one; --nproc or torchrun start more"
    if trainer.config.in_chans != trainer.splits.in_chans:
        yield "the images are grey and are read as RGB" if trainer.config.in_chans == 3 else "the images have colours and are read as grey"
    if min(grid) < min(window := trainer.config.asked_windows[0]):
        yield (
            f"an image has {grid[0]} x {grid[1]} patches, less than one window of {window[0]} x {window[1]}; "
            "a larger --img-size or a smaller --window-size fits better"
        )
