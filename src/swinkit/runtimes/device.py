"""Which device and which precision a model runs in, and why."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from swinkit.errors import ConfigError


def pick_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """ "auto": CUDA, else Apple's GPU, else the CPU. Errors: ConfigError for a device that is not there.

    local_rank: the number of this process among those of the machine, each of which gets the GPU of its number; None: it is alone.
    """
    if name == "auto":
        # Several processes cannot meet on Apple's GPU.
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() and local_rank is None else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"Device {name!r} cannot be used ({first}); expected auto, cpu, or a GPU that `swinkit doctor` lists.") from None
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the hardware (Ampere GPUs and later; CPUs with AVX512-BF16 or AMX), not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def pick_amp(amp: bool | None, device: torch.device, dtype: str = "bfloat16") -> torch.dtype | None:
    """The dtype of mixed precision, None for float32 throughout. amp None: bfloat16 where the hardware computes in it.

    Errors: ConfigError for a dtype that is neither bfloat16 nor float16.
    """
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ConfigError(f"amp_dtype is {dtype!r}; expected bfloat16 or float16.")
    if amp is None:
        return torch.bfloat16 if has_fast_bfloat16(device) else None
    return known[dtype] if amp else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Mixed precision in `dtype`, or nothing."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def describe(device: torch.device) -> str:
    """The hardware behind a device, in words: "AMD EPYC, 2 threads, AVX512"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type.upper()
    return f"{cpu_name()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def cpu_name() -> str:
    """The processor's name as the system has it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
