"""Opening anybody's weights: any usual file, nothing in it executed, nothing about Swin known yet.

Tensors of .safetensors and of torch's zip format are views of a private mapping of the file. Reading them takes no memory of its own
until they are copied into a model, and writing to them never reaches the file. The file must not be overwritten or shortened in place
while they are in use; replaced by renaming, as every downloader and `write_atomic` do, it stays whole for who has it open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from swinkit.checkpoints.opening.formats import INDEX, TORCH_LEGACY, recognise
from swinkit.checkpoints.opening.reading import read_file
from swinkit.checkpoints.opening.sharding import read_shards
from swinkit.checkpoints.opening.unwrapping import check_claims, unwrap
from swinkit.errors import CheckpointError

HUB_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# What training scripts leave beside weights, and the towers of another library.
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states", "open_clip")


@dataclass(frozen=True)
class Opened:
    """Weights as a file holds them."""

    tensors: dict[str, Tensor]
    """By name, without containers and wrapper prefixes; dtypes are the file's. Copy them before the file may change."""
    source: Path
    """The file that was read, or the index of several."""
    format: str
    """"safetensors", "torch zip", "torch legacy", or the first two with "sharded" before them."""
    container: str = ""
    """The key under which the tensors were found, such as "model" or "state_dict"; nested keys are joined by dots."""
    prefix: str = ""
    """What was taken off all names, such as "module."."""
    notes: tuple[str, ...] = ()
    """One sentence for each thing that was chosen or left out."""
    mapped: bool = True
    """Whether the tensors are views of the file. If not they are memory of their own, and a model may adopt instead of copy them."""


def open_weights(path: str | Path, *, ema: bool = True) -> Opened:
    """Open a file of weights, the index of a sharded one, or a folder in hub layout; the bytes decide on the format.

    ema: where a checkpoint has averaged weights beside the raw ones, take the averaged ones (as timm does).
    Errors: CheckpointError, one sentence: what the file is, what was expected and what to do.
    """
    path = Path(os.path.expanduser(path))  # unlike Path's it never raises
    if os.path.isdir(path):
        path = find_weights(path) or _nothing_in(path)
    kind = recognise(path)
    notes: list[str] = []
    if kind == INDEX:
        tensors, kind = read_shards(path, read_file, notes)
        found = unwrap(tensors, path, ema)
    else:
        found = unwrap(read_file(path, kind), path, ema)
        check_claims(found.tensors, path)
    return Opened(found.tensors, path, kind, found.container, found.prefix, (*notes, *found.notes), TORCH_LEGACY not in kind)


def find_weights(folder: Path) -> Path | None:
    """The file of weights in a folder in hub layout, else its only one; None if there is none.

    Errors: CheckpointError that lists them if there are several and none has a hub's name.
    """
    folder = Path(folder)
    for name in HUB_NAMES:
        if os.path.isfile(folder / name):
            return folder / name
    try:
        files = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and os.path.isfile(path)]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be listed ({error.strerror or error}); expected a folder with weights in it.") from None
    found = [path for path in files if not path.name.startswith(NOT_WEIGHTS)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:8]) + (", ..." if len(found) > 8 else "")
        raise CheckpointError(f"{folder} has several files of weights ({names}); give the path of the one that is meant.")
    return found[0] if found else None


def _nothing_in(folder: Path) -> NoReturn:
    raise CheckpointError(
        f"{folder} has no weights; expected {HUB_NAMES[0]}, {HUB_NAMES[2]}, an index of one, or a single {', '.join(SUFFIXES)}."
    )
