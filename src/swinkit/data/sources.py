"""Open a data set by name or folder, as train, val and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
from PIL import Image

from swinkit.data import fashion
from swinkit.data.folders import list_folder, looks_like_path
from swinkit.data.images import upright_size
from swinkit.data.sets import ArrayImages, FileImages, ImageSet, stratified_split
from swinkit.errors import DataError, UnknownNameError

BUILT_IN = {
    "fashion-mnist-sample": "6,000 + 1,000 images of Fashion-MNIST, 28 x 28 grey, 10 classes; comes with swinkit",
    "fashion-mnist": "all 60,000 + 10,000 images of Fashion-MNIST; from $SWINKIT_FASHION_MNIST, the cache, Debian, or downloaded",
}
SPLITS = ("auto", "train", "val", "test")

PROBED = 64
GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set cut into its parts."""

    name: str
    """The built-in's name, or the folder's path."""
    train: ImageSet
    val: ImageSet
    """To make choices on; never overlaps with the other two."""
    test: ImageSet | None
    """For the last word; None if a folder has none."""
    classes: tuple[str, ...]
    in_chans: int
    """1 if the images are grey, else 3."""
    image_size: tuple[int, int]
    """(height, width) in pixels: the native size of a built-in, the median over some images of a folder."""


@dataclass(frozen=True)
class _BuiltIn:
    load: Callable[[str], ArrayImages]
    val_fraction: float


_TABLE = {
    "fashion-mnist-sample": _BuiltIn(fashion.embedded, val_fraction=0.1),
    "fashion-mnist": _BuiltIn(fashion.full, val_fraction=1 / 12),
}


def open_data(source: str | Path, *, seed: int = 0, val_fraction: float | None = None) -> Splits:
    """The train, val and test parts of a built-in data set (see BUILT_IN) or of a folder.

    A folder holds train/ and val/ (or validation/, valid/) and perhaps test/, each with one folder per class, or the class folders
    directly. Where there is no val/, that part of every class goes to val which the seed picks; by default a tenth, and 5,000
    images of fashion-mnist.

    Raises UnknownNameError for a name that is neither, DataError for a folder that cannot be trained on.
    """
    if builtin := _TABLE.get(str(source)):
        return _open_built_in(str(source), builtin, seed, val_fraction)
    return _open_folder(_folder(source), seed, val_fraction)


def open_split(source: str | Path, split: str = "auto", *, seed: int = 0, val_fraction: float | None = None) -> ImageSet:
    """One part of a data set, for evaluation.

    split: "train", "val" or "test" as in open_data with the same seed, or "auto": test/ if there is one, else val/, else, for a
    folder that holds the class folders directly, every image in it.

    Raises UnknownNameError for an unknown source or split, DataError if there is no such part.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if builtin := _TABLE.get(str(source)):
        if split in ("auto", "test"):
            return builtin.load("test")
        return _part(_open_built_in(str(source), builtin, seed, val_fraction), split)
    return _folder_split(_folder(source), split, seed, val_fraction)


def _folder_split(root: Path, split: str, seed: int, val_fraction: float | None) -> ImageSet:
    listed = list_folder(root)
    if split == "auto":
        return next(listed[part] for part in ("test", "val", "all", "train") if part in listed)
    if split in listed and not (split == "train" and "val" not in listed):
        return listed[split]
    return _part(_cut(root, listed, seed, val_fraction), split)


def _part(splits: Splits, split: str) -> ImageSet:
    part: ImageSet | None = getattr(splits, split)
    if part is None:
        raise DataError(f"{splits.name} has no test/ folder. Add one, or evaluate on the split val.")
    return part


def _folder(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if not path.exists() and not looks_like_path(source):
        raise UnknownNameError("data set", str(source), BUILT_IN, f"Built in are {', '.join(BUILT_IN)}; anything else must be a folder.")
    return path


def _open_built_in(name: str, builtin: _BuiltIn, seed: int, val_fraction: float | None) -> Splits:
    whole, test = builtin.load("train"), builtin.load("test")
    train, val = stratified_split(whole, builtin.val_fraction if val_fraction is None else val_fraction, seed)
    return Splits(name, train, val, test, whole.classes, in_chans=1, image_size=(fashion.TILE, fashion.TILE))


def _open_folder(root: Path, seed: int, val_fraction: float | None) -> Splits:
    return _cut(root, list_folder(root), seed, val_fraction)


def _cut(root: Path, listed: dict[str, FileImages], seed: int, val_fraction: float | None) -> Splits:
    whole = listed.get("train", listed.get("all"))
    if whole is None:
        raise DataError(f"{root} has {'/ and '.join(listed)}/ but no train/. Add train/CLASS/*.jpg, or evaluate only.")
    train, val = _train_and_val(whole, listed.get("val"), seed, val_fraction)
    in_chans, image_size = _probe(whole, root)
    return Splits(str(root), train, val, listed.get("test"), whole.classes, in_chans, image_size)


def _train_and_val(whole: FileImages, val: FileImages | None, seed: int, val_fraction: float | None) -> tuple[ImageSet, ImageSet]:
    if val is not None:
        return whole, val
    return stratified_split(whole, 0.1 if val_fraction is None else val_fraction, seed)


def _probe(images: FileImages, root: Path) -> tuple[int, tuple[int, int]]:
    """Channels and median (height, width) from the headers of some images spread over the set."""
    spread = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
    headers = [header for index in spread if (header := _header(images.paths[index]))]
    if not headers:
        raise DataError(f"None of the {len(spread)} images looked at in {root} can be read. Check one: {images.paths[0]}")
    grey = all(mode in GREY_MODES for mode, _, _ in headers)
    return 1 if grey else 3, (median_low(h for _, h, _ in headers), median_low(w for _, _, w in headers))


def _header(path: Path) -> tuple[str, int, int] | None:
    """(mode, height, width) as displayed; None for a broken file, which `look` reports."""
    try:
        with Image.open(path) as image:
            return (image.mode, *upright_size(image))
    except Exception:  # Pillow's plugins raise nearly everything on a broken header
        return None
