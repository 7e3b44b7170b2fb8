"""The peers in PyTorch with a model of ours in them, made in a worker's process: each in the way that its own documentation recommends."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit.bench.builders import in_pytorch
from swinkit.bench.jobs import NATIVE, Engine, Job
from swinkit.checkpoints.dialects.examine import read
from swinkit.config import pair
from swinkit.environment import package_version
from swinkit.errors import ConfigError


def timm(job: Job) -> Engine:
    """timm's model, read from a folder as timm does."""
    return in_pytorch(job, timm_model(job.weights), f"timm {package_version('timm')}")


def timm_model(folder: str) -> nn.Module:
    """timm's model, in eval mode."""
    model: nn.Module = import_module("timm").create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def torchvision(job: Job) -> Engine:
    """torchvision's model of the same sizes; its files hold no configuration, so ours beside it is read."""
    from torchvision.models import swin_transformer as theirs

    config = read(Path(job.weights).with_name(NATIVE)).config
    one = config.version == 1
    model = theirs.SwinTransformer(
        list(pair(config.patch_size)), config.embed_dim, list(config.depths), list(config.num_heads), list(config.windows[0]),
        mlp_ratio=config.mlp_ratio, num_classes=config.num_classes,
        block=theirs.SwinTransformerBlock if one else theirs.SwinTransformerBlockV2,
        downsample_layer=theirs.PatchMerging if one else theirs.PatchMergingV2,
    )  # fmt: skip
    model.load_state_dict(torch.load(job.weights, weights_only=True))
    return in_pytorch(job, model, f"torchvision {package_version('torchvision')}")


def transformers(job: Job) -> Engine:
    """transformers' class that the folder names, read as transformers does."""
    library = import_module("transformers")
    library.logging.set_verbosity_error()
    kind = json.loads((Path(job.weights) / "config.json").read_text())["architectures"][0]
    model = getattr(library, kind).from_pretrained(job.weights)
    return in_pytorch(job, model, f"transformers {package_version('transformers')}", _picked)


def _picked(outputs: Any) -> Any:
    for name in ("logits", "feature_maps", "pooler_output"):
        if getattr(outputs, name, None) is not None:
            return getattr(outputs, name)
    raise ConfigError(f"transformers returned {type(outputs).__name__} without logits, feature maps or pooled features.")
