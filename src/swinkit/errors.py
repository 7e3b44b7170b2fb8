"""What swinkit raises when something a person gave it cannot work.

    SwinkitError
    ├── ConfigError        (ValueError)   an architecture or a recipe that cannot be built
    ├── InputError         (ValueError)   images or tensors of the wrong shape, or not readable
    ├── UnknownNameError   (ValueError)   a model, recipe or file that does not exist; names the close ones
    ├── DataError          (ValueError)   a folder or a file of images that cannot be trained or evaluated on
    ├── CheckpointError    (ValueError)   weights that are missing, broken, unsafe or of another model
    ├── ExportError        (RuntimeError) a model that a format cannot hold, or whose exported file computes something else
    ├── ServeError         (RuntimeError) a server that cannot start
    └── TrainingError      (RuntimeError) a run that cannot go on, such as a loss that is not finite

Every message says what came, what was expected and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SwinkitError(Exception):
    """Root of everything swinkit raises on purpose."""


class ConfigError(SwinkitError, ValueError):
    """An architecture or a recipe that cannot be built."""


class InputError(SwinkitError, ValueError):
    """Images or tensors of the wrong shape, or not readable."""


class UnknownNameError(SwinkitError, ValueError):
    """A name that does not exist. The message lists the closest names that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        listed = f"Known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}." if known else "There are none."
        offer = f"Did you mean {', '.join(close)}?" if close else listed
        super().__init__(f"There is no {kind} {name!r}. {offer} {hint}".strip())


class DataError(SwinkitError, ValueError):
    """A folder or a file of images that cannot be trained or evaluated on."""


class CheckpointError(SwinkitError, ValueError):
    """Weights that are missing, broken, unsafe or of another model."""


class ExportError(SwinkitError, RuntimeError):
    """A model that a format cannot hold, or whose exported file computes something else."""


class ServeError(SwinkitError, RuntimeError):
    """A server that cannot start."""


class TrainingError(SwinkitError, RuntimeError):
    """A run that cannot go on, such as a loss that is not finite."""
