"""What a run was made with: command, versions, hardware, variables that change numbers; environment.json in the run folder."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from swinkit.checkpoints.files import write_atomic

FILE = "environment.json"
PACKAGES = ("torch", "torchvision", "numpy", "pillow")
VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS)_NUM_THREADS|OMP_WAIT_POLICY|CUDA_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE|ATEN_CPU_CAPABILITY"
    r"|(ONEDNN|DNNL)_MAX_CPU_ISA|MKL_ENABLE_INSTRUCTIONS|TIMM_FUSED_ATTN|(PYTORCH|SWINKIT)_\w+"
)
"""Environment variables that change numbers or speed."""
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH|COOKIE", re.IGNORECASE)


def package_version(package: str) -> str:
    """The version of an installed package, or "missing"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def describe_environment() -> dict[str, Any]:
    """What numbers and speed depend on here, JSON-able: "versions", "platform", "cpu", "gpus", "threads", "processes", "variables".

    Nothing that names the machine or a person, and no variable that could be a secret.
    """
    import torch

    import swinkit
    from swinkit.runtimes.device import describe

    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {"swinkit": swinkit.__version__, "python": platform.python_version()}
        | {package: package_version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cpu": describe(torch.device("cpu")),
        "gpus": [describe(gpu) for gpu in gpus],
        "threads": torch.get_num_threads(),
        "processes": _processes(),
        "variables": variables(),
    }


def variables() -> dict[str, str]:
    """The environment variables that change numbers or speed, but none that could be a secret."""
    return {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name) and not SECRET.search(name)}


def _processes() -> int:
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class Session:
    """One start or resumption of a run; as a context manager, it also records how many seconds passed, however the block ends."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder, self.started = run_folder, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # Where the disk is full, the run itself has more to say.
        with suppress(OSError):
            record_seconds(self.run_folder, time.monotonic() - self.started)


def record_environment(run_folder: str | Path, command: str, step: int = 0) -> Session:
    """Append {time, command, step, what `describe_environment` says} to environment.json; one process of a run calls it.

    step: optimiser steps done before, 0 at the start. The time is UTC. Errors: OSError where the file cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    folder = Path(run_folder)
    _write(folder, [*read_environment(folder), {"time": now, "command": command, "step": step, **describe_environment()}])
    return Session(folder)


def record_seconds(run_folder: str | Path, seconds: float) -> None:
    """Say how long the last recorded session took; nothing happens where none is recorded."""
    sessions = read_environment(run_folder)
    if sessions:
        sessions[-1]["seconds"] = round(seconds, 3)
        _write(Path(run_folder), sessions)


def read_environment(run_folder: str | Path) -> list[dict[str, Any]]:
    """The sessions of a run, first to last; none where the file is missing or broken."""
    try:
        content = json.loads((Path(run_folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [session for session in content if isinstance(session, dict)] if isinstance(content, list) else []


def total_seconds(sessions: Sequence[Mapping[str, Any]]) -> tuple[float, bool]:
    """(seconds of all sessions together, whether every session says how long it took: one that was killed does not)."""
    known = [session["seconds"] for session in sessions if isinstance(session.get("seconds"), int | float)]
    return float(sum(known)), len(known) == len(sessions) > 0


def _write(folder: Path, sessions: list[dict[str, Any]]) -> None:
    write_atomic(folder / FILE, json.dumps(sessions, indent=1, ensure_ascii=False) + "\n")
