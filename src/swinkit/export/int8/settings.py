"""What can be asked of an export in 8 bits, and the bars that its file must pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swinkit.errors import ConfigError

AGREEMENT = 0.9
"""Of the held-out images, the part whose first class must stay; below, no file is written."""
SLACK = 2.0
"""The error on held-out images that nothing was chosen by may be so many times `max_error`."""
HELD_OUT = 128
"""Images that calibrate nothing: a quarter to choose what stays in float, the rest for the last word."""
FEW = 64
"""Images below which ranges are likely to be too narrow."""
LEAST = 3
"""Images: one each to set ranges, to choose what stays in float, and for the last word."""
BATCH = 16
"""Images computed at a time where the file takes any number."""


GRAPHS = {"onnx": "swinkit.export.int8.onnx", "openvino": "swinkit.export.int8.openvino"}
"""format -> the module that puts its files into 8 bits"""


@dataclass(frozen=True)
class Int8:
    """Linear layers in 8 bits: `swinkit.export(model, to="onnx", out=..., int8=Int8("fashion-mnist"))`."""

    calibration: str | Path | Sequence[str | Path]
    """Images like those that the model will see: anything that holds images (docs/data.md). Labels are not used."""
    calibration_images: int = 256
    """How many of them set the ranges, drawn by chance with a fixed seed; from data with splits, of its training images."""
    max_error: float = 0.02
    """The fewest layers that bring the error down to this stay in float: the norm of the outputs' differences, of the outputs' norm."""
    keep_float: Sequence[str] | None = None
    """Patterns of layers that stay in float instead of those, such as "*.mlp.fc2"; () for none at all."""
    narrow_weights: bool = False
    """Weights of 7 bits, for x86 processors without VNNI, whose 16-bit sums could saturate."""
    evaluate: str | Path | None = None
    """Labelled images on which accuracy and speed before and after are compared."""

    def __post_init__(self) -> None:
        if self.calibration_images < 1:
            raise ConfigError(f"calibration_images is {self.calibration_images}; expected at least 1.")
        if not 0 < self.max_error < 1:
            raise ConfigError(f"max_error is {self.max_error}; expected a fraction between 0 and 1.")


def check_int8(to: str, dtype: str, settings: Int8) -> None:
    """Errors: ConfigError for a format or dtype without 8 bits."""
    if not isinstance(settings, Int8):
        raise ConfigError(f"int8 is a {type(settings).__name__}; give swinkit.export.Int8(calibration=...).")
    if to not in GRAPHS:
        raise ConfigError(f"{to} has no 8 bits here; give --to {' or --to '.join(GRAPHS)}, or leave --int8 out.")
    if dtype != "float32":
        raise ConfigError(f"dtype is {dtype!r}, and what --int8 leaves in float is float32; leave --dtype out.")
