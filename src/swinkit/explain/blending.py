"""A heat map laid on a picture, as pixels."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEAST_SIDE = 224
"""Smaller pictures are enlarged for people, in whole steps, their pixels staying squares."""
STRENGTH = 0.75
"""How much of the picture the strongest heat hides."""


@lru_cache(maxsize=1)
def colours() -> NDArray[np.float64]:
    """(256, 3) in [0, 1]: dark to bright, also for colour-blind readers and in print."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](np.arange(256)))[:, :3]


def blend(picture: NDArray[np.uint8], heat: NDArray[np.float64], top: float | None = None) -> NDArray[np.uint8]:
    """(height, width, 3), (height, width) >= 0 -> (height, width, 3): the picture in grey, coloured where heat is near `top` (None: its
    largest value), so that colour always means heat.
    """
    top = float(heat.max()) if top is None else top
    share = np.clip(heat / top if top > 0 else np.zeros_like(heat), 0, 1)[..., None]
    grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    colour = colours()[np.rint(share[..., 0] * 255).astype(int)]
    hidden = STRENGTH * np.sqrt(share)  # roots: faint heat stays visible
    blended: NDArray[np.uint8] = np.rint(255 * ((1 - hidden) * 0.85 * grey[..., None] + hidden * colour)).astype(np.uint8)
    return blended


def enlarged(picture: NDArray[Any], least: int = LEAST_SIDE) -> NDArray[Any]:
    """(height, width, ...) -> the same with every pixel repeated until the longer side has at least `least` pixels."""
    times = -(-least // max(picture.shape[:2]))
    return picture if times <= 1 else picture.repeat(times, 0).repeat(times, 1)


def png(picture: NDArray[np.uint8], least: int = LEAST_SIDE) -> bytes:
    """(height, width, 3) -> a PNG file, enlarged where the picture is small."""
    out = io.BytesIO()
    Image.fromarray(enlarged(picture, least)).save(out, "png")
    return out.getvalue()
