"""Functions with the signature of `model.window_attention`, and the one choice between them."""

from __future__ import annotations

from dataclasses import dataclass

from swinkit.model import Attend, window_attention


@dataclass(frozen=True)
class Kernel:
    """A window attention, by name, and why it was chosen."""

    name: str
    attend: Attend
    reason: str


def choose() -> Kernel:
    """The window attention that a model built now will use."""
    return Kernel("definition", window_attention, "plain PyTorch operations: runs on every device, in every dtype, forward and backward")
