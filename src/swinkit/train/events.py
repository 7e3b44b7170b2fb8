"""Where the numbers of a run go: metrics.jsonl always, TensorBoard, and whatever else is plugged in."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from swinkit.errors import ConfigError
from swinkit.train.run import Run


class Logger(Protocol):
    """Something that takes the records of a run, such as a wandb or mlflow run. A record holds a kind ("train" or "val"), the step (of
    the optimiser), the epoch, and numbers by name."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record. Steps rise, also over a resumption."""

    def flush(self) -> None:
        """Keep what came so far: a checkpoint is about to be written that a resumed run goes on from."""

    def close(self) -> None:
        """No more records come."""


MakeLogger: TypeAlias = Callable[[Path, Mapping[str, Any], int], Logger]
"""(run folder, resolved recipe, step that the run goes on from or 0) -> a Logger"""


def find_logger(name: str) -> MakeLogger:
    """The maker that "package.module:name" means. Errors: ConfigError if there is none."""
    module, colon, attribute = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a file in the current folder, which Python itself finds only as `python -m swinkit`
    try:
        if not colon:
            raise ImportError("no colon in it")
        made: MakeLogger = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f'logger is {name!r} ({error}); expected "package.module:function" that Python can import.') from None
    return made


class TensorBoard:
    """Each number is a scalar such as train/loss, by optimiser step."""

    def __init__(self, folder: Path, config: Mapping[str, Any], resumed_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        again = (folder / "tensorboard").exists()
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_at + 1 if again else None)

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record."""
        for name, value in record.items():
            if name not in ("kind", "step", "epoch"):
                self.writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def flush(self) -> None:
        """To the disk."""
        self.writer.flush()

    def close(self) -> None:
        """To the disk, and done."""
        self.writer.close()


class Log:
    """Call it with a record: it goes to metrics.jsonl and to every logger. A logger that fails is left out from then on."""

    def __init__(self, run: Run, config: Mapping[str, Any], resumed_at: int, makers: Iterable[MakeLogger] = ()) -> None:
        self.run = run
        self.loggers: list[Logger] = []
        for make in (TensorBoard, *makers):
            try:
                self.loggers.append(make(run.folder, config, resumed_at))
            except Exception as error:  # see _each
                print(f"swinkit: {getattr(make, '__name__', make)} cannot be made and gets no records ({error}).", file=sys.stderr)

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one record."""
        self.run.log(record)
        self._each(lambda logger: logger.log(record))

    def flush(self) -> None:
        """Before a checkpoint."""
        self._each(lambda logger: logger.flush())

    def _each(self, act: Callable[[Logger], None]) -> None:
        for logger in list(self.loggers):
            try:
                act(logger)
            except Exception as error:  # a tracker without network must not end a week of training
                self.loggers.remove(logger)
                print(f"swinkit: {type(logger).__name__} failed and gets no more records ({error}).", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._each(lambda logger: logger.close())


class NoLog:
    """What the processes other than the first log to."""

    def __call__(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing."""
