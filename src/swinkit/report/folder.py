"""A run folder as it lies on disk: read without a model, whatever state it was left in."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from swinkit.checkpoints.files import follow, write_atomic
from swinkit.checkpoints.native import WEIGHTS
from swinkit.environment import read_environment, total_seconds
from swinkit.errors import DataError, SwinkitError
from swinkit.report.history import Record, number
from swinkit.tasks.scores import Scores

CONFIG, METRICS, FACTS, PAGE = "config.yaml", "metrics.jsonl", "report.json", "report.html"


@dataclass(frozen=True)
class RunFolder:
    """What a run folder holds. `facts` is report.json; `problems` are sentences about files that could not be read."""

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    history: Sequence[Record]
    sessions: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    scores: Scores | None
    scored_on: str
    """ "test", "val", or empty without scores."""
    problems: Sequence[str]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def data(self) -> str:
        """What the data is called."""
        return str(self.facts.get("data") or Path(str(self.config.get("data", "?"))).name)

    @property
    def epochs_planned(self) -> int:
        """Epochs of the recipe; 0 where it does not say."""
        planned = number(self.config, "epochs")
        return int(planned) if math.isfinite(planned) else 0

    @property
    def epochs_done(self) -> int:
        """Epochs that ended with a validation."""
        ended = [number(record, "epoch") for record in self.history if record.get("kind") == "val"]
        return int(max([epoch for epoch in ended if math.isfinite(epoch)], default=0))

    @property
    def best_validation(self) -> float | None:
        """The highest validation accuracy so far, 0 to 1."""
        return max([value for value in self.values("val", "top1") if math.isfinite(value)], default=None)

    @property
    def images_per_s(self) -> float | None:
        """The median over the records."""
        finite = [value for value in self.values("train", "images_per_s") if math.isfinite(value)]
        return float(np.median(finite)) if finite else None

    @property
    def seconds(self) -> tuple[float, bool] | None:
        """(how long it trained, whether that is all of it: a session that was killed leaves no time); None where nothing says."""
        total, whole = total_seconds(self.sessions)
        if total:
            return total, whole
        own = number(self.facts, "seconds")
        return (own, True) if math.isfinite(own) else None

    def values(self, kind: str, key: str) -> list[float]:
        """One key of the records of one kind, in order."""
        return [number(record, key) for record in self.history if record.get("kind") == kind]

    def parameters(self) -> int | None:
        """Numbers in the best checkpoint, or the last; None where there is none."""
        for name in ("best", "last"):
            path = follow(self.folder / name) / WEIGHTS
            if path.is_file():
                return _count(path)
        return None

    def state(self) -> str:
        """Why there are no scores, and what to do; empty for a finished run."""
        if self.scores is not None:
            return ""
        go_on = f"swinkit train --resume {shlex.quote(str(self.folder))}" if (self.folder / "last").exists() else ""
        if self.epochs_planned and self.epochs_done >= self.epochs_planned:
            return f"All {self.epochs_planned} epochs are done, but the model is not scored yet." + (
                f" To score it: {go_on}" if go_on else ""
            )
        done = f"{self.epochs_done} of {self.epochs_planned or '?'} epochs are done"
        return f"This run is unfinished, or still training: {done}. " + (f"To go on: {go_on}" if go_on else "It has no checkpoint yet.")


def read_run(path: str | Path) -> RunFolder:
    """The run that a run folder, or a checkpoint in it, belongs to. Errors: DataError if there is none, or its config.yaml is broken."""
    folder = _locate(Path(path))
    text, config = _config(folder / CONFIG)
    problems: list[str] = []
    history = _history(folder / METRICS, problems)
    scores, scored_on = _scores(folder, problems)
    facts = _json(folder / FACTS, problems)
    return RunFolder(folder, config, text, history, read_environment(folder), facts, scores, scored_on, problems)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write report.json: what the page shows that no other file of the run holds."""
    write_atomic(folder / FACTS, json.dumps(facts, indent=1) + "\n")


def _locate(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"There is no run folder {path}; expected one that `swinkit train` wrote.")
    for folder in (path, *path.resolve().parents[:3]):
        if (folder / CONFIG).is_file():
            return folder
    raise DataError(f"{path} is not a run folder (it has no {CONFIG}); expected one that `swinkit train` wrote.")


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); expected the recipe that `swinkit train` wrote.") from None
    if not isinstance(content, dict) or "model" not in content:
        raise DataError(f"{path} is not the configuration of a run (it names no model); expected the recipe that `swinkit train` wrote.")
    return text, {str(name): value for name, value in content.items()}


def _history(path: Path, problems: list[str]) -> list[Record]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    records = [_record(line) for line in lines]
    # The last line may be cut off: the run was killed, or is writing it now.
    broken = sum(record is None for record in records[:-1])
    if broken:
        problems.append(f"{path} has {broken} line{'s' if broken > 1 else ''} that cannot be read; they are left out.")
    return [record for record in records if record is not None]


def _record(line: str) -> Record | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _scores(folder: Path, problems: list[str]) -> tuple[Scores | None, str]:
    for split in ("test", "val"):
        path = folder / f"scores-{split}.json"
        if path.is_file():
            try:
                return Scores.from_dict(json.loads(path.read_text(encoding="utf-8"))), split
            except (ValueError, SwinkitError) as error:
                problems.append(f"{path} cannot be read ({str(error).splitlines()[0]}); the run is shown without scores.")
    return None, ""


def _json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path} cannot be read ({error}); what only it holds is left out.")
        return {}
    return content if isinstance(content, dict) else {}


def _count(path: Path) -> int | None:
    try:
        with safe_open(path, framework="numpy") as file:
            return sum(int(math.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError):
        return None
