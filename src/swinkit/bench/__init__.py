"""Measuring: how fast the parts of swinkit are on this machine. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from swinkit.bench.loading import DataSpeed


def data(
    source: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    model: str | None = None,
    img_size: int | None = None,
    batch_size: int | None = None,
    workers: Sequence[int] | None = None,
    seconds: float = 5.0,
    say: Callable[[str], None] | None = None,
) -> DataSpeed:
    """How many images a second the data gives, how many the model takes, and which of the two training waits for.

    source: a built-in data set or a folder of images (default: the sample that comes with swinkit); recipe: a name or a YAML file
    (default: the one that suits the data), whose model, img_size and batch_size can be changed; workers: the numbers of loading
    processes to measure (default: 0, 1, 2, 4 ... up to the processors); seconds: how long each measurement lasts; say: called with a
    line before each.
    Errors: DataError, ConfigError, UnknownNameError; InputError for an image that cannot be read.
    """
    from swinkit.bench.loading import measure_data

    changes = {"model": model, "img_size": img_size, "batch_size": batch_size}
    given = {name: value for name, value in changes.items() if value is not None}
    return measure_data(source, recipe, given, workers, seconds, say or _silent)


def _silent(_line: str) -> None:
    pass
