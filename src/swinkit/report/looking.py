"""What a model looked at on a picture, small enough for a page and for the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from swinkit.explain.blending import blend
from swinkit.explain.class_maps import class_activation
from swinkit.explain.mapping import rollout
from swinkit.explain.recording import record
from swinkit.explain.subject import subject
from swinkit.model import SwinTransformer
from swinkit.report.pictures import DATA, MistakePicture, Thumbnail, thumbnail


@dataclass(frozen=True)
class Looked:
    """A picture as the model saw it, with two maps on it as data URIs of the same size."""

    picture: Thumbnail
    evidence: str
    """Where the picture speaks for what the model said."""
    attention: str
    """Attention rollout: from where the output is fed."""

    @property
    def right(self) -> bool:
        """Whether the model said what it is."""
        return self.picture.truth == self.picture.predicted

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"picture": self.picture.to_dict(), "evidence": self.evidence, "attention": self.attention}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, again. Errors: KeyError, TypeError, ValueError for anything else."""
        maps = str(values["evidence"]), str(values["attention"])
        if not all(map(DATA.fullmatch, maps)):
            raise ValueError("a map is not a data URI of a PNG or JPEG")
        return cls(Thumbnail.from_dict(values["picture"]), *maps)


def look(model: SwinTransformer, shown: MistakePicture, predicted: int) -> Looked:
    """One picture through the model, which says class `predicted`; the model is not changed. Errors: as of `explain`."""
    looked = subject(model, shown.image)
    # Rollout needs the mean over heads only, a fraction of the memory.
    attention = rollout(record(looked.model, looked.x, keep=lambda weights: weights.mean(1, keepdim=True))).values
    evidence = class_activation(looked.model, looked.x, predicted)

    def small(pixels: np.typing.NDArray[np.uint8]) -> Thumbnail:
        return thumbnail(MistakePicture(Image.fromarray(pixels), shown.truth, shown.predicted, shown.confidence, shown.name))

    maps = [small(blend(looked.picture, values)).data for values in (evidence, attention - attention.min())]
    return Looked(small(looked.picture), *maps)
