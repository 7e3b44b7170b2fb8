"""From the bytes of a stranger to an image: few formats, the header looked at before a pixel is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image, UnidentifiedImageError

from swinkit.data.images import decode
from swinkit.data.transforms import Preprocess
from swinkit.errors import InputError
from swinkit.serve.bodies import Upload
from swinkit.serve.pixels import Pixels
from swinkit.serve.problems import ApiError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What cameras write and browsers show. Others have decoders that are larger than their use here."""
SCANS = 200
"""A progressive JPEG draws the image in about ten scans; some thousand of them take minutes and fit into a kilobyte."""


@contextmanager
def opened_picture(upload: Upload, number: int, preprocess: Preprocess, pixels: Pixels) -> Iterator[Image.Image]:
    """`open_picture`, within the pixels that all threads may have decoded at a time."""
    name = _named(upload, number)
    with _opened(upload.content, name, pixels.limit) as image:
        _check(image, upload.content, name, preprocess, pixels.limit)  # what is refused need not wait
        count = image.width * image.height
    with pixels.holding(count):
        yield open_picture(upload, number, preprocess, pixels.limit)


def open_picture(upload: Upload, number: int, preprocess: Preprocess, max_pixels: int) -> Image.Image:
    """An upload as `read_image` would give it: 8 bit, upright, opaque. Errors: ApiError (400, 413)."""
    name = _named(upload, number)
    with _opened(upload.content, name, max_pixels) as image:
        _check(image, upload.content, name, preprocess, max_pixels)
        try:
            return decode(image, preprocess.mode, name)
        except InputError as error:
            reason = error.__cause__
            raise _bad(f"{name} is broken or cut short ({_reason(reason) if reason else error}).") from error


def _named(upload: Upload, number: int) -> str:
    return upload.name or f"image {number + 1}"


def _opened(content: bytes, name: str, max_pixels: int) -> Image.Image:
    if not content:
        raise _bad(f"{name} is empty.")
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "far more", max_pixels) from None
    except UnidentifiedImageError:
        raise _bad(f"{name} is not an image that is read here ({', '.join(FORMATS)}), or its beginning is broken.") from None
    except Exception as error:  # Pillow's plugins raise nearly everything on a broken header
        raise _bad(f"{name} is broken or cut short ({_reason(error)}).") from error


def _check(image: Image.Image, content: bytes, name: str, preprocess: Preprocess, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise _too_large(name, f"{image.width} x {image.height}, more", max_pixels)
    if resized_pixels(image.size, preprocess) > max_pixels:
        raise _too_large(name, f"{image.width} x {image.height}, which brought to the model's size is more", max_pixels)
    # In compressed data the two bytes cannot stand beside each other; elsewhere in a file they do by chance, seldom.
    if image.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > SCANS:
        raise _bad(f"{name} is a progressive JPEG of more than {SCANS} scans; save it again.")


def resized_pixels(size: tuple[int, int], preprocess: Preprocess) -> float:
    """About how many pixels an image of (width, height) has when its shorter side has the model's size: a line becomes huge."""
    scale = max(side / preprocess.crop_pct / given for side, given in zip(preprocess.size[::-1], size, strict=True))
    return size[0] * size[1] * scale**2


def _too_large(name: str, has: str, limit: int) -> ApiError:
    return ApiError(413, "too_many_pixels", f"{name} has {has} pixels than the {limit / 1e6:g} million allowed; send a smaller image.")


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_image", message)


def _reason(error: Any) -> str:
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first[:120] if first and "object at 0x" not in first else type(error).__name__
