"""Accuracy, speed and size before and after, in one table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swinkit.data import ImageSet, Preprocess, eval_transform, make_loader, open_split
from swinkit.errors import ConfigError
from swinkit.evaluate import match_classes
from swinkit.predict import Runtime
from swinkit.runtimes.facts import Facts
from swinkit.tasks.classify import Scorer

BATCH = 64


@dataclass(frozen=True)
class Row:
    """One way to run the model, on the same images as the others."""

    name: str
    top1: float
    top5: float
    ece: float
    loss: float
    images_per_second: float
    """Of computing alone, in turns with the others."""
    megabytes: float


class Timed:
    """A runtime, its scores, and how long it has computed."""

    def __init__(self, runtime: Runtime, classes: tuple[str, ...]) -> None:
        self.runtime, self.scorer, self.seconds, self.images = runtime, Scorer(classes), 0.0, 0

    def take(self, images: Tensor, labels: Tensor, count: bool) -> None:
        """Score a batch. count: whether its time counts; that of the first holds warming up."""
        start = time.perf_counter()
        logits = self.runtime.run(images)
        if count:
            self.seconds, self.images = self.seconds + time.perf_counter() - start, self.images + len(images)
        self.scorer.update(logits, labels)


def measure(runtimes: Mapping[str, tuple[Runtime, float]], facts: Facts, data: str | Path) -> tuple[str, tuple[Row, ...]]:
    """(what the images are called, a row per runtime). runtimes: name -> (runtime, megabytes). Errors: DataError, InputError."""
    images, classes = labelled(data, facts)
    to_model = torch.from_numpy(np.asarray(match_classes(images.classes, classes)))
    preprocess = Preprocess.from_dict(facts.preprocess)
    loader = make_loader(images, eval_transform(preprocess), preprocess.mode, batch_size=BATCH, train=False, seed=0, workers=0)
    timed = {name: Timed(runtime, classes) for name, (runtime, _) in runtimes.items()}
    for number, (pixels, labels, _) in enumerate(loader):
        for one in list(timed.values())[:: 1 if number % 2 else -1]:
            one.take(pixels, to_model[labels], count=number > 0 or len(images) <= BATCH)
    return f"{len(images):,} images of {data}", tuple(_row(name, timed[name], size) for name, (_, size) in runtimes.items())


def labelled(data: str | Path, facts: Facts) -> tuple[ImageSet, tuple[str, ...]]:
    """(images whose labels the model knows, the model's classes). Errors: DataError for others, ConfigError for a model without classes."""
    if facts.out_indices is not None or not facts.config.num_classes:
        raise ConfigError("evaluate (--evaluate) measures accuracy, and this model has no classes; leave it out.")
    images, classes = open_split(data), facts.labels or tuple(str(index) for index in range(facts.config.num_classes))
    match_classes(images.classes, classes)
    return images, classes


def _row(name: str, timed: Timed, megabytes: float) -> Row:
    scores = timed.scorer.compute()
    return Row(name, scores.top1, scores.top5, scores.ece, scores.loss, timed.images / timed.seconds, megabytes)


def table(rows: tuple[Row, ...]) -> list[str]:
    """For a terminal; the speed-up is over the row before the last, the same file in float32."""
    width = max(len(row.name) for row in rows)
    lines = [f"  {'':{width}}   top-1    top-5    ECE     images/s      MB"]
    for row in rows:
        numbers = f"{row.top1:7.2%}  {row.top5:7.2%}  {row.ece:5.1%}  {row.images_per_second:10.1f}  {row.megabytes:7.1f}"
        lines.append(f"  {row.name:{width}}  {numbers}")
    before, after = rows[-2:]
    change, faster = 100 * (after.top1 - before.top1), after.images_per_second / before.images_per_second
    return [*lines, f"  top-1 {change:+.2f} points, {faster:.2f} times as fast, {after.megabytes / before.megabytes:.2f} of the size"]
