"""Naming pictures: `Predictor` for one's own code, `predict` for files and folders."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import torch
from PIL import Image
from torch import Tensor

from swinkit._verbs import callable_module
from swinkit.build import from_saved
from swinkit.checkpoints.dialects.examine import read
from swinkit.data import Preprocess, eval_transform, find_images, read_image
from swinkit.errors import CheckpointError, DataError, InputError
from swinkit.model import SwinTransformer
from swinkit.runtimes.artefacts import is_artefact, open_artefact
from swinkit.runtimes.choose import open_runtime
from swinkit.runtimes.device import pick_device
from swinkit.tasks.classify import Prediction, top_k

Picture = Any
"""A path, bytes, a file object, a PIL image or a NumPy array (H, W), (H, W, C): uint8, or float in [0, 1]."""
STDIN = "-"


class Runtime(Protocol):
    """Anything that turns prepared images into logits."""

    @property
    def about(self) -> str:
        """What runs, in words."""

    def run(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float32, prepared -> logits (B, num_classes) float32."""


@dataclass(frozen=True)
class Failure:
    """A picture that could not be read, and why."""

    source: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: source and error."""
        return {"source": self.source, "error": self.error}


class Predictor:
    """Names pictures with a trained classifier.

        predictor = Predictor("runs/my-run")
        predictor("photo.jpg").label

    source: a run folder, a checkpoint in it, a folder of `save_pretrained`, or a file of `swinkit export` (.onnx, .xml, .pt2, .pte), which
    its own runtime runs on the CPU; device: "auto", "cpu", "cuda" ...; batch_size: pictures computed at a time;
    amp: mixed precision (None: where the hardware computes in bfloat16;
    of exported files, OpenVINO's alone can). On the CPU weights are made ready with `swinkit.prepare`; `runtime.about` says what runs.
    Errors: CheckpointError for a folder that holds no classifier, InputError for a picture that cannot be read.
    """

    def __init__(self, source: str | Path, *, device: str = "auto", amp: bool | None = False, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; expected at least 1.")
        found = _open_artefact(source, device, amp) if is_artefact(source) else _open_model(source, device, amp)
        self.runtime: Runtime
        self.runtime, classes, labels, preprocess = found
        if not preprocess:
            raise CheckpointError(f"{source} does not say how to prepare images; save it with save_pretrained(..., preprocess=...).")
        self.classes = labels or tuple(str(index) for index in range(classes))
        self.preprocess = Preprocess.from_dict(preprocess)
        self.source = source
        self.batch_size = batch_size
        self._transform = eval_transform(self.preprocess)

    @overload
    def __call__(self, picture: list[Picture] | tuple[Picture, ...], *, top_k: int = 5) -> list[Prediction]: ...
    @overload
    def __call__(self, picture: Picture, *, top_k: int = 5) -> Prediction: ...

    def __call__(self, picture: Picture | list[Picture], *, top_k: int = 5) -> Prediction | list[Prediction]:
        """A picture -> its Prediction; a list of pictures -> a list of Predictions.

        picture: a path, bytes, an open file, a PIL image or an array (H, W) or (H, W, C), uint8 or from 0 to 1; top_k: guesses per picture.
        Errors: InputError for a picture that cannot be read, or top_k below 1.
        """
        several = isinstance(picture, list | tuple)
        pictures = picture if several else [picture]
        predictions: list[Prediction] = []
        for batch in _chunks(pictures, self.batch_size):
            predictions += self._classify([self.prepare(p) for p in batch], [_name(p) for p in batch], top_k)
        return predictions if several else predictions[0]

    def prepare(self, picture: Picture) -> Tensor:
        """A picture -> (C, H, W) float32, as the model was trained to see it. Errors: InputError for one that cannot be read."""
        return self._transform(read_image(picture, self.preprocess.mode))

    def stream(self, pictures: Iterable[Picture | Failure], *, top_k: int = 5) -> Iterator[Prediction | Failure]:
        """One result per picture, in order, computed in batches; a picture that cannot be read gives a Failure and the rest go on.

        pictures: as of a call; Failures pass through; top_k: guesses per picture. Errors: InputError for top_k below 1.
        """
        for batch in _chunks(pictures, self.batch_size):
            results: list[Prediction | Failure | None] = []
            prepared = []
            for picture in batch:
                if isinstance(picture, Failure):
                    results.append(picture)
                    continue
                try:
                    prepared.append(self.prepare(picture))
                    results.append(None)
                except InputError as error:
                    results.append(Failure(_name(picture), str(error)))
            good = [_name(picture) for picture, result in zip(batch, results, strict=True) if result is None]
            named = iter(self._classify(prepared, good, top_k))
            yield from (next(named) if result is None else result for result in results)

    def _classify(self, prepared: Sequence[Tensor], names: Sequence[str], k: int) -> list[Prediction]:
        return top_k(self.runtime.run(torch.stack(list(prepared))), self.classes, k, names) if prepared else []


def _open_model(source: str | Path, device: str, amp: bool | None) -> tuple[Runtime, int, tuple[str, ...], dict[str, Any]]:
    """(runtime, number of classes, their names, how images are prepared) of weights."""
    saved = read(source)
    model = from_saved(saved)
    if not isinstance(model, SwinTransformer) or model.num_classes == 0:
        raise CheckpointError(f"{source} is not a classifier (it has no output per class); expected one trained by `swinkit train`.")
    return open_runtime(model, pick_device(device), amp), model.num_classes, saved.labels, saved.preprocess


def _open_artefact(source: str | Path, device: str, amp: bool | None) -> tuple[Runtime, int, tuple[str, ...], dict[str, Any]]:
    """The same of an exported file."""
    runtime = open_artefact(source, device, amp)
    facts = runtime.facts
    if facts.out_indices is not None or facts.config.num_classes == 0:
        raise CheckpointError(f"{source} is not a classifier (it has no output per class); expected an exported classifier.")
    return runtime, facts.config.num_classes, facts.labels, facts.preprocess


def predict(
    source: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 64,
    device: str = "auto",
    amp: bool | None = False,
) -> Iterator[Prediction | Failure]:
    """Results for files, folders (searched through), glob patterns and "-" (one picture on standard input), in order.

    source, device, amp, batch_size: as of `Predictor`; files: one, or several; top_k: guesses per picture.
    Errors: those of Predictor. What does not exist or cannot be read comes as a Failure, and the rest goes on.
    """
    predictor = Predictor(source, device=device, amp=amp, batch_size=batch_size)
    return predictor.stream(expand(files), top_k=top_k)


def expand(files: str | Path | Sequence[str | Path]) -> list[Picture | Failure]:
    """The pictures meant by files, folders, glob patterns and "-"."""
    pictures: list[Picture | Failure] = []
    for file in [files] if isinstance(files, str | Path) else files:
        if str(file) == STDIN:
            pictures.append(NamedBytes(sys.stdin.buffer.read(), "stdin"))
            continue
        try:
            pictures += find_images([file])
        except DataError as error:
            pictures.append(Failure(str(file), str(error)))
    return pictures


class NamedBytes(io.BytesIO):
    """Bytes of a picture, and what to call it."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _name(picture: Picture) -> str:
    if isinstance(picture, str | Path):
        return str(picture)
    if isinstance(picture, Image.Image):
        return str(getattr(picture, "filename", "") or "image")
    return str(getattr(picture, "name", "") or "image")


def _chunks(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    chunk: list[Picture] = []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


callable_module(__name__)
