"""Ctrl-C and a scheduler's SIGTERM: finish the step, save, and say how to go on."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and saved its state first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"Everything is saved; go on with: swinkit train --resume {shlex.quote(str(folder))}")


@contextmanager
def stop_on_interrupt(stop: threading.Event, talk: bool = True) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after this step, the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if talk:
            print("\nswinkit: stopping after this step; once more stops at once and saves nothing.", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
