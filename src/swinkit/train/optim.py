"""The optimisers and their schedules, which are torch's, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from swinkit.config import Size
from swinkit.model import SwinBlock, SwinTransformer
from swinkit.train.recipe import Recipe


def make_optimizers(model: SwinTransformer, recipe: Recipe) -> list[Optimizer]:
    """AdamW for everything; or, with `opt: muon`, Muon for the matrices inside and AdamW for the rest."""
    if recipe.opt == "adamw":
        return [make_optimizer(model, recipe)]
    exempt = model.no_weight_decay()
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and name not in exempt and not name.startswith("head.")}
    muon = Muon(matrices.values(), lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
    return [make_optimizer(model, recipe, leave_out=set(matrices)), muon]


def make_optimizer(model: SwinTransformer, recipe: Recipe, leave_out: Collection[str] = ()) -> AdamW:
    """AdamW; norms, biases and position parameters without weight decay, as the originals train."""
    exempt = model.no_weight_decay()
    named = [(name, p) for name, p in model.named_parameters() if name not in leave_out]
    decay = [p for name, p in named if p.ndim > 1 and name not in exempt]
    plain = [p for name, p in named if p.ndim <= 1 or name in exempt]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = plain[0].device.type in ("cpu", "cuda", "mps") and not hasattr(plain[0], "to_local")
    return AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=fused)


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Per step: a linear rise over `warmup_epochs`, then a cosine down to `min_lr` (for Muon, to the same part of its own rate)."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total // 2)
    lowest = min(recipe.min_lr, recipe.lr)
    if isinstance(optimizer, Muon):
        lowest *= recipe.muon_lr / recipe.lr
    cosine = CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1), eta_min=lowest)
    if warmup < 1:
        return cosine
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, cosine], milestones=[warmup])


class Average:
    """A running average of a model's weights that forgets its untrained beginning: the decay starts low and rises to `decay`."""

    def __init__(self, model: SwinTransformer, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after one more step."""
        rate = 1 - min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 1.0
        ours, theirs = ([local(parameter) for parameter in m.parameters()] for m in (self.module, model))
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
