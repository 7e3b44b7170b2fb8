"""WebDataset shards: tar files of images and labels, read where they lie and never unpacked."""

from __future__ import annotations

import glob
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from swinkit.data.extras import need
from swinkit.data.folders import SPLIT_FOLDERS
from swinkit.data.images import images_below, read_image
from swinkit.data.labels import number_classes, split_in
from swinkit.data.sets import Labels, NamedBytes
from swinkit.data.tar_index import TarIndex, index_tar, read_at
from swinkit.errors import DataError

CLASS_FILES = ("classes.txt", "classnames.txt")
NEAR_SAMPLES, NEAR_SHARDS = 10_000, 4
"""How far shuffling carries a sample: at least over so many samples and so many shards."""
SILENCE = 10.0
"""Seconds of indexing between two words about it on stderr."""
_TAR = re.compile(r"\.(tar(\.\w+)?|t[gbx]z\d?)\}?$", re.IGNORECASE)

_REMOTE = re.compile(r"pipe:|\w+://")


@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images in tar files, each read with one seek."""

    classes: tuple[str, ...]
    labels: Labels
    paths: tuple[str, ...]
    """Of the shards."""
    stamps: tuple[tuple[int, int], ...]
    shard: Labels
    """(N,) each sample's place in `paths`; rising."""
    offsets: Labels
    sizes: Labels
    names: npt.NDArray[np.str_]
    """(N,) of the images within their shards."""

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> NamedBytes:
        """The image's file as it stands in the shard. Raises DataError if the shard was changed meanwhile."""
        place = self.shard[index]
        content = read_at(self.paths[place], self.stamps[place], int(self.offsets[index]), int(self.sizes[index]))
        return NamedBytes(content, self.name(index))

    def image(self, index: int, mode: str) -> Image.Image:
        """One image, as "RGB" or "L". Raises InputError with its name if it is broken."""
        return read_image(self.encoded(index), mode)

    def name(self, index: int) -> str:
        """The shard's path and the image's name in it."""
        return f"{self.paths[self.shard[index]]}/{self.names[index]}"

    def epoch_order(self, seed: int) -> Labels:
        """(N,) int64, a permutation drawn from the seed that goes through a few shards at a time.

        Shards come in a random order; on top of it every sample moves by a random distance, up to NEAR_SAMPLES or NEAR_SHARDS.
        """
        random = np.random.default_rng(seed)
        counts = np.bincount(self.shard, minlength=len(self.paths))
        near = max(NEAR_SAMPLES, NEAR_SHARDS * int(counts.max()))
        if near >= len(self):
            return random.permutation(len(self))
        starts = np.cumsum(counts) - counts
        stream = np.concatenate([np.arange(starts[shard], starts[shard] + counts[shard]) for shard in random.permutation(len(counts))])
        return stream[np.argsort(np.arange(len(self)) + random.uniform(0, near, len(self)), kind="stable")]


def is_tars(source: str) -> bool:
    """Whether somebody who wrote this meant tar files: a name, or a pattern with braces or stars."""
    return bool(_TAR.search(source)) and not Path(source).is_dir()


def is_shard_folder(folder: Path) -> bool:
    """Whether tar files are what a folder holds: an archive left beside class folders does not count."""
    if not folder.is_dir() or not any(_tars(place) for place in _places(folder)):
        return False
    return next(images_below(folder), None) is None


def absolute_pattern(pattern: str) -> str:
    """The same pattern from whatever folder it is expanded."""
    parts = [os.path.expanduser(part).removeprefix("./") for part in pattern.split("::")]
    # Not normalised: two dots or a slash may stand within braces.
    return "::".join(part if part.startswith(("{/", "{~")) or _REMOTE.match(part) else os.path.join(os.getcwd(), part) for part in parts)


def _places(folder: Path) -> list[Path]:
    return [folder, *(folder / name for names in SPLIT_FOLDERS.values() for name in names)]


def _find(folder: Path) -> dict[str, list[Path]]:
    """The shards of a folder by split, "all" where neither train/, val/, test/ nor names say anything."""
    direct, *below = (_tars(place) for place in _places(folder))
    deep = [path for paths in below for path in paths]
    if deep and direct:
        raise DataError(f"{folder} holds {direct[0].name} beside {deep[0].parent.name}/ with shards. Keep one of the two layouts.")
    if deep:
        return {split: found for split, names in SPLIT_FOLDERS.items() if (found := [path for path in deep if path.parent.name in names])}
    return _by_split(direct, str(folder))


def _tars(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_tars(str(path)) and not path.name.startswith("."))


def _by_split(paths: Sequence[Path], source: str) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(split_in(path.name, str(path)) or "all", []).append(path)
    if "all" in found and len(found) > 1:
        raise DataError(
            f"{source} mixes shards named after a split with others ({found['all'][0].name}). Name them train-*, val-* and test-*, or none."
        )
    return {split: found[split] for split in ("train", "val", "test", "all") if split in found}


def list_shard_folder(folder: Path) -> dict[str, ShardImages]:
    """The splits of a folder of shards: in train/, val/ and test/, or named train-* and so on, or only "all".

    Headers are read once; what they say is kept in the cache. Raises DataError for shards that cannot be trained on.
    """
    return _list(_find(folder), folder, str(folder))


def list_shards(pattern: str) -> dict[str, ShardImages]:
    """The splits of the shards behind a pattern such as "train-{0000..0099}.tar"; names that speak of a split count as in a folder."""
    paths = _expand(pattern)
    return _list(_by_split(paths, pattern), paths[0].parent, pattern)


def _expand(pattern: str) -> list[Path]:
    if _REMOTE.match(pattern):
        raise DataError(f"{pattern} is not on this machine; shards are read from disk. Download them first.")
    expand = need("webdataset.shardlists", f"Reading {pattern}").expand_urls
    try:
        names = [os.path.expanduser(name) for name in expand(pattern)]
    except (ValueError, AssertionError) as error:  # braces that do not match, a ${variable} that is not set
        raise DataError(f"{pattern} is no pattern of shards ({error}). Write it like 'train-{{0000..0099}}.tar', in quotes.") from error
    paths = [Path(path) for name in names for path in _matching(name)]
    missing = [path for path in paths if not path.is_file()]
    if not paths:
        raise DataError(f"No shard matches {pattern}. Check the path, and quote the pattern.")
    if missing and len(paths) == 1:
        raise DataError(f"The shard {paths[0]} does not exist. Check the path.")
    if missing:
        raise DataError(f"{len(missing)} of the {len(paths)} shards of {pattern} do not exist, such as {missing[0]}. Check the path.")
    if len(set(paths)) < len(paths):
        raise DataError(f"{pattern} names {Counter(paths).most_common(1)[0][0]} twice. Name every shard once.")
    return paths


def _matching(name: str) -> list[str]:
    return sorted(glob.glob(name)) if glob.has_magic(name) and not os.path.exists(name) else [name]


def _list(shards: dict[str, list[Path]], folder: Path, source: str) -> dict[str, ShardImages]:
    indices = {split: list(_indexed(paths, source)) for split, paths in shards.items()}
    parts = {split: [name for index in part for name in index.classes] for split, part in indices.items()}
    file, declared = _class_names([folder, *(path.parent for paths in shards.values() for path in paths)])
    if declared:
        # A number is a place in the file, unless it is itself a name there.
        meaning = {str(place): name for place, name in enumerate(declared)} | {name: name for name in declared}
        parts = {split: [_meaning(name, meaning, file) for name in names] for split, names in parts.items()}
    classes, labels = number_classes(parts, source, declared or None)
    return {split: _image_set(classes, labels[split], part) for split, part in indices.items()}


def _indexed(paths: Sequence[Path], source: str) -> Iterator[TarIndex]:
    told = time.monotonic()
    for done, path in enumerate(paths):
        if time.monotonic() - told > SILENCE:
            told = time.monotonic()
            print(f"swinkit: {done:,} of {len(paths):,} shards of {source} are indexed; this is done once.", file=sys.stderr)
        yield index_tar(Path(os.path.abspath(path)))


def _image_set(classes: tuple[str, ...], labels: Labels, indices: Sequence[TarIndex]) -> ShardImages:
    return ShardImages(
        classes,
        labels,
        tuple(index.path for index in indices),
        tuple(index.stamp for index in indices),
        np.repeat(np.arange(len(indices), dtype=np.int64), [len(index.names) for index in indices]),
        np.array([offset for index in indices for offset in index.offsets], dtype=np.int64),
        np.array([size for index in indices for size in index.sizes], dtype=np.int64),
        np.array([name for index in indices for name in index.names], dtype=np.str_),
    )


def _class_names(folders: Sequence[Path]) -> tuple[Path, tuple[str, ...]]:
    """The file of class names beside the shards, one name a line, and what it says; nothing if there is none."""
    for file in (folder / name for folder in dict.fromkeys(folders) for name in CLASS_FILES):
        if file.is_file():
            names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
            if len(set(names)) < len(names):
                raise DataError(f"{file} names {Counter(names).most_common(1)[0][0]} twice. Give each class a name of its own.")
            return file, names
    return Path(), ()


def _meaning(name: str, meaning: Mapping[str, str], file: Path) -> str:
    if name not in meaning:
        raise DataError(f"The class {name} of a sample is not in {file}. Add it there, or correct the label.")
    return meaning[name]
