"""The model card of a finished run: data, recipe, scores, and what it was made with."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from swinkit.checkpoints.card import Result, Story, make_card
from swinkit.checkpoints.native import SavedModel, write_card
from swinkit.environment import read_environment
from swinkit.tasks.scores import Scores, percent
from swinkit.tasks.text import clock
from swinkit.train.recipe import Recipe

if TYPE_CHECKING:
    from swinkit.train.loop import Trainer

ON_HUB = dict.fromkeys(("fashion-mnist", "fashion-mnist-sample"), "zalando-datasets/fashion_mnist")
"""Built-in data -> its name on the hub."""


def write_run_card(trainer: Trainer, saved: SavedModel, scores: Scores, scored_on: str, command: str, seconds: float) -> None:
    """Put the card into the best checkpoint; saved: what it holds."""
    splits, run = trainer.splits, trainer.run
    metrics = {"accuracy": ("Accuracy", scores.top1)}
    result = Result(_public(splits.name), scored_on, metrics, _on_hub(trainer.recipe.data))
    sections = {
        "Scores": _scores(scores, scored_on),
        "Data": _data(trainer),
        "Training": _training(trainer.recipe, command, seconds),
        "Environment": _environment(run.folder),
    }
    card = make_card(saved, Story(run.folder.resolve().name, [result], sections))
    write_card(run.checkpoint("best"), card)


def _on_hub(data: str) -> str | None:
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+?)(?:[/@#].*)?", data)
    return found[1] if found else ON_HUB.get(data)


def _scores(scores: Scores, scored_on: str) -> str:
    chose = "" if scored_on == "test" else " They also chose the checkpoint, since there were no test images."
    top1 = f"{percent(scores.top1)} ± {100 * scores.top1_standard_error:.1f} (standard error)"
    others = f"loss {scores.loss:.4f}, calibration error {percent(scores.ece)}"
    return f"Top-1 accuracy {top1}, {others}, on {scores.count:,} {scored_on} images.{chose}"


def _data(trainer: Trainer) -> str:
    splits = trainer.splits
    counts = {"train": splits.train, "validate": splits.val, "test": splits.test}
    said = ", ".join(f"{len(images):,} to {what}" for what, images in counts.items() if images is not None)
    return f"{_public(splits.name)}: {said}; {len(splits.classes):,} classes."


def _training(recipe: Recipe, command: str, seconds: float) -> str:
    usual, kept = asdict(Recipe()), asdict(recipe)
    changed = {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items() if value != usual[name]}
    options = {"model": recipe.model, "seed": recipe.seed, **changed} | {"data": _public(recipe.data)}
    typed = f"```console\n$ {_without_places(command)}\n```\n\n" if command else ""
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return f"{typed}Trained for {clock(seconds)}; what differs from the defaults of `swinkit train`:\n\n```yaml\n{text}```"


def _environment(folder: Path) -> str:
    sessions = read_environment(folder)
    if not sessions:
        return ""
    last = sessions[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last.get("versions", {}).items())
    hardware = ", ".join([str(last.get("cpu", "")), *map(str, last.get("gpus", ()))])
    return f"{versions}. {hardware}, {last.get('threads', '?')} threads, {last.get('processes', 1)} processes."


def _without_places(command: str) -> str:
    """The command as typed, but of folders on this machine only the last part: cards are made to be shown."""
    return shlex.join(_public(part) for part in shlex.split(command))


def _public(part: str) -> str:
    """A name or an option without the folders that lead to it."""
    option, mark, value = part.partition("=")
    if mark and option.startswith("-"):
        return f"{option}={_public(value)}"
    prefix = "hf:" if part.startswith("hf:") else ""
    path = part.removeprefix(prefix)
    return prefix + Path(path).name if path.startswith(("/", "~")) else part
