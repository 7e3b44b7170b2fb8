"""Batches for work that one broken image must not stop.

S slots | B images of a batch
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from swinkit.data.loader import make_loader
from swinkit.data.sets import ImageSet, Labels
from swinkit.data.transforms import Preprocess, Transform, eval_transform
from swinkit.errors import InputError

ReadBatch: TypeAlias = tuple[Tensor, list[int], list[tuple[int, str]]]
"""Images float32 (B, C, H, W) that could be read, their B indices, and (index, reason) of each one that could not; B may be 0."""

EMPTY = -1
"""In a slot: no image."""


def lenient_batches(
    images: ImageSet, preprocess: Preprocess, groups: Sequence[range], *, batch_size: int, workers: int
) -> Iterator[ReadBatch]:
    """The images of each group in turn, in batches that never hold images of two groups; the last batch of each may be smaller."""
    slots = np.concatenate([_filled(group, batch_size) for group in groups])
    transform = _OrNan(eval_transform(preprocess), (len(preprocess.mean), *preprocess.size))
    loader = make_loader(
        _Slots(images, slots), transform, preprocess.mode, batch_size=batch_size, train=False, seed=0, workers=workers
    )  # fmt: skip
    for pixels, _, chosen in loader:
        indices = slots[chosen.numpy()]
        failures = _read_again(pixels, indices, images, transform, preprocess.mode)
        good = ~pixels[:, 0, 0, 0].isnan()
        yield pixels[good], indices[good.numpy()].tolist(), failures


def _filled(group: range, batch_size: int) -> Labels:
    """The group and as many EMPTY as its last batch has room for."""
    slots = np.full(-(-len(group) // batch_size) * batch_size, EMPTY, np.int64)
    slots[: len(group)] = group
    return slots


def _read_again(pixels: Tensor, indices: Labels, images: ImageSet, transform: Transform, mode: str) -> list[tuple[int, str]]:
    """Put into `pixels` what can be read now, after a file server that had stumbled; the reasons for the rest."""
    failures = []
    for row in pixels[:, 0, 0, 0].isnan().nonzero().flatten().tolist():
        if (index := int(indices[row])) != EMPTY:
            try:
                pixels[row] = transform(images.image(index, mode))
            except InputError as error:
                failures.append((index, str(error)))
    return failures


@dataclass(frozen=True, eq=False)
class _Slots:
    """Images in slots (S,). An empty slot, and one whose image cannot be read, shows a picture of no size."""

    images: ImageSet
    slots: Labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def labels(self) -> Labels:
        return np.zeros(len(self.slots), np.int64)

    def __len__(self) -> int:
        return len(self.slots)

    def image(self, index: int, mode: str) -> Image.Image:
        if (of_set := int(self.slots[index])) != EMPTY:
            try:
                return self.images.image(of_set, mode)
            except InputError:
                pass
        return Image.new(mode, (0, 0))

    def name(self, index: int) -> str:
        return self.images.name(int(self.slots[index]))


@dataclass(frozen=True, eq=False)
class _OrNan:
    """Prepares a picture; one of no size becomes NaN (C, H, W), which no picture has."""

    transform: Transform
    shape: tuple[int, int, int]

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.full(self.shape, math.nan) if 0 in image.size else self.transform(image)
