"""From a PIL image to a normalised tensor, for evaluation and for training; every step is torchvision's.

Letters: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from swinkit.errors import ConfigError
from swinkit.fields import require

Transform: TypeAlias = Callable[[Image.Image], Tensor]

RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
INTERPOLATIONS = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """What a model wants to be shown; goes with its weights."""

    size: tuple[int, int]
    """(height, width) in pixels; an int is taken as a square."""
    mean: tuple[float, ...]
    """Subtracted per channel, on a scale where pixels lie in [0, 1]."""
    std: tuple[float, ...]
    """Divided by per channel, after the mean is gone."""
    interpolation: str = "bicubic"
    """"bicubic" or "bilinear", always antialiased."""
    crop_pct: float = 1.0
    """The part of the resized shorter side that the centre crop keeps, in (0, 1]."""

    def __post_init__(self) -> None:
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        object.__setattr__(self, "size", _numbers("size", size, int))
        object.__setattr__(self, "mean", _numbers("mean", self.mean, float))
        object.__setattr__(self, "std", _numbers("std", self.std, float))
        require(len(self.size) == 2 and min(self.size) > 0, "size", self.size, "a height and a width above 0")
        require(len(self.mean) in (1, 3), "mean", self.mean, "one value for grey or three for RGB")
        require(len(self.std) == len(self.mean) and min(self.std) > 0, "std", self.std, "a value above 0 for each one of mean")
        require(self.interpolation in INTERPOLATIONS, "interpolation", self.interpolation, " or ".join(INTERPOLATIONS))
        require(_is_number(self.crop_pct) and 0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "a number above 0 and up to 1")

    @property
    def mode(self) -> str:
        """The PIL mode in which images are read: "L" for one channel, else "RGB"."""
        return "L" if len(self.mean) == 1 else "RGB"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of to_dict, from its `values`. Raises ConfigError for a field that is unknown, missing or wrong."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"Preprocess has no field {unknown[0]!r}; it has {', '.join(sorted(known))}. Remove it.")
        if missing := [name for name in ("size", "mean", "std") if name not in values]:
            raise ConfigError(f"Preprocess needs {missing[0]!r}, which is missing. Add it.")
        return cls(**values)


@dataclass(frozen=True)
class Augment:
    """What training does to an image by chance, in the order of the fields."""

    scale: tuple[float, float] | None = None
    """Smallest and largest part of the area that a random resized crop keeps; None resizes the shorter side to the size instead."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Narrowest and widest shape (width / height) of the random resized crop."""
    hflip: float = 0.5
    """Probability of a mirror image."""
    crop_padding: int = 0
    """Black pixels laid around the image before the size is cropped out of it at random, without scale; 0 only crops what sticks out."""
    randaugment_ops: int = 0
    """How many operations RandAugment applies to each image; 0 is off."""
    randaugment_magnitude: int = 9
    """How strongly RandAugment acts, 0 to 30."""
    color_jitter: float = 0.0
    """Brightness, contrast and, in colour, saturation vary by a factor within 1 ± this; 0 is off."""
    erasing: float = 0.0
    """Probability that a random rectangle becomes grey (0 after normalisation)."""

    def __post_init__(self) -> None:
        if self.scale is not None:
            _check_range("scale", self, largest=1.0)
            require(self.crop_padding == 0, "crop_padding", self.crop_padding, "0 together with scale, which crops already")
        _check_range("ratio", self, largest=math.inf)
        for name in ("hflip", "erasing"):
            require(_is_number(value := getattr(self, name)) and 0 <= value <= 1, name, value, "a probability between 0 and 1")
        for name in ("randaugment_ops", "crop_padding"):
            require(_is_int(value := getattr(self, name)) and value >= 0, name, value, "a whole number from 0")
        require(
            _is_int(self.randaugment_magnitude) and 0 <= self.randaugment_magnitude <= 30,
            *("randaugment_magnitude", self.randaugment_magnitude, "a whole number from 0 to 30"),
        )
        require(_is_number(self.color_jitter) and self.color_jitter >= 0, "color_jitter", self.color_jitter, "a number from 0")


def _check_range(name: str, augment: Augment, largest: float) -> None:
    values = _numbers(name, getattr(augment, name), float)
    object.__setattr__(augment, name, values)
    require(len(values) == 2 and 0 < values[0] <= values[1] <= largest, name, values, f"two rising numbers above 0, at most {largest}")


def _numbers(name: str, values: Any, kind: type) -> tuple[Any, ...]:
    fits = _is_int if kind is int else _is_number
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    require(is_list and len(values) > 0 and all(map(fits, values)), name, values, f"a list of {kind.__name__}")
    return tuple(kind(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def eval_transform(p: Preprocess) -> Transform:
    """PIL image in mode p.mode -> float32 (C, H, W): shorter side resized to size / crop_pct, centre crop, normalised."""
    wanted = (math.floor(p.size[0] / p.crop_pct), math.floor(p.size[1] / p.crop_pct))
    return _Chain(
        partial(_resize_shorter, size=wanted, interpolation=INTERPOLATIONS[p.interpolation]),
        partial(_center_crop, size=p.size),
        _normalization(p),
    )


def framed(image: Image.Image, p: Preprocess) -> Image.Image:
    """What `eval_transform(p)` looks at, resized, with up to 3 pixels more a side: it makes the same of this, to the bit."""
    wanted = (math.floor(p.size[0] / p.crop_pct), math.floor(p.size[1] / p.crop_pct))
    image = _resize_shorter(image, wanted, INTERPOLATIONS[p.interpolation])
    # Only margins that are multiples of 4 in all leave the rounding of the centre as it was.
    height, width = (want + (side - want) % 4 for want, side in zip(wanted, (image.height, image.width), strict=True))
    return _center_crop(image, (height, width))


def train_transform(p: Preprocess, a: Augment) -> Transform:
    """PIL image in mode p.mode -> float32 (C, H, W), augmented and normalised. All chance comes from torch's default generator."""
    erasing = [partial(_by_chance, step=_direct(v2.RandomErasing(1.0, inplace=True)), probability=a.erasing)] if a.erasing else []
    return _Chain(*_framing(p, a), *_colours(p, a), _normalization(p), *erasing)


def _framing(p: Preprocess, a: Augment) -> list[Callable[[Any], Any]]:
    interpolation = INTERPOLATIONS[p.interpolation]
    flip = [partial(_by_chance, step=F.horizontal_flip, probability=a.hflip)] if a.hflip else []
    if a.scale is not None:
        return [partial(_resized_crop, module=v2.RandomResizedCrop(p.size, a.scale, a.ratio), resample=RESAMPLING[p.interpolation]), *flip]
    resize = partial(_resize_shorter, size=p.size, interpolation=interpolation)
    return [resize, *flip, partial(_random_crop, size=p.size, padding=a.crop_padding)]


# The next five do what v2's modules do, less their dispatch over nested inputs, which on an image of 28 x 28 costs several times the
# work: its functions on PIL images, or the two methods that every module consists of.


def _direct(module: v2.Transform) -> Callable[[Any], Any]:
    return partial(_apply, module=module)


def _apply(image: Any, module: v2.Transform) -> Any:
    return module.transform(image, module.make_params([image]))


def _resized_crop(image: Image.Image, module: v2.RandomResizedCrop, resample: Image.Resampling) -> Image.Image:
    chosen = module.make_params([image])
    left, top = chosen["left"], chosen["top"]
    # Pillow's resize with box= would save the crop, but also looks at pixels beyond the box.
    return image.crop((left, top, left + chosen["width"], top + chosen["height"])).resize(module.size[::-1], resample)


def _by_chance(image: Any, step: Callable[[Any], Any], probability: float) -> Any:
    return step(image) if torch.rand(()) < probability else image


def _random_crop(image: Image.Image, size: tuple[int, int], padding: int) -> Image.Image:
    rows, columns = image.height - size[0] + 2 * padding, image.width - size[1] + 2 * padding
    if rows == columns == 0:
        return image
    top, left = (int(torch.randint(room + 1, ())) - padding for room in (rows, columns))
    # Pillow crops beyond the edges too, and finds black there.
    cropped: Image.Image = F.crop(image, top, left, *size)
    return cropped


def _colours(p: Preprocess, a: Augment) -> list[Callable[[Any], Any]]:
    steps: list[Callable[[Any], Any]] = []
    if a.randaugment_ops:
        steps.append(v2.RandAugment(a.randaugment_ops, a.randaugment_magnitude, interpolation=INTERPOLATIONS[p.interpolation]))
    if a.color_jitter:
        saturation = a.color_jitter if p.mode == "RGB" else None
        steps.append(_direct(v2.ColorJitter(a.color_jitter, a.color_jitter, saturation)))
    return steps


class _Chain:
    """Steps one after another. v2.Compose would do the same at 20 us more an image."""

    def __init__(self, *steps: Callable[[Any], Any]) -> None:
        self.steps = steps

    def __call__(self, image: Image.Image) -> Tensor:
        value: Any = image
        for step in self.steps:
            value = step(value)
        assert isinstance(value, Tensor)
        return value


def _resize_shorter(image: Image.Image, size: tuple[int, int], interpolation: v2.InterpolationMode) -> Image.Image:
    """Smallest enlargement or reduction that covers size (h, w) without changing the shape; timm's arithmetic, to the pixel."""
    H, W = image.height, image.width
    if size[0] == size[1]:
        short = size[0]
        height, width = (short, int(short * W / H)) if H <= W else (int(short * H / W), short)
    else:
        stretch = max(size[0] / H, size[1] / W)
        height, width = round(H * stretch), round(W * stretch)
    return image if (height, width) == (H, W) else F.resize(image, [height, width], interpolation)


def _center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if (image.height, image.width) == size else F.center_crop(image, list(size))


def _normalization(p: Preprocess) -> Callable[[Image.Image], Tensor]:
    return partial(_normalized, mean=torch.tensor(p.mean)[:, None, None], std=torch.tensor(p.std)[:, None, None])


def _normalized(image: Image.Image, mean: Tensor, std: Tensor) -> Tensor:
    """8-bit image -> float32 (C, H, W), with v2's numbers to the bit.

    v2 leaves the channels last in memory, as Pillow has them, which makes its steps and the stacking of a batch take twice as long.
    """
    bands = image.split() if len(mean) > 1 else (image,)
    pixels = np.empty((len(bands), image.height, image.width), dtype=np.float32)
    for channel, band in zip(pixels, bands, strict=True):
        channel[:] = np.asarray(band)
    return torch.from_numpy(pixels).mul_(1 / 255).sub_(mean).div_(std)


def batch_mixer(mixup: float, cutmix: float, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function (images (B, C, H, W), labels (B,) int64) -> (mixed images, soft targets (B, num_classes) float32).

    mixup, cutmix: the alpha of each one's Beta distribution, 0 is off. With both on, each batch gets one of the two, at even odds;
    with neither, images stay and targets are one-hot. Chance comes from torch's default generator.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        require(_is_number(alpha) and alpha >= 0, name, alpha, "a number from 0")
    mixers: list[Callable[..., Any]] = [
        *([v2.MixUp(alpha=float(mixup), num_classes=num_classes)] if mixup else []),
        *([v2.CutMix(alpha=float(cutmix), num_classes=num_classes)] if cutmix else []),
    ]
    return partial(_mix, mixer=v2.RandomChoice(mixers) if mixers else None, num_classes=num_classes)


def _mix(images: Tensor, labels: Tensor, mixer: Callable[..., Any] | None, num_classes: int) -> tuple[Tensor, Tensor]:
    if mixer is None:
        return images, one_hot(labels, num_classes).float()
    mixed, targets = mixer(images, labels)
    return mixed, targets
