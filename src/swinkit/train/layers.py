"""The layers of a model in order: how fast each of them learns (layer-wise decay), and which do not learn at all (freezing)."""

from __future__ import annotations

from torch import nn

from swinkit.config import SwinConfig
from swinkit.errors import ConfigError
from swinkit.model import SwinTransformer

ALL_BUT_HEAD = "all-but-head"


def layer_of(name: str, depths: tuple[int, ...]) -> int:
    """The layer that a parameter belongs to: 0 the patch and position embeddings, then each block, and last the final norm and the head.

    As SimMIM fine-tunes (microsoft/Swin-Transformer, `get_swin_layer`): patch merging belongs to the block before it. There the position
    embedding counts as the last layer; here, as in BEiT, as the first.
    """
    parts = name.split(".")
    if parts[0] in ("patch_embed", "absolute_pos_embed"):
        return 0
    if parts[0] != "layers":
        return sum(depths) + 1
    stage = int(parts[1])
    return sum(depths[: stage + 1]) if parts[2] == "downsample" else sum(depths[:stage]) + int(parts[3]) + 1


def layer_scales(model: SwinTransformer, decay: float) -> dict[str, float]:
    """Parameter name -> what its learning rate is multiplied by: decay ** (L - layer), 1 in the head."""
    depths = model.config.depths
    last = sum(depths) + 1
    return {name: decay ** (last - layer_of(name, depths)) for name, _ in model.named_parameters()}


def layer_name(layer: int, depths: tuple[int, ...]) -> str:
    """A layer in words; stages and blocks are counted from 1."""
    if layer == 0:
        return "the patch embedding"
    for stage, depth in enumerate(depths, 1):
        if layer <= depth:
            return f"block {layer} of stage {stage}"
        layer -= depth
    return "the head"


def check_freeze(freeze: str, config: SwinConfig) -> None:
    """Errors: ConfigError if there are fewer stages than are to be frozen."""
    stages = len(config.depths)
    if freeze.isdigit() and int(freeze) > stages:
        raise ConfigError(f"freeze is {freeze}, and the model has {stages} stages; expected 0 to {stages}, or {ALL_BUT_HEAD}.")


def freeze_layers(model: SwinTransformer, freeze: str) -> list[nn.Module]:
    """Let a front of the model be as it is, without gradients: "N" the patch and position embeddings and N stages with their merging.

    Returns the frozen modules, which belong in eval mode while the rest trains, so that nothing in them is random. Autograd keeps nothing
    of a front without gradients, so its forward costs what it costs under no_grad, and it has no backward.
    """
    if not freeze:
        return []
    check_freeze(freeze, model.config)
    if freeze == ALL_BUT_HEAD:
        frozen = [module for name, module in model.named_children() if name != "head"]
    else:
        frozen = [model.patch_embed, model.pos_drop, *model.layers[: int(freeze)]]
    for module in frozen:
        module.requires_grad_(False)
    if model.absolute_pos_embed is not None:
        model.absolute_pos_embed.requires_grad_(False)
    for stage in model.layers:
        stage.grad_checkpointing &= any(parameter.requires_grad for parameter in stage.parameters())
    return frozen


def frozen_words(freeze: str) -> str:
    """What `freeze` freezes, for a person."""
    if freeze == ALL_BUT_HEAD:
        return "all but the head"
    return "the patch embedding" + (f" and {freeze} stage{'s' if freeze != '1' else ''}" if freeze != "0" else "")
