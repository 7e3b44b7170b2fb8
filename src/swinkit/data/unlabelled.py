"""Images that may have labels or not: data sets, folders of either kind, files and patterns."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from swinkit.data.images import find_images
from swinkit.data.sets import FileImages, ImageSet
from swinkit.data.sources import names_a_set, open_split
from swinkit.errors import ConfigError, DataError

Data: TypeAlias = str | Path | Sequence[str | Path]


def open_images(data: Data, split: str = "auto") -> tuple[ImageSet, bool, str]:
    """(the images, whether they have labels, a sentence about them).

    data: a data set (a built-in one, a table, tar shards, hf:NAME) or a folder with class folders (`split` as in `open_split`), else a
    folder, file or glob pattern, or a list of such, whose images come in the given order, those of a folder sorted, none twice.

    Raises DataError for what is not there, ConfigError for a split of what has none, UnknownNameError for an unknown source or split.
    """
    if not isinstance(data, str | Path):
        return _unlabelled(data, "", split)
    data = Path(data).expanduser() if str(data).startswith("~") else data
    if not names_a_set(data) and not Path(data).is_dir() and (Path(data).is_file() or glob.has_magic(str(data))):
        return _unlabelled([data], f" of {data}", split)
    try:
        images = open_split(data, split)
    except DataError as error:
        if split != "auto" or names_a_set(data) or not Path(data).is_dir():
            raise
        # What keeps a folder of folders from having classes may be a slip; that a flat folder has none is plain to see.
        nested = any(path.parent != Path(data) for path in find_images(data))
        return _unlabelled([data], f" of {data}", split, f" ({error})" if nested else "")
    return images, True, f"{_counted(len(images))} of {data}, split {split}, with labels"


def _unlabelled(files: Sequence[str | Path], of: str, split: str, why: str = "") -> tuple[ImageSet, bool, str]:
    if split != "auto":
        raise ConfigError(f"split is {split!r}, and files and patterns have no splits; leave it out, or name a folder with classes.")
    paths = tuple(dict.fromkeys(path for file in files for path in find_images(file)))
    if not paths:
        raise DataError("The list of images is empty; give files, folders or patterns.")
    return FileImages((), np.zeros(len(paths), np.int64), paths), False, f"{_counted(len(paths))}{of}, without labels{why}"


def _counted(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
