"""Whether a model is what its config says, so that something else than its own modules may run its weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from swinkit.backbone import SwinBackbone
from swinkit.model import SwinTransformer, SwinTrunk


def difference(model: SwinTrunk) -> str | None:
    """The first layer that is not as SwinTransformer or SwinBackbone builds it, or that has a hook, in a sentence; None: all are.

    Parametrised layers are, since their weights are evaluated.
    """
    if type(model) not in (SwinTransformer, SwinBackbone):
        return f"{type(model).__name__} is a subclass of the model, and may compute something else."
    with torch.device("meta"):
        like = SwinBackbone(model.config, model.out_indices) if isinstance(model, SwinBackbone) else SwinTransformer(model.config)
    expected = dict(like.named_modules())
    for name, module in model.named_modules():
        if ".parametrizations" in name:
            continue
        if name not in expected:
            return f"{name} is a {type(module).__name__} that the model has not by itself."
        problem = _layer_difference(module, expected.pop(name))
        if problem:
            return f"{name or 'The model'} {problem}."
    return f"{next(iter(expected))} is missing." if expected else None


def _layer_difference(module: nn.Module, like: nn.Module) -> str | None:
    kind = type_before_parametrizations(module)
    if kind is not type(like):
        return f"is a {kind.__name__} in place of a {type(like).__name__}"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has a hook"
    for name, wanted in like._parameters.items():
        shape = getattr(getattr(module, name, None), "shape", None)
        if shape != (None if wanted is None else wanted.shape):
            return f"has a {name} of {_sides(shape)} in place of {_sides(None if wanted is None else wanted.shape)}"
    if isinstance(module, nn.LayerNorm) and module.eps != like.eps:
        return f"has eps={module.eps} in place of {like.eps}"
    return None


def _sides(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else " x ".join(map(str, shape))
