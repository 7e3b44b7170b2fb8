"""The optimiser, its schedule, and the running average of the weights; all of them torch's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.optim.swa_utils import AveragedModel

from swinkit.model import SwinTransformer
from swinkit.train.recipe import Recipe


def make_optimizer(model: SwinTransformer, recipe: Recipe) -> AdamW:
    """AdamW; norms, biases and position parameters without weight decay, as the originals train."""
    exempt = model.no_weight_decay()
    decay = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in exempt]
    plain = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in exempt]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=decay[0].device.type in ("cpu", "cuda", "mps"))


def make_schedule(optimizer: AdamW, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Per step: a linear rise over `warmup_epochs`, then a cosine down to `min_lr`."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total // 2)
    cosine = CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1), eta_min=min(recipe.min_lr, recipe.lr))
    if warmup < 1:
        return cosine
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, cosine], milestones=[warmup])


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of the weights that forgets its untrained beginning: the decay starts low and rises to `decay`."""

    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        rate = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(list(average), list(current), rate)

    return AveragedModel(model, multi_avg_fn=update)


@torch.no_grad()
def spread_weights(model: nn.Module) -> None:
    """A wider initialisation for narrow models that have minutes and not days: Xavier-uniform linear layers, N(0, 1) position biases.

    The originals' standard deviation of 0.02 suits 96 channels and more; in a narrower model it makes every branch so small that
    training spends its first epochs growing them. Position biases that differ give every head a neighbourhood of its own to begin with.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            nn.init.normal_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)
