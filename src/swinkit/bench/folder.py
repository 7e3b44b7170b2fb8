"""The folder of a benchmark of models: results.json, table.md, plot.png."""

from __future__ import annotations

import json
from pathlib import Path

from swinkit.bench.results import ModelSpeed
from swinkit.checkpoints.files import atomic_folder
from swinkit.errors import ConfigError


def check_folder(folder: str | Path) -> Path:
    """The folder, if results can go there. Errors: ConfigError if something is there."""
    path = Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists already; name another folder for the results, or remove it.")
    return path


def write_folder(speed: ModelSpeed, folder: Path) -> None:
    """Write results.json, table.md and, if anything was measured, plot.png: all or nothing."""
    from swinkit.bench.plot import plot

    with atomic_folder(folder) as beside:
        (beside / "results.json").write_text(json.dumps(speed.to_dict(), indent=1) + "\n", encoding="utf-8")
        (beside / "table.md").write_text(speed.markdown(), encoding="utf-8")
        if any(row.median for row in speed.rows):
            plot(speed, beside / "plot.png")
