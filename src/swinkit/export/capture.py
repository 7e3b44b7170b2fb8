"""From a spelled model to a program of torch.export, in which no size that may vary has become a number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from swinkit.config import Size, pair
from swinkit.runtimes.facts import Facts

TRACED_BATCH = 2


def traced_size(facts: Facts) -> Size:
    """The size of the example images: that of all, or one that nothing divides and that differs along the axes."""
    if facts.img_size is not None:
        return facts.img_size
    patch, window = pair(facts.config.patch_size), facts.config.windows[0]
    return patch[0] * (window[0] + 2) + 1, patch[1] * (2 * window[1] + 1) + 1


def example(facts: Facts, batch: int, size: Size, generator: torch.Generator) -> Tensor:
    """Random images as a file takes them: (B, height, width, C) uint8, or normalised (B, C, height, width)."""
    if facts.with_preprocessing:
        return torch.randint(256, (batch, *size, facts.config.in_chans), generator=generator, dtype=torch.uint8)
    return torch.randn(batch, facts.config.in_chans, *size, generator=generator)


def capture(net: nn.Module, facts: Facts) -> torch.export.ExportedProgram:
    """The program of a model for the sizes in `facts`, without traces of the source that it came from."""
    images = example(facts, facts.batch_size or TRACED_BATCH, traced_size(facts), torch.Generator().manual_seed(0))
    sizes: Any = torch.fx.experimental._config
    with sizes.patch(backed_size_oblivious=True), torch.no_grad():
        program = torch.export.export(net, (images,), dynamic_shapes=(_open_axes(facts),), strict=False)
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}  # else paths of this machine's files
    program.example_inputs = None  # would be pickled
    return program


def _open_axes(facts: Facts) -> dict[int, Any] | None:
    """Axis -> its name, for axes of any length. Named, one that became a number is an error."""
    least = pair(facts.config.patch_size) if facts.config.size_policy == "per_axis" else (1, 1)
    first = 1 if facts.with_preprocessing else 2
    axes: dict[int, Any] = {} if facts.batch_size else {0: torch.export.Dim("batch", min=1)}
    if facts.img_size is None:
        axes |= {first: torch.export.Dim("height", min=least[0]), first + 1: torch.export.Dim("width", min=least[1])}
    return axes or None
