"""The training loop: steps, validation, checkpoints, and a place to continue from."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swinkit.checkpoints.native import SavedModel
from swinkit.config import SwinConfig
from swinkit.data import Preprocess, Splits, batch_mixer, make_loader, train_transform
from swinkit.data.loader import hashed
from swinkit.errors import DataError, TrainingError
from swinkit.evaluate import score
from swinkit.kernels import choose
from swinkit.model import SwinTransformer
from swinkit.runtimes.device import autocast, pick_amp, pick_device
from swinkit.runtimes.pytorch import TorchRuntime
from swinkit.tasks.classify import Scorer, Scores, soft_cross_entropy
from swinkit.train.optim import make_average, make_optimizer, make_schedule, spread_weights
from swinkit.train.plan import plan_augment, plan_model, plan_preprocess
from swinkit.train.progress import TrainingProgress
from swinkit.train.recipe import Recipe
from swinkit.train.run import Run

Log = Callable[[dict[str, Any]], None]
Micro = tuple[Tensor, Tensor]


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and saved its state first."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"Everything is saved; go on with: swinkit train --resume {shlex.quote(str(run.folder))}")


class Trainer:
    """Everything that changes while a model trains."""

    def __init__(self, recipe: Recipe, splits: Splits, run: Run) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.splits, self.run = recipe, splits, run
        self.device = pick_device(recipe.device)
        self.amp = pick_amp(recipe.amp, self.device, recipe.amp_dtype)
        self.config = plan_model(recipe, splits)
        self.preprocess: Preprocess = plan_preprocess(recipe, splits, self.config)
        self.model = _make_model(recipe, self.config).to(self.device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if recipe.compile else self.model
        self.average = make_average(self.model, recipe.model_ema_decay) if recipe.model_ema else None
        self.batch_size = min(recipe.batch_size, len(splits.train))
        self.loader = make_loader(
            splits.train, train_transform(self.preprocess, plan_augment(recipe)), self.preprocess.mode, batch_size=self.batch_size,
            train=True, seed=recipe.seed, workers=recipe.workers, drop_last=True, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        self.accumulate = min(recipe.grad_accum_steps, len(self.loader))
        self.steps_per_epoch = len(self.loader) // self.accumulate
        self.mix = batch_mixer(recipe.mixup, recipe.cutmix, len(splits.classes))
        self.optimizer = make_optimizer(self.model, recipe)
        self.schedule = make_schedule(self.optimizer, recipe, self.steps_per_epoch)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.step, self.best = 0, -1.0
        self.window, self.epoch_window = Window(), Window()
        self.log_every = max(self.steps_per_epoch // 10, 1)
        self.stop = threading.Event()

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
            amp=self.amp is not None,
            device=str(self.device),
            threads=torch.get_num_threads(),
        )

    def fit(self, progress: TrainingProgress, log: Log) -> None:
        """Train to the end of the recipe. Errors: TrainingError if the loss is not finite; Interrupted after Ctrl-C, with all saved."""
        with _stop_on_interrupt(self.stop):
            for epoch in range(self.step // self.steps_per_epoch, self.recipe.epochs):
                self._epoch(epoch, progress, log)
                scores = self.validate()
                best = scores.top1 > self.best
                self.best = max(self.best, scores.top1)
                log({"kind": "val", "step": self.step, "epoch": epoch + 1, "loss": scores.loss, "top1": scores.top1})
                progress.measured(*self.epoch_window.take())
                progress.epoch(epoch + 1, scores.loss, scores.top1, best)
                self.save(best)
                if self.stop.is_set() and epoch + 1 < self.recipe.epochs:
                    raise Interrupted(self.run)

    def _epoch(self, epoch: int, progress: TrainingProgress, log: Log) -> None:
        self.model.train()
        first = self.step % self.steps_per_epoch
        self.loader.set_epoch(epoch, start_batch=first * self.accumulate)
        batches = ((pixels, labels) for pixels, labels, _ in self.loader)
        for _ in range(first, self.steps_per_epoch):
            started = time.perf_counter()
            self._step(list(islice(batches, self.accumulate)))
            for window in (self.window, self.epoch_window):
                window.seconds += time.perf_counter() - started
            progress.step(self.step)
            if self.step % self.log_every == 0 or self.step % self.steps_per_epoch == 0:
                self._report(progress, log)
            if self.stop.is_set() and self.step % self.steps_per_epoch:
                self._check_finite(float(self.window.loss))
                self.save(best=False)
                raise Interrupted(self.run)

    def _step(self, batches: list[Micro]) -> None:
        """One optimiser step. Its chance (mixing, dropout, stochastic depth) comes from the seed and its number alone."""
        torch.manual_seed(hashed(self.recipe.seed, self.step, 1) % 2**63)
        for images, labels in batches:
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            mixed, targets = self.mix(images, labels)
            with autocast(self.device, self.amp):
                logits = self.forward(mixed)
            loss = soft_cross_entropy(logits, targets, self.recipe.smoothing)
            self.scaler.scale(loss / len(batches)).backward()
            correct = (logits.detach().argmax(1) == labels).sum()
            for window in (self.window, self.epoch_window):
                window.add(loss.detach(), correct, len(labels))
        if self.recipe.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1

    def _report(self, progress: TrainingProgress, log: Log) -> None:
        self._check_finite(float(self.window.loss))
        loss, accuracy, images_per_s = self.window.take()
        progress.measured(loss, accuracy, images_per_s)
        lr = self.schedule.get_last_lr()[0]
        record = {"epoch": self.step / self.steps_per_epoch, "loss": loss, "accuracy": accuracy, "lr": lr, "images_per_s": images_per_s}
        log({"kind": "train", "step": self.step} | record)

    def _check_finite(self, loss: float) -> None:
        """Raise TrainingError if the loss, or any weight, is not finite."""
        what = f"The loss is {loss}" if not math.isfinite(loss) else ""
        if not what and not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            what = "A weight is not finite"
        if what:
            kept = f"The last good checkpoint is {self.run.checkpoint('last')}." if self.run.has("last") else "There is no checkpoint yet."
            raise TrainingError(
                f"{what} at step {self.step} (learning rate {self.schedule.get_last_lr()[0]:.2g}). {kept} "
                "Try a lower --lr, a longer --warmup-epochs, or --no-amp."
            )

    def validate(self) -> Scores:
        """Scores of the weights that would be saved now, on the validation images, in the precision of training."""
        scorer = Scorer(self.splits.classes)
        runtime = TorchRuntime(self.weights, self.device, self.amp)
        score(
            scorer,
            runtime,
            self.splits.val,
            self.preprocess,
            np.arange(len(self.splits.classes)),
            batch_size=256,
            workers=self.recipe.workers,
        )
        return scorer.compute()

    def save(self, best: bool) -> None:
        """Write a checkpoint that predicts, evaluates and resumes."""
        saved = SavedModel(self.config, dict(self.weights.state_dict()), self.splits.classes, self.preprocess.to_dict())
        self.run.save(self.step, saved, self._state(), best)

    def _state(self) -> dict[str, Any]:
        state = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule", "scaler")}
        if self.average:
            state["average"] = self.average.state_dict()
        return state | {"step": self.step, "best": self.best, "window": self.window.state(), "data": self._data_print()}

    def _data_print(self) -> list[Any]:
        """What must be the same for a run to go on: classes, labels in order, steps in an epoch."""
        labels = zlib.crc32(np.ascontiguousarray(self.splits.train.labels).tobytes())
        return [list(self.splits.classes), len(self.splits.train), labels, self.steps_per_epoch]

    def resume(self) -> None:
        """Go back to where the run's last checkpoint was written; later records of metrics.jsonl are forgotten."""
        state = self.run.load_state()
        if state["data"] != self._data_print():
            classes, images, *_ = state["data"]
            raise DataError(
                f"The run was trained on {images:,} images of {len(classes)} classes ({', '.join(classes[:3])}, ...); {self.splits.name} "
                f"now holds {len(self.splits.train):,} of {len(self.splits.classes)}, or in another order. "
                "A run goes on only with the same data; start a new one."
            )
        for name in ("model", "optimizer", "schedule", "scaler"):
            getattr(self, name).load_state_dict(state[name])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.step, self.best = state["step"], state["best"]
        self.window = Window(*state["window"])
        if not self.run.has("best"):
            self.best = -1.0
        self.run.cut_metrics(self.step)


class Window:
    """Sums since the last record."""

    def __init__(self, loss: float = 0.0, correct: int = 0, images: int = 0, batches: int = 0, seconds: float = 0.0) -> None:
        self.loss, self.correct = torch.tensor(loss, dtype=torch.float64), torch.tensor(correct)
        self.images, self.batches, self.seconds = images, batches, seconds

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """One forward pass: its mean loss and how many of its images were right."""
        self.loss = self.loss.to(loss.device) + loss
        self.correct = self.correct.to(correct.device) + correct
        self.images, self.batches = self.images + images, self.batches + 1

    def take(self) -> tuple[float, float, float]:
        """(mean loss, accuracy, images per second), and start again; zeros if nothing was added."""
        images = max(self.images, 1)
        result = (float(self.loss) / max(self.batches, 1), int(self.correct) / images, self.images / max(self.seconds, 1e-9))
        self.__init__()  # type: ignore[misc]
        return result

    def state(self) -> list[float | int]:
        """Arguments that make an equal one."""
        return [float(self.loss), int(self.correct), self.images, self.batches, self.seconds]


def _make_model(recipe: Recipe, config: SwinConfig) -> SwinTransformer:
    model = SwinTransformer(config, choose().attend)
    if recipe.weight_init == "wide":
        spread_weights(model)
    model.set_grad_checkpointing(recipe.grad_checkpointing)
    return model


@contextmanager
def _stop_on_interrupt(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a stop after this step, the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nswinkit: stopping after this step; once more stops at once and saves nothing.", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
