"""A program of torch.export: model.pt2 for PyTorch itself."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from swinkit.export.capture import capture
from swinkit.runtimes.facts import KEY, Facts


def write(net: nn.Module, facts: Facts, file: Path) -> None:
    """Write `file`; nothing in it is pickled."""
    torch.export.save(capture(net, facts), file, extra_files={f"{KEY}.json": facts.to_json()})
