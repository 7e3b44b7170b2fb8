"""Weights in several files, and the JSON index that says which tensor is in which."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from swinkit.checkpoints.opening.formats import INDEX, read_json, recognise
from swinkit.checkpoints.opening.unwrapping import check_claims, plain, shown
from swinkit.errors import CheckpointError


def read_shards(index: Path, read: Callable[[Path, str], object], notes: list[str]) -> tuple[dict[str, Tensor], str]:
    """All tensors of the index, in its order, and their format; what is left out is added to the notes.

    Errors: CheckpointError for what is missing, doubled or outside the folder.
    """
    where = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    home: dict[str, str] = {}
    kinds: dict[str, str] = {}
    for file in dict.fromkeys(where.values()):
        path = _shard(index, file)
        kinds[file] = recognise(path)
        for name, tensor in _tensors(path, kinds[file], read).items():
            if name in tensors:
                raise CheckpointError(
                    f"{shown(name)} is in {shown(home[name])} and in {shown(file)}; expected each tensor of {index} in one shard."
                )
            tensors[name], home[name] = tensor, file
    for name, file in where.items():
        if home.get(name) != file:
            raise CheckpointError(
                f"{index} promises {shown(name)} in {shown(file)}, where it is not; download or save all the files again."
            )
    extra = [name for name in tensors if name not in where]
    if extra:
        notes.append(f"Left out {len(extra)} tensors that the index does not list, the first {shown(extra[0])}.")
    return {name: tensors[name] for name in where}, f"sharded {' and '.join(sorted(set(kinds.values())))}"


def _tensors(path: Path, kind: str, read: Callable[[Path, str], object]) -> dict[str, Tensor]:
    if kind == INDEX:
        raise CheckpointError(f"{path} is an index itself; expected a shard, a file of tensors.")
    content = read(path, kind)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds one {type(content).__name__}; expected a shard, a dictionary from names to tensors.")
    tensors = plain(content, path)
    check_claims(tensors, path)
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise CheckpointError(f"{index} has no usable weight_map; expected an object from names of tensors to names of files.")
    return where


def _shard(index: Path, file: str) -> Path:
    # Names only: a path could lead out of the folder. (In a hub cache the files themselves are links, which is fine.)
    if not file.isprintable() or set(file) & set("/\\:") or file in ("", ".", "..", index.name):
        raise CheckpointError(f"{index} names {shown(file)} as a shard; expected the name of a file in the same folder.")
    path = index.parent / file
    if not os.path.isfile(path):  # unlike Path.is_file it never raises, whatever the name
        raise CheckpointError(f"{index} needs {shown(file)}, which is missing from {index.parent}; download or copy all the files.")
    return path
