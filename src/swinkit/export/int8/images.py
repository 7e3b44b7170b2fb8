"""The images that set the ranges, and those held out for measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swinkit.data import ImageSet, Preprocess, eval_transform, open_split
from swinkit.data.unlabelled import Data, open_images
from swinkit.errors import ConfigError, DataError
from swinkit.export.int8.settings import BATCH, FEW, HELD_OUT, LEAST, Int8
from swinkit.runtimes.artefacts import pixels
from swinkit.runtimes.facts import Facts


@dataclass(frozen=True)
class Pictures:
    """Images as the file takes them."""

    ranges: Tensor
    """They set the ranges of activations."""
    choosing: Tensor
    """Held out, to choose what stays in float."""
    proof: Tensor
    """Held out, and nothing was chosen by them."""
    about: str


def collect(settings: Int8, facts: Facts, say: Callable[[str], None]) -> Pictures:
    """Draw and prepare them. Errors: DataError for too few, ConfigError for a model that does not say how images are prepared."""
    if not facts.preprocess:
        raise ConfigError("The model does not say how to prepare images; save it with save_pretrained(..., preprocess=...) first.")
    channels = len(Preprocess.from_dict(facts.preprocess).mean)
    if channels != facts.config.in_chans:
        raise ConfigError(
            f"The model takes {facts.config.in_chans} channels, and its `preprocess` makes images of {channels}; save it anew."
        )
    images, about = open_calibration(settings.calibration)
    if len(images) < LEAST:
        raise DataError(
            f"{about} holds {len(images)} images; 8 bits need at least {LEAST}, to set ranges, to choose by and to measure, and "
            f"{FEW} or more are best."
        )
    drawn = np.random.default_rng(0).permutation(len(images))
    held = max(2, min(HELD_OUT, settings.calibration_images, len(images) // 3))
    ranges, rest = drawn[: min(settings.calibration_images, len(images) - held)], drawn[-held:]
    if len(ranges) < FEW:
        say(f"only {len(ranges)} images set the ranges of activations, which may be too narrow for others; give {FEW} or more")
    few = max(1, held // 4)
    choosing, proof = rest[:few], rest[few:]
    first, second, third = (_prepared(images, part, facts) for part in (ranges, choosing, proof))
    return Pictures(first, second, third, about)


def open_calibration(data: Data) -> tuple[ImageSet, str]:
    """(the images, what they are called): of data with splits its training images, else all. Errors: DataError for what is not there."""
    images, labelled, _ = open_images(data)
    called = str(data) if isinstance(data, str | Path) else f"{len(images)} files"
    if not labelled:
        return images, called
    try:
        return open_split(str(data), "train"), f"train of {called}"
    except DataError:  # there is no such part
        return images, called


def batches(images: Tensor, fixed: int | None) -> list[NDArray[Any]]:
    """Images as they are fed, so many at a time as the file takes; the last are repeated to fill up."""
    size = fixed or min(BATCH, len(images))
    missing = -len(images) % size
    full = torch.cat((images, images[-1:].expand(missing, *images.shape[1:])))
    return [part.contiguous().numpy() for part in full.split(size)]


def _prepared(images: ImageSet, numbers: Iterable[int], facts: Facts) -> Tensor:
    p = Preprocess.from_dict(facts.preprocess)
    transform = eval_transform(p)
    prepared = torch.stack([transform(images.image(int(number), p.mode)) for number in numbers])
    return pixels(prepared, p) if facts.with_preprocessing else prepared
