"""Naming what is in an image: the loss, the best guesses for an image, and the scores of a model over many.

B batch | C classes
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from swinkit.errors import InputError
from swinkit.tasks.calibration import Calibration, expected_error
from swinkit.tasks.scores import ClassScore as ClassScore
from swinkit.tasks.scores import Scores as Scores
from swinkit.tasks.scores import percent
from swinkit.tasks.text import printable


def soft_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats: logits (B, C), targets (B,) class indices or (B, C) probabilities -> scalar.

    Half-precision logits are summed in float32. Raises InputError when the shapes do not belong together.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    soft = targets.is_floating_point()
    expected = logits.shape if soft else logits.shape[:1]
    if logits.ndim != 2 or targets.shape != expected:
        raise InputError(
            f"The loss got logits {tuple(logits.shape)} and {targets.dtype} targets {tuple(targets.shape)}. "
            "Give logits (B, C) with int64 targets (B,), or with float targets (B, C)."
        )
    return F.cross_entropy(logits, targets.to(logits.dtype) if soft else targets, label_smoothing=smoothing)


@dataclass(frozen=True)
class Prediction:
    """The best guesses for one image, best first; scores are probabilities from 0 to 1."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    indices: tuple[int, ...]
    source: str

    @property
    def label(self) -> str:
        """The best guess."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the best guess, from 0 to 1."""
        return self.scores[0]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: source, label, score and `top`, a list of {label, score, index}."""
        guesses = zip(self.labels, self.scores, self.indices, strict=True)
        top = [{"label": label, "score": score, "index": index} for label, score, index in guesses]
        return {"source": self.source, "label": self.label, "score": self.score, "top": top}

    def __str__(self) -> str:
        guesses = zip(self.labels, self.scores, strict=True)
        return f"{printable(self.source)}: " + ", ".join(f"{printable(label)} {percent(score)}" for label, score in guesses)


def top_k(logits: Tensor, classes: Sequence[str], k: int, sources: Sequence[str]) -> list[Prediction]:
    """The k most probable classes of each image: logits (B, C), C class names, B sources -> B predictions.

    k is clipped to C. Raises InputError when the counts do not belong together, k < 1, or the logits are not finite.
    """
    _check_logits(logits, classes)
    if len(sources) != len(logits) or k < 1:
        raise InputError(f"Got k = {k} and {len(sources)} sources for {len(logits)} images. Give k >= 1 and one source per image.")
    scores, indices = _probabilities(logits).topk(min(k, len(classes)))
    return [
        Prediction(tuple(classes[i] for i in best), tuple(score), tuple(best), str(source))
        for score, best, source in zip(scores.tolist(), indices.tolist(), sources, strict=True)
    ]


@dataclass(frozen=True)
class Mistake:
    """One answer, wrong or right: the sample's index, the two class indices, and how sure the model was (0 to 1)."""

    index: int
    truth: int
    predicted: int
    confidence: float


class Scorer:
    """Collects outputs batch by batch and scores all of them exactly.

    It knows only what this process gave it: under several processes, gather the logits first.
    """

    def __init__(self, classes: Sequence[str], keep_mistakes: int = 0) -> None:
        from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassStatScores

        if len(classes) < 2:
            raise InputError(f"Got {len(classes)} classes; a classifier is scored over two or more.")
        self.classes = tuple(classes)
        # Left on, torchmetrics would wait inside compute() for processes that do not score.
        shared: dict[str, Any] = {"num_classes": len(classes), "validate_args": False, "sync_on_compute": False}
        self._confusion = MulticlassConfusionMatrix(**shared)
        self._top5 = MulticlassStatScores(**shared, top_k=min(5, len(classes)), average="micro")
        self._calibration = Calibration()
        self._keep = keep_mistakes
        self._worst: list[Mistake] = []
        self._best: dict[int, Mistake] = {}
        self._count = 0
        self._loss = 0.0

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor | Sequence[int] | None = None) -> None:
        """Add a batch: logits (B, C), labels (B,) class indices, and the samples' indices (B,), by default their running number.

        Raises InputError on shapes or labels that do not fit the classes, and on logits that are not finite.
        """
        _check_logits(logits, self.classes)
        labels = _checked_labels(labels, len(logits), self.classes)
        numbers = torch.arange(self._count, self._count + len(labels)) if indices is None else torch.as_tensor(indices)
        if numbers.shape != labels.shape:
            raise InputError(f"Got {numbers.numel()} indices for {len(labels)} images. Give one index per image.")
        if not len(labels):
            return
        probabilities = _probabilities(logits)
        self._count += len(labels)
        self._loss += float(F.cross_entropy(logits.detach().cpu().double(), labels, reduction="sum"))
        self._confusion.update(probabilities, labels)
        self._top5.update(probabilities, labels)
        confidence, predicted = probabilities.max(1)
        self._calibration.update(confidence, predicted == labels)
        self._remember(probabilities, labels, numbers)

    def compute(self) -> Scores:
        """The scores of everything so far. Raises InputError when there is nothing."""
        if not self._count:
            raise InputError("There is nothing to score: no image was given. Call update() with at least one batch.")
        calibration = self._calibration.compute()
        confusion = self._confusion.compute().numpy().astype(np.int64)
        return Scores(
            count=self._count,
            loss=self._loss / self._count,
            top1=int(np.trace(confusion)) / self._count,
            top5=int(self._top5.compute()[0]) / self._count,
            ece=expected_error(calibration),
            per_class=_per_class(confusion, self.classes),
            confusion=confusion,
            classes=self.classes,
            calibration=calibration,
        )

    def mistakes(self) -> list[Mistake]:
        """The `keep_mistakes` wrong answers the model was surest of, surest first."""
        return list(self._worst)

    def hits(self, count: int) -> list[Mistake]:
        """Of each class, the right answer the model was surest of; the `count` surest of these, surest first."""
        return heapq.nlargest(count, self._best.values(), key=lambda hit: hit.confidence)

    def _remember(self, probabilities: Tensor, labels: Tensor, numbers: Tensor) -> None:
        confidence, predicted = probabilities.max(1)
        wrong = predicted != labels
        columns = (values[wrong].tolist() for values in (numbers.cpu(), labels, predicted, confidence))
        new = (Mistake(*row) for row in zip(*columns, strict=True))
        self._worst = heapq.nlargest(self._keep, [*self._worst, *new], key=lambda mistake: mistake.confidence)
        for label in predicted[~wrong].unique().tolist():
            place = int(confidence.where((predicted == label) & ~wrong, -1).argmax())
            hit = Mistake(int(numbers[place]), label, label, float(confidence[place]))
            self._best[label] = max(self._best.get(label, hit), hit, key=lambda hit: hit.confidence)


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassScore, ...]:
    hits, truths, guesses = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return tuple(
        ClassScore(name, truth, _ratio(hit, truth), _ratio(hit, guess), _ratio(2 * hit, truth + guess) if truth else None)
        for name, hit, truth, guess in zip(classes, hits, truths, guesses, strict=True)
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _probabilities(logits: Tensor) -> Tensor:
    probabilities = logits.detach().cpu().double().softmax(1)
    broken = probabilities.isnan().any(1)
    if broken.any():
        raise InputError(
            f"The model's output is not finite for {int(broken.sum())} of {len(logits)} images in this batch. "
            "Look for NaN in the weights or the images, or run in float32."
        )
    return probabilities


def _check_logits(logits: Tensor, classes: Sequence[str]) -> None:
    if logits.ndim != 2 or logits.shape[1] != len(classes):
        raise InputError(
            f"Got logits of shape {tuple(logits.shape)} for {len(classes)} classes. "
            f"Give (B, {len(classes)}); a model with another number of outputs needs its own list of class names."
        )


def _checked_labels(labels: Tensor, count: int, classes: Sequence[str]) -> Tensor:
    if labels.shape != (count,) or labels.is_floating_point():
        raise InputError(f"Got {labels.dtype} labels of shape {tuple(labels.shape)} for {count} images. Give class indices ({count},).")
    labels = labels.detach().cpu().long()
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
        raise InputError(
            f"Labels run from {int(labels.min())} to {int(labels.max())}, but there are {len(classes)} classes, "
            f"0 to {len(classes) - 1}. Score with the classes the model was trained on."
        )
    return labels
