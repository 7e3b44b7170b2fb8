"""After the last epoch: score the best checkpoint on images that chose nothing, write the report, say what to do next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from swinkit.build import from_saved
from swinkit.checkpoints.dialects.examine import read
from swinkit.checkpoints.files import write_atomic
from swinkit.checkpoints.native import SavedModel
from swinkit.data import ImageSet, Preprocess
from swinkit.evaluate import score
from swinkit.model import SwinTransformer
from swinkit.predict import Predictor
from swinkit.report import MistakePicture, look, next_steps, read_run, rebuild, thumbnail, write_facts
from swinkit.tasks.classify import Mistake, Scorer, Scores
from swinkit.tasks.text import clock
from swinkit.train.card import write_run_card
from swinkit.train.loop import Trainer

MISTAKES = 24
LOOKS = 4
"""Right answers, and mistakes, whose attention the report shows."""


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
    mistakes = _mistakes(images, scorer.mistakes(), splits.classes, predictor.preprocess.mode)
    best = read(run.checkpoint("best"))
    write_run_card(trainer, best, scores, scored_on, command, seconds)
    looks = _looks(best, images, scorer, splits.classes, console)
    write_facts(run.folder, _facts(trainer, command, seconds) | {"mistakes": mistakes, "looks": looks})
    # Built from the folder alone: `swinkit report` makes the same page.
    written = read_run(run.folder)
    rebuild(written)
    _tell(trainer, scores, scored_on, seconds, next_steps(written), console)
    return scores, scored_on


def _mistakes(images: ImageSet, mistakes: Sequence[Mistake], classes: tuple[str, ...], mode: str) -> list[dict[str, Any]]:
    return [thumbnail(_picture(images, mistake, classes, mode)).to_dict() for mistake in mistakes]


def _picture(images: ImageSet, answer: Mistake, classes: tuple[str, ...], mode: str) -> MistakePicture:
    return MistakePicture(
        image=images.image(answer.index, mode),
        truth=classes[answer.truth],
        predicted=classes[answer.predicted],
        confidence=answer.confidence,
        name=images.name(answer.index),
    )


def _looks(best: SavedModel, images: ImageSet, scorer: Scorer, classes: tuple[str, ...], console: Console) -> list[dict[str, Any]]:
    """What the model looked at, for the report; a run is not lost for it."""
    try:
        model = from_saved(best)
        assert isinstance(model, SwinTransformer)
        mode = Preprocess.from_dict(model.preprocess).mode
        answers = [*scorer.hits(LOOKS), *scorer.mistakes()[:LOOKS]]
        return [look(model, _picture(images, answer, classes, mode), answer.predicted).to_dict() for answer in answers]
    except Exception as error:  # whatever it is, the scores and the rest of the page stand
        console.print(
            Text(f"The report goes without attention pictures: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        )
        return []


def _facts(trainer: Trainer, command: str, seconds: float) -> dict[str, Any]:
    """What the page says and neither the configuration nor a checkpoint holds."""
    splits = trainer.splits
    return {
        "command": command,
        "data": splits.name,
        "images": {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test) if splits.test is not None else 0},
        "batch_size": trainer.batch_size * trainer.accumulate,
        "seconds": seconds,
    }


def _tell(trainer: Trainer, scores: Scores, scored_on: str, seconds: float, steps: list[str], console: Console) -> None:
    what, note = ("test", "") if scored_on == "test" else ("validation", "; they also chose the checkpoint, since there are no test images")
    accuracy = f"{100 * scores.top1:.1f} % ± {100 * scores.top1_standard_error:.1f}"
    lines = [
        "",
        f"{what} accuracy {accuracy} on {scores.count:,} images, after {clock(seconds)}{note}",
        f"open    {trainer.run.report}",
        *(f"{'next' if number == 0 else '    '}    {step}" for number, step in enumerate(steps)),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
