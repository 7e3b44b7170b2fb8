"""Tensor names as patterns: "layers.{s+1}.downsample.{p}" -> the stage and the parameter that a name speaks of, and back.

`{s}` is a stage and `{b}` a block in it, both counted from 0, also as `{s+1}`, `{2s+1}`, `{2s+2}`; `{p}` is "weight" or "bias";
`{last}` is the number of the last stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

FIELD = re.compile(r"\{(?P<times>\d*)(?P<letter>[a-z]+)(?:\+(?P<plus>\d+))?\}")
Place = Mapping[str, int | str]
"""What the fields of a pattern stand for: {"s": 2, "b": 0, "p": "weight"}."""


@dataclass(frozen=True)
class Pattern:
    """One name with fields."""

    text: str

    @cached_property
    def _fields(self) -> list[tuple[str, int, int]]:
        return [(m["letter"], int(m["times"] or 1), int(m["plus"] or 0)) for m in FIELD.finditer(self.text)]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        literal = [re.escape(part) for part in FIELD.split(self.text)[:: FIELD.groups + 1]]
        groups = [r"(weight|bias)" if letter == "p" else r"(\d{1,4})" for letter, _, _ in self._fields]
        return re.compile("".join(text + group for text, group in zip(literal, [*groups, ""], strict=True)))

    def match(self, name: str) -> dict[str, int | str] | None:
        """The place that `name` speaks of, or None where it does not fit."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        place: dict[str, int | str] = {}
        for (letter, times, plus), value in zip(self._fields, found.groups(), strict=True):
            if letter == "p":
                place[letter] = value
                continue
            number, rest = divmod(int(value) - plus, times)
            if rest or number < 0:
                return None
            place[letter] = number
        return place

    def at(self, place: Place) -> str:
        """The name of a place."""

        def fill(field: re.Match[str]) -> str:
            value = place[field["letter"]]
            return value if isinstance(value, str) else str(int(field["times"] or 1) * value + int(field["plus"] or 0))

        return FIELD.sub(fill, self.text)
