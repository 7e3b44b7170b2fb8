"""One step of the mechanism, drawn and explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swinkit.explain.page import Section, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chapter:
    """A figure with its words. `name` is the file's stem and stays the same from version to version."""

    name: str
    title: str
    text: tuple[str, ...]
    """Paragraphs; may be markupsafe.Markup."""
    figure: Figure
    alt: str
    caption: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """What was computed, for people."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The same for machines: numbers by name."""
    body: str = ""

    def section(self) -> Section:
        """The chapter as part of a page."""
        return Section(self.title, self.text, [Shown(self.figure, self.alt, self.caption)], self.data, self.body)
