"""What the page says about classes: bars, the confusion matrix, and who is mistaken for whom."""

from __future__ import annotations

import math
from dataclasses import dataclass

from swinkit.tasks.scores import ClassScore, Scores

MATRIX_CLASSES = 40


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix: `shade` from 0 to 100, `title` says it in words."""

    count: int
    shade: int
    right: bool
    title: str


@dataclass(frozen=True)
class Confusion:
    """`count` of the `total` images of class `truth` were called `predicted`."""

    truth: str
    predicted: str
    count: int
    total: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.count / self.total


def weakest_first(scores: Scores) -> list[ClassScore]:
    """The classes by accuracy, lowest first; those without samples last."""
    return sorted(scores.per_class, key=lambda score: math.inf if score.accuracy is None else score.accuracy)


def matrix(scores: Scores) -> list[tuple[str, list[Cell]]]:
    """One row per true class: its name and its cells; empty above MATRIX_CLASSES classes, where nobody can read it."""
    if len(scores.classes) > MATRIX_CLASSES:
        return []
    return [(name, _row(scores, truth)) for truth, name in enumerate(scores.classes)]


def confusions(scores: Scores, most: int) -> list[Confusion]:
    """The pairs that are confused most often, most frequent first."""
    off = scores.confusion.copy()
    off[range(len(off)), range(len(off))] = 0
    best = off.argsort(axis=None, kind="stable")[::-1][:most]
    pairs = [divmod(int(place), len(off)) for place in best]
    return [_confusion(scores, truth, guess) for truth, guess in pairs if off[truth, guess]]


def _confusion(scores: Scores, truth: int, guess: int) -> Confusion:
    return Confusion(scores.classes[truth], scores.classes[guess], int(scores.confusion[truth, guess]), scores.per_class[truth].count)


def _row(scores: Scores, truth: int) -> list[Cell]:
    total = scores.per_class[truth].count
    return [_cell(scores, truth, guess, int(count), total) for guess, count in enumerate(scores.confusion[truth])]


def _cell(scores: Scores, truth: int, guess: int, count: int, total: int) -> Cell:
    if not count:
        return Cell(0, 0, truth == guess, "")
    share = count / total
    title = f"{count:,} of {total:,} {scores.classes[truth]} called {scores.classes[guess]} ({100 * share:.1f} %)"
    # Mistakes are rare, so their shade grows with the square root: one in a hundred can still be seen.
    return Cell(count, round(100 * (share if truth == guess else math.sqrt(share))), truth == guess, title)
