"""Training: `train(...)` takes data and a recipe to a run folder with a checked model in it. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swinkit._verbs import callable_module

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from swinkit.train.session import Trained


def train(
    data: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    command: str = "",
    console: Console | None = None,
    **options: Any,
) -> Trained:
    """Train a Swin classifier and report on it.

    data: a built-in data set or a folder of images (default: the Fashion-MNIST sample that comes with swinkit);
    recipe: a recipe's name or a YAML file, such as an earlier run's config.yaml (default: the one that suits the data);
    output: the run folder (default: runs/<date>-<data>); resume: a run folder to go on with, as it was configured;
    options: any field of `Recipe`, such as epochs=10 or lr=5e-4.
    Errors: DataError, ConfigError, UnknownNameError before anything is written; TrainingError if the loss is not finite;
    KeyboardInterrupt after Ctrl-C, with a checkpoint saved.
    """
    from swinkit.train.session import resume_run, start_run

    if resume is not None:
        return resume_run(resume, data, recipe, output, options, console=console)
    return start_run(data, recipe, output, options, command=command, console=console)


callable_module(__name__)
