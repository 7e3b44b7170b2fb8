"""Does training wait for the data or for the model? Each side alone, in the same sizes, and a sentence."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import PIL
import torch

import swinkit
from swinkit.bench.step import Step
from swinkit.bench.timing import Rate, rate
from swinkit.bench.verdict import verdict
from swinkit.data import Preprocess, Splits, make_loader, open_data, train_transform
from swinkit.data.loader import Batch, Loader
from swinkit.errors import ConfigError
from swinkit.fields import positive, whole
from swinkit.runtimes.device import describe, pick_amp, pick_device
from swinkit.train.plan import plan_augment, plan_start
from swinkit.train.recipe import DEFAULT_DATA, Recipe, load_recipe, recipe_for


@dataclass(frozen=True)
class DataSpeed:
    """What `bench.data` measured."""

    source: str
    """The data set."""
    model: str
    batch: tuple[int, int, int, int]
    """(images, channels, height, width) of one step."""
    device: str
    precision: str
    processors: int
    loading: dict[int, Rate]
    """Workers -> images per second of reading, augmenting and collating alone."""
    training: Rate
    """Images per second of training steps on random tensors."""
    verdict: str
    """One sentence: which side is slower, and what to do."""
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def table(self) -> str:
        """The measurement for a person."""
        images, channels, height, width = self.batch
        lines = [
            f"data    {self.source}: batches of {images} images, {channels} x {height} x {width}",
            f"model   {self.model} on {self.device}, {self.precision}",
            f"with    {self.processors} processors, {', '.join(f'{name} {version}' for name, version in self.versions.items())}",
            "",
            *(f"data, {_plural(workers)} {result}" for workers, result in self.loading.items()),
            f"{'model, training step':20} {self.training}",
            "",
            self.verdict,
        ]
        return "\n".join(lines)


def _plural(workers: int) -> str:
    return f"{workers:3} worker{'s' if workers != 1 else ' '}   "


def measure_data(
    source: str | Path | None,
    recipe: str | Path | None,
    changes: Mapping[str, Any],
    workers: Sequence[int] | None,
    seconds: float,
    say: Callable[[str], None],
) -> DataSpeed:
    """What `swinkit.bench.data` does."""
    positive("seconds", seconds)
    chosen = _recipe(source, recipe, changes)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    numbers = _numbers(workers, chosen.workers)
    device = pick_device(chosen.device)
    splits = open_data(chosen.data, seed=chosen.seed, val_fraction=chosen.val_fraction)
    start = plan_start(chosen, splits)
    config, preprocess = start.config, start.preprocess
    batch_size = min(chosen.batch_size, len(splits.train))
    loading = {}
    for number in numbers:
        say(f"loading with {number} worker{'s' if number != 1 else ''}")
        loading[number] = _loading(chosen, splits, preprocess, batch_size, number, seconds)
    say("training on random tensors")
    training = rate(_warm(Step(chosen, config, batch_size, device), 3), seconds)
    asked = chosen.workers if chosen.workers in loading else numbers[0]
    return DataSpeed(
        source=splits.name,
        model=chosen.model,
        batch=(batch_size, config.in_chans, *preprocess.size),
        device=describe(device),
        precision=str(pick_amp(chosen.amp, device, chosen.amp_dtype) or torch.float32).removeprefix("torch."),
        processors=processors(),
        loading=loading,
        training=training,
        verdict=verdict({number: result.median for number, result in loading.items()}, training.median, asked, device.type == "cpu"),
        versions=versions(),
    )


def _recipe(source: str | Path | None, recipe: str | Path | None, changes: Mapping[str, Any]) -> Recipe:
    if source is None and recipe is not None:
        return load_recipe(recipe, **changes)
    data = str(source or DEFAULT_DATA)
    return load_recipe(recipe or recipe_for(data), data=data, **changes)


def _numbers(given: Sequence[int] | None, asked: int) -> list[int]:
    if given is not None:
        numbers = sorted({whole("workers", number, 0) for number in given})
        if not numbers:
            raise ConfigError("workers is empty; expected numbers of loading processes, such as 0 2 4.")
        return numbers
    most = processors()
    return sorted({0, asked, most, *(2**power for power in range(10) if 2**power <= most)})


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Of what takes part."""
    import torchvision

    return {
        "swinkit": swinkit.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "Python": platform.python_version(),
    }


def _loading(recipe: Recipe, splits: Splits, preprocess: Preprocess, batch_size: int, workers: int, seconds: float) -> Rate:
    loader = make_loader(
        splits.train, train_transform(preprocess, plan_augment(recipe)), preprocess.mode, batch_size=batch_size, train=True,
        seed=recipe.seed, workers=workers, drop_last=True,
    )  # fmt: skip
    batches = _endless(loader)
    # The workers' start is over, and what they had prepared meanwhile is used up, after two batches of each.
    return rate(_warm(lambda: len(next(batches)[0]), 2 * workers + 1), seconds)


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in count():
        loader.set_epoch(epoch)
        yield from loader


def _warm(work: Callable[[], int], times: int) -> Callable[[], int]:
    for _ in range(times):
        work()
    return work
