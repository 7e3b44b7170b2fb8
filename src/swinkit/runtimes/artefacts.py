"""Exported files as runtimes: prepared images in, logits out, whatever the file takes and gives."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from swinkit.data import Preprocess
from swinkit.errors import CheckpointError, ConfigError, InputError
from swinkit.runtimes.facts import Facts

READERS = {
    ".onnx": "swinkit.runtimes.onnx:OnnxArtefact",
    ".xml": "swinkit.runtimes.openvino:OpenVinoArtefact",
    ".pt2": "swinkit.runtimes.pt2:open_pt2",
    ".pte": "swinkit.runtimes.executorch:ExecuTorchArtefact",
}
"""suffix -> "module:function" that opens such a file: (path, bfloat16) -> Artefact"""


def is_artefact(source: object) -> bool:
    """Whether a source of weights is meant as an exported file, by its name."""
    return isinstance(source, str | Path) and Path(source).suffix.lower() in READERS


def open_artefact(path: str | Path, device: str = "auto", amp: bool | None = False) -> Artefact:
    """An exported file in its runtime, on the CPU with the threads that torch has. amp: bfloat16, where the runtime decides that.

    Errors: CheckpointError for a file that is not there, broken, unsafe or not of swinkit; ConfigError for a missing package, another
    device, or a precision that the file cannot have.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise CheckpointError(f"There is no {file}; expected a file of `swinkit export`.")
    if torch.device("cpu" if device == "auto" else device).type != "cpu":
        raise ConfigError(f"Device {device!r}: exported files are run on the CPU here; leave it out, or give cpu.")
    module, _, function = READERS[file.suffix.lower()].partition(":")
    artefact: Artefact = getattr(importlib.import_module(module), function)(file, bool(amp))
    return artefact


def need(module: str, extra: str, what: str) -> ModuleType:
    """A module of an optional package. Errors: ConfigError, with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f"{what} needs the package {package} ({error}); install it with: pip install 'swinkit[{extra}]'") from None


class Artefact:
    """An exported model. A runtime fills in `call`."""

    def __init__(self, path: Path, facts: Facts, about: str) -> None:
        self.path, self.facts = path, facts
        self.about = f"{about}, {torch.get_num_threads()} threads"
        """What runs, in words."""

    def call(self, images: Tensor) -> Sequence[Any]:
        """Exactly what the file takes -> what it gives, tensors or arrays."""
        raise NotImplementedError

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Exactly what the file takes, but any number of images -> what it gives, float32."""
        self._check(images)
        size = self.facts.batch_size
        parts = [self._one(part, size) for part in (images.split(size) if size else [images])]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32. Of probabilities, the logarithms."""
        if self.facts.out_indices is not None:
            raise CheckpointError(f"{self.path} is a backbone and gives maps; this needs a classifier.")
        if not self.facts.with_preprocessing:
            return self.outputs(images)[0]
        outputs = self.outputs(pixels(images, Preprocess.from_dict(self.facts.preprocess)))[0]
        return outputs.clamp(min=1e-38).log() if self.facts.gives_probabilities else outputs

    def _one(self, images: Tensor, size: int | None) -> list[Tensor]:
        """One call, filled up to as many images as the file takes."""
        count = len(images)
        if size is not None and count < size:
            images = torch.cat((images, images[-1:].expand(size - count, *images.shape[1:])))
        return [torch.as_tensor(output)[:count].float() for output in self.call(images.contiguous())]

    def _check(self, images: Tensor) -> None:
        facts = self.facts
        kind, axes = (torch.uint8, (1, 2)) if facts.with_preprocessing else (torch.float32, (2, 3))
        if images.ndim != 4 or images.dtype != kind or not len(images):
            raise InputError(f"{self.path} takes images of four axes in {kind}; got {images.dtype} {tuple(images.shape)}.")
        got = tuple(images.shape[axis] for axis in axes)
        if facts.img_size is not None and got != facts.img_size:
            raise InputError(
                f"{self.path} takes images of {facts.img_size[0]} x {facts.img_size[1]} pixels alone; got {got[0]} x {got[1]}. "
                "Export the model with dynamic sizes for others."
            )


def pixels(images: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, C, H, W) float32, prepared -> (B, H, W, C) uint8, what it was made from; exact, since normalisation loses nothing."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
