"""The one place that joins model, kernel and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit.backbone import SwinBackbone
from swinkit.checkpoints import native
from swinkit.checkpoints.card import check_license, stated_license
from swinkit.checkpoints.hub import download, parse_id
from swinkit.config import SizePolicy, SwinConfig, WindowsLike
from swinkit.errors import CheckpointError, ConfigError
from swinkit.kernels import choose
from swinkit.model import SwinTransformer
from swinkit.variants import get_config
from swinkit.weights import find_weights


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

    pretrained: with public weights from the Hugging Face hub, in eval mode: those of the name's default tag, or of another one with
    `name.tag` (`swinkit models --pretrained` lists them). The rest then means what it means for `from_pretrained`.
    features_only: a SwinBackbone that returns the maps of the stages in `out_indices`, instead of a classifier.
    Errors: UnknownNameError with the close names, ConfigError for values that do not fit together, CheckpointError if there are no public
    weights, or they cannot be had.
    """
    if pretrained:
        saved = _public(name_or_config)
        changes: dict[str, Any] = {"in_chans": in_chans, "img_size": img_size, "window_size": window_size}
        changes |= {"drop_path_rate": drop_path_rate, "size_policy": size_policy}
        return from_saved(saved, _changed(saved.config, **changes), num_classes, features_only, out_indices)
    if out_indices is not None and not features_only:
        raise ConfigError(f"out_indices={out_indices!r} chooses maps of a backbone; add features_only=True, or leave it out.")
    if isinstance(name_or_config, str) and parse_id(name_or_config):
        raise CheckpointError(f"{name_or_config} lies on the hub; add pretrained=True, or use from_pretrained.")
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


def from_pretrained(
    path_or_id: str | Path,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    window_size: WindowsLike | None = None,
    drop_path_rate: float | None = None,
    features_only: bool | None = None,
    out_indices: int | Sequence[int] | None = None,
    size_policy: SizePolicy | None = None,
) -> SwinTransformer | SwinBackbone:
    """Load a model in eval mode from a run folder, a folder of `save_pretrained`, or the Hugging Face hub, as `hf-hub:OWNER/NAME` or
    `hf-hub:OWNER/NAME@REVISION`. What is None stays as it was saved.

    Another `num_classes` puts a new classifier in place of the saved one. A classifier loads as a backbone with `features_only`; the
    norms that only a dense backbone has are then new. A V2 model given other windows keeps the position units it was trained in.
    Errors: CheckpointError with what does not fit, ConfigError.
    """
    changes: dict[str, Any] = {"in_chans": in_chans, "img_size": img_size, "window_size": window_size}
    changes |= {"drop_path_rate": drop_path_rate, "size_policy": size_policy}
    saved = _read(path_or_id)
    return from_saved(saved, _changed(saved.config, **changes), num_classes, features_only, out_indices)


def from_saved(
    saved: native.SavedModel,
    config: SwinConfig | None = None,
    num_classes: int | None = None,
    features_only: bool | None = None,
    out_indices: int | Sequence[int] | None = None,
) -> SwinTransformer | SwinBackbone:
    """The same for a model that was read already, with `config` in place of its own."""
    config = _keep_position_units(config or saved.config, saved.config)
    was_backbone = saved.out_indices is not None
    as_backbone = was_backbone if features_only is None else features_only
    if was_backbone and not as_backbone:
        raise CheckpointError("The saved model is a backbone, which has no classifier; leave features_only out.")
    if out_indices is not None and not as_backbone:
        raise ConfigError(f"out_indices={out_indices!r} chooses maps of a backbone; add features_only=True, or leave it out.")
    with torch.device("meta"):
        model = _build(config, as_backbone, saved.out_indices if out_indices is None else out_indices)
    _fill(model, _for_backbone(model, saved.tensors) if isinstance(model, SwinBackbone) else saved.tensors)
    model.labels, model.preprocess, model.origin = saved.labels, saved.preprocess, saved.origin
    if num_classes is not None and num_classes != config.num_classes and isinstance(model, SwinTransformer):
        model.reset_classifier(num_classes)
    return model.eval()


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    preprocess: dict[str, Any] | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write config.json, model.safetensors and a model card into a new folder, all or nothing. `from_pretrained` reads it back bit for bit.

    labels: names of the classes, in the order of the logits; preprocess: `Preprocess.to_dict()`, so that `Predictor` prepares images alike;
    license: an identifier of the hub such as "apache-2.0", for the card; None: what the model was loaded with. Compiled and data-parallel
    models are unwrapped.
    Errors: CheckpointError if the folder holds something already and `overwrite` is not set, or labels do not match the classifier.
    """
    native.write(at_rest(model, labels, preprocess, license), Path(folder), overwrite)


def at_rest(
    model: nn.Module, labels: Sequence[str] | None = None, preprocess: dict[str, Any] | None = None, license: str | None = None
) -> native.SavedModel:
    """What `save_pretrained` writes of a model."""
    model = getattr(model, "_orig_mod", model)
    model = model.module if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) else model
    if not isinstance(model, SwinTransformer | SwinBackbone):
        raise CheckpointError(f"Got a {type(model).__name__}; expected a SwinTransformer or a SwinBackbone.")
    labels = model.labels if labels is None else tuple(labels)
    if labels and len(labels) != model.config.num_classes:
        raise CheckpointError(
            f"Got {len(labels)} labels for a classifier with {model.config.num_classes} outputs; give one label per output."
        )
    indices = model.out_indices if isinstance(model, SwinBackbone) else None
    origin = model.origin | ({"license": check_license(license)} if license else {})
    return native.SavedModel(model.config, dict(model.state_dict()), tuple(labels), preprocess or model.preprocess, indices, origin)


def _read(source: str | Path) -> native.SavedModel:
    """A model at rest, wherever it lies; of one from the hub, it is also known where it comes from."""
    wanted = parse_id(source)
    if wanted is None:
        return _open(source)
    folder = download(wanted.repo_id, wanted.revision)
    license = stated_license(folder)
    return replace(_open(folder), origin={"base_model": wanted.repo_id} | ({"license": license} if license else {}))


def _public(name: str | SwinConfig) -> native.SavedModel:
    """The public weights of a name. Its configuration is the name's, which knows what shapes cannot tell: heads, pretrained windows."""
    if isinstance(name, SwinConfig):
        raise CheckpointError("pretrained=True needs a name, such as swin_tiny_patch4_window7_224, and got a SwinConfig.")
    if parse_id(name):
        return _read(name)
    weights = find_weights(name)
    if weights.hub_id is None:
        raise CheckpointError(f"{name} is not on the hub; download {weights.release} and give the file to from_pretrained.")
    saved = _open(download(weights.hub_id, sha256=weights.sha256))
    config, preprocess = get_config(weights.full_name), saved.preprocess or weights.preprocess
    return replace(saved, config=config, preprocess=preprocess, origin=weights.origin)


def _open(path: str | Path) -> native.SavedModel:
    """A path -> the model there."""
    return native.read(path)


def _keep_position_units(config: SwinConfig, saved: SwinConfig) -> SwinConfig:
    """V2's position MLP was trained with offsets in units of its window; other windows must not change those units in silence."""
    if config.version == 1 or config.pretrained_windows == saved.pretrained_windows:
        return config
    return config.replace(pretrained_window_sizes=saved.pretrained_windows)


def _for_backbone(model: SwinBackbone, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A classifier's or a larger backbone's tensors as this backbone wants them: without what it has not, with norms of its own."""
    wanted = model.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name in wanted or not name.startswith(("norm", "head.", "layers."))}
    for stage in model.out_indices:
        if f"norm{stage}.weight" in wanted and f"norm{stage}.weight" not in given:
            channels = model.config.dims[stage]
            like = tensors["patch_embed.proj.weight"]
            given |= {f"norm{stage}.weight": like.new_ones(channels), f"norm{stage}.bias": like.new_zeros(channels)}
    position = given.get("absolute_pos_embed")
    if position is not None and position.ndim == 3 and wanted["absolute_pos_embed"].ndim == 4:
        given["absolute_pos_embed"] = position.transpose(1, 2).unflatten(2, model.config.grids[0]).contiguous()
    if position is not None and position.ndim == 4 and wanted["absolute_pos_embed"].ndim == 3:
        given["absolute_pos_embed"] = position.flatten(2).transpose(1, 2).contiguous()
    return given


def _changed(config: SwinConfig, **changes: Any) -> SwinConfig:
    wanted = {name: value for name, value in changes.items() if value is not None}
    return config.replace(**wanted) if wanted else config


def _build(config: SwinConfig, features_only: bool, out_indices: int | Sequence[int] | None) -> SwinTransformer | SwinBackbone:
    attend = choose().attend
    return SwinBackbone(config, out_indices, attend) if features_only else SwinTransformer(config, attend)


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put the tensors into a model on the meta device, after checking every name and shape."""
    wanted = model.state_dict()
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
            raise CheckpointError(
                f"The weights do not fit the model: they {what} {listed}. Load them with the architecture they were saved with, "
                "without in_chans, img_size, window_size or size_policy."
            )
    model.load_state_dict(tensors, assign=True)
