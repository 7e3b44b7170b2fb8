"""From a recipe and the data to the model, the preparation of images, and the augmentation."""

from __future__ import annotations

from swinkit.config import SwinConfig, pair
from swinkit.data import Augment, Preprocess, Splits
from swinkit.errors import ConfigError
from swinkit.train.recipe import Recipe
from swinkit.variants import get_config

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fashion-mnist": ((0.286,), (0.353,)),
    "fashion-mnist-sample": ((0.286,), (0.353,)),
}
"""Mean and standard deviation of the pixels, measured on the training images."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = ((0.5,), (0.25,))


def plan_model(recipe: Recipe, splits: Splits) -> SwinConfig:
    """The named architecture with the data's channels and classes and the recipe's changes."""
    changes = {
        "img_size": recipe.img_size,
        "window_size": recipe.window_size,
        "ape": recipe.ape,
        "drop_path_rate": recipe.drop_path,
        "in_chans": splits.in_chans,
        "num_classes": len(splits.classes),
    }
    return get_config(recipe.model).replace(**{name: value for name, value in changes.items() if value is not None})


def plan_preprocess(recipe: Recipe, splits: Splits, config: SwinConfig) -> Preprocess:
    """How images are prepared: the model's size, and the recipe's or the data's mean and deviation."""
    mean, std = STATISTICS.get(splits.name, GREY if splits.in_chans == 1 else IMAGENET)
    for name, given in (("mean", recipe.mean), ("std", recipe.std)):
        if given is not None and len(given) != splits.in_chans:
            raise ConfigError(
                f"The recipe's {name} has {len(given)} values for images with {splits.in_chans} channels; give one per channel."
            )
    return Preprocess(size=pair(config.img_size), mean=recipe.mean or mean, std=recipe.std or std, crop_pct=recipe.crop_pct)


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
