"""Calls of the C++ library with tensors: dtypes, threads and errors."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from swinkit.errors import SwinkitError
from swinkit.kernels.cpu import library

DTYPES = {torch.float32: library.FLOAT32, torch.bfloat16: library.BFLOAT16}
OBSTACLE = library.obstacle()
"""Why there is no C++ library, found out once: torch.compile cannot look into folders, and each layer of each step asks."""


def has(dtype: torch.dtype) -> bool:
    """Whether the library trains in this dtype on this machine."""
    return dtype in DTYPES and OBSTACLE is None and library.has(library.chosen_isa(), DTYPES[dtype])


@cache
def openmp() -> int | None:
    """The address of the function by which PyTorch's own threads can be used; None where its OpenMP has no such function."""
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        path = Path(torch.__file__).parent / "lib" / name
        try:
            return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def run(function: Any, dtype: torch.dtype, job: ctypes.Structure) -> None:
    """One call. Errors: SwinkitError where memory is short or the library does not take the sizes."""
    code = function(library.isa_number(library.chosen_isa()), DTYPES[dtype], ctypes.byref(job))
    if code == library.NO_MEMORY:
        raise SwinkitError("Not enough memory for this layer; take a smaller batch.")
    if code != library.OK:
        sizes = ", ".join(f"{name} {getattr(job, name)}" for name, kind in job._fields_ if kind in (ctypes.c_int, ctypes.c_long))  # type: ignore[misc]
        raise SwinkitError(f"The C++ library does not take these sizes: {sizes}.")
