"""What the C library's heap does with memory that is freed."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt."""
LARGE = 1 << 19
"""Bytes from which on a tensor's place in the heap matters."""
ALIGNMENT = 64

_kept = False


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, as a training step asks for the same sizes again and again; whether that could be done (glibc).

    glibc gives large blocks back to the system at once and gets them anew, and every page of them is cleared on its first touch: at about
    5 GB/s, where copying runs at 30.
    """
    global _kept
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    _kept = bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
    return _kept


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU; where freed memory is kept, another of its size can take its place later.

    PyTorch asks for aligned memory, which glibc cuts out of a larger piece. It gives the cuttings to whoever wants a few bytes, and the
    place of a freed tensor is then always a little too small for the next of the same size.
    """
    size = math.prod(shape) * dtype.itemsize
    if not _kept or size < LARGE:
        return torch.empty(shape, dtype=dtype, device="cpu")
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.__array_interface__["data"][0] % ALIGNMENT
    # Detached, since what is written to in place later may not be a view that an autograd function gave back.
    return torch.from_numpy(room[start : start + size]).view(dtype).view(tuple(shape)).detach()
