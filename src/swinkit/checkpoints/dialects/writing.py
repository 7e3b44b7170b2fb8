"""A model in the words of a peer: its tensor names, the constants that it stores, its configuration files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from swinkit.checkpoints import native
from swinkit.checkpoints.dialects import describe
from swinkit.checkpoints.dialects.layout import constants
from swinkit.checkpoints.dialects.limits import reasons
from swinkit.checkpoints.dialects.patterns import Pattern
from swinkit.checkpoints.dialects.tables import ALIASES, BLOCK, BY_NAME, Dialect
from swinkit.checkpoints.dialects.translate import write as translate_back
from swinkit.checkpoints.files import atomic_file, atomic_folder, write_atomic
from swinkit.checkpoints.native import SavedModel
from swinkit.errors import CheckpointError, UnknownNameError

NATIVE = "native"
FOLDERS: dict[str, Callable[[SavedModel], dict[str, dict[str, Any]]]] = {
    "timm": describe.for_timm,
    "transformers": describe.for_transformers,
}
"""Dialects with a folder layout of their own -> what lies in it beside model.safetensors."""
CONTAINERS = {"original": "model", "mmpretrain": "state_dict", "mmdet": "state_dict"}
"""The key under which a .pth file of the dialect holds its tensors."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def dialect_name(name: str) -> str:
    """The dialect meant by a name or an alias. Errors: UnknownNameError."""
    name = ALIASES.get(name, name)
    if name not in BY_NAME and name != NATIVE:
        raise UnknownNameError("dialect", name, [NATIVE, *BY_NAME, *ALIASES])
    return name


def write(saved: SavedModel, out: Path, to: str, force: bool = False) -> Path:
    """Write a model in a dialect: to a file by its suffix, or to a folder where the dialect has one. All or nothing.

    Errors: CheckpointError where the dialect cannot express the model (with every reason) or `out` is there and `force` is not set.
    """
    to = dialect_name(to)
    is_file = out.suffix in SUFFIXES
    check_target(out, to, force)
    if to == NATIVE:
        native.write(saved, out, overwrite=force)
        return out
    saved = without_unused_stages(saved)
    tensors = tensors_for(saved, to)
    if is_file:
        _write_file(tensors, out, CONTAINERS.get(to, ""))
        return out
    contents = {name: json.dumps(content, indent=2) + "\n" for name, content in FOLDERS[to](saved).items()}
    _write_folder(tensors, contents, out, force)
    return out


def check_target(out: Path, to: str, force: bool) -> None:
    """Raise CheckpointError unless `out` is a place where this dialect can be written."""
    if out.suffix not in SUFFIXES and to != NATIVE and to not in FOLDERS:
        raise CheckpointError(f"{out} would be a folder, which {BY_NAME[to].title} has no layout for; give a file name that ends in .pth.")
    if out.suffix in SUFFIXES and to == NATIVE:
        raise CheckpointError(f"{out} is a file name, and swinkit's own format is a folder; leave out {out.suffix}.")
    if out.suffix in SUFFIXES and out.is_dir():
        raise CheckpointError(f"{out} is a folder; give the name of a file.")
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if taken and out.suffix not in SUFFIXES and not out.is_dir():
        raise CheckpointError(f"{out} is a file; give the name of a folder.")
    if taken and not force:
        raise CheckpointError(f"{out} exists already; choose another name, or replace it with --force.")


def tensors_for(saved: SavedModel, to: str) -> dict[str, Tensor]:
    """Their names -> tensors, with the constants that the peer keeps beside the weights.

    Errors: CheckpointError where the peer's code cannot be this model.
    """
    dialect, saved = BY_NAME[to], without_unused_stages(saved)
    if against := reasons(saved, to):
        raise CheckpointError(f"{dialect.title} cannot be this model: {'; '.join(against)}.")
    prefix = _prefix(saved, to)
    version, last = saved.config.version, len(saved.config.depths) - 1
    tensors = translate_back(saved.tensors, dialect, version, prefix, last)
    for name, constant in _stored(saved, dialect):
        tensors[prefix + name] = constant
    if to == "transformers" and saved.out_indices is not None and version == 1:
        # Its backbone has a final norm that nothing passes through.
        like = saved.tensors["patch_embed.proj.bias"]
        channels = saved.config.dims[-1]
        tensors |= {"swin.layernorm.weight": like.new_ones(channels), "swin.layernorm.bias": like.new_zeros(channels)}
    return tensors


def without_unused_stages(saved: SavedModel) -> SavedModel:
    """The same backbone, described without the stages after its last map: it has not got them, and the peers would build them."""
    config, built = saved.config, max(saved.out_indices or (len(saved.config.depths) - 1,)) + 1
    if built == len(config.depths):
        return saved
    changes: dict[str, Any] = {name: getattr(config, name)[:built] for name in ("depths", "num_heads", "pretrained_window_sizes")}
    if isinstance(config.window_size, tuple) and isinstance(config.window_size[0], tuple):
        changes["window_size"] = list(config.window_size[:built])
    return replace(saved, config=config.replace(**changes))


def _prefix(saved: SavedModel, to: str) -> str:
    if to in ("mmpretrain", "mmdet"):
        return "backbone."
    if to != "transformers":
        return ""
    kind = describe.architecture(saved)
    if kind == "SwinBackbone" or kind.endswith("ForImageClassification"):
        return "swin." if saved.config.version == 1 else "swinv2."
    return ""


STORES = {"original", "torchvision", "mmpretrain", "mmdet"}
"""Dialects that keep indices (and in V2 coordinates) in the file; microsoft's classifier also keeps its masks."""


def _stored(saved: SavedModel, dialect: Dialect) -> list[tuple[str, Tensor]]:
    if dialect.name not in STORES:
        return []
    found = []
    block = Pattern(dialect.names.get(BLOCK, BLOCK))
    attention = dialect.leaves.get("attn", "attn")
    masks = dialect.name == "original" and saved.out_indices is None
    for stage, number, name, tensor in constants(saved.config, masks):
        flat = dialect.name == "torchvision" and name.endswith("index")
        leaf = name.replace("attn.", f"{attention}.", 1)
        found.append((f"{block.at({'s': stage, 'b': number})}.{leaf}", tensor.flatten() if flat else tensor))
    return found


def _write_file(tensors: dict[str, Tensor], out: Path, container: str) -> None:
    with atomic_file(out) as beside:
        if out.suffix == ".safetensors":
            safetensors.torch.save_file(tensors, beside, metadata={"format": "pt"})
        else:
            torch.save({container: tensors} if container else tensors, beside)


def _write_folder(tensors: dict[str, Tensor], contents: dict[str, str], out: Path, force: bool) -> None:
    if force and out.is_dir():
        _write_file(tensors, out / native.WEIGHTS, "")
        for name, text in contents.items():
            write_atomic(out / name, text)
        return
    with atomic_folder(out) as beside:
        safetensors.torch.save_file(tensors, beside / native.WEIGHTS, metadata={"format": "pt"})
        for name, text in contents.items():
            (beside / name).write_text(text, encoding="utf-8")
