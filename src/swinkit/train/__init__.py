"""Training: `train(...)` takes data and a recipe to a run folder with a checked model in it. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swinkit._verbs import callable_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from swinkit.train.events import MakeLogger
    from swinkit.train.session import Trained


def train(
    data: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    nproc: int | None = None,
    loggers: Sequence[MakeLogger | str] = (),
    command: str = "",
    console: Console | None = None,
    **options: Any,
) -> Trained:
    """Train a Swin classifier and report on it.

    data: a built-in data set or a folder of images (default: the Fashion-MNIST sample that comes with swinkit);
    recipe: a recipe's name or a YAML file, such as an earlier run's config.yaml (default: the one that suits the data, or with
    pretrained=True the one for fine-tuning);
    output: the run folder (default: runs/<date>-<data>); resume: a run folder to go on with, as it was configured;
    nproc: how many processes to start on this machine; under torchrun, leave it out. batch_size is then that of each process;
    loggers: makers of a `Logger` (see train/events.py), or their names as "package.module:function";
    command: how the run was called, for its records; console: where messages go (default: standard error);
    options: any field of `Recipe`, such as epochs=10 or lr=5e-4.
    Errors: DataError, ConfigError, UnknownNameError before anything is written; TrainingError if the loss is not finite or diverges, or
    the disk is full; KeyboardInterrupt after Ctrl-C, with a checkpoint saved.
    """
    if nproc is not None:
        from swinkit.train.launch import launch

        call = {"data": data, "recipe": recipe, "output": output, "resume": resume, "loggers": loggers, "command": command}
        return launch(nproc, {**call, **options}, quiet=console is not None and console.quiet)

    from swinkit.train.events import find_logger
    from swinkit.train.session import resume_run, start_run

    makers = [find_logger(logger) if isinstance(logger, str) else logger for logger in loggers]
    if resume is not None:
        return resume_run(resume, data, recipe, output, options, command=command, console=console, loggers=makers)
    return start_run(data, recipe, output, options, command=command, console=console, loggers=makers)


callable_module(__name__)
