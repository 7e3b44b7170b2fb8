"""The page itself: what goes in, and how it becomes one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinkit.checkpoints.files import write_atomic
from swinkit.report import classes
from swinkit.report.charts import charts
from swinkit.report.history import Record, epochs_per_step, not_finite, number
from swinkit.report.looking import Looked
from swinkit.report.made import Environment, flat, starts
from swinkit.report.pictures import MistakePicture, Thumbnail, thumbnail
from swinkit.report.reliability import reliability
from swinkit.tasks.scores import Scores

CONFUSIONS = 8
LONG_LIST = 40
HEADLINES = ("parameters", "duration")


@dataclass(frozen=True)
class Report:
    """Everything the page says. `history` holds the records of metrics.jsonl (see `history.py`).

    `summary` is shown in the order given; its entries "parameters" and "duration" are also shown in big type at the top.
    """

    title: str
    command: str
    summary: Mapping[str, str]
    scores: Scores | None
    """None while there are none: the page then has curves only."""
    test_name: str
    """What the scored images are called: "On 1,000 images of <test_name> the model ..."."""
    split: str = "test"
    """ "test" or "validation": which accuracy the headline is."""
    history: Sequence[Record] = ()
    mistakes: Sequence[MistakePicture | Thumbnail] = ()
    looks: Sequence[Looked] = ()
    """What the model looked at, the right answers first."""
    config: str = ""
    next_steps: Sequence[str] = ()
    sessions: Sequence[Environment] = ()
    """environment.json: shown instead of `command`."""
    notices: Sequence[str] = ()
    """Sentences that stand out at the top: unfinished, not readable."""


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file that needs nothing else; a reader of `path` sees the old file or the new one, whole.

    Makes missing parent folders. Raises OSError where the file cannot be written.
    """
    write_atomic(path, render(report).encode(errors="replace"))


def render(report: Report) -> str:
    """The report as HTML."""
    return fill("report.html", _facts(report))


def fill(template: str, facts: Mapping[str, Any]) -> str:
    """A template of this folder, filled in; everything is escaped but the drawings."""
    from jinja2 import Environment as Templates
    from jinja2 import PackageLoader, StrictUndefined

    templates = Templates(
        loader=PackageLoader("swinkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"percent": percent, "number": _number, "sureness": _sureness}
    return templates.get_template(template).render(**facts)


def _facts(report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "scores": report.scores,
        "headlines": _headlines(report),
        "charts": charts(report.history, _resumed(report)),
        "resumed": bool(_resumed(report)),
        "broken": not_finite(report.history),
        "epochs": _epochs(report.history),
        "pictures": [one if isinstance(one, Thumbnail) else thumbnail(one) for one in report.mistakes],
        "starts": starts(report.sessions),
        "environment": flat(report.sessions[-1]) if report.sessions else {},
    } | _score_facts(report.scores)


def _score_facts(scores: Scores | None) -> dict[str, Any]:
    if scores is None:
        return {"confusions": []}
    many = len(scores.classes) > classes.MATRIX_CLASSES
    return {
        "ranking": classes.weakest_first(scores),
        "long_list": LONG_LIST,
        "matrix": classes.matrix(scores),
        "confusions": classes.confusions(scores, LONG_LIST if many else CONFUSIONS),
        "reliability": reliability(scores),
    }


def _resumed(report: Report) -> list[float]:
    """The epochs at which a run went on, for its curves."""
    pace = epochs_per_step(report.history)
    return [at for session in report.sessions[1:] if (at := number(session, "step") * pace) > 0]


def _headlines(report: Report) -> list[tuple[str, str, str]]:
    """(value, what it is, a word more) for each number in big type."""
    named = {key.lower(): value for key, value in report.summary.items()}
    return _score_lines(report) + [(named[key], key, "") for key in HEADLINES if key in named]


def _score_lines(report: Report) -> list[tuple[str, str, str]]:
    scores = report.scores
    if scores is None:
        return _so_far(report.history)
    top = [(percent(scores.top1), f"{report.split} accuracy", f"± {100 * scores.top1_standard_error:.1f} standard error")]
    if len(scores.classes) > 5:
        top.append((percent(scores.top5), "top-5 accuracy", "the right class is among the five best"))
    return [*top, (percent(scores.ece), "calibration error", "how far confidence is from accuracy")]


def _so_far(history: Sequence[Record]) -> list[tuple[str, str, str]]:
    validated = [number(record, "top1") for record in history if record.get("kind") == "val"]
    finite = [value for value in validated if math.isfinite(value)]
    return [(percent(max(finite)), "validation accuracy", "the best so far")] if finite else []


def _epochs(history: Sequence[Record]) -> list[list[str]]:
    """The validation records as rows of text: epoch, step, loss, accuracy."""
    forms = {"epoch": "{:g}", "step": "{:,.0f}", "loss": "{:.4f}", "top1": "{:.2%}"}
    records = [record for record in history if record.get("kind") == "val"]
    return [
        [form.format(number(record, key)).replace("nan%", "-").replace("%", "\u00a0%") for key, form in forms.items()] for record in records
    ]


def percent(fraction: float | None) -> str:
    """0.5 -> "50.0 %"; None -> a dash."""
    return "–" if fraction is None else f"{100 * fraction:.1f}\u00a0%"


def _sureness(confidence: float) -> str:
    # A softmax is never quite sure; "100 %" would claim it is.
    return ">\u00a099\u00a0%" if confidence >= 0.995 else f"{100 * confidence:.0f}\u00a0%"


def _number(count: int) -> str:
    return f"{count:,}"
