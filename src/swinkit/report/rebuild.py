"""From a run folder to its report.html, without a model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swinkit.checkpoints.files import follow
from swinkit.report.folder import PAGE, RunFolder
from swinkit.report.history import number
from swinkit.report.looking import Looked
from swinkit.report.made import hardware
from swinkit.report.page import Report, write_report
from swinkit.report.pictures import Thumbnail
from swinkit.tasks.text import clock

SPLITS = {"test": "test", "val": "validation"}


def rebuild(run: RunFolder, path: Path | None = None) -> Path:
    """Write the run's report to `path` (default: report.html in its folder) and return where it is."""
    path = path or run.folder / PAGE
    write_report(path, page_of(run))
    return path


def page_of(run: RunFolder) -> Report:
    """Everything the page says of a run."""
    pictures, problem = _pictures(run.facts)
    looks, trouble = _looks(run.facts)
    return Report(
        title=f"{run.config['model']} on {run.data}",
        command=str(run.facts.get("command") or "swinkit.train(...)"),
        summary={name: value for name, value in _summary(run).items() if value},
        scores=run.scores,
        test_name=run.data,
        split=SPLITS.get(run.scored_on, ""),
        history=run.history,
        mistakes=pictures if run.scores else (),
        looks=looks if run.scores else (),
        config=run.config_text,
        next_steps=next_steps(run),
        sessions=run.sessions,
        notices=[notice for notice in (run.state(), *run.problems, problem, trouble) if notice],
    )


def next_steps(run: RunFolder) -> list[str]:
    """Commands that make sense now."""
    folder = shlex.quote(str(run.folder))
    if run.scores is None:
        return [f"swinkit train --resume {folder}"] if (run.folder / "last").exists() else []
    return [
        f"swinkit predict {folder} photo.jpg",
        f"swinkit evaluate {folder} --data {shlex.quote(str(run.config.get('data', 'DIR')))}",
        "swinkit train --data FOLDER_WITH_ONE_FOLDER_PER_CLASS",
    ]


def duration(run: RunFolder) -> str:
    """How long it trained, in words; empty where nothing says."""
    if run.seconds is None:
        return ""
    seconds, whole = run.seconds
    return clock(seconds) if whole else f"over {clock(seconds)}"


def _summary(run: RunFolder) -> dict[str, str]:
    config, session = run.config, run.sessions[-1] if run.sessions else {}
    parameters = run.parameters()
    epochs = str(run.epochs_planned) if run.scores else f"{run.epochs_done} of {run.epochs_planned}"
    return {
        "model": str(config["model"]),
        "parameters": f"{parameters / 1e6:.2f} M" if parameters else "",
        "data": run.data,
        "train / validation / test images": _counts(run.facts.get("images")),
        "best checkpoint": _best(run),
        "epochs": epochs,
        "batch size": str(run.facts.get("batch_size") or config.get("batch_size", "")),
        "precision": str(config.get("amp_dtype", "")) if config.get("amp") else "float32",
        "seed": str(config.get("seed", "")),
        "duration": duration(run),
        "hardware": hardware(session, str(config.get("device", ""))),
    }


def _counts(images: Any) -> str:
    return " / ".join(f"{number(images, split):,.0f}" for split in ("train", "val", "test")) if isinstance(images, Mapping) else ""


def _best(run: RunFolder) -> str:
    if not (run.folder / "best").exists():
        return ""
    return follow(run.folder / "best").resolve().name + (" (averaged weights)" if run.config.get("model_ema") else "")


def _pictures(facts: Mapping[str, Any]) -> tuple[list[Thumbnail], str]:
    """(the mistakes of report.json, a sentence where they are broken)"""
    try:
        return [Thumbnail.from_dict(one) for one in facts.get("mistakes", ())], ""
    except (KeyError, TypeError, ValueError) as error:
        return [], f"The pictures in report.json cannot be read ({error}); they are left out."


def _looks(facts: Mapping[str, Any]) -> tuple[list[Looked], str]:
    """(what report.json says the model looked at, a sentence where it is broken)"""
    try:
        return [Looked.from_dict(one) for one in facts.get("looks", ())], ""
    except (KeyError, TypeError, ValueError) as error:
        return [], f"The attention pictures in report.json cannot be read ({error}); they are left out."
