"""What the process of one runtime is told, and what it is told with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NATIVE = "native"
"""swinkit's own layout of weights, and the name of its folder."""
Call = Callable[[], "Sequence[np.ndarray]"]


@dataclass(frozen=True)
class Job:
    """Everything that a worker needs; goes through its standard input as JSON."""

    runtime: str
    build: str
    """"module:function" that makes the engine."""
    layout: str
    """Whose weights lie at `weights`."""
    weights: str
    """A file or a folder."""
    images: str
    """.npy of (B, channels, height, width) float32, with at least `batch_size` images."""
    dtype: str
    batch_size: int
    threads: int
    export: str = ""
    """"module:function" that first writes a file into `graph`, in another process, for those that run a file."""
    imports: tuple[str, ...] = ()
    """Imported first, so that they do not count as the model's memory."""
    compile: bool = False
    shapes: list[list[int]] = field(default_factory=list)
    """(rows, in, out) of the model's linear layers."""

    @property
    def graph(self) -> Path:
        """The folder of what `export` writes for this batch; the same in every dtype."""
        return Path(self.images).with_name(f"{self.runtime}-{self.batch_size}")


@dataclass(frozen=True)
class Engine:
    """A runtime with its model and images in place."""

    call: Call
    """Computes the batch once and returns the outputs: one array of logits or pooled features, or one per map."""
    says: str
    """What runs, in words."""
