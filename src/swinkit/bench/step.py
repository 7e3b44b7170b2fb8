"""A training step without data: what the model alone can do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from swinkit.config import SwinConfig, pair
from swinkit.data import batch_mixer
from swinkit.kernels import choose
from swinkit.kernels.training import compiling, training
from swinkit.model import SwinTransformer
from swinkit.runtimes.device import autocast, pick_amp
from swinkit.tasks.classify import soft_cross_entropy
from swinkit.train.layers import freeze_layers
from swinkit.train.optim import make_optimizer
from swinkit.train.recipe import Recipe


class Step:
    """Call it for one step of a recipe (mixing, forward, backward, clipping, optimiser) on random images; it waits for the device."""

    def __init__(self, recipe: Recipe, config: SwinConfig, batch_size: int, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.amp = pick_amp(recipe.amp, device, recipe.amp_dtype)
        self.model = SwinTransformer(config, choose().attend).to(device).train()
        self.model.set_grad_checkpointing(recipe.grad_checkpointing)
        for module in freeze_layers(self.model, recipe.freeze):
            module.eval()
        self.forward = torch.compile(self.model) if recipe.compile else self.model
        self.optimizer = make_optimizer(self.model, recipe)
        self.mix = batch_mixer(recipe.mixup, recipe.cutmix, config.num_classes)
        self.images = torch.randn(batch_size, config.in_chans, *pair(config.img_size), device=device)
        self.labels = torch.randint(config.num_classes, (batch_size,), device=device)

    def __call__(self) -> int:
        """Train once; returns the number of images."""
        self._loss().backward()
        if self.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return len(self.images)

    def _loss(self) -> Tensor:
        mixed, targets = self.mix(self.images, self.labels)
        recipe = self.recipe
        context = compiling(recipe.memory) if recipe.compile else training(self.model, recipe.memory)
        with context, autocast(self.device, self.amp):
            logits = self.forward(mixed)
        return soft_cross_entropy(logits, targets, self.recipe.smoothing)
