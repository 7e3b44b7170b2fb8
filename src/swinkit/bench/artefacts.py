"""How fast an exported file is in its own runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swinkit.backbone import SwinBackbone
from swinkit.bench.builders import images
from swinkit.bench.jobs import NATIVE, Engine, Job
from swinkit.bench.runtimes import Runtime
from swinkit.bench.subject import SEED, Subject
from swinkit.config import pair
from swinkit.data import Preprocess
from swinkit.errors import ConfigError, InputError
from swinkit.fields import SizeLike
from swinkit.model import SwinTransformer
from swinkit.runtimes.artefacts import Artefact, open_artefact, pixels
from swinkit.runtimes.facts import Facts


class FileSubject(Subject):
    """An exported file in place of a model: what all must get is what it gave to the process that measures."""

    def __init__(self, path: Path, img_size: SizeLike | None, folder: Path) -> None:
        self.artefact = open_artefact(path)
        facts = self.artefact.facts
        if img_size is not None and facts.img_size not in (None, pair(img_size)):
            raise ConfigError(f"img_size is {img_size}, and {path} takes {facts.img_size} alone; leave it out.")
        config = facts.config.replace(img_size=img_size or facts.img_size or facts.config.img_size)
        with torch.device("meta"):
            model: Any = SwinTransformer(config) if facts.out_indices is None else SwinBackbone(config, facts.out_indices)
        super().__init__(model, folder)

    def lay_out(self, images: int) -> None:
        """Write so many images, and compute them. Errors: InputError for outputs that are not finite or all zero."""
        facts, config = self.artefact.facts, self.model.config
        x = torch.randn(images, config.in_chans, *pair(config.img_size), generator=torch.Generator().manual_seed(SEED))
        np.save(self.images, x.numpy())
        self.wanted = [output.numpy() for output in self.artefact.outputs(as_taken(x, facts))]
        if not all(np.isfinite(array).all() and array.any() for array in self.wanted):
            raise InputError("The file's outputs for random images are not finite, or all zero.")


def as_taken(x: Tensor, facts: Facts) -> Tensor:
    """Prepared images as a file takes them."""
    return pixels(x, Preprocess.from_dict(facts.preprocess)) if facts.with_preprocessing else x


def artefact(job: Job) -> Engine:
    """A file in its runtime, in a worker's process."""
    opened: Artefact = open_artefact(job.weights, amp=job.dtype == "bfloat16")
    x = as_taken(torch.from_numpy(images(job)), opened.facts)

    def call() -> Sequence[np.ndarray]:
        return [output.numpy() for output in opened.outputs(x)]

    return Engine(call, opened.about)


def runtime_of(subject: FileSubject, threads: int) -> tuple[Runtime, Job]:
    """The one way to run the file, and a job still without dtype and batch size."""
    path = subject.artefact.path
    dtypes = ("float32", "bfloat16") if path.suffix == ".xml" else ("float32",)
    runtime = Runtime(path.name, "swinkit.bench.artefacts:artefact", dtypes=dtypes)
    return runtime, Job(path.name, runtime.build, NATIVE, str(path), str(subject.images), dtype="", batch_size=0, threads=threads)
