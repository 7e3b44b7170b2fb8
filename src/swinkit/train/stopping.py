"""Ctrl-C and a scheduler's SIGTERM: finish the step, save, and say how to go on."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and saved its state first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"Everything is saved; go on with: swinkit train --resume {shlex.quote(str(folder))}")


@contextmanager
def stop_on_interrupt(stop: threading.Event, talk: bool = True) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after this step; a second Ctrl-C, a second later or more, stops at once.

    Schedulers and launchers send SIGTERM more than once, to a process and to its group.
    """
    asked_at = 0.0

    def ask(number: int, frame: Any) -> None:
        nonlocal asked_at
        if stop.is_set():
            if number == signal.SIGINT and time.monotonic() - asked_at > 1:
                raise KeyboardInterrupt
            return
        asked_at = time.monotonic()
        stop.set()
        if talk:
            print("\nswinkit: stopping after this step; once more stops at once and saves nothing.", file=sys.stderr)

    with handled(ask):
        yield


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` meanwhile; outside the main thread, where Python has no say in signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
