"""The run folder: configuration, metrics, checkpoints, and the pointers to the last and the best of them."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from swinkit.checkpoints.files import atomic_folder, flush, follow, point, write_atomic
from swinkit.checkpoints.native import CONFIG, SavedModel, write_files
from swinkit.errors import CheckpointError, DataError
from swinkit.train import state
from swinkit.train.world import World

STATE = "training"
"""The folder in a checkpoint with what only training needs: raw weights, optimiser, schedule, counters."""


class Run:
    """A run folder on disk.

    config.yaml, metrics.jsonl, tensorboard/, checkpoints/step-N/ (config.json, model.safetensors, training/), last, best, report.html
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.metrics, self.report = folder / "config.yaml", folder / "metrics.jsonl", folder / "report.html"

    def check_free(self) -> None:
        """Errors: DataError if the folder holds something already."""
        folder = self.folder
        if folder.is_file():
            raise DataError(f"{folder} is a file; give the run folder another name with --output.")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            go_on = f", or go on with it: --resume {shlex.quote(str(folder))}" if self.config.is_file() else ", or remove it"
            raise DataError(f"{folder} exists and is not empty; give another --output{go_on}.")

    def create(self, config: str) -> None:
        """Make the folder, with its config.yaml, in one step. Errors: DataError if it holds something already."""
        self.check_free()
        with atomic_folder(self.folder) as beside:
            (beside / "checkpoints").mkdir()
            (beside / self.config.name).write_text(config, encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the system lets go when this one ends, however it ends.

        Errors: DataError if another one does.
        """
        with (self.folder / ".lock").open("a") as file:
            try:
                import fcntl  # not on Windows

                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:
                pass
            except OSError:
                raise DataError(f"{self.folder} is being trained by another process; wait for its end, or stop it first.") from None
            yield

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; it is on its way to the disk when this returns. What is not finite becomes null."""
        plain = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()}
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """All records of metrics.jsonl; a last line that was cut off is left out."""
        return list(self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.metrics.is_file():
            return
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def cut_back(self, step: int) -> None:
        """Forget what came after `step`, records and checkpoints: a resumed run makes them again."""
        kept = [record for record in self._records() if record["step"] <= step]
        write_atomic(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))
        for folder in (self.folder / "checkpoints").iterdir():
            if (found := re.fullmatch(r"step-(\d+)", folder.name)) and int(found[1]) > step:
                shutil.rmtree(folder)
        for unfinished in self.folder.glob(".*.writing"):
            shutil.rmtree(unfinished) if unfinished.is_dir() and not unfinished.is_symlink() else unfinished.unlink()
        self._remove_old()

    def save(
        self,
        step: int,
        model: SavedModel,
        facts: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        *,
        world: World,
        sharded: bool,
        best: int,
    ) -> None:
        """Write checkpoints/step-N, point `last` at it and `best` at step `best`, and remove those that nothing points at any more.

        All processes call it; the first writes, and with `sharded` each its own part of `tensors`.
        Errors: OSError, with the checkpoints from before as they were.
        """
        folder = self.folder / "checkpoints" / f"step-{step}"
        with ExitStack() as stack:
            beside = None
            with world.together():
                if world.first:
                    beside = stack.enter_context(atomic_folder(folder))
                    _write(beside, model, facts, {} if sharded else tensors)
            if sharded:
                place = world.share(beside) / STATE
                with world.together():
                    state.write_parts(place, tensors)
            with world.together():
                stack.close()
        with world.together():
            if world.first:
                self._point(folder, best)

    def _point(self, folder: Path, best: int) -> None:
        if self.metrics.is_file():
            flush(self.metrics)
        # `last` first: what it leads to says which one is the best.
        point(self.folder / "last", folder)
        self.point_best(best)
        self._remove_old()

    def point_best(self, step: int) -> None:
        """Let `best` name checkpoints/step-N."""
        folder = self.folder / "checkpoints" / f"step-{step}"
        if folder.is_dir() and not (self.has("best") and self.checkpoint("best").resolve() == folder.resolve()):
            point(self.folder / "best", folder)

    def _remove_old(self) -> None:
        kept = {self.checkpoint(name).resolve() for name in ("last", "best") if self.has(name)}
        for folder in (self.folder / "checkpoints").iterdir():
            if folder.resolve() not in kept and re.fullmatch(r"step-\d+|\.step-\d+\..*\.writing", folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether `last` or `best` points at a checkpoint."""
        link = self.folder / name
        return (link.exists() or link.is_symlink()) and (follow(link) / CONFIG).is_file()

    def checkpoint(self, name: str) -> Path:
        """The checkpoint that `last` or `best` points at."""
        return follow(self.folder / name)

    def last_good(self) -> str:
        """A sentence on where to go on from."""
        if not self.has("last"):
            return "There is no checkpoint yet."
        return f"The last good checkpoint is {self.folder / 'checkpoints' / self.checkpoint('last').resolve().name}."

    def facts(self) -> dict[str, Any] | None:
        """The training state of the last checkpoint without its tensors; None before the first checkpoint.

        Errors: CheckpointError if it cannot be read.
        """
        if not self.has("last"):
            return None
        folder = self.checkpoint("last") / STATE
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is missing: the run was made by an older swinkit, which alone can resume it.")
        return state.read_facts(folder)


def _write(folder: Path, model: SavedModel, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    write_files(model, folder)
    (folder / STATE).mkdir()
    state.write_facts(folder / STATE, facts)
    if tensors:
        state.write_tensors(folder / STATE, tensors)
