"""The same weights for another image size, window, patch size or number of channels, and for a choice of the classes.

larger = swinkit.resize(model, img_size=384, window_size=12)
few = swinkit.map_classes(model, [3, 5, 8])

K heads | C channels | H W a grid of tokens | h w a window
"""

from __future__ import annotations

import copy
import json
import operator
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from swinkit._verbs import callable_module
from swinkit.backbone import SwinBackbone
from swinkit.checkpoints.fitting import fill
from swinkit.config import Size, SwinConfig, WindowsLike, pair
from swinkit.errors import CheckpointError, InputError, UnknownNameError
from swinkit.fields import SizeLike
from swinkit.model import SwinStage, SwinTransformer, SwinTrunk, WindowAttention
from swinkit.resample import adapt_channels, bicubic, geometric, resize_patch_kernel

BiasMethod = Literal["bicubic", "geometric"]
BIAS_METHODS = {"bicubic": bicubic, "geometric": geometric}
CLASS_MAPS = {"in22k_to_in1k": 21841}
"""name of a list of class indices, in the file NAME.json -> outputs of the classifier that it picks from"""
_BIAS_TABLE = re.compile(r"layers\.(\d+)\.blocks\.\d+\.attn\.relative_position_bias_table")

M = TypeVar("M", bound=SwinTrunk)


def resize(
    model: M,
    *,
    img_size: SizeLike | None = None,
    window_size: WindowsLike | None = None,
    patch_size: SizeLike | None = None,
    in_chans: int | None = None,
    bias_method: BiasMethod = "bicubic",
) -> M:
    """A new model with the weights of `model` for other sizes; what is None stays. The given model is left as it is.

    img_size: pixels; window_size: tokens, one size or one per stage; patch_size: pixels; in_chans: channels of the images.
    Labels, device, dtype, mode and frozen parameters are kept. `preprocess` follows (see `resized_preprocess`).
    bias_method: how V1's position bias tables get their new size (see `resize_bias_table`); V2 has none, its weights stay as they are.
    Errors: ConfigError for sizes that cannot be built, UnknownNameError for another bias_method, InputError for another kind of model.
    """
    model = _plain(model)
    changes = {"img_size": img_size, "window_size": window_size, "patch_size": patch_size, "in_chans": in_chans}
    config = keep_position_units(changed(model.config, **changes), model.config)
    return _rebuilt(model, config, resize_tensors(model.state_dict(), model.config, config, bias_method))


def resize_tensors(tensors: dict[str, Tensor], old: SwinConfig, new: SwinConfig, bias_method: BiasMethod = "bicubic") -> dict[str, Tensor]:
    """A state dict of the architecture `old` -> one of `new`, where they differ in sizes, channels of the image or size policy.

    Tensors that stay as they are are passed through, not copied. Errors: CheckpointError for a tensor that is not as `old` says.
    """
    if bias_method not in BIAS_METHODS:
        raise UnknownNameError("bias_method", bias_method, BIAS_METHODS)
    return {name: _resized(name, tensor, old, new, bias_method) for name, tensor in tensors.items()}


def resize_bias_table(table: Tensor, old: Size, new: Size, method: BiasMethod = "bicubic") -> Tensor:
    """((2h-1)(2w-1), K) of the window `old` -> the same of the window `new`; float16 and bfloat16 are computed in float32.

    "bicubic": F.interpolate without aligned corners, as the original's loader does (`load_pretrained` of its utils.py).
    "geometric": by the spline of `resample.geometric`, as SimMIM's and BEiT's loaders do; short offsets keep their values.
    """
    if old == new:
        return table
    offsets, wanted = (2 * old[0] - 1, 2 * old[1] - 1), (2 * new[0] - 1, 2 * new[1] - 1)
    maps = table.T.unflatten(1, offsets)[None]  # 1, K, 2h-1, 2w-1
    return BIAS_METHODS[method](maps, wanted)[0].flatten(1).T.contiguous()


def resize_position(embedding: Tensor, old: Size, new: Size) -> Tensor:
    """An absolute position embedding, (1, HW, C) or as a map (1, C, H, W), for another grid: bicubic, as the model does at forward."""
    if old == new:
        return embedding
    if embedding.ndim == 4:
        return bicubic(embedding, new)
    return bicubic(embedding.transpose(1, 2).unflatten(2, old), new).flatten(2).transpose(1, 2).contiguous()


def keep_position_units(config: SwinConfig, trained: SwinConfig) -> SwinConfig:
    """V2's position MLP was trained with offsets in units of its window; other windows must not change those units in silence."""
    if config.version == 1 or config.pretrained_windows == trained.pretrained_windows:
        return config
    return config.replace(pretrained_window_sizes=trained.pretrained_windows)


def resized_preprocess(preprocess: dict[str, Any], old: SwinConfig, new: SwinConfig) -> dict[str, Any]:
    """How images are prepared, after a resize: `size` follows img_size, `mean` and `std` follow in_chans.

    Grey to RGB repeats them, which is exact; RGB to grey takes their average. For other numbers of channels there is no way to read
    images from files, and the result is empty.
    """
    after = copy.deepcopy(preprocess)
    if after and new.img_size != old.img_size:
        after["size"] = list(pair(new.img_size))
    if after and new.in_chans != old.in_chans:
        if new.in_chans not in (1, 3):
            return {}
        after |= {name: _per_channel(after[name], new.in_chans) for name in ("mean", "std") if name in after}
    return after


def map_classes(model: SwinTransformer, indices: Sequence[int] | str, labels: Sequence[str] | None = None) -> SwinTransformer:
    """A new model whose output i is output `indices[i]` of `model`: its classes picked, or put into another order.

    indices: numbers from 0 to num_classes - 1, or "in22k_to_in1k": the 1,000 classes of ImageNet-1k among the 21,841 of ImageNet-22k, as
    the original has it (docs/resizing.md says where it is inexact).
    labels: names of the new classes; None: those of `model`, picked alike. Errors: InputError, UnknownNameError.
    """
    model = _plain(model)
    if not isinstance(model, SwinTransformer) or not model.num_classes:
        raise InputError("The model has no classifier whose classes could be picked; build it with num_classes, or use reset_classifier.")
    rows = _rows(indices, model.num_classes)
    if labels is not None and len(labels) != len(rows):
        raise InputError(f"Got {len(labels)} labels for {len(rows)} classes; give one label per index.")
    tensors = model.state_dict()
    for name in ("head.weight", "head.bias"):
        tensors[name] = tensors[name][rows]
    new = _rebuilt(model, model.config.replace(num_classes=len(rows)), tensors)
    new.labels = tuple(labels) if labels is not None else tuple(model.labels[row] for row in rows if model.labels)
    return new


def changed(config: SwinConfig, **changes: Any) -> SwinConfig:
    """A copy with the changes that are not None."""
    wanted = {name: value for name, value in changes.items() if value is not None}
    return config.replace(**wanted) if wanted else config


def _resized(name: str, tensor: Tensor, old: SwinConfig, new: SwinConfig, bias_method: BiasMethod) -> Tensor:
    """One tensor, by its name."""
    if name == "patch_embed.proj.weight" and (old.in_chans, old.patch_size) != (new.in_chans, new.patch_size):
        _check(name, tensor.shape, (old.embed_dim, old.in_chans, *pair(old.patch_size)))
        return resize_patch_kernel(adapt_channels(tensor, new.in_chans), pair(new.patch_size))
    if name == "absolute_pos_embed" and old.grids[0] != new.grids[0]:
        before = old.grids[0]
        _check(name, tensor.shape, (1, old.embed_dim, *before) if tensor.ndim == 4 else (1, before[0] * before[1], old.embed_dim))
        return resize_position(tensor, before, new.grids[0])
    found = _BIAS_TABLE.fullmatch(name)
    if found and int(found[1]) < len(old.depths):
        before, after = old.windows[int(found[1])], new.windows[int(found[1])]
        if before != after:
            _check(name, tensor.shape, ((2 * before[0] - 1) * (2 * before[1] - 1), old.num_heads[int(found[1])]))
        return resize_bias_table(tensor, before, after, bias_method)
    return tensor


def _check(name: str, shape: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(shape) != tuple(wanted):
        raise CheckpointError(
            f"The weights do not fit their configuration: {name} is {tuple(shape)} instead of {tuple(wanted)}. "
            "Use the configuration that they were saved with."
        )


def _plain(model: M) -> M:
    """The model itself, out of its compiled and data-parallel wrappers."""
    plain: Any = model
    while not isinstance(plain, SwinTrunk):
        plain = getattr(plain, "_orig_mod", None) or getattr(plain, "module", None)
        if plain is None:
            raise InputError(f"Got a {type(model).__name__}; expected a SwinTransformer or a SwinBackbone.")
    return cast(M, plain)


def _rebuilt(model: M, config: SwinConfig, tensors: dict[str, Tensor]) -> M:
    """A model of another configuration around these tensors, copied; everything else is as in `model`."""
    attend = next(module.attend for module in model.modules() if isinstance(module, WindowAttention))
    arguments = (config, model.out_indices, attend) if isinstance(model, SwinBackbone) else (config, attend)
    with torch.device("meta"):
        new = type(model)(*arguments)
    fill(new, {name: tensor.detach().clone() for name, tensor in tensors.items()})
    new.labels, new.preprocess = model.labels, resized_preprocess(model.preprocess, model.config, config)
    for module, like in zip(new.modules(), model.modules(), strict=True):
        module.training = like.training
        if isinstance(module, SwinStage) and isinstance(like, SwinStage):
            module.grad_checkpointing = like.grad_checkpointing
    for parameter, original in zip(new.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return new


def _per_channel(values: Sequence[float], in_chans: int) -> list[float]:
    if in_chans == len(values):
        return list(values)
    return [sum(values) / len(values)] * in_chans


def _rows(indices: Sequence[int] | str, classes: int) -> list[int]:
    """The rows of a classifier that are meant."""
    if isinstance(indices, str):
        return _named_rows(indices, classes)
    try:
        given = list(indices.tolist() if isinstance(indices, Tensor) else indices)
        rows = [operator.index(index) for index in given]
    except TypeError:
        expected = f"expected whole numbers from 0 to {classes - 1}, or {' or '.join(CLASS_MAPS)}"
        raise InputError(f"indices is {indices!r:.80}; {expected}.") from None
    wrong = [index for index in rows if not 0 <= index < classes]
    if wrong or not rows or any(isinstance(index, bool) for index in given):
        found = f"holds {wrong[0]}" if wrong else "holds True or False" if rows else "is empty"
        raise InputError(f"indices {found}; expected at least one whole number from 0 to {classes - 1}.")
    return rows


def _named_rows(name: str, classes: int) -> list[int]:
    if name not in CLASS_MAPS:
        raise UnknownNameError("list of classes", name, CLASS_MAPS)
    if classes != CLASS_MAPS[name]:
        raise InputError(
            f"{name} picks from {CLASS_MAPS[name]} classes, and this classifier has {classes}; give a list of indices instead."
        )
    rows: list[int] = json.loads((files("swinkit") / f"{name}.json").read_text(encoding="utf-8"))
    return rows


callable_module(__name__)
