"""Loss and accuracy on the validation images, each of which is counted once, however many processes share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from swinkit.data.sets import Subset
from swinkit.evaluate import score
from swinkit.runtimes.pytorch import TorchRuntime
from swinkit.tasks.classify import Scorer

if TYPE_CHECKING:
    from swinkit.train.loop import Trainer

BATCH = 256


def validate(trainer: Trainer) -> tuple[float, float]:
    """(mean loss in nats, top-1 from 0 to 1) of the weights that would be saved now, in the precision of training."""
    splits, world = trainer.splits, trainer.world
    own = np.arange(world.rank, len(splits.val), world.size)
    # With sharded weights all processes must compute equally often, so those with an image less look at one twice.
    padded = np.append(own, 0) if len(own) * world.size < len(splits.val) else own
    counted = _Counted(splits.classes, len(own))
    runtime = TorchRuntime(trainer.weights, trainer.device, trainer.amp, trainer.sharded)
    images = Subset(splits.val, padded) if world.size > 1 else splits.val
    labels = np.arange(len(splits.classes))
    score(counted, runtime, images, trainer.preprocess, labels, batch_size=BATCH, workers=trainer.recipe.workers)
    return counted.over(trainer)


class _Counted(Scorer):
    """A scorer of a process's own images: the first so many of those it is shown."""

    def __init__(self, classes: Sequence[str], count: int) -> None:
        super().__init__(classes)
        self.count = count

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor | Sequence[int] | None = None) -> None:
        """As Scorer's, for the images that count."""
        own = torch.as_tensor(indices) < self.count
        super().update(logits[own], labels[own])

    def over(self, trainer: Trainer) -> tuple[float, float]:
        """Loss and accuracy over all processes."""
        scores = self.compute() if self.count else None
        if trainer.world.size == 1 and scores:
            return scores.loss, scores.top1
        parts = [scores.count, scores.loss * scores.count, round(scores.top1 * scores.count)] if scores else [0, 0, 0]
        count, loss, right = trainer.world.sum(torch.tensor(parts, dtype=torch.float64)).tolist()
        return loss / count, right / count
