"""The one place that joins model, kernel and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit.backbone import SwinBackbone
from swinkit.checkpoints import native
from swinkit.config import SizePolicy, SwinConfig, WindowsLike
from swinkit.errors import CheckpointError
from swinkit.kernels import choose
from swinkit.model import SwinTransformer
from swinkit.variants import get_config


def create_model(
    name_or_config: str | SwinConfig,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    window_size: WindowsLike | None = None,
    drop_path_rate: float | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    size_policy: SizePolicy | None = None,
) -> SwinTransformer | SwinBackbone:
    """Build a model by name (see `list_models`) or from a SwinConfig; what is None stays as the name has it.

    features_only: a SwinBackbone that returns the maps of the stages in `out_indices`, instead of a classifier.
    Errors: UnknownNameError with the close names, ConfigError for values that do not fit together.
    """
    if pretrained:
        raise CheckpointError("pretrained=True: published weights cannot be downloaded yet; build without it, or from_pretrained(FOLDER).")
    config = name_or_config if isinstance(name_or_config, SwinConfig) else get_config(name_or_config)
    config = _changed(
        config,
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        window_size=window_size,
        drop_path_rate=drop_path_rate,
        size_policy=size_policy,
    )
    return _build(config, features_only, out_indices)


def from_pretrained(path_or_id: str | Path, **options: Any) -> SwinTransformer | SwinBackbone:
    """Load a model from a run folder or a folder of `save_pretrained`, in eval mode. Options are those of `create_model`.

    Another `num_classes` puts a new classifier in place of the saved one; everything else must fit the saved weights.
    Errors: CheckpointError with what does not fit.
    """
    return from_saved(native.read(path_or_id), **options)


def from_saved(
    saved: native.SavedModel, *, features_only: bool = False, out_indices: int | Sequence[int] | None = None, **changes: Any
) -> SwinTransformer | SwinBackbone:
    """The same for a model that was read already."""
    num_classes = changes.pop("num_classes", None)
    config = _changed(saved.config, **changes)
    as_backbone = features_only or saved.out_indices is not None
    with torch.device("meta"):
        model = _build(config, as_backbone, out_indices if out_indices is not None else saved.out_indices)
    _fill(model, saved.tensors, drop_classifier=as_backbone and saved.out_indices is None)
    if num_classes is not None and num_classes != config.num_classes and isinstance(model, SwinTransformer):
        model.reset_classifier(num_classes)
    return model.eval()


def save_pretrained(
    model: SwinTransformer | SwinBackbone,
    folder: str | Path,
    *,
    labels: Sequence[str] = (),
    preprocess: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write config.json and model.safetensors into a new folder, all or nothing. `from_pretrained` reads it back bit for bit.

    labels: names of the classes, in the order of the logits; preprocess: `Preprocess.to_dict()`, so that `Predictor` prepares images alike.
    Errors: CheckpointError if the folder holds something already and `overwrite` is not set, or labels do not match the classifier.
    """
    config = model.config
    if labels and len(labels) != config.num_classes:
        raise CheckpointError(f"Got {len(labels)} labels for a classifier with {config.num_classes} outputs; give one label per output.")
    indices = model.out_indices if isinstance(model, SwinBackbone) else None
    saved = native.SavedModel(config, dict(model.state_dict()), tuple(labels), preprocess or {}, indices)
    native.write(saved, Path(folder), overwrite)


def _changed(config: SwinConfig, **changes: Any) -> SwinConfig:
    wanted = {name: value for name, value in changes.items() if value is not None}
    return config.replace(**wanted) if wanted else config


def _build(config: SwinConfig, features_only: bool, out_indices: int | Sequence[int] | None) -> SwinTransformer | SwinBackbone:
    attend = choose().attend
    return SwinBackbone(config, out_indices, attend) if features_only else SwinTransformer(config, attend)


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], drop_classifier: bool) -> None:
    """Put the tensors into a model on the meta device, after checking every name and shape."""
    wanted = model.state_dict()
    if drop_classifier:
        tensors = {name: tensor for name, tensor in tensors.items() if name in wanted or not name.startswith(("norm.", "head.", "layers."))}
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    other = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name].shape
    ]
    for what, names in (("lack", missing), ("have, beyond the model,", unexpected), ("differ in shape:", other)):
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise CheckpointError(f"The weights do not fit this model: they {what} {listed}. Load them without changing the architecture.")
    model.load_state_dict(tensors, assign=True)
