"""One call of `train`: from arguments to a run folder, and from the best checkpoint to scores and a report."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import swinkit
from swinkit.data import BUILT_IN, open_data
from swinkit.errors import ConfigError
from swinkit.runtimes.device import describe
from swinkit.tasks.classify import Scores
from swinkit.train.checks import adjustments, checked
from swinkit.train.events import Log
from swinkit.train.finish import finish
from swinkit.train.loop import Trainer
from swinkit.train.progress import TrainingProgress
from swinkit.train.recipe import DEFAULT_DATA, Recipe, load_recipe, recipe_for
from swinkit.train.run import Run


@dataclass(frozen=True)
class Trained:
    """What `train` made."""

    run: Path
    """The run folder; Predictor, evaluate and from_pretrained take it."""
    scores: Scores
    """Of the best checkpoint, on the images named by `scored_on`."""
    scored_on: str
    """ "test", or "val" where the data has no test images."""
    report: Path
    """report.html in the run folder."""


def start_run(
    data: str | Path | None,
    recipe: str | Path | None,
    output: str | Path | None,
    options: Mapping[str, Any],
    *,
    command: str,
    console: Console | None,
) -> Trained:
    """Train from the beginning."""
    if recipe is None:
        recipe = recipe_for(str(data or DEFAULT_DATA))
    changes = dict(options) | ({"data": str(data)} if data is not None else {})
    chosen = load_recipe(recipe, **changes)
    if Path(chosen.data).is_dir() and chosen.data not in BUILT_IN:
        chosen = chosen.replace(data=str(Path(chosen.data).resolve()))
    run = Run(Path(output) if output else _new_folder(chosen))
    run.check_free()
    trainer, found = _trainer(chosen, run, console)
    run.create(_config_text(trainer.resolved(), command))
    return _train(trainer, command, console or Console(stderr=True), found)


def resume_run(folder: str | Path, data: Any, recipe: Any, output: Any, options: Mapping[str, Any], *, console: Console | None) -> Trained:
    """Go on with a run from its last checkpoint. Errors: ConfigError if anything but the run is given."""
    given = [name for name, value in (("data", data), ("recipe", recipe), ("output", output), *options.items()) if value is not None]
    if given:
        raise ConfigError(f"resume goes on with a run as it was configured; leave out {', '.join(given)}, or start a new run.")
    run = Run(Path(folder))
    if not run.config.is_file():
        raise ConfigError(f"{folder} is not a run folder (it has no config.yaml); expected one that `swinkit train` wrote.")
    trainer, _ = _trainer(load_recipe(run.config), run, console)
    trainer.resume()
    return _train(trainer, f"swinkit train --resume {folder}", console or Console(stderr=True))


def _trainer(recipe: Recipe, run: Run, console: Console | None) -> tuple[Trainer, list[str]]:
    """The trainer, and what was found in its data. Everything that can be wrong is found here, before anything is written."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    splits, found = checked(recipe, open_data(recipe.data, seed=recipe.seed, val_fraction=recipe.val_fraction), console)
    return Trainer(recipe, splits, run), found


def _train(trainer: Trainer, command: str, console: Console, found: Sequence[str] = ()) -> Trained:
    run, epochs, started = trainer.run, trainer.recipe.epochs, time.monotonic()
    with TrainingProgress(console, epochs, trainer.steps_per_epoch, trainer.step) as progress, Log(run, trainer.step) as log:
        for line in _introduction(trainer, found):
            progress.say(line)
        trainer.fit(progress, log)
    scores, scored_on = finish(trainer, command, time.monotonic() - started, console)
    return Trained(run.folder, scores, scored_on, run.report)


def _introduction(trainer: Trainer, found: Sequence[str]) -> list[str]:
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
        f"recipe  {recipe.epochs} epochs of {trainer.steps_per_epoch} steps, batch {trainer.batch_size * trainer.accumulate}, "
        f"learning rate {recipe.lr:g}, seed {recipe.seed}",
        f"on      {describe(trainer.device)}, {precision}",
        f"run     {trainer.run.folder}",
        *(f"note    {note}" for note in adjustments(trainer)),
    ]
    if trainer.step:
        lines.append(f"resumed at step {trainer.step} of {recipe.epochs * trainer.steps_per_epoch}")
    return lines


def _new_folder(recipe: Recipe) -> Path:
    """runs/DATE-DATA; beside the data where the current folder is the data itself."""
    data = Path(recipe.data)
    name = re.sub(r"[^\w.-]+", "-", data.name).strip("-.")
    runs = Path("runs")
    if data.is_dir() and runs.resolve().is_relative_to(data):
        runs = data.parent / "runs"
    base = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    candidates = (base, *(base.with_name(f"{base.name}-{number}") for number in range(2, 1000)))
    return next(folder for folder in candidates if not folder.exists())


def _config_text(recipe: Recipe, command: str) -> str:
    made_by = f"# {command}\n" if command else ""
    return f"{made_by}# swinkit {swinkit.__version__}, torch {torch.__version__}\n{recipe.to_yaml()}"
