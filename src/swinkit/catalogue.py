"""The table behind `swinkit models`: what each named model costs.

costs.json holds what `count` found on the models themselves, so that the table needs no torch; a test counts again.
After changing variants: python -m swinkit.catalogue
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, overload

from swinkit.config import pair
from swinkit.variants import get_config, list_models
from swinkit.weights import Weights, list_weights

COSTS = "costs.json"


@dataclass(frozen=True)
class Entry:
    """One named model."""

    name: str
    parameters: int
    gflops: float
    """Billions of multiply-adds for one image, which is what the papers print as FLOPs."""
    input: str
    """channels x height x width"""
    classes: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@overload
def models(pattern: str = "*", *, pretrained: Literal[False] = False) -> list[Entry]: ...
@overload
def models(pattern: str = "*", *, pretrained: bool) -> list[Entry] | list[Weights]: ...


def models(pattern: str = "*", *, pretrained: bool = False) -> list[Entry] | list[Weights]:
    """The named models that match a shell pattern, sorted by name, with parameters, cost and input.

    pattern: such as "swinv2_*"; none may match, which is no error. pretrained: instead the public weights, each by name.tag.
    """
    if pretrained:
        return list_weights(pattern)
    costs = json.loads((resources.files("swinkit") / COSTS).read_text(encoding="utf-8"))
    return [_entry(name, *costs[name]) for name in list_models(pattern)]


def _entry(name: str, parameters: int, gflops: float) -> Entry:
    config = get_config(name)
    height, width = pair(config.img_size)
    return Entry(name, parameters, gflops, f"{config.in_chans} x {height} x {width}", config.num_classes)


def count(name: str) -> tuple[int, float]:
    """(parameters, billions of multiply-adds for one image), counted by torch on a model that holds no memory.

    The blocks of a stage cost the same, so one of each stage is run and counted as often as it stands there.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from swinkit.model import SwinTransformer

    config = get_config(name)
    with torch.device("meta"):
        whole, thin = SwinTransformer(config), SwinTransformer(config.replace(depths=(1,) * len(config.depths))).eval()
        image = torch.empty(1, config.in_chans, *pair(config.img_size))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        thin(image)
    by_module = counter.get_flop_counts()
    blocks = [sum(by_module[f"SwinTransformer.layers.{stage}.blocks.0"].values()) for stage in range(len(config.depths))]
    flops = counter.get_total_flops() + sum((depth - 1) * block for depth, block in zip(config.depths, blocks, strict=True))
    return sum(parameter.numel() for parameter in whole.parameters()), round(flops / 2e9, 4)


if __name__ == "__main__":
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(count(name))}" for name in list_models())
    Path(__file__).with_name(COSTS).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
