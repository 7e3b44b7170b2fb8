"""PyTorch's threads in a process that was forked from one that had them."""

from __future__ import annotations

import os

import torch

_PROCESS = os.getpid()


def keep_one_thread_after_a_fork() -> None:
    """In a forked child, make this process compute in one thread, as PyTorch's data loaders do in theirs.

    OpenMP's threads do not come along with a fork, and a child that asks for more than one waits for them forever.
    """
    if os.getpid() != _PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
