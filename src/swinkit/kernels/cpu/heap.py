"""What the C library's heap does with memory that is freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt."""


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, as a training step asks for the same sizes again and again; whether that could be done (glibc).

    glibc gives large blocks back to the system at once and gets them anew, and every page of them is cleared on its first touch: at about
    5 GB/s, where copying runs at 30.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
