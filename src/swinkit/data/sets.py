"""Labelled images as something with a length, labels and names; nothing is decoded before it is asked for."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from swinkit.data.images import read_image
from swinkit.errors import DataError

Labels: TypeAlias = npt.NDArray[np.int64]
EpochOrder: TypeAlias = Callable[[int], Labels]
"""From a seed to the order (N,) of an epoch, a permutation; sets that are read best in some orders have one as `epoch_order`."""


class NamedBytes(io.BytesIO):
    """The file of an image in memory, with the name that errors give it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class ImageSet(Protocol):
    """Images with one class each. `labels` is (N,) int64 with places in `classes`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; their order gives the labels their meaning."""

    @property
    def labels(self) -> Labels:
        """(N,) int64."""

    def __len__(self) -> int: ...

    def image(self, index: int, mode: str) -> Image.Image:
        """One image, decoded as "RGB" or "L". Raises InputError, naming it, if it is broken."""

    def name(self, index: int) -> str:
        """The file's path, or a name such as "fashion-mnist-sample/test/17"."""


class EncodedImages(ImageSet, Protocol):
    """A set whose images are files or parts of files, as they were saved."""

    def encoded(self, index: int) -> Path | NamedBytes:
        """The image as `read_image` takes it; nothing is decoded."""


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Grey images in memory: pixels (N, H, W) uint8."""

    prefix: str
    classes: tuple[str, ...]
    labels: Labels
    pixels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int, mode: str) -> Image.Image:
        """One image, as "RGB" or "L"."""
        image = Image.fromarray(self.pixels[index])
        return image if mode == "L" else read_image(image, mode)

    def name(self, index: int) -> str:
        """The prefix and the place in the array."""
        return f"{self.prefix}/{index}"


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files, read when they are asked for."""

    classes: tuple[str, ...]
    labels: Labels
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> Path:
        """The file's path."""
        return self.paths[index]

    def image(self, index: int, mode: str) -> Image.Image:
        """One image, as "RGB" or "L". Raises InputError with its path if it is broken."""
        return read_image(self.paths[index], mode)

    def name(self, index: int) -> str:
        """The file's path."""
        return str(self.paths[index])


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of a set, in the order of `indices` (M,) int64."""

    parent: ImageSet
    indices: Labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The parent's classes."""
        return self.parent.classes

    @property
    def labels(self) -> Labels:
        """(M,) int64."""
        return self.parent.labels[self.indices]

    @property
    def epoch_order(self) -> EpochOrder | None:
        """The parent's order, less the images that are not in this set; None if the parent has none."""
        order = getattr(self.parent, "epoch_order", None)
        return partial(self._members_in, order) if order else None

    def _members_in(self, order: EpochOrder, seed: int) -> Labels:
        places = np.full(len(self.parent), -1, dtype=np.int64)
        places[self.indices] = np.arange(len(self.indices))
        ordered = places[order(seed)]
        return ordered[ordered >= 0]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int, mode: str) -> Image.Image:
        """The parent's image."""
        return self.parent.image(int(self.indices[index]), mode)

    def name(self, index: int) -> str:
        """The parent's name for it."""
        return self.parent.name(int(self.indices[index]))


def is_files(images: ImageSet) -> bool:
    """Whether each image is a file of its own, whose path is its name."""
    return isinstance(images, FileImages) or (isinstance(images, Subset) and is_files(images.parent))


def in_memory(images: ImageSet) -> bool:
    """Whether the images are pixels already, so that none can be broken."""
    return isinstance(images, ArrayImages) or (isinstance(images, Subset) and in_memory(images.parent))


def stratified_split(images: ImageSet, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """A set in two, (1 - fraction, fraction) of every class, chosen by the seed.

    Of two or more images of a class at least one goes to either side; a single one stays in the first part.
    Raises DataError for a fraction outside (0, 1), and where no class has two images.
    """
    if not 0 < fraction < 1:
        raise DataError(f"val_fraction must lie between 0 and 1, for instance 0.1, not {fraction}.")
    held_out = np.zeros(len(images), dtype=bool)
    rng = np.random.default_rng(seed)
    for label in range(len(images.classes)):
        members = np.flatnonzero(images.labels == label)
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        held_out[rng.permutation(members)[: max(count, 0)]] = True
    if not held_out.any():
        raise DataError("No class has two images, so none can be held out for validation. Add images, or a val/ folder.")
    return Subset(images, np.flatnonzero(~held_out)), Subset(images, np.flatnonzero(held_out))
