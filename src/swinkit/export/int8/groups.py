"""The layers that can be in 8 bits, by the names that they have in the model, in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from swinkit.backbone import SwinBackbone
from swinkit.errors import ConfigError, ExportError
from swinkit.model import SwinTransformer
from swinkit.runtimes.facts import Facts


def layers_of(model: SwinTransformer | SwinBackbone, facts: Facts) -> list[tuple[str, int]]:
    """(name, how many weights) of each product of a graph: queries, keys and values have one together, or three of the same name."""
    products = 1 if facts.img_size is None else 3
    names = ["patch_embed.proj"]
    for number, stage in enumerate(model.layers):
        for block in range(len(stage.blocks)):
            place = f"layers.{number}.blocks.{block}."
            names += [place + "attn.qkv"] * products + [place + "attn.proj", place + "mlp.fc1", place + "mlp.fc2"]
        if stage.downsample is not None:
            names.append(f"layers.{number}.downsample.reduction")
    if isinstance(model, SwinTransformer) and model.num_classes:
        names.append("head")
    weights = {name: model.get_submodule(name).weight.numel() for name in names}  # type: ignore[operator]
    return [(name, weights[name] // (products if name.endswith("qkv") else 1)) for name in names]


def assign(found: Sequence[tuple[str, int]], layers: Sequence[tuple[str, int]]) -> dict[str, str]:
    """Node of a graph -> layer of the model, both in the order of computing and with their numbers of weights."""
    if [size for _, size in found] != [size for _, size in layers[: len(found)]]:
        raise ExportError("The products in the file are not those of the model's layers in their order; nothing was quantised.")
    return {node: name for (node, _), (name, _) in zip(found, layers, strict=False)}


def matching(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """The layers that patterns mean. Errors: ConfigError for one that means none."""
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigError(
                f"--keep-float got {pattern!r}, which no layer in 8 bits matches; they are named like {', '.join(names[:4])}."
            )
    return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
