"""Images of many requests in few calls of the model: one thread per model, and a queue that never holds more than it may.

Nothing here knows of HTTP.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

Call = Callable[[list[Any]], Sequence[Any]]
"""What is computed: a list of inputs -> as many outputs. Inputs of equal calls go through together."""


class QueueFullError(Exception):
    """No place for so many. `seconds`: when there may be some."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the queue is full")
        self.seconds = seconds


class QueueClosedError(Exception):
    """Nothing is taken any more."""


class Ticket:
    """What one request waits for. `future` gives its outputs in order; cancelled, what was not begun is left out."""

    def __init__(self, call: Call, count: int) -> None:
        self.call = call
        self.future: Future[list[Any]] = Future()
        self.queued = time.perf_counter()
        self.started = self.finished = 0.0
        self._outputs: list[Any] = [None] * count
        self._missing = count

    def put(self, index: int, output: Any) -> None:
        """One output; the last one completes the future."""
        self._outputs[index] = output
        self._missing -= 1
        if not self._missing:
            self.finished = time.perf_counter()
            with suppress(InvalidStateError):  # cancelled meanwhile
                self.future.set_result(self._outputs)

    def fail(self, error: BaseException) -> None:
        """No outputs."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(frozen=True, eq=False)
class _Item:
    ticket: Ticket
    index: int
    value: Any


class Places:
    """Room for a request's inputs while they are made."""

    def __init__(self, batcher: Batcher, count: int) -> None:
        self._batcher, self.count = batcher, count

    def submit(self, call: Call, values: Sequence[Any]) -> Ticket:
        """Queue the inputs, exactly as many as there are places."""
        ticket = Ticket(call, len(values))
        assert len(values) == self.count > 0
        self._batcher.add([_Item(ticket, index, value) for index, value in enumerate(values)])
        self.count = 0
        return ticket


class Batcher:
    """A thread that computes what is queued, up to `max_batch` inputs at a time.

    capacity: inputs that are taken and not done, in whatever state; patience: seconds within which what is taken has to be done, at the
    pace of late, for more to be taken; max_wait: seconds that a batch waits for inputs that have a place but are still being made;
    seen: called after each batch with (inputs, seconds).
    """

    def __init__(
        self,
        *,
        max_batch: int,
        max_wait: float,
        capacity: int,
        patience: float = math.inf,
        seen: Callable[[int, float], None] = lambda _count, _seconds: None,
    ) -> None:
        self.max_batch, self.max_wait, self.capacity = max_batch, max_wait, capacity
        self.patience, self._seen = patience, seen
        self._items: deque[_Item] = deque()
        self._running: list[_Item] = []
        self._taken = 0
        self._pace = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="swinkit-model", daemon=True)
        self._thread.start()

    @property
    def taken(self) -> int:
        """Inputs that have a place: being made, waiting or computed."""
        return self._taken

    @contextmanager
    def places(self, count: int) -> Iterator[Places]:
        """Places for `count` inputs; what is not submitted is given back. Errors: QueueFullError, QueueClosedError."""
        self._reserve(count)
        places = Places(self, count)
        try:
            yield places
        finally:
            self._release(places.count)

    def check(self, count: int = 1) -> None:
        """Errors: QueueFullError or QueueClosedError if `count` inputs could not have places now."""
        if self._closed:
            raise QueueClosedError
        wait = self._taken * self._pace
        if self._taken + count > self.capacity or wait > self.patience:
            raise QueueFullError(wait)

    def add(self, items: list[_Item]) -> None:
        """Queue inputs that have places."""
        with self._changed:
            if self._closed:
                raise QueueClosedError
            self._items.extend(items)
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Take nothing more, compute what is queued, and after `seconds` give up on the rest, whose requests get QueueClosedError."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            left = [*self._running, *self._items]
            self._items.clear()
        for item in left:
            item.ticket.fail(QueueClosedError())

    def _reserve(self, count: int) -> None:
        with self._changed:
            self.check(count)
            self._taken += count

    def _release(self, count: int) -> None:
        if count:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Item]:
        """The next batch; empty when closed and done."""
        with self._changed:
            while True:
                while not self._items and not self._closed:
                    self._changed.wait()
                self._wait_for_more()
                self._running = self._pick()
                if self._running or self._closed:
                    return self._running

    def _wait_for_more(self) -> None:
        until = time.monotonic() + self.max_wait
        while len(self._items) < min(self.max_batch, self._taken) and not self._closed and (left := until - time.monotonic()) > 0:
            self._changed.wait(left)

    def _pick(self) -> list[_Item]:
        """The oldest input and others of the same call; those that nobody waits for any more are dropped."""
        batch: list[_Item] = []
        rest: deque[_Item] = deque()
        for item in self._items:
            if item.ticket.future.done():
                self._taken -= 1
            elif len(batch) < self.max_batch and (not batch or item.ticket.call == batch[0].ticket.call):
                batch.append(item)
            else:
                rest.append(item)
        self._items = rest
        return batch

    def _run(self, batch: list[_Item]) -> None:
        started = time.perf_counter()
        for item in batch:
            item.ticket.started = item.ticket.started or started
        try:
            outputs = batch[0].ticket.call([item.value for item in batch])
            assert len(outputs) == len(batch), "a call gives one output per input"
            problem = None
        except BaseException as error:  # whatever a model raises belongs to the requests of its batch alone; the thread has to live
            outputs, problem = [], error if isinstance(error, Exception) else RuntimeError(repr(error))
        self._count(len(batch), time.perf_counter() - started)
        for number, item in enumerate(batch):
            item.ticket.fail(problem) if problem else item.ticket.put(item.index, outputs[number])

    def _count(self, count: int, seconds: float) -> None:
        # Before the answers go out, so that whoever gets one finds room for the next.
        with self._changed:
            self._taken -= count
            self._running = []
            pace = seconds / count
            self._pace = 0.8 * self._pace + 0.2 * pace if self._pace else pace
        self._seen(count, seconds)
