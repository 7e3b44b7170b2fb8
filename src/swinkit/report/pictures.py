"""Pictures of mistakes, small enough for a page and for the run folder."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from PIL import Image

PIXEL_ART = 96
LARGEST_PICTURE = 320
DATA = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class MistakePicture:
    """An image the model got wrong: its two class names, how sure the model was (0 to 1), and the image's name."""

    image: Image.Image
    truth: str
    predicted: str
    confidence: float
    name: str


@dataclass(frozen=True)
class Thumbnail:
    """The same as text: `data` is a data URI of a PNG or JPEG of width x height pixels."""

    data: str
    width: int
    height: int
    truth: str
    predicted: str
    confidence: float
    name: str

    @property
    def small(self) -> bool:
        """Whether its pixels are to be seen as squares."""
        return max(self.width, self.height) <= PIXEL_ART

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave, again. Errors: KeyError, TypeError, ValueError for anything else."""
        data, truth, predicted, name = (str(values[key]) for key in ("data", "truth", "predicted", "name"))
        if not DATA.fullmatch(data):
            raise ValueError("a picture is not a data URI of a PNG or JPEG")
        return cls(data, int(values["width"]), int(values["height"]), truth, predicted, float(values["confidence"]), name)


def thumbnail(mistake: MistakePicture) -> Thumbnail:
    """A small image as it is, a large one shrunk to LARGEST_PICTURE pixels."""
    image = mistake.image if mistake.image.mode in ("L", "RGB") else mistake.image.convert("RGB")
    small = max(image.size) <= PIXEL_ART
    if not small:
        image = image.copy()
        image.thumbnail((LARGEST_PICTURE, LARGEST_PICTURE))
    # A photograph as PNG is ten times the size; in a small image every pixel counts.
    kind = "png" if small else "jpeg"
    out = io.BytesIO()
    image.save(out, kind)
    data = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return Thumbnail(data, *image.size, mistake.truth, mistake.predicted, mistake.confidence, mistake.name)
