"""What was found in a file of weights: which dialect and model, and what became of every tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from swinkit.config import SwinConfig, pair

SHOWN = 8
"""Names listed of each kind before "and N more"."""


@dataclass(frozen=True)
class Findings:
    """The strict report on a file: each tensor is used, dropped on purpose or unexpected, and what the model lacks is missing."""

    source: str
    dialect: str
    config: SwinConfig
    used: dict[str, tuple[str, ...]]
    """name in the file -> our names that its numbers went to"""
    dropped: dict[str, str]
    """name in the file -> why it is not part of the model"""
    missing: tuple[str, ...] = ()
    """Our names of tensors that the model has and the file has not."""
    unexpected: tuple[str, ...] = ()
    """Names in the file that the dialect does not know."""
    wrong_shape: tuple[str, ...] = ()
    """Sentences: name, shape, the shape that the configuration wants."""
    notes: tuple[str, ...] = ()
    """What was assumed or chosen."""
    doubts: tuple[str, ...] = ()
    """Those notes that the numbers depend on."""
    out_indices: tuple[int, ...] | None = None
    """Of a backbone: the stages whose maps it returns."""

    @property
    def complete(self) -> bool:
        """Whether the file makes the whole model, and nothing in it is unaccounted for."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def problems(self) -> str:
        """What does not fit, as part of a sentence."""
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.wrong_shape))
        return "; ".join(f"{what}: {_listed(names)}" for what, names in groups if names)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "dialect": self.dialect,
            "version": self.config.version,
            "config": self.config.to_dict(),
            "out_indices": self.out_indices,
            "complete": self.complete,
            "used": {name: list(ours) for name, ours in self.used.items()},
            "dropped": self.dropped,
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "wrong_shape": list(self.wrong_shape),
            "notes": list(self.notes),
        }

    def table(self) -> str:
        """The same for people."""
        rows = [("file", self.source), ("dialect", self.dialect), ("model", self._model()), *self._counts()]
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<11} {value}" for name, value in rows)

    def _model(self) -> str:
        c, image = self.config, pair(self.config.img_size)
        windows = ", ".join(sorted({f"{h} x {w}" for h, w in c.windows}))
        kind = (
            f"{c.num_classes} classes" if self.out_indices is None else f"backbone, maps of stages {', '.join(map(str, self.out_indices))}"
        )
        return (
            f"Swin V{c.version}, {c.embed_dim} channels, depths {'-'.join(map(str, c.depths))}, heads {'-'.join(map(str, c.num_heads))}, "
            f"window {windows}, {c.in_chans} x {image[0]} x {image[1]} pixels in, {kind}, size policy {c.size_policy}"
        )

    def _counts(self) -> list[tuple[str, str]]:
        rows = [("used", f"{len(self.used)} tensors")]
        rows += [("dropped", f"{count} tensors: {reason}") for reason, count in Counter(self.dropped.values()).items()]
        groups = (("missing", self.missing), ("unexpected", self.unexpected), ("wrong shape", self.wrong_shape))
        return rows + [(what, _listed(names) if names else "none") for what, names in groups]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
