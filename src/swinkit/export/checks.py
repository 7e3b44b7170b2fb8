"""An exported file against PyTorch: other numbers of images and other sizes than it was made with, random images and real ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swinkit.config import Size, pair
from swinkit.data import Preprocess, open_split
from swinkit.errors import ExportError
from swinkit.export.capture import TRACED_BATCH, example, traced_size
from swinkit.runtimes.artefacts import Artefact
from swinkit.runtimes.facts import Facts

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2, "int8": 0.5}
"""Of the largest output, the fraction by which one may differ. 8 bits are judged by held-out images; here, at sizes that no range was set
for, a file must only be the same function."""


@dataclass(frozen=True)
class Check:
    """One comparison."""

    images: str
    """"random" or "real"."""
    batch: int
    size: Size
    difference: float
    """The largest of any output, as a fraction of the largest output; of maps, that of the worst."""


def compare(artefact: Artefact, model: nn.Module, say: Any = None) -> Iterator[Check]:
    """Every comparison, one after the other. model: the original, in float32. Errors: ExportError for one that differs by too much."""
    facts = artefact.facts
    allowed = TOLERANCE[facts.precision]
    for name, images in _images(facts):
        size = tuple(images.shape[1:3]) if facts.with_preprocessing else tuple(images.shape[2:])
        wanted = reference(model, facts, images)
        try:
            got = artefact.outputs(images)
        except Exception as error:  # each runtime has errors of its own
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ExportError(
                f"{artefact.about} cannot compute {len(images)} images of {size[0]} x {size[1]}: {lines[-1][:300]}"
            ) from error
        difference = largest_difference(got, wanted)
        if not difference <= allowed:
            raise ExportError(
                f"{artefact.about} differs from PyTorch by {difference:.1e} of the largest output for {len(images)} {name} images of "
                f"{size[0]} x {size[1]} pixels, and {allowed:.0e} is allowed. No file was written."
            )
        yield Check(name, len(images), (size[0], size[1]), difference)


def reference(model: nn.Module, facts: Facts, images: Tensor) -> list[Tensor]:
    """What the original model makes of images as the file takes them."""
    if facts.with_preprocessing:
        p = Preprocess.from_dict(facts.preprocess)
        mean, std = torch.tensor(p.mean)[:, None, None], torch.tensor(p.std)[:, None, None]
        images = (images.permute(0, 3, 1, 2).float().mul(1 / 255) - mean) / std
    with torch.no_grad():
        outputs: Any = model(images)
    if not isinstance(outputs, Tensor):
        return list(outputs)
    return [outputs.softmax(-1) if facts.gives_probabilities else outputs]


def largest_difference(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Of the largest output, the fraction by which one differs; inf for other shapes, NaN and infinities."""
    if [output.shape for output in got] != [output.shape for output in wanted]:
        return float("inf")
    worst = 0.0
    for one, right in zip(got, wanted, strict=True):
        difference = float((one.double() - right.double()).abs().max() / right.double().abs().max().clamp(min=1e-30))
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def _images(facts: Facts) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    drawable = facts.config.in_chans in (1, 3)
    for batch, size in _shapes(facts) if not (facts.int8 and drawable) else []:
        yield "random", example(facts, batch, size, generator)
    for batch, size in _shapes(facts)[: None if facts.int8 else 2] if drawable else []:
        yield "real", real_images(facts, batch, size)


def _shapes(facts: Facts) -> list[tuple[int, Size]]:
    """(images, size) of the comparisons, as far as the file leaves them open. None is what it was made with."""
    planned, patch = pair(facts.config.img_size), pair(facts.config.patch_size)
    if facts.img_size is not None:
        return [(facts.batch_size, facts.img_size)] if facts.batch_size else [(1, facts.img_size), (TRACED_BATCH + 1, facts.img_size)]
    window = facts.config.windows[0]
    sizes = [
        planned,
        (planned[0] // 2 + 1, planned[1] + patch[1] + 1),  # neither patches nor windows divide it
        (patch[0] * max(window[0] - 1, 1), 2 * patch[1] * window[1]),  # one window covers it along one axis
        (patch[0], patch[1]),  # one token
    ]
    batches = [facts.batch_size] * 4 if facts.batch_size else [1, TRACED_BATCH + 1, TRACED_BATCH + 2, 1]
    traced = (facts.batch_size or TRACED_BATCH, traced_size(facts))
    return [shape for shape in zip(batches, sizes, strict=True) if shape != traced]


def real_images(facts: Facts, batch: int, size: Size) -> Tensor:
    """Clothes of the sample that comes with swinkit, stretched to a size, as a file takes them."""
    clothes = open_split("fashion-mnist-sample", "test")
    mode = "RGB" if facts.config.in_chans == 3 else "L"
    stretched = [clothes.image(37 * number, mode).resize(size[::-1]) for number in range(batch)]
    pixels = torch.stack([_pixels(image, size) for image in stretched])  # B, height, width, C
    if facts.with_preprocessing:
        return pixels
    known = facts.preprocess or {"size": size, "mean": [0.5] * facts.config.in_chans, "std": [0.25] * facts.config.in_chans}
    p = Preprocess.from_dict(known)
    return ((pixels.float() / 255 - torch.tensor(p.mean)) / torch.tensor(p.std)).permute(0, 3, 1, 2).contiguous()


def _pixels(image: Any, size: Size) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).unflatten(0, (*size, -1))
