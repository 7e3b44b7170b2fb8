"""What a look at a data set found, as plain data: one process can look for many."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from swinkit.data.overlaps import Overlaps

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels"""


@dataclass(frozen=True)
class Broken:
    """An image that cannot be used."""

    index: int
    """Its place in its part."""
    name: str
    reason: str
    """A sentence that names it."""


@dataclass(frozen=True)
class Findings:
    """What `look` found."""

    counts: dict[str, tuple[int, ...]]
    """part ("train", "val", "test") -> images per class"""
    broken: dict[str, tuple[Broken, ...]]
    """part -> images that cannot be decoded"""
    small: dict[str, tuple[Broken, ...]]
    """part -> images that are smaller than one patch on a side"""
    sizes: tuple[Size, ...]
    """The smallest, the median and the largest image by area; empty if only images in memory are there."""
    modes: dict[str, int]
    """Pillow's mode -> files in it, the most frequent first"""
    overlaps: Overlaps

    def unusable(self, part: str) -> list[Broken]:
        """Broken and small images of a part, in its order."""
        return sorted([*self.broken[part], *self.small[part]], key=lambda image: image.index)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON knows them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Findings:
        """The inverse of to_dict, also after a way through JSON."""
        lists = {
            kind: {part: tuple(Broken(**image) for image in images) for part, images in values[kind].items()}
            for kind in ("broken", "small")
        }
        return cls(
            counts={part: tuple(counts) for part, counts in values["counts"].items()},
            **lists,
            sizes=_tuples(values["sizes"]),
            modes=dict(values["modes"]),
            overlaps=Overlaps(**{name: _tuples(value) for name, value in values["overlaps"].items()}),
        )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
