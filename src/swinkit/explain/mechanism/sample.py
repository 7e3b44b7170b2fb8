"""The picture that is cut up: drawn from a formula, or the person's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from swinkit.config import Size
from swinkit.explain.mechanism.drawing import Array


def picture_of(size: Size, source: Any = None) -> Array:
    """(height, width, 3) uint8: a landscape, or `source` (whatever `read_image` takes), cut to the shape and scaled.

    Errors: InputError for an image that cannot be read.
    """
    if source is None:
        return landscape(size)
    from PIL import Image, ImageOps

    from swinkit.data import read_image

    return np.asarray(ImageOps.fit(read_image(source), size[::-1], Image.Resampling.BICUBIC))


def landscape(size: Size) -> Array:
    """(height, width, 3) uint8: hills before an evening sky; the same scene at any size."""
    aspect = size[1] / size[0]
    y, x = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1] * aspect, indexing="ij")
    image = _blend((46, 94, 170), (255, 214, 150), np.clip(y / 0.62, 0, 1)[..., None] ** 1.3)
    away = np.hypot(y - 0.36, x - 0.68 * aspect)
    image = np.where((away < 0.13)[..., None], _blend((255, 250, 220), (255, 196, 90), (away / 0.13)[..., None] ** 2), image)
    hills = ((0.56, 0.07, 5.0, 0.4, (112, 128, 168)), (0.68, 0.06, 7.0, 2.1, (72, 104, 104)), (0.82, 0.05, 4.2, 4.4, (38, 66, 52)))
    for base, height, waves, start, colour in hills:
        ridge = (
            base + height * np.sin(waves * x / max(aspect, 1) + start) + 0.3 * height * np.sin(2.7 * waves * x / max(aspect, 1) + 2 * start)
        )
        shade = _blend(colour, tuple(0.72 * c for c in colour), np.clip((y - ridge) / 0.3, 0, 1)[..., None])
        image = np.where((y > ridge)[..., None], shade, image)
    return np.clip(image, 0, 255).astype(np.uint8)


def _blend(one: tuple[float, ...], other: tuple[float, ...], share: Array) -> Array:
    return np.asarray(np.array(one) * (1 - share) + np.array(other) * share)
