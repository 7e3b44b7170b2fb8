"""How a model does on labelled images: the numbers, as text and as JSON.

C classes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from swinkit.errors import InputError
from swinkit.tasks.calibration import CalibrationBin
from swinkit.tasks.text import align, printable

TABLE_ROWS = 40


@dataclass(frozen=True)
class ClassScore:
    """One class, in fractions from 0 to 1. None is undefined: accuracy and f1 without samples, precision without predictions."""

    name: str
    count: int
    accuracy: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Scores:
    """How a model does on labelled images. Fractions from 0 to 1; loss in nats; `confusion` (C, C) int64 has the truth in rows."""

    count: int
    loss: float
    top1: float
    top5: float
    ece: float
    per_class: tuple[ClassScore, ...]
    confusion: NDArray[np.int64] = field(repr=False, compare=False)
    classes: tuple[str, ...]
    images: str = ""
    """What the images are called, such as "test of fashion-mnist-sample"."""
    calibration: tuple[CalibrationBin, ...] = ()
    """Accuracy against confidence in bins; `ece` is their mean gap."""

    @property
    def top1_standard_error(self) -> float:
        """Of top1 as an estimate for further images of the same kind: sqrt(p (1 - p) / n)."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.count)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: no NaN, no infinity, no arrays; what is undefined is None."""
        return {
            "images": self.images,
            "count": self.count,
            "loss": self.loss if math.isfinite(self.loss) else None,
            "top1": self.top1,
            "top1_standard_error": self.top1_standard_error,
            "top5": self.top5,
            "ece": self.ece,
            "calibration": [asdict(one) for one in self.calibration],
            "classes": list(self.classes),
            "per_class": [asdict(score) for score in self.per_class],
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, `values`, again. Errors: InputError where something is missing or of another kind."""
        try:
            scores = cls(
                count=int(values["count"]),
                loss=math.inf if values["loss"] is None else float(values["loss"]),
                **{name: _fraction(values[name]) for name in ("top1", "top5", "ece")},
                per_class=tuple(ClassScore(**score) for score in values["per_class"]),
                confusion=np.array(values["confusion"], dtype=np.int64),
                classes=tuple(map(str, values["classes"])),
                images=str(values.get("images", "")),
                calibration=tuple(CalibrationBin(**one) for one in values.get("calibration", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"These are no scores ({type(error).__name__}: {error}); expected what Scores.to_dict gives.") from None
        scores._check_whole()
        return scores

    def _check_whole(self) -> None:
        """Raise InputError unless the parts belong together."""
        size = len(self.classes)
        if self.confusion.shape != (size, size) or len(self.per_class) != size or self.count < 1 or self.confusion.sum() != self.count:
            raise InputError(
                f"The scores are of {self.count} images and {size} classes, but hold a confusion matrix {self.confusion.shape} of "
                f"{self.confusion.sum()} images and {len(self.per_class)} class scores; expected what Scores.to_dict gives."
            )

    def table(self) -> str:
        """Plain text for a terminal: the summary, then a line per class (of many classes, those with the lowest accuracy)."""
        summary = {
            "images": f"{self.count:,}" + (f" ({printable(self.images)})" if self.images else ""),
            "top-1 accuracy": f"{percent(self.top1)} ± {100 * self.top1_standard_error:.1f}",
            f"top-{min(5, len(self.classes))} accuracy": percent(self.top5),
            "loss": f"{self.loss:.4f}",
            "calibration error": percent(self.ece),
        }
        return "\n".join([*(f"{name:<17}  {value}" for name, value in summary.items()), "", *self._class_lines()])

    def _class_lines(self) -> list[str]:
        shown = self.per_class
        if len(shown) > TABLE_ROWS:
            shown = tuple(sorted(shown, key=lambda score: 2.0 if score.accuracy is None else score.accuracy)[:TABLE_ROWS])
        rows = [[s.name, f"{s.count:,}", percent(s.accuracy), percent(s.precision), percent(s.f1)] for s in shown]
        lines = align([["class", "images", "accuracy", "precision", "F1"], *rows])
        left_out = len(self.per_class) - len(shown)
        return [*lines, f"and {left_out} classes with higher accuracy"] if left_out else lines


def percent(fraction: float | None) -> str:
    """0.5 -> "50.0 %"; None -> "-"."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _fraction(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not from 0 to 1")
    return number
