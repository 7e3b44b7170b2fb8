"""Names and tensors of a dialect to ours and back, and which dialect a file is in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from swinkit.checkpoints.dialects.changes import Shape
from swinkit.checkpoints.dialects.patterns import Place
from swinkit.checkpoints.dialects.tables import DIALECTS, DROPPED, Dialect, Row
from swinkit.errors import CheckpointError

OUTSIDE = "outside of"
"""How the reason begins for what is no part of the Swin Transformer in a file."""


@dataclass(frozen=True)
class Entry:
    """One row of a table at one place: our tensors, the file's, and how they change."""

    row: Row
    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    def read(self, tensors: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """Our tensors. Errors: CheckpointError."""
        given = [tensors[name] for name in self.theirs]
        try:
            return self.row.change.read(given)
        except (RuntimeError, IndexError):
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(self.theirs, given, strict=True))
            raise CheckpointError(f"{shapes} cannot be a Swin Transformer's {' and '.join(self.ours)}.") from None


@dataclass
class Translation:
    """What each name of a file is."""

    dialect: Dialect
    version: int
    prefix: str = ""
    """What stood before all names of the Swin Transformer."""
    entries: list[Entry] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    """name of theirs -> why it is left out"""
    unknown: list[str] = field(default_factory=list)

    def read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our names -> tensors. Errors: CheckpointError where they have shapes that cannot be changed into ours."""
        ours: dict[str, Tensor] = {}
        for entry in self.entries:
            ours |= zip(entry.ours, entry.read(tensors), strict=True)
        return ours

    def shapes(self, tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
        """Our names -> the shapes that `read` will give, without touching a number. Errors: CheckpointError."""
        ours: dict[str, Shape] = {}
        for entry in self.entries:
            ours |= zip(entry.ours, entry.row.change.shapes([tuple(tensors[name].shape) for name in entry.theirs]), strict=True)
        return ours


def translate(names: Iterable[str], dialect: Dialect, version: int, prefix: str) -> Translation:
    """Sort the names of a file by what `dialect` says of them. `prefix`: see `find_prefixes`."""
    found = Translation(dialect, version, prefix)
    rows = dialect.rows(version)
    parts: dict[tuple[int, tuple[tuple[str, int | str], ...]], dict[int, str]] = defaultdict(dict)
    for name in names:
        inner = _inner(name, dialect, prefix)
        if inner is None:
            found.dropped[name] = f"{OUTSIDE} {prefix!r}: another part of a larger model"
        elif reason := next((reason for pattern, reason in DROPPED if pattern.fullmatch(inner)), None):
            found.dropped[name] = reason
        elif known := _look_up(inner, rows):
            number, part, place = known
            if part in parts[number, tuple(place.items())]:
                found.unknown.append(name)
            parts[number, tuple(place.items())][part] = name
        else:
            found.unknown.append(name)
    taken: set[str] = set()
    for (number, where), theirs in parts.items():
        _add(found, rows[number], dict(where), theirs, taken)
    return found


def _look_up(name: str, rows: list[Row]) -> tuple[int, int, Place] | None:
    for number, row in enumerate(rows):
        for part, pattern in enumerate(row.theirs):
            if (place := pattern.match(name)) is not None:
                return number, part, place
    return None


def _add(found: Translation, row: Row, place: Place, theirs: dict[int, str], taken: set[str]) -> None:
    if len(theirs) < len(row.theirs):
        found.unknown += theirs.values()
        return
    ours = tuple(pattern.at(place) for pattern in row.ours)
    if not taken.isdisjoint(ours):
        found.unknown += theirs.values()
        return
    taken.update(ours)
    found.entries.append(Entry(row, ours, tuple(theirs[part] for part in range(len(row.theirs)))))


def _inner(name: str, dialect: Dialect, prefix: str) -> str | None:
    """The name without what wraps the Swin Transformer; None for what lies outside of it."""
    if name.startswith(prefix):
        inner = name[len(prefix) :]
        # transformers mixes both spellings in one file: backbone.embeddings beside backbone.swin.layernorm.
        own = next((start for start in dialect.prefixes if inner.startswith(start)), "")
        return inner[len(own) :]
    own = next((start for start in dialect.prefixes if prefix.endswith(start)), "")
    outer = prefix[: len(prefix) - len(own)]
    beside = name.removeprefix(outer)
    decoder = beside.startswith(("decoder.", "mask_token"))
    return beside if name.startswith(outer) and (decoder or beside.startswith(dialect.beside or ("\0",))) else None


def find_prefixes(names: Iterable[str], dialect: Dialect) -> list[str]:
    """What stands before the patch projection's name: once in most files, several times where a file holds several encoders."""
    stem = dialect.stem
    return [name[: -len(stem)] for name in names if name == stem or name.endswith(f".{stem}")]


def version_of(names: Iterable[str]) -> int:
    """2 where attention has a learned scale."""
    return 2 if any(name.endswith(".logit_scale") for name in names) else 1


def candidates(names: list[str]) -> Iterator[Translation]:
    """A translation by each dialect whose patch projection is there, in the order of preference; each is made when it is asked for."""
    version = version_of(names)
    for dialect in DIALECTS:
        if version in dialect.versions:
            for prefix in sorted(set(find_prefixes(names, dialect))):
                yield translate(names, dialect, version, prefix)


def write(ours: Mapping[str, Tensor], dialect: Dialect, version: int, prefix: str, last: int) -> dict[str, Tensor]:
    """Their names -> tensors, for a dialect that has all of `ours`. `prefix` goes before all but what lies beside the stages."""
    rows = dialect.rows(version)
    theirs: dict[str, Tensor] = {}
    for name in ours:
        number, part, place = _look_up_ours(name, rows)
        if part == 0:
            row, place = rows[number], {**place, "last": last}
            written = row.change.write([ours[pattern.at(place)] for pattern in row.ours])
            theirs |= zip([_outer(pattern.at(place), dialect, prefix) for pattern in row.theirs], written, strict=True)
    return {name: tensor.contiguous() for name, tensor in theirs.items()}


def _look_up_ours(name: str, rows: list[Row]) -> tuple[int, int, Place]:
    for number, row in enumerate(rows):
        for part, pattern in enumerate(row.ours):
            if (place := pattern.match(name)) is not None:
                return number, part, place
    raise KeyError(name)


def _outer(name: str, dialect: Dialect, prefix: str) -> str:
    return name if dialect.beside and name.startswith(dialect.beside) else f"{prefix}{name}"
