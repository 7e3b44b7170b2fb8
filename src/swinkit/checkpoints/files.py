"""Writing files and folders so that a reader never sees half of one, whatever interrupts the writer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; when the block ends well its files are flushed to disk and it takes that name.

    Errors: FileExistsError if `folder` exists and is not empty. On any error nothing is left behind.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists already; choose another name or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".writing", dir=folder.parent))
    try:
        yield beside
        for path in (*beside.rglob("*"), beside):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())
            flush(path)
        _move(beside, folder)
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _move(beside: Path, folder: Path) -> None:
    if not folder.exists():
        beside.replace(folder)
        return
    # An empty folder may be somebody's working directory: fill it rather than replace it, what readers look for last.
    for path in sorted(beside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    beside.rmdir()


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file beside `path`, flush it to disk and rename it to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".writing", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _take_name(Path(beside), path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the name of a file beside `path`; when the block ends well the file is flushed to disk and renamed to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".writing", dir=path.parent)
    os.close(handle)
    try:
        yield Path(beside)
        flush(Path(beside))
        _take_name(Path(beside), path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _take_name(beside: Path, path: Path) -> None:
    os.chmod(beside, 0o666 & ~umask())
    os.replace(beside, path)
    flush(path.parent)


def point(link: Path, target: Path) -> None:
    """Make `link` name the folder `target` in one step: as a symbolic link, or as a text file where there are none."""
    relative = os.path.relpath(target, link.parent)
    beside = link.with_name(f".{link.name}.{os.getpid()}.writing")
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(relative)
    except OSError:
        write_atomic(link, relative)
        return
    if link.is_dir() and not link.is_symlink():
        # Somebody copied the folder with what its links point at; this copy of the old target makes room.
        aside = link.with_name(f".{link.name}.old.writing")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(link, aside)
        shutil.rmtree(aside)
    os.replace(beside, link)
    flush(link.parent)


def follow(link: Path) -> Path:
    """The folder that `point` made `link` name."""
    return link.parent / link.read_text().strip() if link.is_file() else link


def flush(path: Path) -> None:
    """Ask the operating system to put a file or a folder's entries on disk, where it can."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """The permissions that this process takes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
