"""Pictures as vectors: the pooled features of a model, in memory or in a file; an interrupted call is continued by the next.

N images | M images of a shard | B images of a batch | D values per vector
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

import swinkit
from swinkit._verbs import callable_module
from swinkit.build import from_saved
from swinkit.checkpoints import native
from swinkit.checkpoints.dialects.examine import read
from swinkit.data import ImageSet, Preprocess
from swinkit.data.lenient import ReadBatch, lenient_batches
from swinkit.data.unlabelled import Data, open_images
from swinkit.errors import CheckpointError, ConfigError, DataError, InputError
from swinkit.model import SwinTransformer
from swinkit.predict import Failure
from swinkit.runtimes.artefacts import is_artefact
from swinkit.runtimes.choose import open_runtime
from swinkit.runtimes.device import pick_amp, pick_device
from swinkit.runtimes.prepared import PreparedRuntime
from swinkit.runtimes.pytorch import TorchRuntime
from swinkit.vectors import FORMAT_VERSION, Names, Shard, Shards, check_out, join

Source = str | Path | nn.Module
OnBatch = Callable[[int, int], None]
"""Called after each batch with (images done, images in all)."""
Say = Callable[[str], None]
"""Called with a sentence for the person who waits."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors (N, D) float32 and the names of their images, row by row."""

    vectors: NDArray[np.float32]
    sources: tuple[str, ...]
    labels: tuple[str, ...] | None
    """Names of the classes; None where the data has none."""
    failures: tuple[Failure, ...] = ()
    """Images that could not be read; they have no row."""


@dataclass(frozen=True)
class Written:
    """A file of `count` vectors of `dim` values, and the images that could not be read."""

    path: Path
    count: int
    dim: int
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True)
class _Options:
    batch_size: int = 64
    workers: int = 0
    shard_size: int = 4096
    normalize: bool = False
    overwrite: bool = False
    on_batch: OnBatch = lambda _done, _total: None
    say: Say = lambda _: None

    def __post_init__(self) -> None:
        for name, value, least in (("batch_size", self.batch_size, 1), ("shard_size", self.shard_size, 1), ("workers", self.workers, 0)):
            if value < least:
                raise ConfigError(f"{name} is {value}; expected at least {least}.")


# fmt: off
@overload
def embed(source: Source, data: Data, *, out: None = None, split: str = ..., batch_size: int = ..., device: str = ...,
          amp: bool | None = ..., workers: int = ..., shard_size: int = ..., normalize: bool = ..., overwrite: bool = ...,
          on_batch: OnBatch | None = ..., say: Say | None = ...) -> Embeddings: ...
@overload
def embed(source: Source, data: Data, *, out: str | Path, split: str = ..., batch_size: int = ..., device: str = ...,
          amp: bool | None = ..., workers: int = ..., shard_size: int = ..., normalize: bool = ..., overwrite: bool = ...,
          on_batch: OnBatch | None = ..., say: Say | None = ...) -> Written: ...
# fmt: on
def embed(
    source: Source,
    data: Data,
    *,
    out: str | Path | None = None,
    split: str = "auto",
    batch_size: int = 64,
    device: str = "auto",
    amp: bool | None = False,
    workers: int = 0,
    shard_size: int = 4096,
    normalize: bool = False,
    overwrite: bool = False,
    on_batch: OnBatch | None = None,
    say: Say | None = None,
) -> Embeddings | Written:
    """Pooled features of every image, what a classifier takes: the average over the map after the last norm.

    source: a run folder, a checkpoint in it, a folder of `save_pretrained`, or a SwinTransformer that has a `preprocess`; with a
    classifier or without. data: a built-in data set, a folder with class folders or without, a file, a pattern, or a list of such.
    split: as in `evaluate`, for data that has classes. normalize: vectors of length 1.
    batch_size: images computed at a time; workers: processes that load images; device, amp: as of `Predictor`; on_batch: called after each
    batch with (images done, images in all); say: called with a sentence before the start.
    out: a .parquet or .npy file. Until it is complete, every `shard_size` images are kept in OUT.parts, and the same call goes on from
    there after an interruption; overwrite: start anew, and replace the file. None: all vectors are returned in memory.
    Errors: CheckpointError for a source without pooled features or preparation; DataError for images that are not there, for a file that
    is, and for shards of other work; ConfigError for options; InputError if a vector is not finite; KeyboardInterrupt after Ctrl-C.
    """
    options = _Options(batch_size, workers, shard_size, normalize, overwrite, on_batch or _Options.on_batch, say or _Options.say)
    file = None if out is None else Path(out).expanduser()
    if file is not None:
        check_out(file, overwrite)
    model = _open_model(source)
    images, labelled, about = open_images(data, split)
    where = pick_device(device)
    facts = {} if file is None else _facts(source, model, options, pick_amp(amp, where))
    embedder = _Embedder(images, open_runtime(model, where, amp), Preprocess.from_dict(model.preprocess), options)
    names = _names(images, labelled)
    options.say(f"{about}; {embedder.runtime.about}")
    if file is None:
        return _in_memory(embedder, names)
    return _into_file(embedder, names, file, facts)


def _open_model(source: Source) -> SwinTransformer:
    """A model that may be moved and changed."""
    given = getattr(source, "_orig_mod", source)
    name = type(given).__name__ if isinstance(given, nn.Module) else str(given)
    if is_artefact(given):
        raise CheckpointError(f"{name} is an exported file, which gives no pooled features; use the model that it was exported from.")
    model = copy.deepcopy(given) if isinstance(given, nn.Module) else from_saved(read(given))
    if not isinstance(model, SwinTransformer):
        raise CheckpointError(f"{name} has no pooled features; expected a SwinTransformer, with a classifier or without (num_classes=0).")
    if not model.preprocess:
        raise CheckpointError(f"{name} does not say how to prepare images; save it with save_pretrained(..., preprocess=...).")
    return model


def _names(images: ImageSet, labelled: bool) -> Names:
    labels = [_text(images.classes[label]) for label in images.labels.tolist()] if labelled else None
    return Names([_text(images.name(index)) for index in range(len(images))], labels)


def _text(name: str) -> str:
    """A name that UTF-8 can hold; a file's may consist of any bytes."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, eq=False)
class _Embedder:
    images: ImageSet
    runtime: TorchRuntime | PreparedRuntime
    preprocess: Preprocess
    options: _Options

    def shards(self, wanted: Sequence[range]) -> Iterator[Shard]:
        """The vectors of each range of images. A batch never reaches over two, so it is the same wherever a call starts."""
        total = len(self.images)
        done = total - sum(map(len, wanted))
        size = min(self.options.batch_size, max(map(len, wanted)))
        batches = lenient_batches(self.images, self.preprocess, wanted, batch_size=size, workers=self.options.workers)
        for images in wanted:
            parts = []
            for start in range(0, len(images), size):
                parts.append(self._shard(next(batches)))
                done += len(images[start : start + size])
                self.options.on_batch(done, total)
            yield _merged(parts)

    def _shard(self, batch: ReadBatch) -> Shard:
        pixels, indices, failures = batch
        if not indices:
            return Shard(np.empty((0, self.dim), np.float32), np.empty(0, np.int64), tuple(failures))
        vectors = self.runtime.features(pixels)
        finite = vectors.isfinite().all(dim=1)
        if not finite.all():
            name = self.images.name(indices[int(finite.int().argmin())])
            raise InputError(f"The vector of {name} is not finite; leave --amp out, and check the weights for values that are not finite.")
        if self.options.normalize:
            vectors = F.normalize(vectors, dim=1)
        return Shard(vectors.numpy(), np.array(indices, np.int64), tuple(failures))

    @property
    def dim(self) -> int:
        return int(self.runtime.model.num_features)  # type: ignore[arg-type]

    def failures(self, failures: Sequence[tuple[int, str]]) -> tuple[Failure, ...]:
        return tuple(Failure(self.images.name(index), why) for index, why in failures)


def _merged(shards: Sequence[Shard]) -> Shard:
    failures = tuple(failure for shard in shards for failure in shard.failures)
    return Shard(np.concatenate([shard.vectors for shard in shards]), np.concatenate([shard.rows for shard in shards]), failures)


def _ranges(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _in_memory(embedder: _Embedder, names: Names) -> Embeddings:
    whole = _merged(list(embedder.shards(_ranges(len(embedder.images), embedder.options.shard_size))))
    failures = embedder.failures(whole.failures)
    _check_some(len(whole.rows), failures)
    columns = names.columns(whole.rows)
    labels = columns.get("label")
    return Embeddings(whole.vectors, tuple(columns["source"]), None if labels is None else tuple(labels), failures)


def _check_some(rows: int, failures: Sequence[Failure]) -> None:
    if not rows:
        raise DataError(f"None of the {len(failures):,} images can be read. The first: {failures[0].error}")


def _facts(source: Source, model: SwinTransformer, options: _Options, amp: torch.dtype | None) -> dict[str, Any]:
    """What the vectors depend on, beside the images."""
    precision = str(amp or model.norm.weight.dtype).removeprefix("torch.")
    return {
        "model": str(source) if isinstance(source, str | Path) else type(model).__name__,
        "config": model.config.to_dict(),
        "weights_sha256": _digest(source, model),
        "preprocess": model.preprocess,
        "normalize": options.normalize,
        "precision": precision,
    }


def _digest(source: Source, model: SwinTransformer) -> str:
    folder = None if isinstance(source, nn.Module) else native.find(source)
    if folder is None:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        return hashlib.sha256(safetensors.torch.save(tensors, metadata={"format": "pt"})).hexdigest()
    with (folder / native.WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _into_file(embedder: _Embedder, names: Names, out: Path, facts: Mapping[str, Any]) -> Written:
    options, total = embedder.options, len(embedder.images)
    shards = Shards(out)
    plan = {"format_version": FORMAT_VERSION, "shard_size": options.shard_size, "images_sha256": names.digest(), **facts}
    ranges = _ranges(total, shards.begin(plan, options.overwrite))
    try:
        _fill(shards, ranges, embedder)
        rows, failed = join(shards, len(ranges), out, names, _metadata(facts))
    except KeyboardInterrupt:
        done = sum(map(shards.has, range(len(ranges))))
        again = "the same command without --overwrite" if options.overwrite else "the same command"
        raise KeyboardInterrupt(f"{done} of {len(ranges)} shards are kept in {shards.folder}; {again} goes on.") from None
    shards.remove()
    failures = embedder.failures(failed)
    _check_some(rows, failures)
    return Written(out, rows, embedder.dim, failures)


def _fill(shards: Shards, ranges: Sequence[range], embedder: _Embedder) -> None:
    """Write the shards that are missing."""
    missing = [number for number in range(len(ranges)) if not shards.has(number)]
    if len(missing) < len(ranges):
        embedder.options.say(f"Going on: {len(ranges) - len(missing)} of {len(ranges)} shards are in {shards.folder} already.")
    if missing:
        for number, shard in zip(missing, embedder.shards([ranges[number] for number in missing]), strict=True):
            shard.write(shards.path(number))


def _metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    return {f"swinkit.{name}": text for name, text in ({"version": swinkit.__version__} | texts).items()}


callable_module(__name__)
