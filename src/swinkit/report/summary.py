"""A run in one row, for comparing it with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinkit.report.folder import RunFolder
from swinkit.report.rebuild import duration
from swinkit.tasks.text import align

LONGEST = 40
NUMBERS = ("parameters", "epochs", "val top-1", "test top-1", "ECE", "images/s", "duration")


@dataclass(frozen=True)
class Row:
    """A run's name and numbers; fractions from 0 to 1, None where the run does not say."""

    name: str
    folder: str
    model: str
    parameters: int | None
    data: str
    epochs_done: int
    epochs_planned: int
    finished: bool
    val_top1: float | None
    """The best validation accuracy, which chose the checkpoint."""
    test_top1: float | None
    test_top1_standard_error: float | None
    ece: float | None
    """Of the images that were scored: test, or validation where there are no test images."""
    scored_on: str
    images_per_s: float | None
    seconds: float | None
    duration: str

    def numbers(self) -> tuple[str, ...]:
        """Text under NUMBERS."""
        return (
            f"{self.parameters / 1e6:.2f} M" if self.parameters else "-",
            f"{self.epochs_done}/{self.epochs_planned}",
            _percent(self.val_top1),
            f"{_percent(self.test_top1)} ± {100 * (self.test_top1_standard_error or 0):.1f}" if self.test_top1 is not None else "-",
            _percent(self.ece),
            f"{self.images_per_s:,.0f}" if self.images_per_s else "-",
            self.duration or "-",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(vars(self))


def row_of(run: RunFolder, name: str) -> Row:
    """What the table says of a run."""
    scores, tested = run.scores, run.scored_on == "test"
    return Row(
        name=name,
        folder=str(run.folder),
        model=str(run.config["model"]),
        parameters=run.parameters(),
        data=run.data,
        epochs_done=run.epochs_done,
        epochs_planned=run.epochs_planned,
        finished=scores is not None,
        val_top1=run.best_validation,
        test_top1=scores.top1 if scores and tested else None,
        test_top1_standard_error=scores.top1_standard_error if scores and tested else None,
        ece=scores.ece if scores else None,
        scored_on=run.scored_on,
        images_per_s=run.images_per_s,
        seconds=run.seconds[0] if run.seconds else None,
        duration=duration(run),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    cells = [(_short(row.name), _short(row.model), _short(row.data), *row.numbers()) for row in rows]
    return "\n".join(align([("run", "model", "data", *NUMBERS), *cells]))


def names(folders: Sequence[Path]) -> list[str]:
    """A name for each of several different folders: as much of the end of its path as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    return [str(Path(*own[-_needed(own, parts) :])) for own in parts]


def _needed(own: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> int:
    return next((count for count in range(1, len(own)) if [one[-count:] for one in others].count(own[-count:]) == 1), len(own))


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _short(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"
