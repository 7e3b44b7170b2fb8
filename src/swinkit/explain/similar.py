"""The pictures of a folder that are most like one, by a model's pooled features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from swinkit.data.unlabelled import Data
from swinkit.embed import embed
from swinkit.explain.recording import twin
from swinkit.explain.subject import Say, Subject


@dataclass(frozen=True)
class Similar:
    """A picture and the cosine between its vector and the query's, from -1 to 1."""

    source: str
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"source": self.source, "cosine": self.cosine}


def similar_pictures(subject: Subject, folder: Data, count: int = 8, say: Say | None = None) -> list[Similar]:
    """The `count` pictures of a folder (or what else `embed` takes) nearest to the subject's, nearest first.

    The same picture, if it is among them, comes first with a cosine of 1. Errors: DataError for a folder without readable pictures.
    """
    model = twin(subject.model)
    model.preprocess = subject.preprocess.to_dict()
    # The very device: on another GPU, the weights would move, and they are the subject's.
    found = embed(model, folder, normalize=True, device=str(subject.x.device), say=say)
    with torch.no_grad():
        vector = model.forward_head(model.forward_features(subject.x), pre_logits=True)[0].cpu().double().numpy()
    cosines = found.vectors.astype(np.float64) @ (vector / np.linalg.norm(vector))
    best = np.argsort(-cosines, kind="stable")[:count]
    return [Similar(found.sources[index], float(cosines[index])) for index in best.tolist()]
