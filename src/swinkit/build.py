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
from swinkit.checkpoints.dialects.examine import read
from swinkit.checkpoints.fitting import fill
from swinkit.checkpoints.hub import download, parse_id
from swinkit.config import SizePolicy, SwinConfig, WindowsLike
from swinkit.errors import CheckpointError, ConfigError
from swinkit.fields import SizeLike
from swinkit.kernels import choose
from swinkit.model import SwinTransformer
from swinkit.resize import changed, keep_position_units, resize_tensors, resized_preprocess
from swinkit.variants import get_config
from swinkit.weights import find_weights


def create_model(
    name_or_config: str | SwinConfig,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: SizeLike | None = None,
    window_size: WindowsLike | None = None,
    patch_size: SizeLike | None = None,
    drop_path_rate: float | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    size_policy: SizePolicy | None = None,
) -> SwinTransformer | SwinBackbone:
    """Build a model by name or from a SwinConfig; what is None stays as it is there.

    name_or_config: a name of `list_models`, or a SwinConfig.
    pretrained: with public weights from the Hugging Face hub, in eval mode: those of the name's default tag, or of another one with
    `name.tag` (`swinkit models --pretrained` lists them). The rest then means what it means for `from_pretrained`.
    num_classes: outputs of the classifier, 0 for pooled features; in_chans: channels of the images; img_size: pixels, what windows are
    planned for; window_size: tokens, one size or one per stage; patch_size: pixels; drop_path_rate: of the last block, from 0 to 1;
    size_policy: "official", "dense" or "per_axis". The fields of `SwinConfig` say more.
    features_only: a SwinBackbone that returns the maps of the stages in `out_indices`, instead of a classifier.
    out_indices: of a backbone: None all, an int the last so many, a list these.
    Errors: UnknownNameError with the close names, ConfigError for values that do not fit together, CheckpointError if there are no public
    weights, or they cannot be had.
    """
    if pretrained:
        saved = _public(name_or_config)
        changes: dict[str, Any] = {"in_chans": in_chans, "img_size": img_size, "window_size": window_size}
        changes |= {"patch_size": patch_size, "drop_path_rate": drop_path_rate, "size_policy": size_policy}
        return from_saved(saved, changed(saved.config, **changes), num_classes, features_only, out_indices)
    if out_indices is not None and not features_only:
        raise ConfigError(f"out_indices={out_indices!r} chooses maps of a backbone; add features_only=True, or leave it out.")
    if isinstance(name_or_config, str) and parse_id(name_or_config):
        raise CheckpointError(f"{name_or_config} lies on the hub; add pretrained=True, or use from_pretrained.")
    config = name_or_config if isinstance(name_or_config, SwinConfig) else get_config(name_or_config)
    config = changed(
        config,
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        window_size=window_size,
        patch_size=patch_size,
        drop_path_rate=drop_path_rate,
        size_policy=size_policy,
    )
    return _build(config, features_only, out_indices)


def from_pretrained(
    path_or_id: str | Path,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: SizeLike | None = None,
    window_size: WindowsLike | None = None,
    patch_size: SizeLike | None = None,
    drop_path_rate: float | None = None,
    features_only: bool | None = None,
    out_indices: int | Sequence[int] | None = None,
    size_policy: SizePolicy | None = None,
    pretrained_window_sizes: Sequence[SizeLike] | None = None,
    strict: bool = True,
) -> SwinTransformer | SwinBackbone:
    """Load anybody's Swin Transformer, in eval mode: a run, a folder of `save_pretrained` or in a hub's layout, a file of weights, or
    `hf-hub:OWNER/NAME` (`hf-hub:OWNER/NAME@REVISION`) of the Hugging Face hub.

    path_or_id: any of these. in_chans, img_size, window_size, patch_size, drop_path_rate, size_policy, out_indices: as of `create_model`.
    Microsoft's, timm's, torchvision's, transformers' and mm*'s are told apart by their tensors. What is None stays as it was saved;
    window_size, img_size and pretrained_window_sizes also say what a V2 file without configuration does not tell. Another `num_classes`
    puts a new classifier in place of the saved one. Weights are resized to other sizes and channels as `resize` does. A classifier loads
    as a backbone with `features_only`; the norms that only a dense backbone has are then new.
    strict=False: what fits is loaded, and a warning lists what is missing, which is then new and random, and what was ignored.
    Errors: CheckpointError with what does not fit, ConfigError.
    """
    changes: dict[str, Any] = {"in_chans": in_chans, "img_size": img_size, "window_size": window_size}
    changes |= {"patch_size": patch_size, "drop_path_rate": drop_path_rate, "size_policy": size_policy}
    hints: dict[str, Any] = {"window_size": window_size, "img_size": img_size, "size_policy": size_policy}
    saved = _read(path_or_id, strict=strict, pretrained_window_sizes=pretrained_window_sizes, **hints)
    saved = saved if strict else _completed(saved)
    return from_saved(saved, changed(saved.config, **changes), num_classes, features_only, out_indices)


def from_saved(
    saved: native.SavedModel,
    config: SwinConfig | None = None,
    num_classes: int | None = None,
    features_only: bool | None = None,
    out_indices: int | Sequence[int] | None = None,
) -> SwinTransformer | SwinBackbone:
    """The same for a model that was read already, with `config` in place of its own. The tensors in `saved.own` become the model's."""
    config = keep_position_units(config or saved.config, saved.config)
    was_backbone = saved.out_indices is not None
    as_backbone = was_backbone if features_only is None else features_only
    if was_backbone and not as_backbone:
        raise CheckpointError("The saved model is a backbone, which has no classifier; leave features_only out.")
    if out_indices is not None and not as_backbone:
        raise ConfigError(f"out_indices={out_indices!r} chooses maps of a backbone; add features_only=True, or leave it out.")
    with torch.device("meta"):
        model = _build(config, as_backbone, saved.out_indices if out_indices is None else out_indices)
    tensors = resize_tensors(saved.tensors, saved.config, config)
    tensors = _for_backbone(model, tensors) if isinstance(model, SwinBackbone) else tensors
    # Copies: most of what was read are views of a file, which somebody may overwrite while the model lives.
    fill(model, {name: t if name in saved.own and t is saved.tensors[name] else t.clone() for name, t in tensors.items()})
    model.labels, model.origin = saved.labels, saved.origin
    model.preprocess = resized_preprocess(saved.preprocess, saved.config, config)
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


def _read(source: str | Path, **hints: Any) -> native.SavedModel:
    """A model at rest, wherever it lies; of one from the hub, it is also known where it comes from."""
    wanted = parse_id(source)
    if wanted is None:
        return read(source, **hints)
    folder = download(wanted.repo_id, wanted.revision)
    license = stated_license(folder)
    return replace(read(folder, **hints), origin={"base_model": wanted.repo_id} | ({"license": license} if license else {}))


def _completed(saved: native.SavedModel) -> native.SavedModel:
    """With what is missing as a new model has it."""
    new = _build(saved.config, saved.out_indices is not None, saved.out_indices).state_dict()
    dtype = next((tensor.dtype for tensor in saved.tensors.values()), torch.float32)
    return replace(saved, tensors={name: saved.tensors.get(name, tensor.to(dtype)) for name, tensor in new.items()})


def _public(name: str | SwinConfig) -> native.SavedModel:
    """The public weights of a name. Its configuration is the name's, which knows what shapes cannot tell: pretrained windows."""
    if isinstance(name, SwinConfig):
        raise CheckpointError("pretrained=True needs a name, such as swin_tiny_patch4_window7_224, and got a SwinConfig.")
    if parse_id(name):
        return _read(name)
    weights = find_weights(name)
    if weights.hub_id is None:
        raise CheckpointError(f"{name} is not on the hub; download {weights.release} and give the file to from_pretrained.")
    saved = read(download(weights.hub_id, sha256=weights.sha256))
    config, preprocess = get_config(weights.full_name), saved.preprocess or weights.preprocess
    return replace(saved, config=config, preprocess=preprocess, origin=weights.origin)


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


def _build(config: SwinConfig, features_only: bool, out_indices: int | Sequence[int] | None) -> SwinTransformer | SwinBackbone:
    attend = choose().attend
    return SwinBackbone(config, out_indices, attend) if features_only else SwinTransformer(config, attend)
