"""The training loop: steps, validation, checkpoints, and a place to continue from."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from swinkit.data import Splits, batch_mixer, make_loader, train_transform
from swinkit.data.loader import hashed
from swinkit.errors import SwinkitError, TrainingError
from swinkit.kernels import choose
from swinkit.kernels.cpu.heap import keep_freed_memory
from swinkit.kernels.training import compiling, training
from swinkit.model import SwinTransformer
from swinkit.runtimes.device import autocast, pick_amp, pick_device
from swinkit.tasks.classify import soft_cross_entropy
from swinkit.train.events import Log, NoLog
from swinkit.train.layers import freeze_layers
from swinkit.train.optim import Average, make_optimizers, make_schedule, spread_weights
from swinkit.train.parallel import draw_together, last_only, replicate, shard, whole
from swinkit.train.plan import Start, plan_augment, plan_start
from swinkit.train.progress import TrainingProgress
from swinkit.train.recipe import Recipe
from swinkit.train.run import Run
from swinkit.train.snapshot import Best, save
from swinkit.train.stopping import Interrupted, stop_on_interrupt
from swinkit.train.validate import validate
from swinkit.train.window import Window
from swinkit.train.world import World

Micro = tuple[Tensor, Tensor]

DIVERGED = 5.0
"""A mean loss of so many times what guessing gives is no training any more."""
EARLY_STEPS = frozenset({1, 2, 4, 8, 16, 32})
"""Steps after which the loss is looked at, besides at every record; on the CPU, where looking costs nothing, it is at each."""


class Trainer:
    """Everything that changes while a model trains."""

    def __init__(self, recipe: Recipe, splits: Splits, run: Run, world: World | None = None, start: Start | None = None) -> None:
        self.start = start or plan_start(recipe, splits)
        torch.manual_seed(recipe.seed)
        self.recipe, self.splits, self.run, self.world = recipe, splits, run, world or World()
        self.device = pick_device(recipe.device, self.world.local_rank if self.world.size > 1 else None)
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)
        self.amp = pick_amp(recipe.amp, self.device, recipe.amp_dtype)
        self.config, self.preprocess = self.start.config, self.start.preprocess
        self._plan_batches()
        self._make_model()
        self.mix = batch_mixer(recipe.mixup, recipe.cutmix, len(splits.classes))
        self.optimizers = make_optimizers(self.model, recipe)
        self.schedules = [make_schedule(optimizer, recipe, self.steps_per_epoch) for optimizer in self.optimizers]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.step, self.best = 0, Best()
        self.window, self.epoch_window = Window(), Window()
        self.grad_norm: Tensor | None = None
        self.trouble: TrainingError | None = None
        self.stop, self.saved_at = threading.Event(), time.monotonic()

    def _plan_batches(self) -> None:
        recipe, world, count = self.recipe, self.world, len(self.splits.train)
        self.batch_size = max(min(recipe.batch_size, count // world.size), 1)
        # Mixing takes an image and the one before it; a process that has a part of the batch needs one image more for that.
        self.neighbour = world.size > 1 and bool(recipe.mixup or recipe.cutmix)
        self.loader = make_loader(
            self.splits.train, train_transform(self.preprocess, plan_augment(recipe)), self.preprocess.mode, batch_size=self.batch_size,
            train=True, seed=recipe.seed, workers=recipe.workers, drop_last=True, pin_memory=self.device.type == "cuda",
            part=(world.rank, world.size), with_neighbour=self.neighbour,
        )  # fmt: skip
        self.accumulate = min(recipe.grad_accum_steps, len(self.loader))
        self.steps_per_epoch = len(self.loader) // self.accumulate
        self.images_per_step = self.batch_size * world.size * self.accumulate
        self.log_every = max(self.steps_per_epoch // 10, 1)

    def _make_model(self) -> None:
        recipe, world = self.recipe, self.world
        self.model = self.start.loaded.model if self.start.loaded else self._new_model()
        self.model.set_grad_checkpointing(recipe.grad_checkpointing)
        self.frozen = freeze_layers(self.model, recipe.freeze)
        draw_together(self.model, world)
        self.sharded = recipe.shard and world.size > 1
        if not self.sharded:
            self.model.to(self.device)
        self.average = Average(self.model, recipe.model_ema_decay) if recipe.model_ema else None
        if self.sharded:
            for model in (self.model, self.average.module) if self.average else (self.model,):
                shard(model, self.device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if recipe.compile else self.model
        if world.size > 1 and not self.sharded:
            self.forward = replicate(self.model, self.forward, self.device)

    def _new_model(self) -> SwinTransformer:
        model = SwinTransformer(self.config, choose().attend)
        if self.recipe.weight_init != "original":
            spread_weights(model, local_heads=self.recipe.weight_init == "local")
        return model

    @property
    def weights(self) -> nn.Module:
        """The model that is evaluated and saved: the running average if there is one."""
        return self.average.module if self.average else self.model

    def resolved(self) -> Recipe:
        """The recipe with everything that was left open filled in, so that it gives the same run elsewhere."""
        size = self.config.img_size
        return self.recipe.replace(
            img_size=size if isinstance(size, int) else None,
            ape=self.config.ape,
            drop_path=self.config.drop_path_rate,
            mean=self.preprocess.mean,
            std=self.preprocess.std,
            interpolation=self.preprocess.interpolation,
            crop_pct=self.preprocess.crop_pct,
            amp=self.amp is not None,
            device=self.device.type if self.world.size > 1 else str(self.device),
            threads=torch.get_num_threads(),
        )

    def fit(self, progress: TrainingProgress, log: Log | NoLog) -> None:
        """Train to the end of the recipe.

        Errors: TrainingError for a loss that is not finite or diverges and a disk that is full; Interrupted after Ctrl-C, with all saved.
        """
        with stop_on_interrupt(self.stop, talk=self.world.first):
            for epoch in range(self.step // self.steps_per_epoch, self.recipe.epochs):
                self._epoch(epoch, progress, log)
                loss, top1 = validate(self)
                best = top1 > self.best.top1
                self.best = Best(top1, self.step) if best else self.best
                log({"kind": "val", "step": self.step, "epoch": epoch + 1, "loss": loss, "top1": top1})
                means = self.epoch_window.take(self.world)
                progress.measured(means.loss, means.accuracy, means.images_per_s)
                progress.epoch(epoch + 1, loss, top1, best)
                self.save(log)
                if self.world.any(self.stop.is_set())[0] and epoch + 1 < self.recipe.epochs:
                    raise self._interrupted()

    def _epoch(self, epoch: int, progress: TrainingProgress, log: Log | NoLog) -> None:
        self.model.train()
        for module in self.frozen:
            module.eval()
        first = self.step % self.steps_per_epoch
        self.loader.set_epoch(epoch, start_batch=first * self.accumulate)
        batches = ((pixels, labels) for pixels, labels, _ in self.loader)
        for step in range(first, self.steps_per_epoch):
            started = time.perf_counter()
            micros, error = self._fetch(batches)
            self._meet(error, log, may_save=step > first)
            self._step(micros)
            for window in (self.window, self.epoch_window):
                window.seconds += time.perf_counter() - started
            progress.step(self.step)
            self._look()
            if self.step % self.log_every == 0 or self.step % self.steps_per_epoch == 0:
                self._report(progress, log)
        self.world.raise_together(self.trouble)

    def _fetch(self, batches: Iterator[Micro]) -> tuple[list[Micro], SwinkitError | None]:
        try:
            return list(islice(batches, self.accumulate)), None
        except SwinkitError as error:
            return [], error

    def _meet(self, error: SwinkitError | None, log: Log | NoLog, may_save: bool) -> None:
        """Between two steps, all processes agree to go on, to save, to stop, or that one of them failed."""
        due, minutes = self.recipe.checkpoint_steps, self.recipe.checkpoint_minutes
        late = minutes > 0 and time.monotonic() - self.saved_at > 60 * minutes
        error = self.trouble or error
        failed, stop, keep = self.world.any(error is not None, self.stop.is_set(), late or (due > 0 and self.step % due == 0))
        if failed:
            self.world.raise_together(error)
        if (stop or keep) and may_save:
            self.save(log)
        if stop and may_save:
            raise self._interrupted()

    def _interrupted(self) -> BaseException:
        return Interrupted(self.run.folder) if self.world.first else SystemExit(130)

    def save(self, log: Log | NoLog) -> None:
        """Write a checkpoint; what the loggers still hold goes first, since a resumed run does not log it again."""
        log.flush()
        save(self)

    def _step(self, micros: list[Micro]) -> None:
        """One optimiser step. Its chance (mixing, dropout, stochastic depth) comes from the seed and its number alone."""
        recipe = self.recipe
        torch.manual_seed(hashed(recipe.seed, self.step, 1) % 2**63)
        for number, (images, labels) in enumerate(micros, 1):
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            mixed, targets = self.mix(images, labels)
            if self.neighbour:
                mixed, targets, labels = mixed[1:], targets[1:], labels[1:]
            context = compiling(recipe.memory) if recipe.compile else training(self.model, recipe.memory)
            with last_only(self.forward, last=number == len(micros)):
                with context, autocast(self.device, self.amp):
                    logits = self.forward(mixed)
                loss = soft_cross_entropy(logits, targets, recipe.smoothing)
                self.scaler.scale(loss / len(micros)).backward()
            correct = (logits.detach().argmax(1) == labels).sum()
            for window in (self.window, self.epoch_window):
                window.add(loss.detach(), correct, len(labels))
        self._update()

    def _update(self) -> None:
        if self.recipe.clip_grad:
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            self.grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            self.scaler.step(optimizer)
            optimizer.zero_grad()
            schedule.step()
        self.scaler.update()
        if self.average:
            self.average.update(self.model)
        self.step += 1

    def _look(self) -> None:
        """Notice a loss that is not finite, or far above what guessing gives, as soon as it can be seen for free."""
        if self.device.type != "cpu" and self.step not in EARLY_STEPS and self.step % self.log_every:
            return
        loss, guessing = self.window.mean_loss, max(math.log(len(self.splits.classes)), 1.0)
        if not math.isfinite(loss):
            self.trouble = self.stopped(f"The loss is {loss}")
        elif loss > DIVERGED * guessing:
            self.trouble = self.stopped(f"The loss is {loss:.3g}, where guessing gives {guessing:.2g}: it diverges,")

    def stopped(self, what: str) -> TrainingError:
        """The error that ends a run which went wrong, with where and what to do."""
        return TrainingError(
            f"{what} at step {self.step} (learning rate {self.schedules[0].get_last_lr()[0]:.2g}). {self.run.last_good()} "
            f"Start anew with a lower --lr{', a longer --warmup-epochs, or --no-amp' if self.amp else ' or a longer --warmup-epochs'}."
        )

    def _report(self, progress: TrainingProgress, log: Log | NoLog) -> None:
        means = self.window.take(self.world)
        progress.measured(means.loss, means.accuracy, means.images_per_s)
        record = {
            "kind": "train",
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            "loss": means.loss,
            "accuracy": means.accuracy,
        }
        record |= {"lr": self.schedules[0].get_last_lr()[0], "images_per_s": means.images_per_s}
        if self.grad_norm is not None:
            record["grad_norm"] = float(whole(self.grad_norm))
        if math.isfinite(means.loss):
            log(record)
