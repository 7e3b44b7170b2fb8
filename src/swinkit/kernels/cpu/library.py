"""The C++ library of this folder: where it is, why it is not, and its functions with their types.

It is a plain shared library without a trace of PyTorch or Python in it; everything passes as pointers.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

from swinkit.errors import ConfigError

FOLDER = Path(__file__).parent
NOTE = FOLDER / "not_built.txt"
"""Why the installation went without the library: written by setup.py in its place."""
ISA_VARIABLE = "SWINKIT_CPU_ISA"
"""Environment variable that asks for a lesser instruction set than the machine has."""

VERSION = 7
"""SWK_VERSION of the interface that is described here."""
FLOAT32, BFLOAT16, INT8 = 0, 1, 2
OK, NO_MEMORY = 0, 1


class BlockWeights(Structure):
    """swk_block_weights."""

    _fields_ = (
        *((name, c_int) for name in ("version", "channels", "heads", "hidden", "window_h", "window_w")),
        *((f"{layer}_{part}", c_void_p) for layer in ("norm1", "qkv", "proj", "norm2", "fc1", "fc2") for part in ("weight", "bias")),
        ("position", c_void_p),
        ("scale", c_void_p),
    )


class Job(Structure):
    """swk_job."""

    _fields_ = (
        ("pixels", c_void_p),
        *((name, c_int) for name in ("batch", "height", "width", "floors")),
        *((name, c_void_p) for name in ("position", "shifts", "maps", "features", "pooled", "logits")),
        ("threads", c_int),
    )


class Attention(Structure):
    """swk_attention."""

    _fields_ = (
        *((name, c_int) for name in ("batch", "height", "width", "heads", "dim", "window_h", "window_w", "shift_h", "shift_w", "cosine")),
        *((name, c_void_p) for name in ("qkv", "bias", "pad", "scale", "out", "lse")),
        *((name, c_void_p) for name in ("out_grad", "qkv_grad", "bias_grad", "pad_grad", "scale_grad")),
        ("threads", c_int),
        ("parallel", c_void_p),
    )


class Linear(Structure):
    """swk_linear."""

    _fields_ = (
        ("rows", c_long),
        *((name, c_int) for name in ("inputs", "outputs", "gelu", "x_wide")),
        ("norm_epsilon", c_float),
        *((name, c_void_p) for name in ("norm_weight", "norm_bias", "x", "weight", "bias", "residual", "y")),
        ("y_grad_wide", c_int),
        ("x_grad_wide", c_int),
        *((name, c_void_p) for name in ("y_grad", "x_grad", "weight_grad", "bias_grad")),
        ("threads", c_int),
        ("parallel", c_void_p),
    )


class Norm(Structure):
    """swk_norm."""

    _fields_ = (
        ("rows", c_long),
        ("channels", c_int),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("x", "weight", "bias", "y", "y_grad", "passed", "x_grad", "weight_grad", "bias_grad")),
        ("threads", c_int),
        ("parallel", c_void_p),
    )


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "swk_version": (c_int, ()),
    "swk_isa": (c_int, ()),
    "swk_isa_name": (ctypes.c_char_p, (c_int,)),
    "swk_has": (c_int, (c_int, c_int)),
    "swk_new": (c_void_p, (c_int, c_int)),
    "swk_embed": (c_int, (c_void_p, *(c_int,) * 4, *(c_void_p,) * 4)),
    "swk_block": (c_int, (c_void_p, POINTER(BlockWeights))),
    "swk_merge": (c_int, (c_void_p, c_int, c_int, *(c_void_p,) * 3)),
    "swk_head": (c_int, (c_void_p, c_int, c_int, *(c_void_p,) * 4)),
    "swk_bytes": (c_long, (c_void_p,)),
    "swk_free": (None, (c_void_p,)),
    "swk_run": (c_int, (c_void_p, POINTER(Job))),
    "swk_attention_forward": (c_int, (c_int, c_int, POINTER(Attention))),
    "swk_attention_backward": (c_int, (c_int, c_int, POINTER(Attention))),
    "swk_linear_forward": (c_int, (c_int, c_int, POINTER(Linear))),
    "swk_linear_backward": (c_int, (c_int, c_int, POINTER(Linear))),
    "swk_norm_forward": (c_int, (c_int, c_int, POINTER(Norm))),
    "swk_norm_backward": (c_int, (c_int, c_int, POINTER(Norm))),
    "swk_gemm_rate": (c_double, (*(c_int,) * 5, c_double, c_int)),
}


def find() -> Path | None:
    """The file of the library, if it was built."""
    return next(iter(sorted(FOLDER.glob("_native*.so"))), None)


@cache
def load() -> ctypes.CDLL:
    """The library, with the types of its functions. Errors: ConfigError if it is not there or cannot be loaded."""
    path = find()
    if path is None:
        raise ConfigError(f"{missing()} Expected swinkit's C++ library in {FOLDER}.")
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be used ({error}); install swinkit again on this machine.") from None
    if library.swk_version() != VERSION:
        raise ConfigError(f"{path} is of another version of swinkit ({library.swk_version()}, not {VERSION}); install swinkit again.")
    return library


def obstacle() -> str | None:
    """Why there is no library that can be loaded; None if there is one."""
    if find() is None:
        return missing()
    try:
        load()
    except ConfigError as error:
        return str(error)
    return None


def missing() -> str:
    """Why there is no library, in a sentence."""
    if NOTE.is_file():
        return f"swinkit was installed without its C++ library: {NOTE.read_text(errors='replace').strip()}"
    return "swinkit was installed without its C++ library; install it again where there is a C++ compiler (g++ or clang++)."


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those that this machine can run and the library has, from the slowest to the fastest."""
    library = load()
    best = library.swk_isa()
    names = (library.swk_isa_name(isa) for isa in range(best + 1))
    return tuple(name.decode() for name in names if name)


def chosen_isa() -> str:
    """The fastest, or what the environment variable SWINKIT_CPU_ISA asks for. Errors: ConfigError if that cannot be had."""
    known, wanted = instruction_sets(), os.environ.get(ISA_VARIABLE, "")
    if wanted and wanted not in known:
        raise ConfigError(f"{ISA_VARIABLE} is {wanted!r}; this machine and this library have {', '.join(known)}.")
    return wanted or known[-1]


@cache
def isa_number(name: str) -> int:
    """The library's number of an instruction set."""
    return ("baseline", "avx2", "avx512", "avx512_bf16").index(name)


@cache
def has(name: str, dtype: int) -> bool:
    """Whether the library computes in this dtype with this instruction set."""
    return bool(load().swk_has(isa_number(name), dtype))


def gemm_rate(
    name: str, dtype: int, *, rows: int = 112, depth: int = 384, columns: int = 768, seconds: float = 0.2, threads: int = 1
) -> float:
    """GFLOP/s of the library's matrix kernel with its operands in cache: nothing that is made of it can be faster."""
    return float(load().swk_gemm_rate(isa_number(name), dtype, rows, depth, columns, seconds, threads))
