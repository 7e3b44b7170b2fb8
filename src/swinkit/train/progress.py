"""What a person sees while a model trains, on stderr: a bar on a terminal; elsewhere a line per epoch, and one a minute in long ones."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from swinkit.tasks.text import clock as clock

QUIET_SECONDS = 60
"""How long nothing is said, at most, where there is no bar."""


class _Text(ProgressColumn):
    """A field of the task as text, without markup."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self.name, "")))


class TrainingProgress:
    """A context manager; `step` after each optimiser step, `epoch` after each validation, `say` for a line of text."""

    def __init__(self, console: Console, epochs: int, steps_per_epoch: int, done: int) -> None:
        self.console, self.epochs, self.steps_per_epoch = console, epochs, steps_per_epoch
        self.started, self.done_at_start, self.done = time.monotonic(), done, done
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), _Text("numbers"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.bar.add_task("starting", total=epochs * steps_per_epoch, completed=done, numbers="")
        self.numbers, self.validated = "", ""
        self.said = time.monotonic()

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def step(self, done: int) -> None:
        """`done` optimiser steps are behind us."""
        self.done = done
        epoch = min((done - 1) // self.steps_per_epoch + 1, self.epochs)
        self.bar.update(self.task, completed=done, description=f"epoch {epoch}/{self.epochs}", numbers=self.numbers + self.validated)

    def measured(self, loss: float, accuracy: float, images_per_s: float) -> None:
        """Fresh numbers: mean loss, training accuracy (0 to 1), images per second."""
        self.numbers = f"{images_per_s:5.0f} images/s  loss {loss:.3f}  train {100 * accuracy:4.1f} %"
        if not self.console.is_terminal and time.monotonic() - self.said > QUIET_SECONDS:
            total = self.epochs * self.steps_per_epoch
            self.say(f"step {self.done}/{total}  epoch {self.done / self.steps_per_epoch:.2f}  {self.numbers}  {clock(self._left())} left")

    def epoch(self, epoch: int, loss: float, top1: float, best: bool) -> None:
        """An epoch (counted from 1) was validated."""
        self.validated = f"  val {100 * top1:4.1f} %"
        mark = "  best so far" if best else ""
        self.say(f"epoch {epoch:3d}/{self.epochs}  {self.numbers}  val loss {loss:.3f}{self.validated}  {clock(self._left())} left{mark}")

    def _left(self) -> float:
        """Seconds to the end, at the pace so far."""
        pace = (time.monotonic() - self.started) / max(self.done - self.done_at_start, 1)
        return pace * (self.epochs * self.steps_per_epoch - self.done)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.said = time.monotonic()
        try:
            self.console.print(Text(line), soft_wrap=True)
        except (OSError, SystemExit):  # whoever read the lines has gone, as after `| head`, at which rich exits; training goes on
            self.console.quiet = True
