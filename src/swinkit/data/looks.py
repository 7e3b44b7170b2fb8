"""One look at every image, in threads; files that have not changed since the last look are not decoded again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import PIL

from swinkit.checkpoints.files import write_atomic
from swinkit.data.images import decode, open_image, upright_size
from swinkit.data.sets import ImageSet, in_memory, is_files
from swinkit.errors import InputError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

FORMAT = 1
CHUNK = 32
"""Images that a thread looks at in one go: few enough for progress, enough to make the hand-over cheap."""


class Look(NamedTuple):
    """What one image is found to be."""

    mode: str
    """Pillow's mode in the file; empty where the set gives decoded images only."""
    height: int
    width: int
    digest: str
    """Of the file's bytes, or of the pixels where there is no file; equal for equal images."""
    reason: str = ""
    """Why it cannot be used, naming it; empty if it can."""


def look_at_file(path: Path, mode: str) -> Look:
    """Read and decode a file. JPEGs are decoded at an eighth of their size, which reads all of their data all the same."""
    try:
        data = path.read_bytes()
        with open_image(data, str(path)) as image:
            own_mode, size = image.mode, upright_size(image)
            image.draft(None, (1, 1))
            decode(image, mode, str(path))
    except InputError as error:
        return Look("", 0, 0, "", str(error))
    except OSError as error:
        return Look("", 0, 0, "", f"{path} cannot be read ({error.strerror or error}); check its permissions, or remove it.")
    return Look(own_mode, *size, _digest(data))


def look_at_image(images: ImageSet, index: int, mode: str) -> Look:
    """Decode one image of a set that is no set of files."""
    try:
        image = images.image(index, mode)
    except InputError as error:
        return Look("", 0, 0, "", str(error))
    return Look("", image.height, image.width, _digest(f"{image.size}".encode() + image.tobytes()))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12, usedforsecurity=False).hexdigest()


def look_at_all(
    parts: Mapping[str, ImageSet], mode: str, root: Path | None, workers: int, progress: Progress | None
) -> dict[str, list[Look]]:
    """A look at every image of each part, in order; no looks at parts that are in memory.

    mode: "RGB" or "L". root: the folder that the files are below, under which looks are remembered; None remembers nothing.
    """
    parts = {name: images for name, images in parts.items() if not in_memory(images)}
    total, done = sum(len(images) for images in parts.values()), 0
    found: dict[str, list[Look]] = {name: [] for name in parts}
    with Memory(root) as memory, ThreadPoolExecutor(workers) as pool:
        for name, images in parts.items():
            for looks in _in_chunks(pool, _eye(images, mode, memory), len(images)):
                found[name] += looks
                done += len(looks)
                if progress:
                    progress(done, total)
        memory.complete = True
    return found


def _eye(images: ImageSet, mode: str, memory: Memory) -> Callable[[int], Look]:
    if is_files(images):
        return lambda index: memory.look(Path(images.name(index)), mode)
    return partial(look_at_image, images, mode=mode)


def _in_chunks(pool: ThreadPoolExecutor, eye: Callable[[int], Look], count: int) -> Iterator[list[Look]]:
    """The looks at 0 to count - 1, in order. Only some chunks wait at a time, so that Ctrl-C does not wait for all of them."""
    starts = range(0, count, CHUNK)
    for batch in range(0, len(starts), 32):
        waiting = starts[batch : batch + 32]
        yield from pool.map(lambda start: [eye(index) for index in range(start, min(start + CHUNK, count))], waiting)


class Memory:
    """Looks at the good files below a folder, kept by path, size and time of change from one process to the next.

    Broken files are looked at each time: they are few, and somebody may have repaired one. What cannot be read or written is
    ignored: it only costs time.
    """

    def __init__(self, root: Path | None) -> None:
        self.root, self.complete = root, False
        self.file = cache_folder() / f"{_digest(os.path.realpath(root).encode())}.json" if root else None
        self.prefix = f"{root}{os.sep}"
        self.before: dict[str, list[str | int]] = {}
        self.now: dict[str, list[str | int]] = {}

    def __enter__(self) -> Memory:
        self.before = _entries(self.file) if self.file else {}
        return self

    def look(self, path: Path, mode: str) -> Look:
        """A remembered look, or a new one."""
        key = str(path).removeprefix(self.prefix)
        try:
            stat = os.stat(path)
        except OSError:
            return look_at_file(path, mode)
        entry = self.before.get(key)
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            seen = look_at_file(path, mode)
            if seen.reason:
                return seen
            entry = [stat.st_size, stat.st_mtime_ns, *seen[:4]]
        self.now[key] = entry
        return Look(*entry[2:])  # type: ignore[arg-type]

    def __exit__(self, *error: object) -> None:
        # A look that was interrupted is worth keeping as well.
        files = self.now if self.complete else self.before | self.now
        if self.file is None or files == self.before:
            return
        content = {"format": FORMAT, "pillow": PIL.__version__, "root": str(self.root), "files": files}
        try:
            write_atomic(self.file, json.dumps(content))
        except (OSError, UnicodeError):
            return


def cache_folder() -> Path:
    """Where looks are kept: swinkit/checked in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "swinkit" / "checked"


def _entries(file: Path) -> dict[str, list[str | int]]:
    """The remembered looks; none if the file is missing, broken, or of a Pillow that may read other formats."""
    try:
        content = json.loads(file.read_bytes())
        if content["format"] == FORMAT and content["pillow"] == PIL.__version__ and all(map(_is_entry, content["files"].values())):
            return dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}


def _is_entry(entry: Iterable[object]) -> bool:
    return [type(value) for value in entry] == [int, int, str, int, int, str]
