"""After the last epoch: score the best checkpoint on images that chose nothing, write the report, say what to do next."""

from __future__ import annotations

import json
import platform
import shlex
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

import swinkit
from swinkit.checkpoints.files import write_atomic
from swinkit.data import ImageSet
from swinkit.evaluate import score
from swinkit.predict import Predictor
from swinkit.report import MistakePicture, Report, write_report
from swinkit.runtimes.device import describe
from swinkit.tasks.classify import Mistake, Scorer, Scores
from swinkit.train.loop import Trainer
from swinkit.train.progress import clock

MISTAKES = 24


def finish(trainer: Trainer, command: str, seconds: float, console: Console) -> tuple[Scores, str]:
    """Score, report, and print where to look; returns the scores and which images they are of."""
    splits, run = trainer.splits, trainer.run
    images, scored_on = (splits.test, "test") if splits.test is not None else (splits.val, "val")
    predictor = Predictor(run.checkpoint("best"), device=str(trainer.device))
    scorer = Scorer(splits.classes, keep_mistakes=MISTAKES)
    score(
        scorer,
        predictor.runtime,
        images,
        predictor.preprocess,
        np.arange(len(splits.classes)),
        batch_size=256,
        workers=trainer.recipe.workers,
    )
    scores = replace(scorer.compute(), images=f"{scored_on} of {splits.name}")
    write_atomic(run.folder / f"scores-{scored_on}.json", json.dumps(scores.to_dict(), indent=1) + "\n")
    next_steps = _next_steps(trainer)
    report = Report(
        title=f"{trainer.recipe.model} on {splits.name}",
        command=command or "swinkit.train(...)",
        summary=_summary(trainer, seconds),
        scores=scores,
        test_name=splits.name,
        split="test" if scored_on == "test" else "validation",
        history=run.history(),
        mistakes=[_picture(images, mistake, splits.classes, predictor.preprocess.mode) for mistake in scorer.mistakes()],
        config=run.config.read_text(encoding="utf-8"),
        next_steps=next_steps,
    )
    write_report(run.report, report)
    _tell(trainer, scores, scored_on, seconds, next_steps, console)
    return scores, scored_on


def _picture(images: ImageSet, mistake: Mistake, classes: tuple[str, ...], mode: str) -> MistakePicture:
    return MistakePicture(
        image=images.image(mistake.index, mode),
        truth=classes[mistake.truth],
        predicted=classes[mistake.predicted],
        confidence=mistake.confidence,
        name=images.name(mistake.index),
    )


def _summary(trainer: Trainer, seconds: float) -> dict[str, str]:
    recipe, splits = trainer.recipe, trainer.splits
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    counts = f"{len(splits.train):,} / {len(splits.val):,} / {len(splits.test) if splits.test is not None else 0:,}"
    return {
        "model": recipe.model,
        "parameters": f"{parameters / 1e6:.2f} M",
        "data": splits.name,
        "train / validation / test images": counts,
        "best checkpoint": trainer.run.checkpoint("best").resolve().name + (" (averaged weights)" if trainer.average else ""),
        "epochs": str(recipe.epochs),
        "batch size": str(trainer.batch_size * trainer.accumulate),
        "precision": str(trainer.amp or torch.float32).removeprefix("torch."),
        "seed": str(recipe.seed),
        "duration": clock(seconds),
        "hardware": describe(trainer.device),
        "versions": f"swinkit {swinkit.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }


def _next_steps(trainer: Trainer) -> list[str]:
    folder = shlex.quote(str(trainer.run.folder))
    return [
        f"swinkit predict {folder} photo.jpg",
        f"swinkit evaluate {folder} --data {shlex.quote(trainer.recipe.data)}",
        "swinkit train --data FOLDER_WITH_ONE_FOLDER_PER_CLASS",
    ]


def _tell(trainer: Trainer, scores: Scores, scored_on: str, seconds: float, next_steps: list[str], console: Console) -> None:
    what, note = ("test", "") if scored_on == "test" else ("validation", "; they also chose the checkpoint, since there are no test images")
    accuracy = f"{100 * scores.top1:.1f} % ± {100 * scores.top1_standard_error:.1f}"
    lines = [
        "",
        f"{what} accuracy {accuracy} on {scores.count:,} images, after {clock(seconds)}{note}",
        f"open    {trainer.run.report}",
        *(f"{'next' if number == 0 else '    '}    {step}" for number, step in enumerate(next_steps)),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
