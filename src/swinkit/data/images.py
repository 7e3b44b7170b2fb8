"""Read one image from anything, and find image files on disk."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from swinkit.errors import DataError, InputError

Source: TypeAlias = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[Any]

IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

# Pictures with transparency are mostly drawings and product shots made for a white page; on black, dark lines would vanish.
BACKGROUND = (255, 255, 255, 255)


def read_image(source: Source, mode: str = "RGB") -> Image.Image:
    """Any image as 8-bit "RGB" or "L" (one channel), upright and opaque.

    source: a path, the bytes of a file, an open binary file, a PIL image, or an array (H, W) or (H, W, 1 | 3 | 4) of uint8, uint16,
    bool, or floats in [0, 1]. EXIF rotation is applied, transparency is laid on white, and the first frame of an animation is taken.
    16-bit grey is scaled to 8 bit. Pillow's mode "I" counts as 16 bit and "F" as [0, 1] or, failing that, [0, 255]; values outside
    those are stretched from their smallest to their largest.

    Raises InputError, naming the source, for what cannot be read.
    """
    if mode not in ("RGB", "L"):
        raise InputError(f'An image can be read as "RGB" or "L", not as {mode!r}.')
    if isinstance(source, np.ndarray):
        return _opaque(_from_array(source), mode)
    if isinstance(source, Image.Image):
        return decode(source, mode, "the given PIL image")
    with open_image(source) as image:
        return decode(image, mode, _describe(source))


def _describe(source: object) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return f"the given {len(source)} bytes"
    return str(getattr(source, "name", "the given file object"))


def open_image(source: str | Path | bytes | BinaryIO, name: str = "") -> Image.Image:
    """The header of an image; its pixels stay undecoded. name: what errors call it. Raises InputError."""
    if not isinstance(source, str | Path | bytes) and not hasattr(source, "read"):
        raise InputError(f"An image must be a path, bytes, a binary file, a PIL image or a numpy array, not {type(source).__name__}.")
    if isinstance(source, str | Path) and not Path(source).is_file():
        raise InputError(f"{source} is {'a folder' if Path(source).is_dir() else 'missing'}; expected an image file. Check the path.")
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except Exception as error:  # Pillow's plugins raise nearly everything on a broken header
        raise InputError(_sentence(name or _describe(source), error)) from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in pixels as displayed, from the header."""
    try:
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 lie on their side
    except Exception:  # a damaged EXIF block says nothing against the pixels
        turned = False
    return (image.width, image.height) if turned else (image.height, image.width)


def decode(image: Image.Image, mode: str, name: str) -> Image.Image:
    """The pixels of an opened image as 8-bit `mode`, upright and opaque. Raises InputError, which calls it `name`."""
    try:
        image.load()
        return _opaque(_upright(image), mode)
    except InputError as error:
        raise InputError(f"{name} cannot be read: {error}") from error
    except Exception as error:  # Pillow's plugins raise nearly everything on broken data
        raise InputError(_sentence(name, error)) from error


def _sentence(name: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{name} cannot be read ({error.strerror}); check its permissions."
    if isinstance(error, UnidentifiedImageError):
        return f"{name} is not an image in a format that this Pillow reads; convert it to PNG or JPEG, or remove it."
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}" if Image.MAX_IMAGE_PIXELS else "the limit"
        return f"{name} claims more pixels than is safe to decode (PIL.Image.MAX_IMAGE_PIXELS is {limit}); shrink it, or raise the limit."
    return f"{name} is broken or cut short ({str(error).rstrip('.') or type(error).__name__}); copy it again, or remove it."


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return image


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image)
    return image if image.mode == mode else image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    low, high = _value_range(values, floating=image.mode == "F")
    return Image.fromarray(np.rint((values - low) * 255 / max(high - low, 1e-12)).astype(np.uint8))


def _value_range(values: npt.NDArray[np.float64], floating: bool) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InputError("its pixels hold values that are not finite; replace them.")
    for expected in (1, 255) if floating else (65535,):
        if low >= 0 and high <= expected:
            return 0.0, float(expected)
    return low, high


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise InputError(f"An image array must be (H, W) or (H, W, 1 | 3 | 4), not {array.shape}. Move the channels to the end.")
    pixels = _array_to_8_bit(array)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _array_to_8_bit(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array.astype(np.uint8, copy=False)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array.astype(np.float64) / 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"An image array must be uint8, uint16, bool or float in [0, 1], not {array.dtype}. Convert it with astype.")
    if not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"A float image must lie in [0, 1]; this one goes from {array.min():.4g} to {array.max():.4g}. Rescale it first.")
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The image files behind files, folders (searched recursively) and glob patterns, sorted and without repeats.

    A file that is named is taken whatever its suffix; in a folder IMAGE_SUFFIXES decide, and hidden files and folders are skipped.
    Raises DataError for a path that does not exist, a pattern that matches no image, and a folder without images.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    return sorted({image for path in given for image in _expand(path)})


def _expand(path: str | Path) -> list[Path]:
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        return list(images_below(Path(path))) or _nothing(f"The folder {path} holds no image file ({', '.join(IMAGE_SUFFIXES)}).")
    if not glob.has_magic(str(path)):
        return _nothing(f"{path} does not exist. Check the path.")
    matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
    return [match for match in matches if is_image_file(match)] or _nothing(f"The pattern {path} matches no image file.")


def _nothing(message: str) -> list[Path]:
    raise DataError(message)


def is_image_file(path: Path) -> bool:
    """Whether the suffix is an image's and the file is not hidden; the content is not looked at."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def images_below(folder: Path) -> Iterator[Path]:
    """Image files in a folder and its sub-folders, hidden ones left out, in sorted order. Raises DataError for one it may not read."""
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in sorted(files) if is_image_file(path := Path(root, name)))


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename} cannot be read ({error.strerror}); check its permissions.") from error
