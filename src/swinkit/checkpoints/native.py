"""The project's own format: a folder with config.json and model.safetensors. Nothing in it is ever unpickled."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from swinkit.checkpoints.card import CARD, Story, is_generated, make_card
from swinkit.checkpoints.files import atomic_folder, follow, write_atomic
from swinkit.checkpoints.hub import local
from swinkit.checkpoints.opening import open_weights
from swinkit.config import SwinConfig
from swinkit.errors import CheckpointError, SwinkitError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "swinkit"


@dataclass(frozen=True)
class SavedModel:
    """A model at rest."""

    config: SwinConfig
    tensors: dict[str, Tensor]
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """How images are prepared for it: size, mean, std, interpolation, crop."""
    out_indices: tuple[int, ...] | None = None
    """The stages whose maps a backbone returns; None: a classifier."""
    origin: dict[str, str] = field(default_factory=dict)
    """Where the weights come from, for the model card: "base_model" (what they were made from), "license"; as far as known."""
    own: frozenset[str] = frozenset()
    """Names of the tensors that reading made, which one model may adopt; the others are views of a file or of a model, to be copied."""

    def to_json(self) -> str:
        """The text of config.json."""
        content = {
            "format": FORMAT,
            "format_version": 1,
            "config": self.config.to_dict(),
            "labels": list(self.labels),
            "preprocess": self.preprocess,
        }
        if self.out_indices is not None:
            content["out_indices"] = list(self.out_indices)
        if self.origin:
            content["origin"] = self.origin
        return json.dumps(content, indent=2) + "\n"


def write(saved: SavedModel, folder: Path, overwrite: bool = False) -> None:
    """Write a folder that `read` understands, with a model card, all or nothing.

    Errors: CheckpointError if the folder is not empty; with `overwrite` its files are replaced one after the other, the weights first,
    but a card that is not swinkit's stays.
    """
    card = make_card(saved, Story(folder.resolve().name))
    if overwrite and folder.is_dir():
        write_atomic(folder / WEIGHTS, _weights(saved))
        write_atomic(folder / CONFIG, saved.to_json())
        write_card(folder, card)
        return
    try:
        with atomic_folder(folder) as beside:
            write_files(saved, beside, card)
    except FileExistsError as error:
        raise CheckpointError(f"{error} To replace the model in it, pass overwrite=True.") from None


def write_files(saved: SavedModel, folder: Path, card: str = "") -> None:
    """The files, into a folder that nobody reads yet; card: the text of README.md, by default what the model itself says."""
    (folder / WEIGHTS).write_bytes(_weights(saved))
    (folder / CONFIG).write_text(saved.to_json(), encoding="utf-8")
    (folder / CARD).write_text(card or make_card(saved), encoding="utf-8")


def write_card(folder: Path, card: str) -> None:
    """Put a card into a model's folder, unless there is one that somebody else wrote."""
    path = folder / CARD
    if not path.is_file() or is_generated(path.read_text(encoding="utf-8", errors="replace")):
        write_atomic(path, card)


def _weights(saved: SavedModel) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in saved.tensors.items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def find(source: str | Path) -> Path | None:
    """The folder of our own format meant by one, a file in one, a run folder (its best checkpoint, else its last) or hf-hub:OWNER/NAME.

    None where there is no such.
    """
    path = local(source)
    if path.is_file() and path.name in (CONFIG, WEIGHTS):
        path = path.parent
    pointers = [follow(pointer) for pointer in (path / "best", path / "last") if pointer.exists()]
    for folder in (path, *([follow(path)] if path.name in ("best", "last") and path.is_file() else []), *pointers):
        if _is_ours(folder / CONFIG):
            return folder
    return None


def _is_ours(config: Path) -> bool:
    """Whether a configuration file is ours, or is broken where ours lies: another library's says what it is."""
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or "config" in content or "format" in content


def locate(source: str | Path) -> Path:
    """The same. Errors: CheckpointError where there is none."""
    folder = find(source)
    if folder is None:
        raise CheckpointError(not_found(Path(source).expanduser()))
    return folder


def not_found(path: Path) -> str:
    """Why there is no model at `path`, as a sentence."""
    expected = f"expected a run folder of `swinkit train`, a folder with {CONFIG} and {WEIGHTS}, or a file of weights"
    if not path.exists():
        on_hub = (
            f", or hf-hub:{path.as_posix()} for a model of the Hugging Face hub"
            if re.fullmatch(r"\w[\w.-]*/[\w.-]+", path.as_posix())
            else ""
        )
        return f"There is no {path}; {expected}{on_hub}."
    if (path / "config.yaml").is_file():
        return f"{path} is a run without a finished checkpoint yet; {expected}."
    return f"{path} has no {CONFIG}; {expected}."


def read(source: str | Path) -> SavedModel:
    """Read a checkpoint folder or a run folder. Errors: CheckpointError with what is missing or broken."""
    folder = locate(source)
    content = _read_config(folder / CONFIG)
    try:
        config = SwinConfig.from_dict(content["config"])
    except (SwinkitError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG} does not describe a Swin Transformer: {error}") from None
    indices = content.get("out_indices")
    return SavedModel(
        config=config,
        tensors=_read_weights(folder / WEIGHTS),
        labels=tuple(str(label) for label in content.get("labels", ())),
        preprocess=dict(content.get("preprocess", {})),
        out_indices=None if indices is None else tuple(indices),
        origin={str(key): str(value) for key, value in dict(content.get("origin") or {}).items()},
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); the folder may be incomplete: copy or save it again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("config"), dict):
        raise CheckpointError(f'{path} is not swinkit\'s (no "format": "{FORMAT}"); models of other libraries cannot be read yet.')
    if content.get("format_version") != 1:
        raise CheckpointError(f"{path} has format_version {content.get('format_version')}; this swinkit reads 1. Update swinkit.")
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the folder is incomplete: copy or save it again.")
    return open_weights(path).tensors
