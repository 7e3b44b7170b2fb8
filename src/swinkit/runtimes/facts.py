"""What an exported file says about itself: the model, its classes, how images are prepared, and what it takes and gives."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Self

from swinkit.config import Size, SwinConfig
from swinkit.errors import CheckpointError, SwinkitError

KEY = "swinkit"
"""The name under which a format keeps it."""
FORMAT = "swinkit-artefact"


@dataclass(frozen=True)
class Facts:
    """Goes with an exported model, as JSON."""

    config: SwinConfig
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the outputs."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """How images are prepared: size, mean, std, interpolation, crop."""
    origin: dict[str, str] = field(default_factory=dict)
    """What the weights were made from ("base_model") and their "license", as far as known."""
    out_indices: tuple[int, ...] | None = None
    """The stages whose maps a backbone returns; None: a classifier."""
    batch_size: int | None = None
    """Images it takes at a time; None: any number."""
    img_size: Size | None = None
    """(height, width) of the images that it takes, in pixels; None: any."""
    with_preprocessing: bool = False
    """It takes (B, height, width, channels) uint8 and gives probabilities; else it takes normalised (B, channels, height, width)."""
    dtype: str = "float32"
    """What it computes in, as far as the file decides that."""
    version: str = ""
    """The swinkit that wrote it."""
    int8: dict[str, Any] = field(default_factory=dict)
    """Of linear layers in 8 bits: "calibration" and "images" (what set the ranges, how many), "kept_float", "error" and "agreement" on
    held-out images, "sensitivity" (layer -> error). Empty: there are none."""

    @property
    def precision(self) -> str:
        """ "int8" where linear layers are in 8 bits, else the dtype."""
        return "int8" if self.int8 else self.dtype

    @property
    def gives_probabilities(self) -> bool:
        """Whether softmax is in the file."""
        return self.with_preprocessing and self.out_indices is None and self.config.num_classes > 0

    def to_json(self) -> str:
        """The text that goes into a file."""
        values = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        return json.dumps({"format": FORMAT, "format_version": 1} | values | {"config": self.config.to_dict()})

    @classmethod
    def from_json(cls, text: str | None, path: object) -> Self:
        """The inverse of to_json. Errors: CheckpointError where it is nothing of ours."""
        try:
            values: Any = json.loads(text or "null")
        except ValueError:
            values = None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(f"{path} does not say that swinkit wrote it; expected a file of `swinkit export`.")
        if values.get("format_version") != 1:
            raise CheckpointError(f"{path} has format_version {values.get('format_version')}; this swinkit reads 1. Update swinkit.")
        try:
            # Files of 8 bits came later than the others.
            known = {"int8": {}} | {
                name.name: values[name.name] for name in dataclasses.fields(cls) if name.name != "int8" or "int8" in values
            }
            pairs = {name: None if known[name] is None else tuple(known[name]) for name in ("img_size", "out_indices", "labels")}
            return cls(**known | pairs | {"config": SwinConfig.from_dict(known["config"])})
        except (KeyError, TypeError, SwinkitError) as error:
            raise CheckpointError(f"{path} says about itself what cannot be ({error}); export the model again.") from None
