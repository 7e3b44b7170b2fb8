"""Measuring: how fast the parts of swinkit are on this machine. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from swinkit.bench.loading import DataSpeed
    from swinkit.bench.results import ModelSpeed
    from swinkit.config import SwinConfig
    from swinkit.fields import SizeLike


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


def model(
    model: str | Path | SwinConfig | nn.Module,
    *,
    batch_size: int | Sequence[int] = (1, 8),
    dtype: str | Sequence[str] | None = None,
    threads: int | None = None,
    img_size: SizeLike | None = None,
    compile: bool = False,
    peers: str | Sequence[str] = "auto",
    rounds: int = 10,
    seconds: float = 5.0,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> ModelSpeed:
    """How fast a model is on this machine's CPU: prepared, as it is, and in the peers' code with the same weights.

    Each runtime has a process of its own; they compute in turns, and only those whose outputs equal plain swinkit's in float32 are timed.
    model: a run, a checkpoint that `from_pretrained` opens, or a model in memory; a variant's name or a config gets random weights; a file
    of `swinkit export` is measured alone, in its own runtime.
    batch_size: images at a time, one number or several; dtype: "float32", "bfloat16" or both (default: bfloat16 where the CPU computes in
    it); threads: of each runtime (default: the processors of this process); img_size: another size in pixels; compile: also through
    torch.compile, which takes minutes; peers: "auto" for those installed, or names among timm, torchvision, transformers, openvino,
    onnxruntime; rounds: turns of each runtime; seconds: about how long each computes in all, per dtype and batch size, at least once a
    turn; out: a new folder for results.json, table.md and plot.png; say: called with a line before each step.
    Errors: UnknownNameError, ConfigError, CheckpointError, InputError. Ctrl-C raises `swinkit.bench.models.Interrupted`, a
    KeyboardInterrupt whose `.speed` holds what was measured so far.
    """
    from swinkit.bench.folder import check_folder, write_folder
    from swinkit.bench.models import make_plan, measure_model

    folder = None if out is None else check_folder(out)
    plan = make_plan(batch_size, dtype, threads, compile, peers, rounds, seconds)
    speed = measure_model(model, img_size, plan, say or _silent)
    if folder is not None:
        write_folder(speed, folder)
    return speed


def _silent(_line: str) -> None:
    pass
