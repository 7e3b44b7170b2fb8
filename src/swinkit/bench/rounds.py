"""Repetitions in turns: each runtime in its own process, one of them computing at a time, and only those whose outputs are right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from swinkit.bench.jobs import Job
from swinkit.bench.processes import Worker, WorkerError
from swinkit.bench.results import TOLERANCE
from swinkit.bench.subject import Subject

Say = Callable[[str], None]
MOST = 1000
"""Repetitions of one turn at most."""


@dataclass
class Entry:
    """One runtime's way through a cell."""

    job: Job
    worker: Worker | None = None
    failed: str = ""
    difference: float | None = None
    repetitions: int = 1
    seconds: list[float] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    peak: int = 0

    @property
    def works(self) -> bool:
        """Whether it is to be measured."""
        return self.worker is not None and not self.failed

    def attempt(self, step: Callable[[], None]) -> None:
        """Do a step, and note what went wrong instead of raising it."""
        try:
            step()
        except WorkerError as error:
            self.failed, self.seconds = str(error), []

    def ask(self, command: str, *arguments: Any) -> Any:
        """The worker's answer."""
        assert self.worker is not None
        return self.worker.ask(command, *arguments)

    def close(self) -> None:
        """End its process."""
        if self.worker is not None:
            self.worker.close()


@dataclass
class Cell:
    """All runtimes in one dtype with one batch size."""

    dtype: str
    batch_size: int
    entries: list[Entry] = field(default_factory=list)
    gemm: Entry | None = None

    def run(self, subject: Subject, jobs: Sequence[Job], gemm: Job, rounds: int, seconds: float, say: Say) -> None:
        """Build and compare each, then take turns. What was measured stays in the entries, however it ends."""
        try:
            for job in jobs:
                say(f"{self.dtype}, batch {self.batch_size}: {job.runtime} starts")
                self.entries.append(Entry(job))
                self.entries[-1].attempt(lambda entry=self.entries[-1]: _start(entry, subject))  # type: ignore[misc]
            self.gemm = Entry(gemm)
            self.gemm.attempt(lambda: _open(self.gemm))
            self._take_turns(rounds, seconds, say)
        finally:
            for entry in (*self.entries, *([self.gemm] if self.gemm else [])):
                entry.close()

    def _take_turns(self, rounds: int, seconds: float, say: Say) -> None:
        for entry in self._able():
            entry.attempt(lambda entry=entry: _warm(entry, seconds / rounds))  # type: ignore[misc]
        for number in range(rounds):
            say(f"{self.dtype}, batch {self.batch_size}: round {number + 1} of {rounds}")
            # Back and forth, so that nobody always follows the same one.
            for entry in self._able()[:: 1 if number % 2 == 0 else -1]:
                entry.attempt(lambda entry=entry: _turn(entry))  # type: ignore[misc]
            if self.gemm is not None and self.gemm.works:
                self.gemm.attempt(self._rate)

    def _able(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.works]

    def _rate(self) -> None:
        assert self.gemm is not None
        for name, rate in self.gemm.ask("rate").items():
            self.gemm.rates[name] = max(rate, self.gemm.rates.get(name, 0.0))


def _open(entry: Entry | None) -> None:
    assert entry is not None
    entry.worker = Worker(entry.job)


def _start(entry: Entry, subject: Subject) -> None:
    """Build it, and let it go on only with the right outputs."""
    job = entry.job
    if job.export and not job.graph.exists():
        Worker(replace(job, build=job.export)).close()
    _open(entry)
    file = subject.folder / "outputs.npz"
    entry.ask("outputs", str(file))
    difference, allowed = subject.difference(_arrays(file)), TOLERANCE[entry.job.dtype]
    if math.isinf(difference):
        raise WorkerError("Its outputs are not finite, or of another shape than plain swinkit's, so it was not measured.")
    entry.difference = difference
    if difference > allowed:
        raise WorkerError(
            f"Its outputs differ from plain swinkit's in float32 by {difference:.1e} of the largest, and {allowed:.0e} is allowed, "
            "so it was not measured."
        )


def _arrays(file: Path) -> list[np.ndarray]:
    with np.load(file) as content:
        return [content[name] for name in content.files]


def _warm(entry: Entry, seconds: float) -> None:
    once = entry.ask("warm")
    entry.repetitions = max(1, min(MOST, round(seconds / once)))


def _turn(entry: Entry) -> None:
    answer = entry.ask("time", entry.repetitions)
    entry.seconds += answer["seconds"]
    entry.peak = max(entry.peak, answer["peak"])
