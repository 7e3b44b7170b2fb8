"""What each layer in 8 bits does to the outputs, and the fewest that must stay in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swinkit.errors import ExportError
from swinkit.export.int8.settings import BATCH
from swinkit.runtimes.artefacts import Artefact, open_artefact


@dataclass(frozen=True)
class Effect:
    """Of some layers in 8 bits on held-out images."""

    error: float
    """The norm of the outputs' differences from float32's, of the norm of float32's outputs; logits without their mean."""
    agreement: float | None
    """The part of the images whose first class stays; None: there are no classes."""


@dataclass(frozen=True)
class Layer:
    """One that can be in 8 bits, and what it does when all others are in float."""

    name: str
    alone: Effect
    kept: bool
    """Whether it stays in float."""


Write = Callable[[Path, Set[str]], None]
"""Write a file in which all layers are in 8 bits but those given."""


class Trial:
    """Files with some layers in float, compared with the float32 file."""

    def __init__(self, place: Path, suffix: str, write: Write, exact: Artefact, images: Tensor) -> None:
        self.file, self.write, self.images = place / f"trial{suffix}", write, images
        self.wanted = comparable(exact, images)

    def effect(self, kept: Set[str]) -> Effect:
        """Of all layers in 8 bits but the `kept`."""
        self.write(self.file, kept)
        return compare(comparable(open_artefact(self.file), self.images), self.wanted)


def alone(trial: Trial, layers: Sequence[str]) -> Iterator[tuple[str, Effect]]:
    """The effect of each layer with all others in float."""
    for name in layers:
        yield name, trial.effect(set(layers) - {name})


def fewest(trial: Trial, effects: dict[str, Effect], allowed: float) -> set[str]:
    """The layers to keep in float, those with the largest effect first, as few as bring the error of the rest down to `allowed`."""
    worst_first = sorted(effects, key=lambda name: -effects[name].error)
    if trial.effect(set()).error <= allowed:
        return set()
    low, high = 0, len(worst_first)
    while high - low > 1:
        middle = (low + high) // 2
        good = trial.effect(set(worst_first[:middle])).error <= allowed
        low, high = (low, middle) if good else (middle, high)
    if high == len(worst_first):
        raise ExportError(
            f"Not even {worst_first[-1]} alone can be in 8 bits with an error of at most {allowed:g} of the outputs' norm. No file was "
            "written. Calibrate with more images that are like those the model will see, or allow a larger error (--max-error)."
        )
    return set(worst_first[:high])


def comparable(artefact: Artefact, images: Tensor) -> list[Tensor]:
    """Outputs for images as the file takes them; logits less their mean, which softmax does not see, probabilities turned into such."""
    parts = [artefact.outputs(part) for part in images.split(artefact.facts.batch_size or BATCH)]
    outputs = [torch.cat(part) for part in zip(*parts, strict=True)]
    if artefact.facts.gives_probabilities:
        outputs = [outputs[0].clamp(min=1e-38).log()]
    if artefact.facts.out_indices is None and artefact.facts.config.num_classes > 1:
        outputs = [outputs[0] - outputs[0].mean(dim=1, keepdim=True)]
    return outputs


def compare(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> Effect:
    """Outputs against those of float32."""
    difference = sum(float((one.double() - right.double()).square().sum()) for one, right in zip(got, wanted, strict=True))
    whole = sum(float(right.double().square().sum()) for right in wanted)
    error = (difference / max(whole, 1e-60)) ** 0.5
    classes = len(wanted) == 1 and wanted[0].ndim == 2 and wanted[0].shape[1] > 1
    agreement = float((got[0].argmax(1) == wanted[0].argmax(1)).double().mean()) if classes else None
    return Effect(error if error == error else float("inf"), agreement)
