"""The optimisers and their schedules, which are torch's, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from swinkit.config import Size
from swinkit.model import SwinBlock, SwinTransformer
from swinkit.train.layers import layer_scales
from swinkit.train.recipe import Recipe


def make_optimizers(model: SwinTransformer, recipe: Recipe) -> list[Optimizer]:
    """AdamW for everything that is not frozen; or, with `opt: muon`, Muon for the matrices inside and AdamW for the rest."""
    if recipe.opt == "adamw":
        return [make_optimizer(model, recipe)]
    exempt = model.no_weight_decay()
    matrices = [name for name, p in _trained(model) if p.ndim == 2 and name not in exempt and not name.startswith("head.")]
    rest = make_optimizer(model, recipe, leave_out=matrices)
    if not matrices:  # all but the head is frozen
        return [rest]
    return [rest, Muon(_groups(model, matrices, recipe, recipe.muon_lr), lr=recipe.muon_lr, weight_decay=recipe.weight_decay)]


def make_optimizer(model: SwinTransformer, recipe: Recipe, leave_out: Collection[str] = ()) -> AdamW:
    """AdamW; norms, biases and position parameters without weight decay, as the originals train."""
    named = {name: p for name, p in _trained(model) if name not in leave_out}
    groups = _groups(model, named, recipe, recipe.lr)
    some = next(iter(named.values()))
    fused = some.device.type in ("cpu", "cuda", "mps") and not hasattr(some, "to_local")
    return AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=fused)


def _trained(model: SwinTransformer) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _groups(model: SwinTransformer, names: Collection[str], recipe: Recipe, lr: float) -> list[dict[str, Any]]:
    """Groups of equal rate and weight decay, the highest rate (the head's) first: what is logged is that of the first group."""
    exempt, scales = model.no_weight_decay(), layer_scales(model, recipe.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _trained(model):
        if name in names:
            decay = 0.0 if parameter.ndim <= 1 or name in exempt else recipe.weight_decay
            groups.setdefault((scales[name], decay), []).append(parameter)
    order = sorted(groups, key=lambda group: (-group[0], not group[1]))
    return [{"params": groups[scale, decay], "lr": lr * scale, "weight_decay": decay} for scale, decay in order]


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LambdaLR:
    """Per step: a linear rise over `warmup_epochs`, then a cosine to `min_lr`; rates other than `lr` go through the same parts."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total // 2)
    lowest = min(recipe.min_lr / recipe.lr, 1.0)

    def part(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min((step - warmup) / max(total - warmup, 1), 1.0)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, part)


def go_to(schedule: LambdaLR, step: int) -> None:
    """Put a fresh schedule to where it is after so many steps; its optimiser has the rates of that step already."""
    rates = [group["lr"] for group in schedule.optimizer.param_groups]
    schedule.load_state_dict({"last_epoch": step, "_step_count": step + 1, "_last_lr": rates, "lr_lambdas": []})


class Average:
    """A running average of a model's weights that forgets its beginning: the decay starts low and rises to `decay`. Frozen weights stay."""

    def __init__(self, model: SwinTransformer, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after one more step."""
        rate = 1 - min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 1.0
        trained = [pair for pair in zip(self.module.parameters(), model.parameters(), strict=True) if pair[1].requires_grad]
        ours, theirs = ([local(pair[which]) for pair in trained] for which in (0, 1))
        torch._foreach_lerp_(ours, theirs, rate)
        self.count += 1


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process holds; any other tensor as it is."""
    to_local = getattr(tensor.detach(), "to_local", None)
    return tensor.detach() if to_local is None else to_local()


@torch.no_grad()
def spread_weights(model: SwinTransformer, local_heads: bool = False) -> None:
    """A wider initialisation for narrow models that have minutes and not days: Xavier-uniform linear layers, N(0, 1) position biases.

    The originals' standard deviation of 0.02 suits 96 channels and more; in a narrower model it makes every branch so small that
    training spends its first epochs growing them. Position biases that differ give every head a neighbourhood of its own to begin with;
    with `local_heads` it is one next to the token, like a convolution's (ConViT, arXiv 2103.10697, does so in plain transformers).
    """
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.normal_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
    for stage in model.layers if local_heads else ():
        for number, block in enumerate(stage.blocks):
            assert isinstance(block, SwinBlock)
            if block.attn.version == 1:
                table = block.attn.relative_position_bias_table
                table.copy_(look_around(block.window, table.shape[1], turned=bool(number % 2)) + 0.2 * torch.randn(table.shape))


LOOK_RADIUS, LOOK_FALL, LOOK_LEAST = 1.3, 0.35, -8.0
"""How far from the token a head looks at first, how fast its interest falls with the squared distance, and the least bias."""


def look_around(window: Size, heads: int, turned: bool) -> Tensor:
    """((2M-1)^2, heads): biases with which each head looks to its own side of the token; `turned` by half a step in every other block."""
    offsets = torch.cartesian_prod(*(torch.arange(1 - side, side).float() for side in window))
    angles = (torch.arange(heads) + 0.5 * turned) * (2 * math.pi / heads)
    centres = LOOK_RADIUS * torch.stack((angles.cos(), angles.sin()), dim=1)
    return (-LOOK_FALL * torch.cdist(offsets, centres).square()).clamp(min=LOOK_LEAST)
