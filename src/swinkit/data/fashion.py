"""Fashion-MNIST (MIT licence, Zalando SE): the embedded sample, and the full set wherever it is found."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from swinkit.data.extras import cache_folder
from swinkit.data.sets import ArrayImages, Labels
from swinkit.errors import DataError

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
TILE = 28
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ENVIRONMENT = "SWINKIT_FASHION_MNIST"
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def embedded(split: str) -> ArrayImages:
    """The sample that comes with the package: "train" 6,000 images, "test" 1,000, every class equally often, 28 x 28 grey."""
    pixels, labels, _ = sheet_contents(split)
    return ArrayImages(f"fashion-mnist-sample/{split}", CLASSES, labels, pixels)


@functools.cache
def sheet_contents(split: str) -> tuple[npt.NDArray[np.uint8], Labels, Labels]:
    """Pixels (N, 28, 28) uint8, labels (N,), and indices (N,) in the original set, in whose order they stand; all read-only."""
    folder = resources.files("swinkit.data") / "sheets"
    indices = np.array(json.loads((folder / "index.json").read_text(encoding="utf-8"))[split], dtype=np.int64)
    tiles = np.concatenate([_tiles((folder / f"{split}-{label}.png").read_bytes()) for label in range(len(CLASSES))])
    labels = np.repeat(np.arange(len(CLASSES), dtype=np.int64), indices.shape[1])
    # The sheets go class by class; the original order mixes the classes, so that the first images of a split show all of them.
    order = indices.ravel().argsort()
    contents = tiles[order], labels[order], indices.ravel()[order]
    for array in contents:
        array.flags.writeable = False
    return contents


def _tiles(png: bytes) -> npt.NDArray[np.uint8]:
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    rows, columns = sheet.shape[0] // TILE, sheet.shape[1] // TILE
    return sheet.reshape(rows, TILE, columns, TILE).swapaxes(1, 2).reshape(rows * columns, TILE, TILE)


def full(split: str) -> ArrayImages:
    """The whole set: "train" 60,000 images, "test" 10,000. Downloaded if it is nowhere on this machine; DataError if that fails."""
    pixels, labels = read_split(find_full() or _download(), split)
    return ArrayImages(f"fashion-mnist/{split}", CLASSES, labels, pixels)


def find_full() -> Path | None:
    """The folder with the four IDX files: $SWINKIT_FASHION_MNIST, the cache, or the Debian package's; None if there is none.

    Raises DataError if the environment variable is set and leads nowhere.
    """
    if given := os.environ.get(ENVIRONMENT):
        found = _first_complete([Path(given).expanduser()])
        if found is None:
            raise DataError(f"{ENVIRONMENT} is {given}, which does not hold {_wanted()}. Correct it, or unset it to search elsewhere.")
        return found
    return _first_complete([cache_folder("fashion-mnist"), DEBIAN_FOLDER])


def _wanted() -> str:
    return f"{', '.join(name for names in FILES.values() for name in names)} (plain or .gz)"


def _first_complete(folders: Sequence[Path]) -> Path | None:
    candidates = [candidate for folder in folders for candidate in (folder, folder / "FashionMNIST" / "raw")]
    return next((folder for folder in candidates if _is_complete(folder)), None)


def _is_complete(folder: Path) -> bool:
    return all(_idx_path(folder, name) for names in FILES.values() for name in names)


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download() -> Path:
    from torchvision.datasets import FashionMNIST  # a costly import that almost nobody needs

    cache = cache_folder("fashion-mnist")
    try:
        # Standard output belongs to results.
        with contextlib.redirect_stdout(sys.stderr):
            FashionMNIST(str(cache), train=True, download=True)
    except Exception as error:  # no network, a proxy, a full disk: all the same to the reader
        raise DataError(
            f"Fashion-MNIST is not on this machine (looked in ${ENVIRONMENT}, {cache} and {DEBIAN_FOLDER}), and downloading it failed "
            f"({type(error).__name__}: {error}). Install the Debian package with `apt install dataset-fashion-mnist`, put the four "
            f"files into {cache}, or use the embedded fashion-mnist-sample."
        ) from error
    found = _first_complete([cache])
    if found is None:
        raise DataError(f"The download of Fashion-MNIST left {cache} without {_wanted()}. Remove that folder and try again.")
    return found


def read_split(folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], Labels]:
    """Pixels (N, 28, 28) uint8 and labels (N,) of "train" or "test" from a folder of IDX files; DataError if they do not fit."""
    pixels, labels = (read_idx(path) for name in FILES[split] if (path := _idx_path(folder, name)))
    if pixels.shape != (len(labels), TILE, TILE) or labels.ndim != 1 or labels.max(initial=0) >= len(CLASSES):
        raise DataError(f"The {split} files in {folder} are not Fashion-MNIST: images {pixels.shape}, labels {labels.shape}. Replace them.")
    return pixels, labels.astype(np.int64)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An IDX file of unsigned bytes, plain or gzipped, as an array of the shape in its header. DataError if it is something else."""
    data = _unpacked(path)
    rank = data[3] if data[:3] == b"\x00\x00\x08" and len(data) > 3 else 0
    header = 4 + 4 * rank
    if not rank or len(data) < header:
        raise DataError(f"{path} is not an IDX file of unsigned bytes. Replace it.")
    shape = tuple(int(length) for length in np.frombuffer(data, ">u4", rank, offset=4))
    if len(data) - header != int(np.prod(shape)):
        raise DataError(f"{path} holds {len(data) - header} bytes where its header promises {shape}. It is cut short: get it again.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _unpacked(path: Path) -> bytes:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return bytes(file.read())
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}). Get it again.") from error
