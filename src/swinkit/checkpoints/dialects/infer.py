"""A configuration from the shapes of tensors under our names, for files that come without one.

Everything that makes a tensor is in the shapes. What is not: the image size (a window is planned for one), stochastic depth, and V2's
window; what was assumed for these is said in a note.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from swinkit.checkpoints.dialects.layout import Shapes
from swinkit.config import Size, SwinConfig
from swinkit.errors import CheckpointError, ConfigError
from swinkit.fields import pair

V2_DOUBT = "V2's weights do not tell"
V2_WINDOW = 8
"""Assumed where nothing tells: the window of most published V2 models."""
CERTAIN = ("version", "depths", "embed_dim", "num_heads", "patch_size", "in_chans")
"""Fields that the shapes leave no doubt about."""


@dataclass(frozen=True)
class Inferred:
    """A configuration, and a sentence for each thing in it that was assumed."""

    config: SwinConfig
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    """Those notes that the numbers depend on."""
    contradictions: tuple[str, ...] = ()
    """What was given and the tensors deny, each as part of a sentence."""


def infer_config(shapes: Shapes, buffers: Mapping[str, Tensor], known: Mapping[str, Any], policy: str) -> Inferred:
    """`known`: fields of SwinConfig that were given or read from a configuration file; they win over what the shapes suggest.

    buffers: constants stored beside the weights, under our names of them.
    Errors: CheckpointError where the shapes are those of no Swin Transformer.
    """
    shown = _from_shapes(shapes) | {"size_policy": policy}
    given = {name: value for name, value in known.items() if value is not None}
    contradictions = _contradictions(shown, given, len(shapes))
    for doubted in ((), ("img_size",), ("window_size",), ("img_size", "window_size")):
        # What was given may be what the model shall become; what it is must agree with its tables.
        fields, notes = _completed(shown | {name: value for name, value in given.items() if name not in doubted}, shapes, buffers)
        windows = _windows(shapes, buffers, fields)
        if _fits(fields, windows):
            break
    else:
        # The peer shrank its windows by another rule than the originals: say what they are.
        fields |= {"window_size": windows, "size_policy": "per_axis"}
    doubts = tuple(note for note in notes if note.startswith(V2_DOUBT))
    return Inferred(_simplest(_made(fields)), tuple(notes), doubts, contradictions)


def _contradictions(shown: Mapping[str, Any], given: Mapping[str, Any], tensors: int) -> tuple[str, ...]:
    """Where a configuration that was given is of another model. Errors: CheckpointError for one that is hopelessly so."""
    certain = [name for name in CERTAIN if name in given and _plain(given[name]) != _plain(shown[name])]
    found = tuple(f"{name} is {given[name]} in the configuration and {shown[name]} in the tensors" for name in certain)
    # A block has ten tensors and more: one of these depths would be built for a long time, to be found missing.
    if "version" in certain or ("depths" in certain and sum(d for d in given["depths"] if isinstance(d, int)) > tensors):
        raise CheckpointError(f"{found[0]}; they are of two models: take the configuration that was saved with the weights.")
    return found


def _plain(value: Any) -> Any:
    return pair(value) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


def _completed(fields: dict[str, Any], shapes: Shapes, buffers: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """The fields with what is missing assumed, and a sentence for each assumption."""
    notes: list[str] = []
    if "window_size" not in fields:
        windows = _windows(shapes, buffers, fields)
        fields["window_size"] = windows or V2_WINDOW
        if windows is None:
            notes.append(f"{V2_DOUBT} the window; {V2_WINDOW} was assumed. Give window_size if it is another.")
    if "img_size" not in fields:
        fields["img_size"], note = _image(fields, shapes, buffers)
        notes += note
    if fields["version"] == 2 and "pretrained_window_sizes" not in fields:
        fields["pretrained_window_sizes"], note = _trained(buffers, len(fields["depths"]))
        notes += note
    return fields, notes


def _made(fields: Mapping[str, Any]) -> SwinConfig:
    try:
        return SwinConfig(**fields)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"The shapes of the tensors do not make a Swin Transformer: {error}") from None


def _fits(fields: Mapping[str, Any], windows: list[Size] | None) -> bool:
    """Whether the windows that these fields give are those of the tables."""
    return windows is None or list(_made(fields).windows) == windows


def _from_shapes(shapes: Shapes) -> dict[str, Any]:
    depths = Counter({int(found[1]): 0 for found in (re.match(r"layers\.(\d+)\.", name) for name in shapes) if found})
    for name in shapes:
        if found := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            depths[int(found[1])] = max(depths[int(found[1])], int(found[2]) + 1)
    stages = range(len(depths))
    patch = shapes.get("patch_embed.proj.weight", ())
    if not depths or len(patch) != 4 or 0 in patch or set(depths) != set(stages):
        raise CheckpointError("There are no patch embedding and stages in it that could be a Swin Transformer's.")
    first = "layers.0.blocks.0."
    version = 2 if f"{first}attn.logit_scale" in shapes else 1
    heads = [shapes.get(f"layers.{s}.blocks.0.attn.{_heads(version)}") or (0, 0) for s in stages]
    return {
        "version": version,
        "embed_dim": patch[0],
        "in_chans": patch[1],
        "patch_size": patch[2] if patch[2] == patch[3] else (patch[2], patch[3]),
        "depths": tuple(depths[s] for s in stages),
        "num_heads": tuple(shape[-1] if version == 1 else shape[0] for shape in heads),
        "num_classes": (shapes.get("head.weight") or (0,))[0],
        "mlp_ratio": _mlp_ratio(shapes, patch[0]),
        "qkv_bias": (f"{first}attn.qkv.bias" if version == 1 else f"{first}attn.q_bias") in shapes,
        "ape": "absolute_pos_embed" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
    }


def _mlp_ratio(shapes: Shapes, channels: int) -> float:
    """The shortest number that gives the hidden channels of every stage as all peers count them: int(channels * ratio)."""
    first = ((name.split("."), shape) for name, shape in shapes.items() if name.endswith(".blocks.0.mlp.fc1.weight") and shape)
    hidden = {channels * 2 ** int(parts[1]): shape[0] for parts, shape in first}
    least: float = max((count / dim for dim, count in hidden.items()), default=4.0)
    for digits in range(17):
        ratio: float = math.ceil(least * 10.0**digits) / 10.0**digits
        if all(int(dim * ratio) == count for dim, count in hidden.items()):
            return ratio
    return least


def _heads(version: int) -> str:
    return "relative_position_bias_table" if version == 1 else "logit_scale"


def _windows(shapes: Shapes, buffers: Mapping[str, Tensor], fields: Mapping[str, Any]) -> list[Size] | None:
    """The window of each stage by the size of its table, or by a stored constant; None where there is neither."""
    windows = []
    for stage in range(len(fields["depths"])):
        start = f"layers.{stage}.blocks.0.attn."
        table, coords = shapes.get(f"{start}relative_position_bias_table"), buffers.get(f"{start}relative_coords_table")
        index = buffers.get(f"{start}relative_position_index")
        if coords is not None and coords.ndim == 4:
            windows.append(((coords.shape[1] + 1) // 2, (coords.shape[2] + 1) // 2))
        elif table:
            windows.append(_by_rows(table[0], stage, fields))
        elif index is not None:
            side = math.isqrt(math.isqrt(index.numel()))
            windows.append((side, side))
        else:
            return None
    return windows


def _by_rows(rows: int, stage: int, fields: Mapping[str, Any]) -> Size:
    """The window whose bias table has so many rows, (2h - 1) (2w - 1): the known one if it fits, else the square one."""
    if "window_size" in fields:
        config = _made(fields)
        for known in (config.windows[stage], config.asked_windows[stage]):
            if (2 * known[0] - 1) * (2 * known[1] - 1) == rows:
                return known
    side = (math.isqrt(rows) + 1) // 2
    if (2 * side - 1) ** 2 != rows:
        raise CheckpointError(
            f"The bias table of stage {stage} has {rows} rows, which no square window has; "
            "give window_size as a list of one (height, width) pair per stage."
        )
    return (side, side)


def _image(fields: Mapping[str, Any], shapes: Shapes, buffers: Mapping[str, Tensor]) -> tuple[Any, list[str]]:
    """An image size in pixels: certain from a position embedding or a stored mask, else the one that such windows are planned for."""
    patch, stages = pair(fields["patch_size"]), len(fields["depths"])
    position = shapes.get("absolute_pos_embed", ())
    if len(position) == 4:
        return (position[2] * patch[0], position[3] * patch[1]), []
    tokens = position[1] if len(position) == 3 else next(_tokens(buffers), 0)
    side = math.isqrt(tokens)
    if side and side * side == tokens:
        return (side * patch[0], side * patch[1]), []
    window = fields["window_size"]
    last = window[-1] if isinstance(window, list) else pair(window)
    merged = 2 ** (stages - 1)
    planned = (pair(last)[0] * merged * patch[0], pair(last)[1] * merged * patch[1])
    return planned, [f"The image size is not in the weights; {planned[0]} x {planned[1]} was assumed. Give img_size if it is another."]


def _tokens(buffers: Mapping[str, Tensor]) -> Any:
    """Tokens of the first stage's map, from a stored mask (windows, N, N)."""
    for name, mask in buffers.items():
        if name.endswith("attn_mask") and mask.ndim == 3:
            stage = int(name.split(".")[1])
            yield mask.shape[0] * mask.shape[1] * 4**stage


def _trained(buffers: Mapping[str, Tensor], stages: int) -> tuple[tuple[Size, ...], list[str]]:
    """V2: the windows that offsets are measured in. A stored coordinate table tells: its largest value is that of offset M - 1."""
    trained: list[Size] = []
    for stage in range(stages):
        table = buffers.get(f"layers.{stage}.blocks.0.attn.relative_coords_table")
        if table is None or table.ndim != 4 or min(table.shape[1:3]) < 3 or not bool((table.flatten(0, 2).amax(dim=0) > 0).all()):
            return (), [
                f"{V2_DOUBT} the windows that it was pretrained with; its own were assumed. "
                "Give pretrained_window_sizes for a model whose window was changed after pretraining (12to16, 12to24)."
            ]
        largest = table.flatten(0, 2).amax(dim=0).double()
        offsets = ((2 ** (largest * 3)) - 1) / 8
        rows, columns = (round((side // 2) / float(o)) + 1 for side, o in zip(table.shape[1:3], offsets, strict=True))
        trained.append((rows, columns))
    return tuple(trained), []


def _simplest(config: SwinConfig) -> SwinConfig:
    """The same model said in fewer words: one window instead of a list, no pretrained windows where they are the model's own."""
    if config.version == 2 and all(h == w for h, w in config.pretrained_windows) and config.pretrained_window_sizes:
        config = config.replace(pretrained_window_sizes=tuple(h for h, _ in config.pretrained_windows))
    if config.version == 2 and config.pretrained_windows == config.windows:
        config = config.replace(pretrained_window_sizes=())
    for name, values in (("img_size", pair(config.img_size)), ("patch_size", pair(config.patch_size))):
        if values[0] == values[1]:
            config = config.replace(**{name: values[0]})
    first = config.asked_windows[0]
    simple = config.replace(window_size=first[0] if first[0] == first[1] else first)
    same = simple.windows == config.windows and simple.pretrained_windows == config.pretrained_windows
    return simple if same else config
