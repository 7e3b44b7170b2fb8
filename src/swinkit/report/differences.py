"""In what several runs differ, and whether their scores can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from swinkit.report.folder import RunFolder
from swinkit.report.made import flat
from swinkit.report.summary import Row

NOT_SET = "not set"
T = TypeVar("T")


def configuration(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Option -> its value in each run, for the options that differ, in the order of the first configuration."""
    return _differing([{name: _text(value) for name, value in run.config.items()} for run in runs])


def environment(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """The same for versions, hardware and variables; runs that recorded none say so."""
    return _differing([flat(run.sessions[-1]) if run.sessions else {} for run in runs])


def warnings(runs: Sequence[RunFolder], labels: Sequence[str]) -> list[str]:
    """Sentences about what makes the numbers of these runs hard to compare."""
    scored = [(label, run) for label, run in zip(labels, runs, strict=True) if run.scores]
    found = []
    if len(groups := _groups([(label, _scored_on(run)) for label, run in scored])) > 1:
        found.append(
            "These runs were not scored on the same images, so their accuracies and calibration errors say little about which is better. "
            + " ".join(f"{', '.join(members)}: {says}." for (says, *_), members in groups.items())
        )
    if len({run.data for run in runs}) == 1 and len({_validation(run) for run in runs}) > 1:
        found.append(
            "The seeds or validation fractions differ: unless the data has validation images of its own, the runs held out different ones."
        )
    return found


def verdict(runs: Sequence[RunFolder], rows: Sequence[Row], labels: Sequence[str]) -> str:
    """Which run did best on the test images and whether the lead is more than chance; empty where that cannot be said."""
    tested = [
        (row.test_top1, row.test_top1_standard_error or 0.0, label)
        for row, label in zip(rows, labels, strict=True)
        if row.test_top1 is not None
    ]
    if len(tested) < 2 or len({_scored_on(run) for run in runs if run.scores}) > 1:
        return ""
    (first, first_error, best), (second, second_error, runner_up), *_ = sorted(tested, key=lambda one: -one[0])
    gap, error = 100 * (first - second), 100 * math.hypot(first_error, second_error)
    if not gap:
        return f"{best} and {runner_up} are level at the top with {100 * first:.1f} % of the test images."
    doubt = "could be chance" if gap < 2 * error else "is more than chance"
    return (
        f"{best} is best on the test images: {100 * first:.1f} %, {gap:.1f} points before {runner_up}. "
        f"The standard error of that difference is at most about {error:.1f} points, so it {doubt}."
    )


def _differing(tables: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    known = dict.fromkeys(name for table in tables for name in table)
    rows = {name: [table.get(name, NOT_SET) for table in tables] for name in known}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _text(value: Any) -> str:
    if value is None:
        return NOT_SET
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _scored_on(run: RunFolder) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """(the scored images in words, their classes, images of each class): what the folder tells of which images they are."""
    scores = run.scores
    assert scores is not None
    held_out = f", held out with seed {run.config.get('seed')}" if run.scored_on == "val" else ""
    what = scores.images or f"{run.scored_on} of {run.data}"
    classes = f"{len(scores.classes)} classes ({', '.join(scores.classes[:3])}{', ...' if len(scores.classes) > 3 else ''})"
    words = f"{scores.count:,} images, {what} (--data {run.config.get('data')}), {classes}{held_out}"
    return words, scores.classes, tuple(one.count for one in scores.per_class)


def _validation(run: RunFolder) -> tuple[str, str]:
    return str(run.config.get("seed")), str(run.config.get("val_fraction"))


def _groups(pairs: Sequence[tuple[str, T]]) -> dict[T, list[str]]:
    groups: dict[T, list[str]] = {}
    for label, key in pairs:
        groups.setdefault(key, []).append(label)
    return groups
