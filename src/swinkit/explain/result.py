"""What a call of `explain` made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Explanation:
    """The files that were written, and what was found: plain values by name."""

    files: tuple[Path, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"files": [str(file) for file in self.files], **self.facts}

    def table(self) -> str:
        """The facts as lines of text."""
        width = max((len(name) for name in self.facts), default=0)
        return "\n".join(f"{name.replace('_', ' '):{width}}  {value}" for name, value in self.facts.items())
