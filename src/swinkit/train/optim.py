"""The optimiser and its schedule, which are torch's, and the running average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from swinkit.model import SwinTransformer
from swinkit.train.recipe import Recipe


def make_optimizer(model: SwinTransformer, recipe: Recipe) -> AdamW:
    """AdamW; norms, biases and position parameters without weight decay, as the originals train."""
    exempt = model.no_weight_decay()
    decay = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in exempt]
    plain = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in exempt]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    fused = decay[0].device.type in ("cpu", "cuda", "mps") and not hasattr(decay[0], "to_local")
    return AdamW(groups, lr=recipe.lr, betas=(0.9, recipe.beta2), fused=fused)


def make_schedule(optimizer: AdamW, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Per step: a linear rise over `warmup_epochs`, then a cosine down to `min_lr`."""
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total // 2)
    cosine = CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1), eta_min=min(recipe.min_lr, recipe.lr))
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
