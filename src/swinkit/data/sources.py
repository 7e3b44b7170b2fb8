"""Open a data set by name, folder or file, as train, val and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

import numpy as np
from PIL import Image

from swinkit.data import fashion, hub, manifest, shards
from swinkit.data.folders import list_folder, looks_like_path
from swinkit.data.images import upright_size
from swinkit.data.sets import ArrayImages, EncodedImages, ImageSet, NamedBytes, stratified_split
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
    """The built-in's name, or the source as it was given."""
    train: ImageSet
    val: ImageSet
    """To make choices on; never overlaps with the other two."""
    test: ImageSet | None
    """For the last word; None if there is none."""
    classes: tuple[str, ...]
    in_chans: int
    """1 if the images are grey, else 3."""
    image_size: tuple[int, int]
    """(height, width) in pixels: the native size of a built-in, else the median over some images."""


@dataclass(frozen=True)
class _BuiltIn:
    load: Callable[[str], ArrayImages]
    val_fraction: float


@dataclass(frozen=True)
class Kind:
    """A form of data that is recognised by what was written or by what lies there."""

    says: str
    fits: Callable[[str, Path], bool]
    """(the source as written, the same as a path) -> whether it is of this kind."""
    parts: Callable[[str, Path], Mapping[str, EncodedImages]]
    """Its splits "train", "val" and "test", or "all"."""
    part: str
    """What one of its splits is called, in errors."""


KINDS = (
    Kind("hf:NAME", lambda text, _: text.startswith(hub.PREFIX), lambda text, _: hub.list_hub(text), "split {}"),
    Kind("a table", lambda _, path: manifest.is_manifest(path), lambda _, path: manifest.list_manifest(path), "split {}"),
    Kind("tar shards", lambda text, _: shards.is_tars(text), lambda text, _: shards.list_shards(text), "split {}"),
    Kind(
        "a folder of tables",
        lambda _, path: manifest.is_manifest_folder(path),
        lambda _, path: manifest.list_manifests(path),
        "table {}.csv",
    ),
    Kind("a saved data set", lambda _, path: hub.is_saved(path), lambda text, _: hub.list_hub(text), "split {}"),
    Kind(
        "a folder of tar shards",
        lambda _, path: shards.is_shard_folder(path),
        lambda _, path: shards.list_shard_folder(path),
        "split {}",
    ),
)
"""The first that fits counts; what fits none is a folder of images."""
OTHERS = "a folder, a table (.csv, .tsv, .parquet), tar shards or hf:OWNER/NAME"


@dataclass(frozen=True, eq=False)
class _Listing:
    name: str
    parts: Mapping[str, EncodedImages]
    part: str
    """What one of the parts is called, in errors, such as "{}/ folder"."""


_TABLE = {
    "fashion-mnist-sample": _BuiltIn(fashion.embedded, val_fraction=0.1),
    "fashion-mnist": _BuiltIn(fashion.full, val_fraction=1 / 12),
}


def open_data(source: str | Path, *, seed: int = 0, val_fraction: float | None = None) -> Splits:
    """The train, val and test parts of a built-in data set (see BUILT_IN), of a folder, or of one of the KINDS.

    A folder holds train/ and val/ (or validation/, valid/) and perhaps test/, each with one folder per class, or the class folders
    directly; or tables, tar shards, or what `datasets` saved (docs/data.md). Where there is no val, that part of every class goes to
    val which the seed picks; by default a tenth, and 5,000 images of fashion-mnist.

    Raises UnknownNameError for a name that is neither, DataError for data that cannot be trained on.
    """
    if builtin := _TABLE.get(str(source)):
        return _open_built_in(str(source), builtin, seed, val_fraction)
    return _cut(_list(source), seed, val_fraction)


def open_split(source: str | Path, split: str = "auto", *, seed: int = 0, val_fraction: float | None = None) -> ImageSet:
    """One part of a data set, for evaluation.

    split: "train", "val" or "test" as in open_data with the same seed, or "auto": test if there is one, else val, else, for data that
    names no splits, every image in it.

    Raises UnknownNameError for an unknown source or split, DataError if there is no such part.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    if builtin := _TABLE.get(str(source)):
        if split in ("auto", "test"):
            return builtin.load("test")
        return _part(_open_built_in(str(source), builtin, seed, val_fraction), split, "{}/ folder")
    return _listed_split(_list(source), split, seed, val_fraction)


def absolute_source(source: str) -> str:
    """The same source from whatever folder it is opened: paths and patterns become absolute, names stay as they are."""
    path = Path(source).expanduser()
    if source in BUILT_IN:
        return source
    if source.startswith(hub.PREFIX):
        return hub.absolute_address(source)
    if path.exists():
        return str(path.resolve())
    return shards.absolute_pattern(source) if shards.is_tars(source) else source


def names_a_set(source: str | Path) -> bool:
    """Whether this is a built-in data set or one of the KINDS, and not files or a folder of images."""
    return str(source) in BUILT_IN or any(kind.fits(str(source), Path(source).expanduser()) for kind in KINDS)


def _list(source: str | Path) -> _Listing:
    text = str(source)
    path = Path(source).expanduser()
    for kind in KINDS:
        if kind.fits(text, path):
            return _Listing(text, kind.parts(text, path), kind.part)
    if not path.exists() and not looks_like_path(source):
        raise UnknownNameError("data set", text, BUILT_IN, f"Built in are {', '.join(BUILT_IN)}; anything else must be {OTHERS}.")
    return _Listing(str(path), list_folder(path), "{}/ folder")


def _listed_split(listing: _Listing, split: str, seed: int, val_fraction: float | None) -> ImageSet:
    parts = listing.parts
    if split == "auto":
        return next(parts[part] for part in ("test", "val", "all", "train") if part in parts)
    if split in parts and not (split == "train" and "val" not in parts):
        return parts[split]
    return _part(_cut(listing, seed, val_fraction), split, listing.part)


def _part(splits: Splits, split: str, called: str) -> ImageSet:
    part: ImageSet | None = getattr(splits, split)
    if part is None:
        raise DataError(f"{splits.name} has no {called.format('test')}. Add one, or evaluate on the split val.")
    return part


def _open_built_in(name: str, builtin: _BuiltIn, seed: int, val_fraction: float | None) -> Splits:
    whole, test = builtin.load("train"), builtin.load("test")
    train, val = stratified_split(whole, builtin.val_fraction if val_fraction is None else val_fraction, seed)
    return Splits(name, train, val, test, whole.classes, in_chans=1, image_size=(fashion.TILE, fashion.TILE))


def _cut(listing: _Listing, seed: int, val_fraction: float | None) -> Splits:
    parts = listing.parts
    whole = parts.get("train", parts.get("all"))
    if whole is None:
        there, wanted = " and ".join(map(listing.part.format, parts)), listing.part.format("train")
        raise DataError(f"{listing.name} has a {there} but no {wanted}. Add images to train on, or evaluate only.")
    train, val = _train_and_val(whole, parts.get("val"), seed, val_fraction)
    in_chans, image_size = _probe(whole, listing.name)
    return Splits(listing.name, train, val, parts.get("test"), whole.classes, in_chans, image_size)


def _train_and_val(whole: EncodedImages, val: ImageSet | None, seed: int, val_fraction: float | None) -> tuple[ImageSet, ImageSet]:
    if val is not None:
        return whole, val
    return stratified_split(whole, 0.1 if val_fraction is None else val_fraction, seed)


def _probe(images: EncodedImages, name: str) -> tuple[int, tuple[int, int]]:
    """Channels and median (height, width) from the headers of some images spread over the set."""
    spread = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))
    headers = [header for index in spread if (header := _header(images.encoded(int(index))))]
    if not headers:
        raise DataError(f"None of the {len(spread)} images looked at in {name} can be read. Check one: {images.name(int(spread[0]))}")
    grey = all(mode in GREY_MODES for mode, _, _ in headers)
    return 1 if grey else 3, (median_low(h for _, h, _ in headers), median_low(w for _, _, w in headers))


def _header(file: Path | NamedBytes) -> tuple[str, int, int] | None:
    """(mode, height, width) as displayed; None for a broken file, which `look` reports."""
    try:
        with Image.open(file) as image:
            return (image.mode, *upright_size(image))
    except Exception:  # Pillow's plugins raise nearly everything on a broken header
        return None
