"""A model that is served: what it can do, and its queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from swinkit.data.transforms import framed
from swinkit.predict import Predictor
from swinkit.runtimes.artefacts import is_artefact
from swinkit.serve.batching import Batcher, QueueFullError
from swinkit.serve.metrics import Metrics
from swinkit.serve.settings import Settings
from swinkit.tasks.classify import Prediction, top_k

PNG = bytes


class Served:
    """A predictor behind a queue. The three calls go to the queue; everything else is quick."""

    def __init__(self, name: str, predictor: Predictor, settings: Settings, metrics: Metrics) -> None:
        self.name, self.predictor = name, predictor
        self.embeds = hasattr(predictor.runtime, "features")
        self.explains = not is_artefact(predictor.source)
        self._loaded: Any = None
        self._loading = threading.Lock()
        # Assigned before the thread can need it: the batcher calls `seen` after its first batch.
        seen = metrics.watch(name, lambda: self.batcher.taken)
        self.batcher = Batcher(
            max_batch=settings.max_batch,
            max_wait=settings.max_wait_ms / 1000,
            capacity=settings.queue,
            patience=0.8 * settings.timeout_s,  # what would be answered too late is better refused at once
            seen=seen,
        )

    def logits(self, images: list[Tensor]) -> Sequence[Tensor]:
        """Prepared images (C, H, W) -> logits (num_classes,) of each."""
        return self.predictor.runtime.run(torch.stack(images)).unbind()

    def features(self, images: list[Tensor]) -> Sequence[Tensor]:
        """Prepared images (C, H, W) -> pooled features (D,) of each."""
        vectors: Tensor = self.predictor.runtime.features(torch.stack(images))  # type: ignore[attr-defined]
        if not vectors.isfinite().all():
            raise ArithmeticError("a vector of this batch is not finite; look for NaN in the weights")
        return vectors.unbind()

    def frame(self, image: Image.Image) -> Image.Image:
        """An image as small as `overlay` needs it: in the queue 50 million pixels would be 200 MB."""
        return framed(image, self.predictor.preprocess)

    def overlay(self, label: str | int | None) -> Callable[[list[Image.Image]], list[PNG]]:
        """A call of its own: images -> PNG files that show what speaks for the label."""
        from swinkit.explain.overlay import overlay

        return lambda images: [overlay(self._model(), image, label=label) for image in images]

    def guesses(self, logits: Sequence[Tensor], count: int) -> list[Prediction]:
        """The best `count` classes of each."""
        return top_k(torch.stack(list(logits)), self.predictor.classes, count, [""] * len(logits))

    def facts(self) -> dict[str, Any]:
        """The entry of GET /models."""
        return {
            "name": self.name,
            "about": self.predictor.runtime.about,
            "classes": list(self.predictor.classes),
            "img_size": list(self.predictor.preprocess.size),
            "explains": self.explains,
            "embeds": self.embeds,
        }

    def warm_up(self, count: int) -> Future[list[Any]] | None:
        """Queue a batch of blank images; None where there is no room, since then requests warm the model up."""
        blank = torch.zeros(len(self.predictor.preprocess.mean), *self.predictor.preprocess.size)
        with suppress(QueueFullError), self.batcher.places(count) as places:
            return places.submit(_Alone(self.logits), [blank] * count).future
        return None

    def _model(self) -> Any:
        """The plain model in PyTorch, loaded when it is first looked into."""
        from swinkit.build import from_pretrained

        with self._loading:
            if self._loaded is None:
                self._loaded = from_pretrained(self.predictor.source).eval()
            return self._loaded


class _Alone:
    """A call that equals no other, so that its inputs are a batch of their own."""

    def __init__(self, call: Callable[[list[Any]], Sequence[Any]]) -> None:
        self.call = call

    def __call__(self, values: list[Any]) -> Sequence[Any]:
        return self.call(values)
