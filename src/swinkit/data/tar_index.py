"""What a tar shard holds and where: made from its headers once, kept in the cache, so that any sample is one seek and one read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import local
from typing import Any, BinaryIO

from swinkit.checkpoints.files import write_atomic
from swinkit.data.extras import cache_folder, need
from swinkit.data.images import IMAGE_SUFFIXES
from swinkit.data.labels import LABEL_COLUMNS, class_name
from swinkit.errors import DataError

FORMAT = 1
OPEN_FILES = 32
BLOCK = 512
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
META = re.compile(r"__[^/]*__($|/)")
"""Members that webdataset keeps for itself."""


@dataclass(frozen=True)
class TarIndex:
    """The samples of one shard, in the order in which they stand in it; all lists have one entry per sample."""

    path: str
    stamp: tuple[int, int]
    """Size and time of change (ns) of the file that was indexed."""
    names: list[str]
    """Of the member that holds the image, such as "0001.jpg"."""
    offsets: list[int]
    sizes: list[int]
    classes: list[str]


def index_tar(path: Path) -> TarIndex:
    """The index of a shard, from the cache or from its headers. Raises DataError for a file that cannot be read at random."""
    stamp = _stamp(path)
    kept = cache_folder("shards") / f"{hashlib.sha256(repr((str(path), *stamp)).encode()).hexdigest()[:32]}.json"
    return _load(kept, path, stamp) or _make(path, stamp, kept)


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _load(kept: Path, path: Path, stamp: tuple[int, int]) -> TarIndex | None:
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content.pop("format") == FORMAT and content["path"] == str(path):
            return TarIndex(**content | {"stamp": stamp})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass  # nothing kept, or nothing of use: it is made again
    return None


def _make(path: Path, stamp: tuple[int, int], kept: Path) -> TarIndex:
    samples = list(_samples(path))
    if not samples:
        raise DataError(f"{path} holds no samples. Remove it, or write it again.")
    names, offsets, sizes, classes = map(list, zip(*samples, strict=True))
    index = TarIndex(str(path), stamp, names, offsets, sizes, classes)
    with contextlib.suppress(OSError):  # a home that cannot be written costs the time to index again, and nothing else
        write_atomic(kept, json.dumps({"format": FORMAT} | asdict(index)))
    return index


def _samples(path: Path) -> Iterator[tuple[str, int, int, str]]:
    """(name, offset, size, class) of every sample."""
    try:
        with tarfile.open(path, "r:") as tar:
            for key, members in _groups(tar, path):
                where = f"The sample {key} in {path}"
                image = _image_member(members, where)
                yield image.name, image.offset_data, image.size, _class_of(tar, members, where)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(_complaint(path, error)) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Copy it again.") from error


def _groups(tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Neighbouring members with the same key, by extension; webdataset's rule, but for hidden files, which do not count."""
    split_name: Callable[[str], tuple[str | None, str]] = need("webdataset.tariterators", f"Reading {path}").base_plus_ext
    key, members = None, dict[str, tarfile.TarInfo]()
    for member in tar:
        prefix, extension = split_name(member.name)
        if not member.isreg() or prefix is None or META.match(member.name) or Path(member.name).name.startswith("."):
            continue
        if prefix != key:
            if key is not None:
                yield key, members
            key, members = prefix, {}
        if members.setdefault(extension.lower(), member) is not member:
            raise DataError(f"The sample {key} in {path} holds two files .{extension.lower()}. Remove or rename one.")
    _check_end(tar)
    if key is not None:
        yield key, members


def _image_member(members: dict[str, tarfile.TarInfo], where: str) -> tarfile.TarInfo:
    images = [extension for extension in members if f".{extension.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    # Beside a picture there may be others that belong to it, such as 0001.mask.png.
    images = [extension for extension in images if "." not in extension] or images
    if len(images) != 1:
        found = f"the images {', '.join(images)}; expected one" if images else f"no image, only {', '.join(members)}"
        raise DataError(f"{where} holds {found}. Write one image per sample.")
    if members[images[0]].issparse():
        raise DataError(f"{where} is stored as a sparse file. Write the shard without --sparse.")
    return members[images[0]]


def _class_of(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], where: str) -> str:
    for extension in ("cls", "json", "classname", "txt"):
        if extension in members:
            text = _text(tar, members[extension], where)
            label = _from_json(text, where) if extension == "json" else text
            if label is not None:
                return class_name(label, where)
    raise DataError(f"{where} has no label, only {', '.join(members)}. Add .cls with its class, or a key label to its .json.")


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> str:
    content = tar.extractfile(member)
    assert content is not None, "only regular files come here"
    try:
        return content.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} has a label that is not text in UTF-8 ({member.name}). Write it again.") from error


def _from_json(text: str, where: str) -> Any:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} has a .json that is not JSON ({error}). Write it again.") from error
    if not isinstance(content, dict):
        return content
    return next((content[key] for key in (LABEL_COLUMNS[0], "cls", *LABEL_COLUMNS[1:]) if key in content), None)


def _check_end(tar: tarfile.TarFile) -> None:
    # tarfile takes anything that is no header for the end; a whole archive ends with a block of zeros.
    assert tar.fileobj is not None, "it was opened by its path"
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(BLOCK) != bytes(BLOCK):
        raise tarfile.ReadError("it has no end mark")


def _complaint(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    kind = next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None)
    if kind:
        return f"{path} is compressed ({kind}), so its samples cannot be read one by one. Make it a plain .tar first, as gunzip does."
    return f"{path} is cut short or no tar ({error}). Copy or write it again."


class _OpenFiles:
    """The files that one thread of one process has open, the one used last at the end."""

    def __init__(self) -> None:
        self.process, self.files = os.getpid(), OrderedDict[tuple[str, tuple[int, int]], BinaryIO]()

    def __del__(self) -> None:
        for file in self.files.values():
            file.close()

    def get(self, path: str, stamp: tuple[int, int]) -> BinaryIO:
        key = path, stamp
        if key not in self.files:
            self.files[key] = _open(path, stamp)
            if len(self.files) > OPEN_FILES:
                self.files.popitem(last=False)[1].close()
        self.files.move_to_end(key)
        return self.files[key]


def _open(path: str, stamp: tuple[int, int]) -> BinaryIO:
    try:
        if _stamp(Path(path)) == stamp:
            return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read any more ({error}). Put it back, and start again.") from error
    raise DataError(f"{path} was changed after it was opened. Start again.")


_HERE = local()


def read_at(path: str, stamp: tuple[int, int], offset: int, size: int) -> bytes:
    """Bytes of a file that still has the stamp. Safe in threads and after a fork: each thread and process has files of its own."""
    open_files: _OpenFiles | None = getattr(_HERE, "files", None)
    if open_files is None or open_files.process != os.getpid():
        # An inherited file would share its position with the parent's.
        open_files = _HERE.files = _OpenFiles()
    file = open_files.get(path, stamp)
    file.seek(offset)
    return file.read(size)
