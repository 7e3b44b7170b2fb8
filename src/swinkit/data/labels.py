"""Class names of data that does not come in class folders: their order, and what cannot be a class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from swinkit.data.folders import SPLIT_FOLDERS
from swinkit.data.sets import Labels
from swinkit.errors import DataError

LABEL_COLUMNS = ("label", "class", "target")
ONE_CLASS = "swinkit trains classifiers with one class per image, so an image with several labels cannot be trained"


def split_called(name: str) -> str | None:
    """The split "train", "val" or "test" that a name such as "Validation" stands for; None if it stands for none."""
    word = name.strip().lower()
    return next((split for split, names in SPLIT_FOLDERS.items() if word in names), None)


def split_in(name: str, where: str) -> str | None:
    """The split that a file's name speaks of, as "imagenet-train-0001" does; None if it speaks of none, DataError if of several."""
    found = {split for word in re.split(r"[^a-z]+", name.lower()) if (split := split_called(word))}
    if len(found) > 1:
        raise DataError(f"{where} names {' and '.join(sorted(found))} at once. Rename it, so that it names one of them.")
    return found.pop() if found else None


def class_name(value: Any, where: str) -> str:
    """The name of the one class that a label means: text, a whole number or a truth value.

    where: the place that an error names. Raises DataError for nothing, for several labels, and for what is no class.
    """
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        raise DataError(f"{where} has the labels {_short(value)}; {ONE_CLASS}. Keep one label per image.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and value == value:
        raise DataError(f"{where} has the label {value}, which is a measurement; a class is text or a whole number.")
    name = "" if value is None or value != value else str(value).strip()
    if not name:
        raise DataError(f"{where} has an empty label. Fill it in, or remove the image.")
    if _says_several(name):
        raise DataError(f"{where} has the label {_short(name)}, which reads as several; {ONE_CLASS}. Keep one label per image.")
    return name


def _says_several(name: str) -> bool:
    # Commas prove nothing: ImageNet has the class "tench, Tinca tinca".
    return "|" in name or ";" in name or (name[0] == "[" and name[-1] == "]")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names without repeats, sorted: as numbers if all of them are whole numbers, else as text."""
    distinct = set(names)
    if all(re.fullmatch(r"[+-]?\d+", name, re.ASCII) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def number_classes(
    parts: Mapping[str, Sequence[str]], source: str, declared: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Classes, and the labels (N,) of each part, from the class name of every image in every part.

    The first part, "train" if there is one, says what the classes are, unless they are declared. Raises DataError for fewer than two
    classes, and where another part shows a class that the first has not.
    """
    first, *others = parts
    seen = set(parts[first])
    classes = declared or class_order(seen)
    if len(classes) < 2:
        raise DataError(f"{source} holds only one class ({', '.join(classes)}) in {first}; a classifier needs at least two. Add another.")
    for other in others:
        if strangers := class_order(set(parts[other]) - seen):
            raise DataError(
                f"{source} has the class {strangers[0]} in {other}, which {first} has not. Rename or remove it, or add it to {first}."
            )
    place = {name: index for index, name in enumerate(classes)}
    return classes, {part: np.array([place[name] for name in names], dtype=np.int64) for part, names in parts.items()}
