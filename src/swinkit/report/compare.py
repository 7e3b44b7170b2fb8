"""Several runs on one page: curves over one another, a table, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swinkit.checkpoints.files import write_atomic
from swinkit.report import differences
from swinkit.report.charts import Chart, Plan, scale_of
from swinkit.report.drawing import PAGE_COLOURS, SERIES, Stroke, curves, stroke
from swinkit.report.folder import RunFolder
from swinkit.report.history import line, not_finite
from swinkit.report.page import fill
from swinkit.report.summary import NUMBERS, Row, table

PLANS = (
    Plan("Validation accuracy", (("", "val", "top1"),), "{:.1%}", "best", np.max, percent=True),
    Plan("Validation loss", (("", "val", "loss"),), "{:.3g}", "lowest", np.min),
    Plan("Training accuracy", (("", "train", "accuracy"),), "{:.1%}", "best", np.max, percent=True),
    Plan("Training loss", (("", "train", "loss"),), "{:.3g}", "lowest", np.min),
    Plan("Learning rate", (("", "train", "lr"),), "{:.2g}", "highest", np.max),
    Plan("Images per second", (("", "train", "images_per_s"),), "{:,.0f}", "median", np.median),
    Plan("Gradient norm, before clipping", (("", "train", "grad_norm"),), "{:.3g}", "highest", np.max, may_be_log=True),
)


@dataclass(frozen=True)
class Reported:
    """What `report` made: the page, a row for each run, and sentences about what is wrong or hard to compare."""

    page: Path
    runs: tuple[Row, ...]
    differences: dict[str, list[str]]
    """Option -> its value in each run, for those that differ."""
    warnings: tuple[str, ...]
    problems: tuple[str, ...]
    """Runs and files that could not be read."""

    def table(self) -> str:
        """Plain text for a terminal."""
        return table(self.runs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "page": str(self.page),
            "runs": [row.to_dict() for row in self.runs],
            "differences": self.differences,
            "warnings": list(self.warnings),
            "problems": list(self.problems),
        }


def write_comparison(path: Path, runs: Sequence[RunFolder], rows: Sequence[Row], problems: Sequence[str]) -> None:
    """Write the page. Errors: OSError where the file cannot be written."""
    write_atomic(path, render(runs, rows, problems).encode(errors="replace"))


def render(runs: Sequence[RunFolder], rows: Sequence[Row], problems: Sequence[str]) -> str:
    """The page as HTML. `problems`: sentences about runs that are not on it."""
    labels = [letter(place) for place in range(len(runs))]
    looks = [stroke(place, label) for place, label in enumerate(labels)]
    facts = {
        "rows": [(label, _sample(look), row, row.numbers()) for label, look, row in zip(labels, looks, rows, strict=True)],
        "columns": NUMBERS,
        "labels": labels,
        "names": [row.name for row in rows],
        "verdict": differences.verdict(runs, rows, labels),
        "alarms": differences.warnings(runs, labels) + _broken(runs, labels) + list(problems),
        "notices": [f"{label}: {run.state()}" for label, run in zip(labels, runs, strict=True) if run.state()],
        "charts": _charts(runs, looks),
        "differences": [("Configuration", differences.configuration(runs)), ("Environment", differences.environment(runs))],
    }
    return fill("compare.html", facts)


def letter(place: int) -> str:
    """0 -> "A", 25 -> "Z", 26 -> "AA"."""
    before, this = divmod(place, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + this)


def _broken(runs: Sequence[RunFolder], labels: Sequence[str]) -> list[str]:
    """What is wrong with single runs."""
    found = []
    for label, run in zip(labels, runs, strict=True):
        loss = ["Its loss was not finite."] if not_finite(run.history) else []
        found += [f"{label}: {says}" for says in (*run.problems, *loss)]
    return found


def _charts(runs: Sequence[RunFolder], looks: Sequence[Stroke]) -> list[Chart]:
    drawn = []
    for plan in PLANS:
        ((_, kind, key),) = plan.lines
        every = [(line(look.label, run.history, kind, key), look) for run, look in zip(runs, looks, strict=True)]
        lines = [(one, look) for one, look in every if len(one.finite)]
        if lines:
            values = ", ".join(f"{one.name} {plan.write(plan.landmark_of(one.finite))}" for one, _ in lines)
            words = (f"{plan.landmark}: {values}",)
            svg = curves(plan.title, lines, scale_of(plan, [one for one, _ in lines]))
            drawn.append(Chart(plan.title, words, svg, max(one.records_per_point for one, _ in lines)))
    return drawn


def _sample(look: Stroke) -> dict[str, str]:
    """A line's look for the legend: colour and dashes (in the drawing they are in widths of 1.8)."""
    return {"colour": PAGE_COLOURS[SERIES[look.colour - 1]], "dashes": " ".join(f"{1.8 * length:g}" for length in look.dashes) or "none"}
