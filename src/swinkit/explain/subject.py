"""A model and a picture, ready to be looked into: opened, prepared as the model was trained to see it, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from swinkit.build import create_model, from_saved
from swinkit.checkpoints.dialects.examine import read
from swinkit.checkpoints.dialects.usual import usual_preprocess
from swinkit.config import pair
from swinkit.data.images import Source, read_image
from swinkit.data.transforms import Preprocess, eval_transform
from swinkit.errors import CheckpointError, InputError
from swinkit.model import SwinTransformer
from swinkit.runtimes.artefacts import is_artefact
from swinkit.runtimes.device import pick_device
from swinkit.variants import list_models

Say = Callable[[str], None]
"""Called with a sentence for the person who waits."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in eval mode and one picture as it sees it."""

    model: SwinTransformer
    x: Tensor
    """(1, C, height, width), prepared, on the model's device and in its dtype."""
    picture: NDArray[np.uint8]
    """(height, width, 3): the same pixels to look at."""
    preprocess: Preprocess
    random: bool = False
    """Whether the weights are random."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; numbers where the model has none."""
        return self.model.labels or tuple(str(index) for index in range(self.model.num_classes))

    def check_classifier(self) -> None:
        """Errors: InputError for a model without a classifier."""
        if not self.model.num_classes:
            raise InputError("This model has no classifier, so no class can be explained; attention, rollout and features can.")

    def probabilities(self) -> Tensor:
        """(num_classes,) float64. Errors: InputError for a model without a classifier."""
        self.check_classifier()
        with torch.no_grad():
            probabilities: Tensor = self.model(self.x)[0].cpu().double().softmax(0)
        return probabilities

    def target(self, label: str | int | None = None) -> int:
        """The index of the class to explain: by name, by number, or the model's first guess. Errors: InputError for an unknown one."""
        best = int(self.probabilities().argmax())
        return best if label is None else index_of(label, self.classes)


def index_of(label: str | int, classes: tuple[str, ...]) -> int:
    """The index of a class by name or number. Errors: InputError for an unknown one."""
    if label in classes:
        return classes.index(str(label))
    if str(label).isdecimal() and int(label) < len(classes):
        return int(label)
    known = ", ".join(classes[:8]) + (" ..." if len(classes) > 8 else "")
    raise InputError(f"There is no class {label!r}; this model has {len(classes)}: {known}. Give a name or a number from 0.")


def open_subject(model: str | Path | nn.Module, picture: Source, *, device: str = "auto", say: Say | None = None) -> Subject:
    """A model (what `Predictor` opens, a SwinTransformer, or a registered name, which then has random weights) and a picture.

    The picture is resized and cropped as the model's `preprocess` says, and `Subject.picture` is what is left of it. A model that is given
    is not changed. Errors: CheckpointError for an exported file, a backbone, or weights that cannot be read; InputError for the picture.
    """
    say = say or (lambda _: None)
    opened, random = open_model(model, say)
    where = pick_device(device) if not isinstance(model, nn.Module) else opened.norm.weight.device
    opened = opened.to(where) if not isinstance(model, nn.Module) else opened
    return subject(opened, picture, say, random)


def subject(model: SwinTransformer, picture: Source, say: Say = lambda _: None, random: bool = False) -> Subject:
    """The same of a model that is open already; it stays where it is, and whether it is in training mode is not changed."""
    preprocess = _preprocess(model, say)
    pixels = eval_transform(preprocess)(read_image(picture, preprocess.mode))
    weight = model.norm.weight
    ready = model if not model.training else _evaluated(model)
    return Subject(ready, pixels[None].to(weight.device, weight.dtype), seen(pixels, preprocess), preprocess, random)


def _evaluated(model: SwinTransformer) -> SwinTransformer:
    from swinkit.explain.recording import twin

    return twin(model)


def open_model(model: str | Path | nn.Module, say: Say) -> tuple[SwinTransformer, bool]:
    """(the model in eval mode, whether its weights are random)"""
    if isinstance(model, nn.Module):
        return _classifier(getattr(model, "_orig_mod", model), type(model).__name__), False
    if is_artefact(model):
        raise CheckpointError(f"{model} is an exported file, which shows no attention; give the model that it was exported from.")
    if isinstance(model, str) and not Path(model).exists() and model in list_models():
        say(f"{model} is a name without weights: they are random, and so is what it looks at. Give a run folder or a file of weights.")
        return _classifier(create_model(model).eval(), model), True
    return _classifier(from_saved(read(model)), str(model)), False


def _classifier(model: nn.Module, name: str) -> SwinTransformer:
    if not isinstance(model, SwinTransformer):
        raise CheckpointError(f"{name} is a {type(model).__name__}; expected a SwinTransformer such as a classifier.")
    return model


def _preprocess(model: SwinTransformer, say: Say) -> Preprocess:
    if model.preprocess:
        return Preprocess.from_dict(model.preprocess)
    if model.config.in_chans not in (1, 3):
        raise InputError(f"This model takes {model.config.in_chans} channels and has no `preprocess`; pictures have 1 or 3.")
    say("The model does not say how to prepare pictures; the usual way is taken.")
    usual = usual_preprocess(model.config, "microsoft") or {"size": list(pair(model.config.img_size)), "mean": [0.5], "std": [0.5]}
    return Preprocess.from_dict(usual)


def seen(pixels: Tensor, preprocess: Preprocess) -> NDArray[np.uint8]:
    """(C, height, width), prepared -> (height, width, 3) uint8, to look at."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    shown = (pixels.float().cpu() * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    return shown.expand(3, -1, -1).permute(1, 2, 0).numpy()
