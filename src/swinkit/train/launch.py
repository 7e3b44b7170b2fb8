"""Start several training processes on this machine and speak for them: `swinkit train --nproc N`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from swinkit import errors
from swinkit.errors import ConfigError, SwinkitError, TrainingError
from swinkit.train.stopping import handled
from swinkit.train.world import asked_size

if TYPE_CHECKING:
    from swinkit.train.session import Trained

GRACE_SECONDS = 60
"""How long the others may take to end after one of them did, before they are killed."""


def launch(nproc: int, call: Mapping[str, Any], quiet: bool = False) -> Trained:
    """`train(**call)` in `nproc` processes; returns what the first one returns and raises what one of them raises.

    Errors: ConfigError for a number of processes that cannot be, and those of `train`.
    """
    _check(nproc)
    outcome = multiprocessing.get_context("spawn").SimpleQueue()
    put: list[Any] = []
    pids: list[int | None] = []
    asked: list[int] = []
    with handled(lambda number, _: _pass_on(pids, number, asked)):
        with _environment(nproc):
            arguments = (multiprocessing.get_start_method(), dict(call), quiet, outcome)
            context = start_processes(_work, arguments, nprocs=nproc, join=False, start_method="spawn")
        pids += context.pids()
        try:
            while not context.join(timeout=0.5, grace_period=GRACE_SECONDS):
                put += _drained(outcome)  # a large result would wait in a full pipe
        except (ProcessExitedException, ProcessRaisedException) as error:
            raise _cause([*put, *_drained(outcome)], error, bool(asked)) from None
    trained: Trained = [*put, *_drained(outcome)][0]
    return trained


def _drained(outcome: Any) -> Iterator[Any]:
    while not outcome.empty():
        yield outcome.get()


def _check(nproc: int) -> None:
    if nproc < 1:
        raise ConfigError(f"nproc is {nproc}; expected at least 1.")
    if asked_size() > 1:
        raise ConfigError("nproc starts processes itself; under torchrun leave it out.")
    if torch.cuda.is_available() and nproc > torch.cuda.device_count():
        raise ConfigError(
            f"nproc is {nproc}, but this machine has {torch.cuda.device_count()} GPUs; expected at most one process for each."
        )


@contextmanager
def _environment(nproc: int) -> Iterator[None]:
    """What torchrun would set, for the processes that are started inside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in told}
    os.environ |= told
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _work(rank: int, start_method: str, call: dict[str, Any], quiet: bool, outcome: Any) -> None:
    """One process: train, and put what came of it where the parent looks."""
    from rich.console import Console

    from swinkit.train import train

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if hasattr(os, "setsid"):
        os.setsid()
    # A spawned process would spawn its data workers too, and each would import torch anew.
    multiprocessing.set_start_method(start_method, force=True)
    try:
        trained = train(**call, console=Console(quiet=True) if quiet else None)
        if rank == 0:
            outcome.put(trained)
    except SwinkitError as error:
        outcome.put((type(error).__name__, str(error)))
        sys.exit(1)
    except KeyboardInterrupt as stop:
        outcome.put(("KeyboardInterrupt", str(stop)))
        sys.exit(130)


def _pass_on(pids: Sequence[int | None], number: int, asked: list[int]) -> None:
    """Ctrl-C and SIGTERM are for the processes that train; they are in sessions of their own and get them only from here.

    The first arrives as SIGTERM, which ends one that is still importing without a word; a second Ctrl-C stops at once.
    """
    if not pids:
        raise KeyboardInterrupt
    passed = number if asked else signal.SIGTERM
    asked.append(number)
    for pid in pids:
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, passed)


def _cause(put: Sequence[Any], error: Exception, asked: bool) -> BaseException:
    """The error that a process put down before it ended, else that it ended."""
    said = [what for what in put if isinstance(what, tuple)]
    if not said and asked:
        return KeyboardInterrupt("The processes were not training then; what was saved before stays.")
    if not said:
        return TrainingError(f"A training process ended unexpectedly ({str(error).strip().splitlines()[-1]}).")
    name, message = said[0]
    if name == "KeyboardInterrupt":
        return KeyboardInterrupt(message)
    kind = getattr(errors, name)
    made = kind.__new__(kind)
    Exception.__init__(made, message)
    return made  # type: ignore[no-any-return]
