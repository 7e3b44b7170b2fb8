"""Images that are there more than once: under several classes, or in train and again where training is judged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swinkit.data.looks import Look
from swinkit.data.sets import ImageSet, is_files

EXAMPLES = 5
Place = tuple[str, int]
"""(part, index)"""
Pair = tuple[str, str]
"""The names of two equal images."""


@dataclass(frozen=True)
class Overlaps:
    """How many images are repeated in a way that matters, with examples."""

    several_labels: int = 0
    """Images whose content stands under more than one class."""
    label_pairs: tuple[Pair, ...] = ()
    """Some of them, two by two."""
    on_purpose: bool = False
    """Whether some have the same file name, or are links to one file: several labels, and not a few stray copies."""
    leaks: tuple[tuple[str, int, Pair], ...] = ()
    """(part, how many of its images are in train as well, the names of one of them in train and in the part)."""


def find_overlaps(parts: Mapping[str, ImageSet], looks: Mapping[str, Sequence[Look]]) -> Overlaps:
    """Compare the images of all parts by content."""
    labels = {part: parts[part].labels.tolist() for part in looks}
    groups = _equal_images(looks)
    shared = [group for group in groups if len({labels[part][index] for part, index in group}) > 1]
    on_purpose = [group for group in shared if _on_purpose(parts, group, labels)]
    return Overlaps(
        several_labels=sum(map(len, shared)),
        label_pairs=tuple(_names(parts, _first_with_other_label(group, labels)) for group in (on_purpose or shared)[:EXAMPLES]),
        on_purpose=bool(on_purpose),
        leaks=tuple(leak for part in looks if part != "train" and (leak := _leak(parts, groups, part))),
    )


def _equal_images(looks: Mapping[str, Sequence[Look]]) -> list[list[Place]]:
    """Groups of two or more images of the same content."""
    first: dict[str, Place] = {}
    groups: dict[str, list[Place]] = {}
    for part, seen in looks.items():
        for index, look in enumerate(seen):
            if not look.reason and first.setdefault(look.digest, (part, index)) != (part, index):
                groups.setdefault(look.digest, [first[look.digest]]).append((part, index))
    return list(groups.values())


def _first_with_other_label(group: Sequence[Place], labels: Mapping[str, Sequence[int]]) -> tuple[Place, Place]:
    part, index = group[0]
    return group[0], next(place for place in group if labels[place[0]][place[1]] != labels[part][index])


def _leak(parts: Mapping[str, ImageSet], groups: Sequence[Sequence[Place]], part: str) -> tuple[str, int, Pair] | None:
    leaking = [group for group in groups if {"train", part} <= {place[0] for place in group}]
    if not leaking:
        return None
    count = sum(place[0] == part for group in leaking for place in group)
    one, other = (next(place for place in leaking[0] if place[0] == where) for where in ("train", part))
    return part, count, _names(parts, (one, other))


def _names(parts: Mapping[str, ImageSet], places: tuple[Place, Place]) -> Pair:
    (part, index), (other, other_index) = places
    return parts[part].name(index), parts[other].name(other_index)


def _on_purpose(parts: Mapping[str, ImageSet], group: Sequence[Place], labels: Mapping[str, Sequence[int]]) -> bool:
    names = [(Path(parts[part].name(index)), labels[part][index]) for part, index in group if is_files(parts[part])]
    return _meet([(_marks(path), label) for path, label in names])


def _meet(marked: Sequence[tuple[tuple[object, ...], int]]) -> bool:
    """Whether two images of different labels have a mark in common."""
    label_of: dict[object, int] = {}
    return any(label_of.setdefault(mark, label) != label for marks, label in marked for mark in marks)


def _marks(path: Path) -> tuple[object, ...]:
    """What copies made on purpose have in common: the file's name, and the file itself behind links."""
    try:
        stat = os.stat(path)
    except OSError:
        return (path.name,)
    # Some file systems number no files.
    return (path.name, (stat.st_dev, stat.st_ino)) if stat.st_ino else (path.name,)
