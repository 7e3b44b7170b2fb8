"""The attention of every block and head as data for a page, where a person moves the query: quantised, compressed, a few megabytes.

G windows per map | K heads | N tokens per window
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swinkit.config import Size
from swinkit.explain.blending import colours, png
from swinkit.explain.page import data_uri
from swinkit.explain.recording import BlockAttention, Place, Recording

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_BYTES = 2_600_000
"""Of compressed attention on a page; as base64 a third more. Beyond it heads are averaged, and then blocks left out."""
TEXT = (
    "Move the ring: what its token attends to lights up. The frame is the token's window on the picture; after a shift it may lie in "
    "pieces, and the seam keeps them apart (dashed).",
    "Click or drag on the picture, or use the arrow keys there (with Shift: a whole window). The small pictures are the same window, "
    "head by head.",
)


def quantised(weights: Tensor) -> NDArray[np.uint8]:
    """(G, K, N, N) -> the same as uint8: each row in units of its largest value / 255; a row's share is its value over the row's sum."""
    scaled = weights / weights.amax(-1, keepdim=True).clamp(min=1e-30) * 255
    return scaled.round().to(torch.uint8).cpu().numpy()


def packed(recording: Recording, most: int = MOST_BYTES, chosen: Place | None = None) -> tuple[list[dict[str, Any]], bytes]:
    """(what each block's data is, all of it compressed to at most `most` bytes)

    Where that is too much, heads of the stage with most values are averaged, stage by stage; if even that is too much, blocks are left
    out: first those that are not the last of their stage, then the largest, the `chosen` one only if it is too much alone. One stays.
    """
    blocks = {block.place: block for block in recording.blocks.values()}
    parts = {place: _compressed(block.weights) for place, block in blocks.items()}
    averaged: set[Place] = set()
    while sum(map(len, parts.values())) > most and (place := _largest_stage(parts, averaged)) is not None:
        for one in [p for p in parts if p[0] == place[0]]:
            parts[one] = _compressed(blocks[one].weights.mean(1, keepdim=True))
            averaged.add(one)
    while sum(map(len, parts.values())) > most and (left_out := _expendable(parts, chosen, most)) is not None:
        del parts[left_out]
    return [_about(blocks[place], place in averaged, len(part)) for place, part in parts.items()], b"".join(parts.values())


def _compressed(weights: Tensor) -> bytes:
    return zlib.compress(quantised(weights).tobytes())  # the best level takes twice as long for 3 %


def _largest_stage(parts: dict[Place, bytes], averaged: set[Place]) -> Place | None:
    left = [place for place in parts if place not in averaged]
    return max(left, key=lambda place: sum(len(part) for p, part in parts.items() if p[0] == place[0]), default=None)


def _expendable(parts: dict[Place, bytes], chosen: Place | None, most: int) -> Place | None:
    if len(parts) == 1:
        return None
    left = [place for place in parts if place != chosen or len(parts[place]) > most]
    last = dict(parts.keys())  # stage -> block
    return max(left, key=lambda place: (place[1] < last[place[0]], len(parts[place])))


def _what_is_missing(blocks: Sequence[Mapping[str, Any]], recording: Recording) -> str:
    """A sentence, or nothing."""
    here = {(one["stage"], one["block"]) for one in blocks}
    averaged = ", ".join(f"{one['stage']}.{one['block']}" for one in blocks if one["averaged"])
    left_out = ", ".join(f"{stage}.{block}" for stage, block in recording.blocks if (stage, block) not in here)
    lost = [f"the heads of {averaged} are averaged"] * bool(averaged) + [f"{left_out} are left out"] * bool(left_out)
    return f"To keep this page small, {' and '.join(lost)} (stage.block); the figures of --out have them." if lost else ""


def _about(block: BlockAttention, averaged: bool, length: int) -> dict[str, Any]:
    return {
        "stage": block.place[0], "block": block.place[1], "grid": block.grid, "padded": block.padded, "window": block.window,
        "shift": block.shift, "heads": 1 if averaged else block.heads, "averaged": averaged and block.heads > 1, "bytes": length,
    }  # fmt: skip


def body(recording: Recording, picture: NDArray[np.uint8], query: Size, place: Place, most: int = MOST_BYTES) -> Markup:
    """The part of a page that `script` brings to life; picture (height, width, 3), query (y, x) and block to start with."""
    from markupsafe import Markup

    blocks, data = packed(recording, most, place)
    places = [(one["stage"], one["block"]) for one in blocks]
    facts = {
        "image": recording.image, "patch": recording.patch, "query": query, "blocks": blocks,
        "start": places.index(place) if place in places else len(places) - 1,
        "picture": data_uri(_file(picture)), "colours": base64.b64encode(np.rint(colours() * 255).astype(np.uint8).tobytes()).decode(),
        "data": base64.b64encode(data).decode(),
    }  # fmt: skip
    # "<" could end the element.
    looker = _read("interactive.html").replace("FACTS", json.dumps(facts).replace("<", "\\u003c"))
    missing = _what_is_missing(blocks, recording)
    return Markup(f"<p>{missing}</p>\n{looker}" if missing else looker)


def _file(picture: NDArray[np.uint8]) -> bytes:
    """As PNG where it is small, else JPEG."""
    import io

    from PIL import Image

    if max(picture.shape[:2]) <= 96:
        return png(picture, 1)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "jpeg", quality=88)
    return out.getvalue()


def script() -> str:
    """The JavaScript of `body`."""
    return _read("interactive.js")


def style() -> str:
    """The CSS of `body`."""
    return _read("interactive.css")


def _read(name: str) -> str:
    return resources.files("swinkit.explain").joinpath(name).read_text(encoding="utf-8")
