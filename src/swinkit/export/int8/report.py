"""What came of an export in 8 bits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from swinkit.export.int8.accuracy import Row, table
from swinkit.export.int8.search import Effect, Layer

SHOWN = 12
"""Layers in the table; the rest is in the JSON."""


@dataclass(frozen=True)
class Int8Report:
    """Which layers are in 8 bits, and what that does."""

    calibration: str
    """What the images are called that set the ranges."""
    images: int
    """How many set them."""
    layers: tuple[Layer, ...]
    effect: Effect
    """Of the file on images that nothing was chosen by."""
    held_out: int
    """How many those are."""
    accuracy: tuple[Row, ...] = ()
    """Before and after, on labelled images; empty where none were given."""
    evaluated: str = ""
    """What those are called."""

    @property
    def kept(self) -> tuple[str, ...]:
        """The layers that stay in float."""
        return tuple(layer.name for layer in self.layers if layer.kept)

    def facts(self) -> dict[str, Any]:
        """What the file says of it."""
        return {
            "calibration": self.calibration,
            "images": self.images,
            "kept_float": list(self.kept),
            "error": self.effect.error,
            "agreement": self.effect.agreement,
            "sensitivity": {layer.name: layer.alone.error for layer in self.layers},
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"kept": list(self.kept)}

    def lines(self) -> list[str]:
        """For a terminal: the most sensitive layers first."""
        ranked = sorted(self.layers, key=lambda layer: -layer.alone.error)
        width = max(len(layer.name) for layer in ranked[:SHOWN])
        count = len(self.layers) - len(self.kept)
        found = [f"{count} of {len(self.layers)} layers in 8 bits; ranges set by {self.images} images, {self.calibration}", "each alone:"]
        for layer in ranked[:SHOWN]:
            found.append(f"  {layer.name:{width}}  {_effect(layer.alone)}{'  stays in float' if layer.kept else ''}")
        if len(ranked) > SHOWN:
            found.append(f"  ... and {len(ranked) - SHOWN} with less")
        found.append(f"together, on {self.held_out} other images: {_effect(self.effect)}")
        return [*found, *([f"on {self.evaluated}:", *table(self.accuracy)] if self.accuracy else [])]


def _effect(effect: Effect) -> str:
    same = "" if effect.agreement is None else f", first class the same in {effect.agreement:.1%}"
    return f"error {effect.error:.1e}{same}"
