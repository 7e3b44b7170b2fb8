"""Where data that is not a folder needs something: packages of the extra `data`, and a place to keep what was worked out once."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

from swinkit.errors import DataError


def need(module: str, what: str) -> ModuleType:
    """A module of an optional package. Raises DataError, naming the extra, if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(f"{what} needs the package {package} ({error}). Install it with: pip install 'swinkit[data]'") from error


def cache_folder(name: str) -> Path:
    """Where swinkit keeps what can be made again: $XDG_CACHE_HOME/swinkit/NAME, by default below ~/.cache. It need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "swinkit" / name
