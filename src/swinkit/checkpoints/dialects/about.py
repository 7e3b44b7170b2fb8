"""What the configuration files of timm and transformers say of a model, in our terms, and the file names of the originals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swinkit.config import SwinConfig
from swinkit.errors import CheckpointError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers, which transformers stores."""


@dataclass(frozen=True)
class About:
    """What is known of a model beside its tensors."""

    peer: str = ""
    """Whose file said so: "timm", "transformers", "file name" or ""."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of SwinConfig."""
    labels: tuple[str, ...] = ()
    preprocess: dict[str, Any] = field(default_factory=dict)
    out_indices: tuple[int, ...] | None = None


def read_about(folder: Path) -> About:
    """The configuration file of a folder in a hub layout; nothing where there is none. Errors: CheckpointError for one of no Swin."""
    path = folder / CONFIG
    if not path.is_file():
        return About()
    content = read_json(path)
    if "model_type" in content or "architectures" in content:
        return _transformers(content, folder, path)
    if "architecture" in content or "pretrained_cfg" in content:
        return _timm(content, path)
    raise CheckpointError(f"{path} is neither swinkit's nor timm's nor transformers'; remove it to go by the tensors alone.")


def _mapping(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """A dictionary in a configuration; empty where there is none. Errors: CheckpointError where something else stands there."""
    value = content.get(name) or {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{path}: {name} is {value!r:.80}; expected a dictionary. Take the file that was saved with the weights.")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Errors: CheckpointError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); the folder may be incomplete: copy or save it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a JSON object.")
    return content


_NAME = re.compile(r"swin(?P<v2>v2)?_.*window(?P<window>\d+)(?:to(?P<later>\d+))?_(?P<image>\d+)(?:to(?P<larger>\d+))?")


def from_name(name: str) -> dict[str, Any]:
    """Window and image size in the name of a published model: swinv2_base_patch4_window12to16_192to256_22kto1k_ft.pth."""
    found = _NAME.search(name)
    if not found:
        return {}
    image, window = int(found["larger"] or found["image"]), int(found["later"] or found["window"])
    known: dict[str, Any] = {"img_size": image, "window_size": window}
    if found["v2"] and found["later"]:
        # The published ones shrank their pretraining window where it covered the last map of 192 / 32 = 6 tokens.
        first, last = int(found["window"]), int(found["image"]) // 32
        known["pretrained_window_sizes"] = (first, first, first, min(first, last))
    return known


TIMM_FIELDS = {
    "img_size", "patch_size", "in_chans", "embed_dim", "depths", "num_heads", "window_size", "pretrained_window_sizes",
    "mlp_ratio", "qkv_bias", "attn_drop_rate", "drop_path_rate",
}  # fmt: skip
"""timm's names of the fields of SwinConfig that are ours too. (Its drop_rate is the classifier's; ours is its proj_drop_rate.)"""


def _timm(content: Mapping[str, Any], path: Path) -> About:
    architecture = str(content.get("architecture") or _mapping(content, "pretrained_cfg", path).get("architecture"))
    if not architecture.startswith(("swin_", "swinv2_")) or architecture.startswith("swinv2_cr"):
        raise CheckpointError(
            f"{path} is timm's for {architecture!r}; swinkit reads timm's swin_* and swinv2_* (not swinv2_cr_*, another architecture)."
        )
    # Before timm 0.9 everything lay side by side, without a pretrained_cfg.
    weights, given = _mapping(content, "pretrained_cfg", path) or content, _mapping(content, "model_args", path)
    pooling = given.get("global_pool") or content.get("global_pool") or "avg"
    if pooling != "avg":
        raise CheckpointError(
            f"{path} has global_pool {pooling!r}; swinkit averages the last map as the originals do, so it cannot be read."
        )
    known = from_name(architecture) | {name: _sizes(value) for name, value in given.items() if name in TIMM_FIELDS and value is not None}
    known |= {"version": 2 if architecture.startswith("swinv2_") else 1}
    known |= {"drop_rate": given["proj_drop_rate"]} if "proj_drop_rate" in given else {}
    size = weights.get("input_size")
    if size and "img_size" not in given:
        known["img_size"] = size[1] if size[1] == size[2] else (size[1], size[2])
    if given.get("always_partition"):
        known["size_policy"] = "dense"
    else:
        known |= _windows_as_built(known)
    names = content.get("label_names") or weights.get("label_names") or ()
    preprocess = {name: weights[name] for name in ("mean", "std", "interpolation", "crop_pct") if name in weights}
    return About("timm", known, tuple(map(str, names)) if isinstance(names, list) else (), _prepared(known.get("img_size"), preprocess))


def _windows_as_built(known: Mapping[str, Any]) -> dict[str, Any]:
    """timm shrinks a window to its map along each axis, the originals along both: where that differs, what timm has built."""
    image, depths = known.get("img_size"), known.get("depths", (2, 2, 6, 2))
    if not isinstance(image, tuple) or image[0] == image[1] or "window_size" not in known:
        return {}
    config = SwinConfig(img_size=image, patch_size=known.get("patch_size", 4), depths=depths, num_heads=(1,) * len(depths), embed_dim=1,
                        window_size=known["window_size"], size_policy="per_axis")  # fmt: skip
    windows = [(min(g[0], w[0]), min(g[1], w[1])) for g, w in zip(config.grids, config.windows, strict=True)]
    return {"window_size": windows, "size_policy": "per_axis"}


def _sizes(value: Any) -> Any:
    """JSON's lists as the tuples that SwinConfig takes for pairs."""
    if isinstance(value, list) and value and all(isinstance(item, list | tuple) for item in value):
        return [tuple(item) for item in value]
    return tuple(value) if isinstance(value, list) else value


FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "image_size": ("img_size", _sizes),
    "patch_size": ("patch_size", _sizes),
    "num_channels": ("in_chans", int),
    "embed_dim": ("embed_dim", int),
    "depths": ("depths", tuple),
    "num_heads": ("num_heads", tuple),
    "window_size": ("window_size", int),
    "pretrained_window_sizes": ("pretrained_window_sizes", tuple),
    "mlp_ratio": ("mlp_ratio", float),
    "qkv_bias": ("qkv_bias", bool),
    "hidden_dropout_prob": ("drop_rate", float),
    "attention_probs_dropout_prob": ("attn_drop_rate", float),
    "drop_path_rate": ("drop_path_rate", float),
    "use_absolute_embeddings": ("ape", bool),
}
"""transformers' names of the fields of SwinConfig."""
SAME_AS_OURS = {"hidden_act": "gelu", "layer_norm_eps": 1e-5}
"""What transformers lets vary and swinkit, like the originals, does not."""
KINDS = {"swin": 1, "swinv2": 2, "maskformer-swin": 1, "donut-swin": 1}
"""transformers' model_type -> version."""


def _transformers(content: Mapping[str, Any], folder: Path, path: Path) -> About:
    inner = next((content[key] for key in ("backbone_config", "encoder") if _is_swin(content.get(key))), content)
    kind = inner.get("model_type")
    if kind not in KINDS:
        raise CheckpointError(f"{path} is transformers' for {kind!r}; swinkit reads {', '.join(KINDS)}.")
    for name, wanted in SAME_AS_OURS.items():
        if inner.get(name, wanted) != wanted:
            raise CheckpointError(
                f"{path} has {name} {inner[name]!r}; swinkit computes {wanted!r} as the originals do, so it cannot be read."
            )
    try:
        known = {ours: convert(inner[theirs]) for theirs, (ours, convert) in FIELDS.items() if inner.get(theirs) is not None}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not describe a Swin Transformer: {error}") from None
    known["version"] = KINDS[kind]
    if KINDS[kind] == 1 or not any(known.get("pretrained_window_sizes", ())):
        known["pretrained_window_sizes"] = ()
    labels = _labels(_mapping(content, "id2label", path)) if inner is content else ()
    return About("transformers", known, labels, _processor(folder, known), _out_indices(inner, path))


def _labels(names: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes; none where nobody gave any: transformers then writes LABEL_0, LABEL_1, ..."""
    if not all(str(key).isdecimal() for key in names):
        return ()
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    return () if all(label == f"LABEL_{number}" for number, label in enumerate(labels)) else labels


def _out_indices(inner: Mapping[str, Any], path: Path) -> tuple[int, ...] | None:
    """The stages whose maps a backbone returns, ours counted from 0 and theirs after the stem; before transformers 4.30 by name."""
    try:
        names = ["stem", *(f"stage{number}" for number, _ in enumerate(inner.get("depths") or (2, 2, 6, 2), start=1))]
        given = inner.get("out_indices") or [names.index(name) for name in inner.get("out_features") or ()]
        indices = sorted(range(len(names))[index] - 1 for index in given)
    except (TypeError, ValueError, IndexError):
        raise CheckpointError(f"{path}: out_indices or out_features name no stages of this model.") from None
    return tuple(index for index in indices if index >= 0) or None


def _is_swin(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("model_type") in KINDS


def _processor(folder: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    path = folder / PROCESSOR
    content = read_json(path) if path.is_file() else {}
    size = content.get("size", known.get("img_size"))
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge")
    values = {"mean": content.get("image_mean"), "std": content.get("image_std"), "interpolation": RESAMPLE.get(content.get("resample", 3))}
    return _prepared(size, {name: value for name, value in values.items() if value is not None})


def _prepared(size: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """`Preprocess.to_dict` of a peer's values, or nothing where mean and deviation are not there."""
    if size is None or "mean" not in values or "std" not in values:
        return {}
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return {"size": [height, width], **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}}
