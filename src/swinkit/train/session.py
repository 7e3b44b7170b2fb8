"""One call of `train`: from arguments to a run folder, and from the best checkpoint to scores and a report."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import swinkit
from swinkit.data import absolute_source, open_data
from swinkit.data.check import apply, report
from swinkit.environment import read_environment, record_environment
from swinkit.errors import ConfigError, TrainingError
from swinkit.tasks.classify import Scores
from swinkit.train.checks import check_device, look_for_all
from swinkit.train.events import Log, MakeLogger, NoLog
from swinkit.train.finish import finish
from swinkit.train.introduction import introduction
from swinkit.train.loop import Trainer
from swinkit.train.plan import plan_start
from swinkit.train.progress import TrainingProgress
from swinkit.train.recipe import DEFAULT_DATA, Recipe, load_recipe, recipe_for
from swinkit.train.run import Run
from swinkit.train.snapshot import resume
from swinkit.train.weights import local_source
from swinkit.train.world import World, open_world


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
    loggers: Sequence[MakeLogger] = (),
) -> Trained:
    """Train from the beginning."""
    with open_world() as world:
        return _start(world, data, recipe, output, options, command, console, loggers)


def _start(
    world: World,
    data: str | Path | None,
    recipe: str | Path | None,
    output: str | Path | None,
    options: Mapping[str, Any],
    command: str,
    console: Console | None,
    loggers: Sequence[MakeLogger],
) -> Trained:
    # A function of its own, so that the trainer is gone before the processes part: torch waits for what still uses their connection.
    with world.together():
        chosen = _recipe(data, recipe, options)
    run = Run(Path(world.share(output or _new_folder(chosen))))
    with world.together():
        run.check_free()
    trainer, found = _trainer(chosen, run, world, console)
    with world.together():
        if world.first:
            run.create(_config_text(trainer.resolved(), command))
    return _train(trainer, command, console, loggers, found)


def _recipe(data: str | Path | None, recipe: str | Path | None, options: Mapping[str, Any]) -> Recipe:
    if recipe is None:
        recipe = recipe_for(str(data or DEFAULT_DATA), pretrained=bool(options.get("pretrained")))
    changes = dict(options) | ({"data": str(data)} if data is not None else {})
    chosen = load_recipe(recipe, **changes)
    return chosen.replace(data=absolute_source(chosen.data), model=local_source(chosen.model) if chosen.pretrained else chosen.model)


def resume_run(
    folder: str | Path,
    data: Any,
    recipe: Any,
    output: Any,
    options: Mapping[str, Any],
    *,
    command: str,
    console: Console | None,
    loggers: Sequence[MakeLogger] = (),
) -> Trained:
    """Go on with a run from its last checkpoint. Errors: ConfigError if anything but the run is given."""
    with open_world() as world:
        with world.together():
            given = [
                name for name, value in (("data", data), ("recipe", recipe), ("output", output), *options.items()) if value is not None
            ]
            if given:
                raise ConfigError(f"resume goes on with a run as it was configured; leave out {', '.join(given)}, or start a new run.")
        return _go_on(world, Path(folder), command, console, loggers)


def _go_on(world: World, folder: Path, command: str, console: Console | None, loggers: Sequence[MakeLogger]) -> Trained:
    run = Run(folder)
    with world.together():
        if not folder.exists():
            raise ConfigError(f"There is no {folder}; expected a run folder that `swinkit train` wrote.")
        if not run.config.is_file():
            raise ConfigError(f"{folder} is not a run folder (it has no config.yaml); expected one that `swinkit train` wrote.")
        chosen = same_steps(load_recipe(run.config), run, world)
    trainer, _ = _trainer(chosen, run, world, console, run.checkpoint("last") if run.has("last") else None)
    return _train(trainer, command or f"swinkit train --resume {shlex.quote(str(folder))}", console, loggers, again=True)


def same_steps(recipe: Recipe, run: Run, world: World) -> Recipe:
    """The recipe with the batch that makes the run's steps in this number of processes."""
    facts = run.facts()
    if facts is None:
        sessions = read_environment(run.folder)
        processes = sessions[0].get("processes", 1) if sessions else 1
        facts = {"images_per_step": recipe.batch_size * recipe.grad_accum_steps * processes, "grad_accum_steps": recipe.grad_accum_steps}
    share, rest = divmod(facts["images_per_step"], facts["grad_accum_steps"] * world.size)
    if rest:
        raise ConfigError(
            f"The run takes {facts['images_per_step']} images in a step, which {world.size} processes cannot share evenly; "
            "go on with another number of processes."
        )
    return recipe.replace(batch_size=share, grad_accum_steps=facts["grad_accum_steps"])


def _trainer(recipe: Recipe, run: Run, world: World, console: Console | None, checkpoint: Path | None = None) -> tuple[Trainer, list[str]]:
    """The trainer, and what was found in its data. Everything that can be wrong is found here, before anything is written.

    checkpoint: of a run that goes on; it stands in for the weights that the run started from.
    """
    with world.together():
        _share_threads(recipe, world)
        splits = open_data(recipe.data, seed=recipe.seed, val_fraction=recipe.val_fraction)
        check_device(recipe, world)
        start = plan_start(recipe, splits, checkpoint)
    findings = look_for_all(start, splits, world, console)
    with world.together():
        usable = apply(splits, findings, recipe.skip_broken)
        trainer = Trainer(recipe, usable, run, world, start)
    return trainer, report(findings, splits)


def _share_threads(recipe: Recipe, world: World) -> None:
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    elif world.size > 1:
        torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", world.size)), 1))


def _train(
    trainer: Trainer,
    command: str,
    console: Console | None,
    loggers: Sequence[MakeLogger],
    found: Sequence[str] = (),
    again: bool = False,
) -> Trained:
    run, world, started = trainer.run, trainer.world, time.monotonic()
    console = (console or Console(stderr=True)) if world.first else Console(quiet=True)
    with ExitStack() as stack:
        with world.together():
            if world.first:
                stack.enter_context(run.locked())
        if again:
            resume(trainer)
        with ExitStack() as fitting:
            with world.together():
                if world.first:
                    fitting.enter_context(record_environment(run.folder, command, trainer.step))
                progress = fitting.enter_context(TrainingProgress(console, trainer.recipe.epochs, trainer.steps_per_epoch, trainer.step))
                log = _log(trainer, loggers)
                fitting.push(log)
            for line in introduction(trainer, found):
                progress.say(line)
            _fit(trainer, progress, log)
        trained = None
        with world.together():
            if world.first:
                trained = Trained(run.folder, *finish(trainer, command, time.monotonic() - started, console), run.report)
        result: Trained = world.share(trained)
        return result


def _fit(trainer: Trainer, progress: TrainingProgress, log: Log | NoLog) -> None:
    run = trainer.run
    try:
        trainer.fit(progress, log)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise TrainingError(
            f"Reading or writing failed at step {trainer.step} ({error.strerror or error}{where}). {run.last_good()} "
            f"When that is mended, go on with: swinkit train --resume {shlex.quote(str(run.folder))}"
        ) from error


def _log(trainer: Trainer, loggers: Sequence[MakeLogger]) -> Log | NoLog:
    return Log(trainer.run, asdict(trainer.resolved()), trainer.step, loggers) if trainer.world.first else NoLog()


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
    made_by = f"# {' '.join(command.splitlines())}\n" if command else ""
    return f"{made_by}# swinkit {swinkit.__version__}, torch {torch.__version__}\n{recipe.to_yaml()}"
