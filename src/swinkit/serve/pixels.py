"""Pixels that are decoded at a time: threads with small images go side by side, one with a huge image goes alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Pixels:
    """Room for so many pixels; an image of 50 million takes up to 1.3 GB while it is made 8 bit, upright and opaque."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def holding(self, count: int) -> Iterator[None]:
        """Wait until there is room for `count`. Whoever waits lets nobody pass, so that small images cannot keep a large one out."""
        count = min(count, self.limit)
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self.used + count <= self.limit)
            self.used += count
        try:
            yield
        finally:
            with self._freed:
                self.used -= count
                self._freed.notify()
