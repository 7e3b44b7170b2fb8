"""The weights that fine-tuning starts from: whatever can be read, with a head for the classes of the data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit.build import create_model, from_pretrained
from swinkit.checkpoints.files import follow
from swinkit.errors import ConfigError, UnknownNameError
from swinkit.model import SwinTransformer
from swinkit.train.recipe import Recipe
from swinkit.variants import VARIANTS


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that was trained before, in float32, and what was done to it."""

    model: SwinTransformer
    source: str
    head: str
    """What became of its classifier, for a person."""


def load(recipe: Recipe, classes: tuple[str, ...]) -> Loaded:
    """The weights that the recipe's `model` names. The same seed draws the same new head.

    Errors: ConfigError, UnknownNameError, and CheckpointError for weights that are missing, broken or do not fit.
    """
    torch.manual_seed(recipe.seed)
    model = _own(_read(recipe), recipe.model)
    if recipe.ape is not None and recipe.ape != model.config.ape:
        has = "have" if model.config.ape else "have no"
        raise ConfigError(f"ape is {recipe.ape}, but the weights {has} absolute position embedding; leave it out (null in YAML).")
    before, had = model.num_classes, model.labels
    if had == classes and before == len(classes):
        return Loaded(model, recipe.model, f"the head is kept: the same {before} classes in the same order")
    model.reset_classifier(len(classes))
    model.labels = classes
    return Loaded(model, recipe.model, f"the head is new: {len(classes)} classes instead of {_classes(before, had, len(classes))}")


def reload(checkpoint: Path) -> Loaded:
    """The model of a run that goes on; what it was made from is needed no more. Its raw weights come with the training state."""
    return Loaded(_own(from_pretrained(checkpoint), str(checkpoint)), str(checkpoint), "")


def is_source(model: str) -> bool:
    """Whether it says where weights are, and is not the name of an architecture."""
    if not model or model.partition(".")[0] in VARIANTS:
        return False
    return any(mark in model for mark in (":", "/", os.sep)) or Path(model).exists()


def local_source(model: str) -> str:
    """A path made absolute, and of a run the checkpoint that is its best now, for a config.yaml that means the same anywhere and later.

    Names, hub ids and what is not there stay as they are.
    """
    path = Path(model).expanduser()
    if not is_source(model) or not path.exists():
        return model
    for pointer in (path, path / "best", path / "last"):
        if pointer.name in ("best", "last") and pointer.exists():
            return str(follow(pointer).resolve())
    return str(path.absolute())


def _read(recipe: Recipe) -> nn.Module:
    name = recipe.model
    if not name:
        raise ConfigError("pretrained is set without a model; say which weights: --model with a run folder, a path, a name or hf-hub:NAME.")
    changes: dict[str, Any] = {"img_size": recipe.img_size, "window_size": recipe.window_size, "drop_path_rate": recipe.drop_path}
    if is_source(name):
        return from_pretrained(name, **changes)
    if name.partition(".")[0] not in VARIANTS:
        raise UnknownNameError("model", name, VARIANTS, hint="A path or hf-hub:OWNER/NAME works too.")
    return create_model(name, pretrained=True, **changes)


def _own(model: nn.Module, source: str) -> SwinTransformer:
    """In float32 and in memory of its own: what was read may be a view of the file."""
    if not isinstance(model, SwinTransformer):
        raise ConfigError(f"{source} is a backbone; fine-tuning a classifier starts from a whole model (SwinTransformer).")
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32, copy=True)
    return model


def _classes(before: int, had: tuple[str, ...], wanted: int) -> str:
    if before == wanted:
        return f"{before} others" if had else f"{before} without names"
    return f"{before:,}" if before else "none"
