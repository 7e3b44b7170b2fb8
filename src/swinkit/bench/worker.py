"""The process of one runtime: it builds its model, then answers one line of JSON with one line of JSON, and rests in between.

    python -m swinkit.bench.worker

Standard input: a Job, then commands such as ["time", 5]. What the runtime itself prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from swinkit.bench.jobs import Engine, Job

STATUS = Path("/proc/self/status")
COMMANDS = ("outputs", "warm", "time", "rate")
WARM_UP = 2


class Station:
    """An engine and what can be asked of it."""

    def __init__(self, engine: Engine, before: int) -> None:
        self.engine, self.says, self.before = engine, engine.says, before

    def outputs(self, path: str) -> None:
        """Compute once and write the outputs as .npz."""
        np.savez(path, *self.engine.call())
        reset_peak()

    def warm(self) -> float:
        """Compute until nothing is slow for the first time; returns the seconds of one call."""
        seconds = [self._once() for _ in range(WARM_UP)]
        return min(seconds)

    def time(self, repetitions: int) -> dict[str, Any]:
        """Once without counting, because another process had the caches; then "seconds" of each repetition, and the "peak" so far.

        The peak is in bytes, beyond what the process held before its model.
        """
        self._once()
        return {"seconds": [self._once() for _ in range(repetitions)], "peak": max(0, peak() - self.before)}

    def _once(self) -> float:
        started = time.perf_counter()
        self.engine.call()
        return time.perf_counter() - started


def reset_peak() -> None:
    """Give back what building the model took, and let the peak count from here, where the system can (Linux)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Largest resident memory of this process in bytes; on Linux since `reset_peak`."""
    if STATUS.is_file():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def build(job: Job) -> Any:
    """What the job asks for, ready for commands."""
    torch.set_num_threads(job.threads)
    for module in job.imports:
        import_module(module)
    reset_peak()
    before = peak()
    module, _, function = job.build.partition(":")
    made = getattr(import_module(module), function)(job)
    return Station(made, before) if isinstance(made, Engine) else made


def main() -> None:
    """Answer until standard input ends."""
    warnings.simplefilter("ignore")
    out = _private_output()
    station: Any = None

    def start(line: str) -> str:
        nonlocal station
        station = build(Job(**json.loads(line)))
        return str(station.says)

    def obey(line: str) -> Any:
        command, *arguments = json.loads(line)
        assert command in COMMANDS, command
        return getattr(station, command)(*arguments)

    if _answer(out, start, sys.stdin.readline()):
        for line in sys.stdin:
            _answer(out, obey, line)


def _private_output() -> TextIO:
    """Standard output for answers alone: whatever a library prints there goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _answer(out: TextIO, work: Callable[[str], Any], line: str) -> bool:
    try:
        answer, good = {"answer": work(line)}, True
    except Exception as error:
        answer, good = {"error": str(error) or type(error).__name__, "kind": type(error).__name__}, False
        sys.stderr.flush()
    print(json.dumps(answer), file=out, flush=True)
    return good


if __name__ == "__main__":
    main()
