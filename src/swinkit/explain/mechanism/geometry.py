"""The sizes that everything else follows from, checked; by the rules of the real configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swinkit.config import Size, SwinConfig, pair
from swinkit.errors import ConfigError
from swinkit.fields import size as checked

LARGEST_MASKS = 2**22
"""Entries of all masks together (tokens x tokens of a window): beyond, pictures show nothing and memory runs out."""
LARGEST_PATCH = 64
STAGES = 4


@dataclass(frozen=True)
class Geometry:
    """A picture, its patches and windows; every size is (height, width)."""

    size: Size
    """The picture in pixels."""
    patch: Size
    window: Size
    """Tokens, after the size policy."""
    shift: Size
    """Tokens; (0, 0) where `dropped`."""
    config: SwinConfig
    """A small model for this picture: up to four stages of two blocks."""
    asked_shift: Size
    asked_window: Size

    @property
    def grid(self) -> Size:
        """The map of tokens, the patch's padding included."""
        return self.config.grids[0]

    @property
    def padded(self) -> Size:
        """The map filled up to whole windows."""
        H, W = (length + -length % side for length, side in zip(self.grid, self.window, strict=True))
        return H, W

    @property
    def windows(self) -> Size:
        """Windows down and across."""
        return self.padded[0] // self.window[0], self.padded[1] // self.window[1]

    @property
    def tokens(self) -> int:
        """Tokens of one window (N)."""
        return self.window[0] * self.window[1]

    @property
    def dropped(self) -> bool:
        """Whether the size policy leaves the shift out, because one window covers the map."""
        return any(self.asked_shift) and not any(self.shift)


def geometry(size: Any = 224, window: Any = 7, shift: Any = None, patch: Any = 4) -> Geometry:
    """The sizes for a picture of `size` pixels, patches of `patch` pixels and windows of `window` tokens moved by `shift` (None: half).

    Each is a number or (height, width). Errors: ConfigError for what is not a size, a window larger than the map, a shift as large as
    the window, and more tokens than can be drawn.
    """
    size, window, patch = (pair(checked(name, value)) for name, value in (("size", size), ("window", window), ("patch", patch)))
    half = (window[0] // 2, window[1] // 2)
    shift = half if shift is None else pair(checked("shift", shift, 0))
    _check(size, window, shift, patch)
    config = _config(size, window, patch)
    built = config.windows[0]
    dropped = config.drop_shift(config.grids[0], built)
    moved = (0 if dropped[0] else shift[0], 0 if dropped[1] else shift[1])
    return Geometry(size, patch, built, moved, config, shift, window)


def _check(size: Size, window: Size, shift: Size, patch: Size) -> None:
    grid = _grid(size, patch)
    if max(patch) > LARGEST_PATCH:
        raise ConfigError(f"patch is {by(patch)} pixels; at most {LARGEST_PATCH} can be drawn, and 4 is usual.")
    if any(side > length for side, length in zip(window, grid, strict=True)):
        raise ConfigError(
            f"The window of {by(window)} tokens is larger than the map of {by(grid)} ({by(size)} pixels in patches of {by(patch)}); "
            f"give a window of at most {by(grid)}, or a larger size."
        )
    if any(moved >= side for moved, side in zip(shift, window, strict=True)):
        raise ConfigError(
            f"The shift of {by(shift)} tokens is not smaller than the window of {by(window)}: moving by a whole window changes nothing. "
            f"Give at most {by((window[0] - 1, window[1] - 1))}; half a window is usual."
        )
    entries = _product(grid) * _product(window)
    if entries > LARGEST_MASKS:
        raise ConfigError(
            f"{by(grid)} tokens in windows of {by(window)} have masks of {entries:,} entries; at most {LARGEST_MASKS:,} are drawn. "
            f"Give a smaller size or window, or larger patches."
        )


def _config(size: Size, window: Size, patch: Size) -> SwinConfig:
    """A V1 model planned for the next whole number of patches, so that the picture is padded up to it."""
    grid = _grid(size, patch)
    stages = min(STAGES, max(1, min(grid).bit_length()))
    return SwinConfig(
        img_size=(grid[0] * patch[0], grid[1] * patch[1]), patch_size=patch, window_size=window, embed_dim=8, depths=(2,) * stages,
        num_heads=(1,) * stages, num_classes=0,
    )  # fmt: skip


def _grid(size: Size, patch: Size) -> Size:
    return -(-size[0] // patch[0]), -(-size[1] // patch[1])


def _product(size: Size) -> int:
    return size[0] * size[1]


def by(size: Size) -> str:
    """(7, 12) -> "7 × 12", which no line break divides."""
    return f"{size[0]}\u00a0×\u00a0{size[1]}"
