"""From a recipe and the data to the model, the preparation of images, and the augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinkit.config import SwinConfig, pair
from swinkit.data import Augment, Preprocess, Splits
from swinkit.errors import ConfigError
from swinkit.train.layers import check_freeze
from swinkit.train.recipe import Recipe
from swinkit.train.weights import Loaded, is_source, load, reload
from swinkit.variants import get_config

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fashion-mnist": ((0.286,), (0.353,)),
    "fashion-mnist-sample": ((0.286,), (0.353,)),
}
"""Mean and standard deviation of the pixels, measured on the training images."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = ((0.5,), (0.25,))


@dataclass(frozen=True, eq=False)
class Start:
    """What a run trains, decided before anything is written."""

    config: SwinConfig
    preprocess: Preprocess
    loaded: Loaded | None = None
    """The weights it starts from; None: random ones."""


def plan_start(recipe: Recipe, splits: Splits, checkpoint: Path | None = None) -> Start:
    """The architecture and the preparation of images, and with `pretrained` the weights, or those of a run's own checkpoint.

    Errors: ConfigError, UnknownNameError; CheckpointError for weights that cannot be read.
    """
    if not recipe.pretrained:
        config = plan_model(recipe, splits)
        return Start(config, plan_preprocess(recipe, splits, config, {}))
    loaded = load(recipe, splits.classes) if checkpoint is None else reload(checkpoint)
    config = loaded.model.config
    check_freeze(recipe.freeze, config)
    return Start(config, plan_preprocess(recipe, splits, config, loaded.model.preprocess), loaded)


def plan_model(recipe: Recipe, splits: Splits) -> SwinConfig:
    """The named architecture with the data's channels and classes and the recipe's changes."""
    if is_source(recipe.model):
        raise ConfigError(f"model is {recipe.model!r}, which is no name but weights; add pretrained (--pretrained) to start from them.")
    changes = {
        "img_size": recipe.img_size,
        "window_size": recipe.window_size,
        "ape": recipe.ape,
        "drop_path_rate": recipe.drop_path,
        "in_chans": splits.in_chans,
        "num_classes": len(splits.classes),
    }
    return get_config(recipe.model).replace(**{name: value for name, value in changes.items() if value is not None})


def plan_preprocess(recipe: Recipe, splits: Splits, config: SwinConfig, weights: Mapping[str, Any]) -> Preprocess:
    """How images are prepared: the model's size and channels, and what the recipe says, else the weights, else the data.

    weights: the `preprocess` that came with the weights, empty if there is none.
    """
    mean, std = _statistics(recipe, splits, config)
    for name, given in (("mean", recipe.mean), ("std", recipe.std)):
        if given is not None and len(given) != config.in_chans:
            raise ConfigError(
                f"The recipe's {name} has {len(given)} values for images with {config.in_chans} channels; give one per channel."
            )
    return Preprocess(
        size=pair(config.img_size),
        mean=recipe.mean or tuple(weights.get("mean", mean)),
        std=recipe.std or tuple(weights.get("std", std)),
        interpolation=recipe.interpolation or weights.get("interpolation", "bicubic"),
        crop_pct=recipe.crop_pct or weights.get("crop_pct", 1.0),
    )


def _statistics(recipe: Recipe, splits: Splits, config: SwinConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.in_chans not in (1, 3):
        raise ConfigError(f"The weights take {config.in_chans} channels; images are read as grey (1) or RGB (3). Choose other weights.")
    usual = GREY if config.in_chans == 1 else IMAGENET
    return usual if recipe.pretrained and config.in_chans == 3 else STATISTICS.get(splits.name, usual)


def plan_augment(recipe: Recipe) -> Augment:
    """What training does to an image by chance."""
    operations, magnitude = recipe.randaugment()
    return Augment(
        scale=recipe.scale,
        hflip=recipe.hflip,
        crop_padding=recipe.crop_padding,
        randaugment_ops=operations,
        randaugment_magnitude=magnitude,
        color_jitter=recipe.color_jitter,
        erasing=recipe.reprob,
    )
