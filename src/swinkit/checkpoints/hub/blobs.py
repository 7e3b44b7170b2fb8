"""Is a file of the hub's cache what the hub says it is?

The cache keeps a file under its hash: SHA-256 for large files, git's (SHA-1 of a header and the content) for small ones. A file is hashed
once, when it is first used here, whoever downloaded it; that it was is remembered in ~/.cache/swinkit/verified (XDG_CACHE_HOME) with its
size and time of change, so that loading 0.8 GB again costs no second reading. The cache is not trusted beyond that.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from swinkit.checkpoints.files import write_atomic
from swinkit.errors import CheckpointError

CHUNK = 1 << 20


def check_blob(path: Path, given: str, source: str) -> None:
    """Compare a file with the hash in `given`, else with the one that its link in the cache leads to; without either nothing is known.

    Errors: CheckpointError that names the file to delete, if they differ.
    """
    expected = given or _linked(path)
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", expected) or _remembered(path) == _state(path, expected):
        return
    found = digest(path, git=len(expected) == 40)
    if found != expected:
        raise CheckpointError(
            f"{path.name} of {source} is broken: its hash begins {found[:12]} instead of {expected[:12]}. Delete {path.resolve()} and "
            f"{path}, and load it again."
        )
    with suppress(OSError):  # a home that cannot be written: then it is hashed each time
        write_atomic(_memory(path), _state(path, expected))


def digest(path: Path, git: bool = False) -> str:
    """SHA-256 of a file, in hexadecimal; git: what git calls a blob with this content."""
    made = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False) if git else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            made.update(chunk)
    return made.hexdigest()


def _linked(path: Path) -> str:
    """The name of the blob; not what that in turn may be a link to."""
    return Path(os.readlink(path)).name if path.is_symlink() else ""


def _state(path: Path, expected: str) -> str:
    stat = path.stat()
    return f"{expected} {stat.st_size} {stat.st_mtime_ns}\n"


def _memory(path: Path) -> Path:
    """One small file for each file that was checked, by the hash of its place."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "swinkit" / "verified"
    return folder / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]


def _remembered(path: Path) -> str:
    with suppress(OSError, ValueError):
        return _memory(path).read_text(encoding="utf-8")
    return ""
