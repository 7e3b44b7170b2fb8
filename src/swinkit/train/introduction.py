"""What a person reads before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from swinkit.runtimes.device import describe
from swinkit.train.checks import adjustments
from swinkit.train.layers import frozen_words, layer_name, layer_of, layer_scales
from swinkit.train.loop import Trainer


def introduction(trainer: Trainer, found: Sequence[str]) -> list[str]:
    """What is trained, from what, on what, where; and what is not as asked for."""
    recipe, splits = trainer.recipe, trainer.splits
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    precision = str(trainer.amp or torch.float32).removeprefix("torch.")
    counts = f"{len(splits.train):,} images to train on, {len(splits.val):,} to validate"
    test = f", {len(splits.test):,} to test" if splits.test is not None else ""
    lines = [
        f"data    {splits.name}, {len(splits.classes)} classes: {counts}{test}",
        *found,
        f"model   {recipe.model}: {parameters / 1e6:.2f} M parameters, {trainer.config.in_chans} x "
        f"{trainer.preprocess.size[0]} x {trainer.preprocess.size[1]} pixels in",
        *_weights(trainer),
        f"recipe  {recipe.epochs} epochs of {trainer.steps_per_epoch} steps, {_batch(trainer)}, "
        f"learning rate {recipe.lr:g}, seed {recipe.seed}",
        f"on      {describe(trainer.device)}, {precision}",
        f"run     {trainer.run.folder}",
        *(f"note    {note}" for note in adjustments(trainer)),
    ]
    total = recipe.epochs * trainer.steps_per_epoch
    if trainer.step == total:
        lines.append("done    the run was trained to its end already; it is scored again. For more epochs start a new run")
    elif trainer.step:
        lines.append(f"resumed at step {trainer.step} of {total}")
    return lines


def _batch(trainer: Trainer) -> str:
    """ "batch 64", or how it comes together."""
    factors = [(trainer.accumulate, "accumulated"), (trainer.world.size, "processes")]
    parts = [str(trainer.batch_size), *(f"{number} {what}" for number, what in factors if number > 1)]
    return f"batch {trainer.images_per_step}" + (f" ({' x '.join(parts)})" if len(parts) > 1 else "")


def _weights(trainer: Trainer) -> Iterator[str]:
    """What fine-tuning starts from, what of it stays, and how fast the rest learns."""
    loaded, recipe, depths = trainer.start.loaded, trainer.recipe, trainer.config.depths
    if loaded and loaded.head:
        yield f"weights of {loaded.source}; {loaded.head}"
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in trainer.model.parameters()]
    if recipe.freeze:
        trained, total = sum(count for count, learns in counts if learns), sum(count for count, _ in counts)
        yield f"frozen  {frozen_words(recipe.freeze)}: {trained:,} of {total:,} parameters are trained"
    if recipe.layer_decay < 1:
        scales = layer_scales(trainer.model, recipe.layer_decay)
        name = next(name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad)
        if scales[name] == 1:
            return
        first = layer_name(layer_of(name, depths), depths)
        muon = f" ({recipe.muon_lr * scales[name]:.2g} to {recipe.muon_lr:g} for Muon)" if recipe.opt == "muon" else ""
        yield f"rates   {recipe.lr * scales[name]:.2g} in {first} to {recipe.lr:g} in the head{muon}, x {recipe.layer_decay:g} a layer"
