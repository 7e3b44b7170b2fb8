"""One picture with what speaks for a class in colour, fast enough for a server's button."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from swinkit.data.images import Source
from swinkit.explain.blending import blend, png
from swinkit.explain.class_maps import class_activation
from swinkit.explain.subject import open_subject


def overlay(model: str | Path | nn.Module, picture: Source, label: str | int | None = None) -> bytes:
    """A PNG file of the picture as the model sees it, coloured where it adds to the logit of `label` (None: the model's first guess).

    One forward pass, or two to find the first guess. Nothing is written to the model, so that threads may call this and the model at the
    same time; a model that is in training mode is looked at in eval mode. A model's path is read anew by every call: pass the model.
    Errors: as of `explain`; InputError for a model without a classifier.
    """
    looked = open_subject(model, picture)
    values = class_activation(looked.model, looked.x, looked.target(label))
    return png(blend(looked.picture, values))
