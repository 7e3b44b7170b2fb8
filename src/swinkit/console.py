"""What the command line shows a person: results as text, JSON or CSV, and progress on stderr."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from swinkit.embed import Written
    from swinkit.predict import Failure
    from swinkit.tasks.classify import Prediction
    from swinkit.weights import Weights


def print_predictions(results: Iterable[Prediction | Failure], form: str) -> int:
    """Print each result as it comes; returns the exit code."""
    from swinkit.predict import Failure

    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["source", "rank", "label", "score", "error"])
    failed = 0
    for result in results:
        failed += isinstance(result, Failure)
        if form == "json":
            print(json.dumps(result.to_dict(), ensure_ascii=False), flush=True)
        elif form == "csv":
            table.writerows(_rows(result))
        elif isinstance(result, Failure):
            print(f"swinkit: {result.error}", file=sys.stderr)
        else:
            print(result, flush=True)
    return _count_failures(failed)


def print_weights(entries: Sequence[Weights]) -> None:
    """Public weights as a table: which are the default of their name, licence, scores, where they are."""
    width = max(len(entry.full_name) for entry in entries)
    print(f"  {'weights':{width}}  {'classes':>7}  {'input':>5}  {'top-1 %':>7}  licence  hub")
    for entry in entries:
        says = entry.to_dict()
        top1 = "-" if entry.top1 is None else f"{entry.top1:.1f}"
        mark, size = "*" if says["default"] else " ", says["preprocess"]["size"][0]
        where = entry.hub_id or entry.release
        print(f"{mark} {entry.full_name:{width}}  {entry.classes:>7,}  {size:>5}  {top1:>7}  {entry.license:7}  {where}")
    print("* the default of its name", file=sys.stderr)


def print_written(written: Written) -> int:
    """The path of a file of vectors, and what could not be read; returns the exit code."""
    for failure in written.failures:
        print(f"swinkit: {failure.error}", file=sys.stderr)
    print(f"{written.count:,} vector{'' if written.count == 1 else 's'} of {written.dim} values.", file=sys.stderr)
    print(written.path, flush=True)
    return _count_failures(len(written.failures))


def _count_failures(failed: int) -> int:
    if failed:
        print(f"swinkit: {failed} image{'s' if failed > 1 else ''} could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _rows(result: Prediction | Failure) -> list[list[Any]]:
    if hasattr(result, "error"):
        return [[result.source, "", "", "", result.error]]
    guesses = zip(result.labels, result.scores, strict=True)
    return [[result.source, rank, label, f"{score:.6f}", ""] for rank, (label, score) in enumerate(guesses, 1)]


class Bar:
    """Progress: a bar on a terminal, a line every ten seconds elsewhere; entering gives a function of (done, total).

    console: where; by default stderr.
    """

    def __init__(self, title: str, hidden: bool = False, console: Console | None = None) -> None:
        self.title, self.hidden, self.told = title, hidden, time.monotonic()
        self.console = console

    def __enter__(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console = self.console or Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = console.is_terminal and not self.hidden
        # Left on, rich would send what is printed to its own console, away from a redirected stdout.
        self.progress = Progress(*columns, console=console, transient=True, disable=not shown, redirect_stdout=False, redirect_stderr=False)
        self.task = self.progress.add_task(self.title, total=None)
        self.progress.start()
        return self._update if console.is_terminal else self._tell

    def _update(self, done: int, total: int) -> None:
        self.progress.update(self.task, completed=done, total=total)

    def _tell(self, done: int, total: int) -> None:
        if time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            assert self.console is not None
            self.console.print(f"{self.title} {done:,}/{total:,}", markup=False, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """A line on stderr, above the bar."""
        self.progress.console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


def counted(results: Iterable[Any], total: int, update: Any) -> Iterator[Any]:
    """The results, with a call of `update` after each."""
    for done, result in enumerate(results, 1):
        yield result
        update(done, total)
