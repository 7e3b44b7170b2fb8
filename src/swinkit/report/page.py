"""The page itself: what goes in, and how it becomes one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from swinkit.checkpoints.files import write_atomic
from swinkit.report import classes
from swinkit.report.charts import charts
from swinkit.report.history import Record, not_finite, number
from swinkit.tasks.classify import Scores

PIXEL_ART = 96
LARGEST_PICTURE = 320
CONFUSIONS = 8
LONG_LIST = 40
HEADLINES = ("parameters", "duration")


@dataclass(frozen=True)
class MistakePicture:
    """An image the model got wrong: its two class names, how sure the model was (0 to 1), and the image's name."""

    image: Image.Image
    truth: str
    predicted: str
    confidence: float
    name: str


@dataclass(frozen=True)
class Report:
    """Everything the page says. `history` holds the records of metrics.jsonl (see `history.py`).

    `summary` is shown in the order given; its entries "parameters" and "duration" are also shown in big type at the top.
    """

    title: str
    command: str
    summary: Mapping[str, str]
    scores: Scores
    test_name: str
    """What the scored images are called: "On 1,000 images of <test_name> the model ..."."""
    split: str = "test"
    """ "test" or "validation": which accuracy the headline is."""
    history: Sequence[Record] = ()
    mistakes: Sequence[MistakePicture] = ()
    config: str = ""
    next_steps: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file that needs nothing else; a reader of `path` sees the old file or the new one, whole.

    Makes missing parent folders. Raises OSError where the file cannot be written.
    """
    write_atomic(path, render(report).encode(errors="replace"))


def render(report: Report) -> str:
    """The report as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("swinkit.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "number": _number, "sureness": _sureness}
    return environment.get_template("report.html").render(**_facts(report))


def _facts(report: Report) -> dict[str, Any]:
    scores = report.scores
    many = len(scores.classes) > classes.MATRIX_CLASSES
    return {
        "report": report,
        "scores": scores,
        "headlines": _headlines(report),
        "charts": charts(report.history),
        "broken": not_finite(report.history),
        "epochs": _epochs(report.history),
        "ranking": classes.weakest_first(scores),
        "long_list": LONG_LIST,
        "matrix": classes.matrix(scores),
        "confusions": classes.confusions(scores, LONG_LIST if many else CONFUSIONS),
        "pictures": [_picture(mistake) for mistake in report.mistakes],
    }


def _headlines(report: Report) -> list[tuple[str, str, str]]:
    """(value, what it is, a word more) for each number in big type."""
    scores = report.scores
    top = [(_percent(scores.top1), f"{report.split} accuracy", f"± {100 * scores.top1_standard_error:.1f} standard error")]
    if len(scores.classes) > 5:
        top.append((_percent(scores.top5), "top-5 accuracy", "the right class is among the five best"))
    top.append((_percent(scores.ece), "calibration error", "how far confidence is from accuracy"))
    named = {key.lower(): value for key, value in report.summary.items()}
    return top + [(named[key], key, "") for key in HEADLINES if key in named]


def _epochs(history: Sequence[Record]) -> list[list[str]]:
    """The validation records as rows of text: epoch, step, loss, accuracy."""
    forms = {"epoch": "{:g}", "step": "{:,.0f}", "loss": "{:.4f}", "top1": "{:.2%}"}
    records = [record for record in history if record.get("kind") == "val"]
    return [
        [form.format(number(record, key)).replace("nan%", "-").replace("%", "\u00a0%") for key, form in forms.items()] for record in records
    ]


def _picture(mistake: MistakePicture) -> dict[str, Any]:
    image = mistake.image if mistake.image.mode in ("L", "RGB") else mistake.image.convert("RGB")
    small = max(image.size) <= PIXEL_ART
    if not small:
        image = image.copy()
        image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    # A photograph as PNG is ten times the size; in a small image every pixel counts.
    kind = "png" if small else "jpeg"
    out = io.BytesIO()
    image.save(out, kind)
    data = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"data": data, "width": image.width, "height": image.height, "small": small, "of": mistake}


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f}\u00a0%"


def _sureness(confidence: float) -> str:
    # A softmax is never quite sure; "100 %" would claim it is.
    return ">\u00a099\u00a0%" if confidence >= 0.995 else f"{100 * confidence:.0f}\u00a0%"


def _number(count: int) -> str:
    return f"{count:,}"
