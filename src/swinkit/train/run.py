"""The run folder: configuration, metrics, checkpoints, and the pointers to the last and the best of them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from swinkit.checkpoints.files import atomic_folder, follow, point, write_atomic
from swinkit.checkpoints.native import CONFIG, SavedModel, write_files
from swinkit.errors import CheckpointError, DataError

STATE = "training.pt"
"""What only training needs: raw weights, optimiser, schedule, counters."""


class Run:
    """A run folder on disk.

    config.yaml, metrics.jsonl, tensorboard/, checkpoints/step-N/ (config.json, model.safetensors, training.pt), last, best, report.html
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.metrics, self.report = folder / "config.yaml", folder / "metrics.jsonl", folder / "report.html"

    def check_free(self) -> None:
        """Errors: DataError if the folder holds something already."""
        folder = self.folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            go_on = f", or go on with it: --resume {folder}" if self.has("last") else ", or remove it"
            raise DataError(f"{folder} exists and is not empty; give another --output{go_on}.")

    def create(self, config: str) -> None:
        """Make the folder, with its config.yaml. Errors: DataError if it holds something already."""
        self.check_free()
        (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_atomic(self.config, config)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl; it is on its way to the disk when this returns."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

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

    def cut_metrics(self, step: int) -> None:
        """Forget the records after `step`: a resumed run writes them again."""
        kept = [record for record in self._records() if record["step"] <= step]
        write_atomic(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def save(self, step: int, model: SavedModel, state: Mapping[str, Any], best: bool) -> Path:
        """Write checkpoints/step-N, point `last` (and `best`) at it, and remove those that nothing points at any more."""
        folder = self.folder / "checkpoints" / f"step-{step}"
        if not folder.exists():
            with atomic_folder(folder) as beside:
                write_files(model, beside)
                torch.save(dict(state), beside / STATE)
        # `best` first: the state that `last` leads to already counts on it.
        if best:
            point(self.folder / "best", folder)
        point(self.folder / "last", folder)
        self._remove_old()
        return folder

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

    def load_state(self) -> dict[str, Any]:
        """The training state of the last checkpoint. Errors: CheckpointError if there is none or it cannot be read."""
        if not self.has("last"):
            raise CheckpointError(f"{self.folder} has no checkpoint to resume from; start again with a new --output.")
        path = self.checkpoint("last") / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} cannot be read ({str(error).splitlines()[0]}); the checkpoint is broken.") from None
        return state
