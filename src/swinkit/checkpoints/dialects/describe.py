"""The configuration files that timm and transformers want beside the weights."""

from __future__ import annotations

import math
from typing import Any

from swinkit.checkpoints.dialects.about import FIELDS, RESAMPLE, TIMM_FIELDS
from swinkit.checkpoints.native import SavedModel
from swinkit.config import pair

IMAGENET: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bicubic", "crop_pct": 1.0}
"""What is written where nobody said how images are prepared."""


def for_timm(saved: SavedModel) -> dict[str, dict[str, Any]]:
    """File name -> content. timm builds the named architecture with every argument replaced by this model's."""
    config, height_width = saved.config, pair(saved.config.img_size)
    base = "swin_tiny_patch4_window7_224" if config.version == 1 else "swinv2_tiny_window8_256"
    arguments = {name: _plain(getattr(config, name)) for name in sorted(TIMM_FIELDS - {"pretrained_window_sizes"})}
    arguments |= {"window_size": _plain(config.windows), "proj_drop_rate": config.drop_rate}
    if config.version == 2:
        arguments["pretrained_window_sizes"] = _plain(config.pretrained_windows)
    if config.size_policy == "dense":
        arguments["always_partition"] = True
    weights = {
        "architecture": base,
        "input_size": [config.in_chans, *height_width],
        "fixed_input_size": True,
        "num_classes": config.num_classes,
        "first_conv": "patch_embed.proj",
        "classifier": "head.fc",
        "custom_load": False,
        "crop_mode": "center",
    }
    content = {"architecture": base, "num_classes": config.num_classes, "num_features": config.dims[-1], "model_args": arguments}
    if saved.labels:
        content["label_names"] = list(saved.labels)
    return {"config.json": content | {"pretrained_cfg": weights | _images(saved, config.in_chans)}}


def for_transformers(saved: SavedModel) -> dict[str, dict[str, Any]]:
    """File name -> content."""
    config, stages = saved.config, len(saved.config.depths)
    content: dict[str, Any] = {theirs: _plain(getattr(config, ours)) for theirs, (ours, _) in FIELDS.items()}
    content["window_size"] = config.asked_windows[0][0]
    if config.version == 1:
        del content["pretrained_window_sizes"]
    else:
        given = config.pretrained_windows != config.windows
        content["pretrained_window_sizes"] = [side for side, _ in config.pretrained_windows] if given else [0] * stages
    labels = saved.labels or [f"LABEL_{number}" for number in range(config.num_classes)]
    content |= {
        "model_type": "swin" if config.version == 1 else "swinv2",
        "architectures": [architecture(saved)],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "hidden_size": config.dims[-1],
        "num_layers": stages,
        "encoder_stride": pair(config.patch_size)[0] * 2 ** (stages - 1),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "stage_names": ["stem", *(f"stage{number + 1}" for number in range(stages))],
    }
    if saved.out_indices is not None:
        content["out_indices"] = [index + 1 for index in saved.out_indices]
        content["out_features"] = [f"stage{index + 1}" for index in saved.out_indices]
    return {"config.json": content, "preprocessor_config.json": _processor(saved)}


def architecture(saved: SavedModel) -> str:
    """transformers' class for a model."""
    family = "Swin" if saved.config.version == 1 else "Swinv2"
    if saved.out_indices is not None:
        return f"{family}Backbone"
    return f"{family}ForImageClassification" if saved.config.num_classes else f"{family}Model"


def _processor(saved: SavedModel) -> dict[str, Any]:
    """Resizing of the shorter side and a centre crop, which is what `Preprocess` does, said in transformers' words."""
    images, (height, width) = _images(saved, saved.config.in_chans), pair(saved.config.img_size)
    shorter = math.floor(min(height, width) / images["crop_pct"])
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": shorter},
        "resample": {name: number for number, name in RESAMPLE.items()}[images["interpolation"]],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": images["mean"],
        "image_std": images["std"],
        "do_convert_rgb": saved.config.in_chans == 3,
    }


def _images(saved: SavedModel, channels: int) -> dict[str, Any]:
    chosen = IMAGENET | {name: value for name, value in saved.preprocess.items() if name in IMAGENET}
    if len(chosen["mean"]) != channels:
        chosen |= {"mean": [0.5] * channels, "std": [0.5] * channels}
    return chosen


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
