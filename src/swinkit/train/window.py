"""Sums between two records of metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from swinkit.train.world import World


@dataclass(frozen=True)
class Means:
    """What a record says: mean loss, accuracy (0 to 1), images per second of all processes."""

    loss: float
    accuracy: float
    images_per_s: float


class Window:
    """Sums since the last record, kept on the device so that nothing waits for it."""

    def __init__(self, loss: float = 0.0, correct: int = 0, images: int = 0, batches: int = 0, seconds: float = 0.0) -> None:
        self.loss, self.correct = torch.tensor(loss, dtype=torch.float64), torch.tensor(correct)
        self.images, self.batches, self.seconds = images, batches, seconds

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """One forward pass: its mean loss and how many of its images were right."""
        if loss.device.type == "mps":  # it has no float64
            loss, correct = loss.cpu(), correct.cpu()
        self.loss = self.loss.to(loss.device) + loss
        self.correct = self.correct.to(correct.device) + correct
        self.images, self.batches = self.images + images, self.batches + 1

    @property
    def mean_loss(self) -> float:
        """Of this process; 0 if nothing was added."""
        return float(self.loss) / max(self.batches, 1)

    def take(self, world: World) -> Means:
        """The means over all processes, and start again; zeros if nothing was added."""
        loss, correct, images, batches, seconds = self.state(world)
        self.__init__()  # type: ignore[misc]
        return Means(loss / max(batches, 1), correct / max(images, 1), images / max(seconds, 1e-9))

    def state(self, world: World) -> tuple[float, int, int, int, float]:
        """Arguments that make one that knows what all processes know; the seconds passed for all of them at once."""
        sums = torch.tensor([float(self.loss), int(self.correct), self.images, self.batches, self.seconds], dtype=torch.float64)
        loss, correct, images, batches, seconds = world.sum(sums).tolist()
        return loss, int(correct), int(images), int(batches), seconds / world.size
