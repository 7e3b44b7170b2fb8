"""A trainer at rest: what a checkpoint holds of it, and how it goes on from there."""

from __future__ import annotations

import shlex
import time
import zlib
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swinkit.checkpoints.native import SavedModel
from swinkit.errors import DataError, TrainingError
from swinkit.train import state
from swinkit.train.optim import go_to, local
from swinkit.train.parallel import whole
from swinkit.train.run import STATE
from swinkit.train.window import Window

if TYPE_CHECKING:
    from swinkit.train.loop import Trainer


@dataclass(frozen=True)
class Best:
    """The best validation accuracy so far, and the step it was measured at."""

    top1: float = -1.0
    step: int = 0


def save(trainer: Trainer) -> None:
    """Write a checkpoint that predicts, evaluates and resumes. All processes call it. Errors: TrainingError if it cannot be written."""
    run, step = trainer.run, trainer.step
    finite = all(bool(local(parameter).isfinite().all()) for parameter in trainer.model.parameters())
    trainer.world.raise_together(None if finite else trainer.stopped("A weight is not finite"))
    weights = {name: whole(tensor) for name, tensor in trainer.weights.state_dict().items()}
    preprocess, origin = trainer.preprocess.to_dict(), trainer.model.origin
    saved = SavedModel(trainer.config, weights, trainer.splits.classes, preprocess, origin=origin)
    tensors = state.tensors_of(trainer.model, trainer.optimizers, trainer.average)
    try:
        run.save(step, saved, _facts(trainer), tensors, world=trainer.world, sharded=trainer.sharded, best=trainer.best.step)
    except OSError as error:
        raise TrainingError(
            f"The checkpoint of step {step} cannot be written ({error.strerror or error}). {run.last_good()} "
            f"Make room, then go on with: swinkit train --resume {shlex.quote(str(run.folder))}"
        ) from error
    trainer.saved_at = time.monotonic()


def _facts(trainer: Trainer) -> dict[str, Any]:
    return {
        "step": trainer.step,
        "best": astuple(trainer.best),
        "window": trainer.window.state(trainer.world),
        "data": _data_print(trainer),
        "images_per_step": trainer.images_per_step,
        "grad_accum_steps": trainer.accumulate,
        "optimizers": [state.optimizer_facts(optimizer) for optimizer in trainer.optimizers],
        "scaler": trainer.scaler.state_dict(),
        "averaged": trainer.average.count if trainer.average else 0,
    }


def _data_print(trainer: Trainer) -> list[Any]:
    """What must be the same for a run to go on: classes, labels in order, steps in an epoch."""
    train = trainer.splits.train
    labels = zlib.crc32(np.ascontiguousarray(train.labels).tobytes())
    return [list(trainer.splits.classes), len(train), labels, trainer.steps_per_epoch]


def resume(trainer: Trainer) -> None:
    """Go back to where the run's last checkpoint was written, or to the start; later records of metrics.jsonl are forgotten.

    Errors: DataError if the data is not what it was, CheckpointError if the checkpoint cannot be read.
    """
    with trainer.world.together():
        facts = trainer.run.facts()
        if facts is not None:
            _check_data(trainer, facts["data"])
    if facts is not None:
        _restore(trainer, facts)
    with trainer.world.together():
        if trainer.world.first:
            trainer.run.cut_back(trainer.step)
            trainer.run.point_best(trainer.best.step)


def _restore(trainer: Trainer, facts: dict[str, Any]) -> None:
    tensors = state.tensors_of(trainer.model, trainer.optimizers, trainer.average, make=True)
    state.read_tensors(trainer.run.checkpoint("last") / STATE, tensors, trainer.world.size)
    for optimizer, remembered in zip(trainer.optimizers, facts["optimizers"], strict=True):
        state.restore_optimizer(optimizer, remembered)
    for schedule in trainer.schedules:
        go_to(schedule, facts["step"])
    trainer.scaler.load_state_dict(facts["scaler"])
    if trainer.average:
        trainer.average.count = facts["averaged"]
    trainer.step, trainer.best = facts["step"], Best(*facts["best"])
    trainer.window = Window(*facts["window"]) if trainer.world.first else Window()


def _check_data(trainer: Trainer, data: list[Any]) -> None:
    splits = trainer.splits
    if data != _data_print(trainer):
        classes, images, *_ = data
        named = ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
        raise DataError(
            f"The run was trained on {images:,} images of {len(classes)} classes ({named}); {splits.name} now has {len(splits.train):,} "
            f"of {len(splits.classes)} to train on, or others. A run goes on only with the same data: put back what was there, "
            "or start a new run."
        )
