"""The queue in front of a model: what goes together, what is refused, what is dropped."""

import random
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

from serving import wait_for
from swinkit.serve.batching import Batcher, QueueClosedError, QueueFullError


class Model:
    """Doubles numbers, behind a gate."""

    def __init__(self, opened=True):
        self.gate, self.entered, self.batches = threading.Event(), threading.Event(), []
        if opened:
            self.gate.set()

    def double(self, values):
        self.batches.append(list(values))
        self.entered.set()
        assert self.gate.wait(20)
        return [2 * value for value in values]

    def fail(self, values):
        raise ValueError(f"no {values}")


def batcher(**options):
    return Batcher(**{"max_batch": 4, "max_wait": 0.0, "capacity": 8} | options)


def submit(queue, call, values):
    with queue.places(len(values)) as places:
        return places.submit(call, values)


def held(queue, model):
    """A ticket that keeps the model busy until its gate opens."""
    ticket = submit(queue, model.double, [0])
    assert model.entered.wait(20)
    return ticket


def test_each_request_gets_its_own_in_order_and_batches_are_full():
    model, queue = Model(opened=False), batcher(capacity=20)
    held(queue, model)
    tickets = [submit(queue, model.double, values) for values in ([1, 2, 3], [4], [5, 6])]
    model.gate.set()
    assert [ticket.future.result(20) for ticket in tickets] == [[2, 4, 6], [8], [10, 12]]
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert all(ticket.queued <= ticket.started <= ticket.finished for ticket in tickets)
    queue.close(5)


def test_never_more_than_the_capacity():
    model, queue = Model(opened=False), batcher()
    held(queue, model)
    submit(queue, model.double, [1] * 5)
    with queue.places(2), pytest.raises(QueueFullError) as full, queue.places(1):
        pass
    assert queue.taken == 6, "what was not submitted is given back"
    assert full.value.seconds >= 0
    model.gate.set()
    wait_for(lambda: queue.taken == 0)
    queue.close(5)


def test_what_would_come_too_late_is_refused():
    model, queue = Model(), batcher(capacity=1000, patience=1.0)
    submit(queue, lambda values: time.sleep(0.4) or values, [0]).future.result(20)
    model.gate.clear()
    held(queue, model)
    with queue.places(2):
        with pytest.raises(QueueFullError) as full:
            queue.check()
        assert 1.0 < full.value.seconds < 10
    queue.check()
    model.gate.set()
    queue.close(5)


def test_room_is_free_when_the_answer_is_there():
    model, queue = Model(), batcher(capacity=1)
    for value in range(200):
        assert submit(queue, model.double, [value]).future.result(20) == [2 * value]
    queue.close(5)


def test_what_nobody_waits_for_is_not_computed():
    model, queue = Model(opened=False), batcher()
    held(queue, model)
    dropped, kept = submit(queue, model.double, [1, 2]), submit(queue, model.double, [3])
    assert dropped.future.cancel()
    model.gate.set()
    assert kept.future.result(20) == [6]
    assert model.batches == [[0], [3]]
    wait_for(lambda: queue.taken == 0)
    queue.close(5)


def test_an_error_reaches_the_requests_of_its_batch_alone():
    model, queue = Model(opened=False), batcher()
    held(queue, model)
    bad, good = submit(queue, model.fail, [1]), submit(queue, model.double, [2])
    model.gate.set()
    with pytest.raises(ValueError, match=r"no \[1\]"):
        bad.future.result(20)
    assert good.future.result(20) == [4]
    wait_for(lambda: queue.taken == 0)
    queue.close(5)


class Panic(BaseException):
    """As Rust's panics come through PyO3."""


@pytest.mark.parametrize("error", [Panic("p"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_the_thread_survives_whatever_is_raised(error):
    def fall(values):
        raise error

    queue = batcher()
    with pytest.raises((RuntimeError, MemoryError)):
        submit(queue, fall, [1]).future.result(20)
    assert submit(queue, Model().double, [1]).future.result(20) == [2]
    queue.close(5)


def test_no_place_is_ever_lost():
    """Clients that submit, cancel, give back, fail and are refused, all at once; afterwards every place is free again."""
    queue, chance = batcher(capacity=12, max_wait=0.0005), random.Random(0)
    wrong = []

    def client(dice):
        for number in range(150):
            count = dice.randint(1, 5)
            with suppress(QueueFullError, ZeroDivisionError), queue.places(count) as places:
                if dice.random() < 0.2:
                    1 / 0  # noqa: B018
                values = [number + index for index in range(count)]
                ticket = places.submit(Model.fail if dice.random() < 0.2 else twice, values)
                if dice.random() < 0.3:
                    time.sleep(dice.random() / 1000)
                    ticket.future.cancel()
                with suppress(CancelledError, TypeError):
                    wrong.extend([values] if ticket.future.result(20) != [2 * value for value in values] else [])

    def twice(values):
        assert 0 < queue.taken <= 12
        return [2 * value for value in values]

    threads = [threading.Thread(target=client, args=(random.Random(chance.random()),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_for(lambda: queue.taken == 0)
    assert not wrong
    with queue.places(12):
        pass
    queue.close(5)


def test_a_batch_waits_only_for_what_is_being_made():
    model, queue = Model(), batcher(max_wait=20.0)
    began = time.monotonic()
    assert submit(queue, model.double, [1]).future.result(10) == [2], "nothing else is on the way"
    with queue.places(2) as coming:
        first = submit(queue, model.double, [1])
        time.sleep(0.05)
        assert not first.future.done(), "two more are"
        coming.submit(model.double, [2, 3])
        assert first.future.result(10) == [2]
    assert model.batches == [[1], [1, 2, 3]]
    assert time.monotonic() - began < 15
    queue.close(5)


def test_closing_computes_what_was_taken_and_takes_nothing_new():
    model, queue = Model(opened=False), batcher()
    tickets = [held(queue, model), submit(queue, model.double, [1])]
    closing = threading.Thread(target=queue.close, args=(20,))
    closing.start()
    wait_for(lambda: queue._closed)
    with pytest.raises(QueueClosedError), queue.places(1):
        pass
    model.gate.set()
    closing.join(20)
    assert [ticket.future.result(0) for ticket in tickets] == [[0], [2]]


def test_closing_gives_up_on_a_model_that_hangs():
    model, queue = Model(opened=False), batcher()
    tickets = [held(queue, model), submit(queue, model.double, [1])]
    queue.close(0.05)
    for ticket in tickets:
        with pytest.raises(QueueClosedError):
            ticket.future.result(0)
    model.gate.set()
    queue._thread.join(20)
    assert not queue._thread.is_alive(), "late outputs do no harm"


def test_batches_are_seen():
    seen, model = [], Model()
    queue = batcher(seen=lambda *what: seen.append(what))
    submit(queue, model.double, [1, 2]).future.result(20)
    wait_for(lambda: seen)
    assert seen[0][0] == 2
    queue.close(5)
