"""ExecuTorch: model.pte for phones and small machines, lowered to XNNPACK where that has an operation."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import nn

from swinkit.export.capture import capture
from swinkit.runtimes.artefacts import need
from swinkit.runtimes.facts import KEY, Facts


def write(net: nn.Module, facts: Facts, file: Path) -> None:
    """Write `file`. What it says about itself is a method that returns a constant, for the format has no other place."""
    exir: Any = need("executorch.exir", "executorch", "Exporting to ExecuTorch")
    xnnpack: Any = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    lowered = exir.to_edge_transform_and_lower(
        capture(net, facts), partitioner=[xnnpack.XnnpackPartitioner()], constant_methods={KEY: facts.to_json()}
    )
    file.write_bytes(lowered.to_executorch().buffer)
