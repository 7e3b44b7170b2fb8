"""The processes that train together. One process is the usual case and needs nothing of torch.distributed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from swinkit.errors import ConfigError

PATIENCE = timedelta(hours=6)
"""How long the others wait for a process, for instance for the first, which looks through the data before training."""

SILENCE_SECONDS = 2


class OtherProcessStopped(SystemExit):
    """Another process of the run has an error and says it; this one ends in silence."""

    def __init__(self) -> None:
        super().__init__(1)


@dataclass(frozen=True)
class World:
    """One process's place among those that train together; `rank` 0 reads, writes and talks for all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """The number among those on the same machine, which is also its GPU's."""

    @property
    def first(self) -> bool:
        """Whether this process talks and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a CPU tensor over all processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in at least one process."""
        if self.size == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
        return [bool(vote) for vote in votes]

    def share(self, value: Any) -> Any:
        """The first process's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]

    def raise_together(self, error: Exception | None) -> None:
        """Go on, or none does: the first process that has an error raises it, the others end in silence."""
        speaker = self._speaker(error is not None)
        if error is not None and speaker == self.rank:
            raise error
        if speaker is not None:
            raise OtherProcessStopped

    def _speaker(self, failed: bool) -> int | None:
        votes = torch.zeros(self.size, dtype=torch.int32)
        votes[self.rank] = failed
        votes = self.sum(votes)
        return int(votes.argmax()) if votes.any() else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """A piece of work after which all processes go on, or none does; an error that all have is said once.

        Nothing inside may wait for other processes, since one that failed would not come.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as problem:  # whatever it is, the others must not wait for this process
            error = problem
        self.raise_together(error)


def asked_size() -> int:
    """How many processes torchrun or `--nproc` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def open_world() -> Iterator[World]:
    """Meet the other processes that torchrun or `--nproc` started, and part from them at the end.

    Errors: ConfigError where the environment that torchrun sets is incomplete.
    """
    if asked_size() == 1 or torch.distributed.is_initialized():
        yield _joined() if torch.distributed.is_available() and torch.distributed.is_initialized() else World()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(f"WORLD_SIZE is {asked_size()}, but {', '.join(missing)} is not set; start with torchrun or --nproc.")
    # Decisions travel over gloo, so that they never wait for a GPU; gradients over NCCL.
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    world = _joined()
    try:
        yield world
        world.sum(torch.zeros(1))  # nobody hangs up while another one still listens
    except SystemExit:
        # Whoever started the processes ends all of them after the first; the one that has something to say needs a moment.
        time.sleep(SILENCE_SECONDS)
        raise
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise OtherProcessStopped from None  # the connection broke because another process ended, which says why
        raise
    finally:
        torch.distributed.destroy_process_group()


def _joined() -> World:
    rank = torch.distributed.get_rank()
    return World(rank, torch.distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", rank)))
