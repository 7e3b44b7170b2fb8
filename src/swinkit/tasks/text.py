"""Text for terminals."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def printable(text: str) -> str:
    """Control characters as escapes: a file name must not steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row: the first column flush left, the others flush right, two spaces apart."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_pad(cell, to, i == 0) for i, (cell, to) in enumerate(zip(row, widths, strict=True))) for row in cells]


def clock(seconds: float) -> str:
    """74 -> "1 min 14 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _pad(cell: str, to: int, left: bool) -> str:
    space = " " * (to - _columns(cell))
    return cell + space if left else space + cell


def _columns(text: str) -> int:
    # A terminal gives wide East Asian characters two columns.
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
