"""From what a checkpoint file holds to one flat dictionary of tensors: containers, averaged weights, prefixes of wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.errors import CheckpointError

RAW = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "weights", "params")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "ema", "params_ema")
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")
NUMBERS = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_DEEPEST = 3  # containers inside containers
_LONGEST = 512  # characters of a name


@dataclass
class Unwrapped:
    """Tensors by their names, and how they were found."""

    tensors: dict[str, Tensor]
    container: str = ""
    prefix: str = ""
    notes: list[str] = field(default_factory=list)


def unwrap(content: object, source: object, ema: bool = True) -> Unwrapped:
    """The tensors of a loaded checkpoint, without containers and wrapper prefixes.

    Errors: CheckpointError if there are none, if more than one dictionary could be meant, or if one is no plain tensor of numbers.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds one {type(content).__name__}; expected a state dict, a dictionary from names to tensors.")
    state, keys, notes = _descend(content, source, ema)
    tensors = plain(state, source)
    if len(tensors) < len(state):
        notes.append(f"Left out {listed(key for key in state if key not in tensors)}: no tensors.")
    tensors, prefix = _strip(tensors, notes)
    return Unwrapped(tensors, ".".join(keys), prefix, notes)


def _descend(content: Mapping[Any, Any], source: object, ema: bool) -> tuple[Mapping[Any, Any], list[str], list[str]]:
    keys: list[str] = []
    notes: list[str] = []
    while (key := _container(content, ema, notes, _DEEPEST - len(keys))) is not None:
        keys.append(key)
        if others := [other for other in content if other != key]:
            notes.append(f"Left out what stands beside {key!r}: {listed(others)}.")
        content = content[key]
    if not _has_tensors(content):
        raise CheckpointError(f"{source} {_emptiness(content)}; expected a state dict, a dictionary from names to tensors.")
    return content, keys, notes


def _container(content: Mapping[Any, Any], ema: bool, notes: list[str], depth: int) -> str | None:
    """The key to go into: averaged weights first if wanted, then the customary names, then the only dictionary of tensors."""
    raw, averaged = ([key for key in keys if _leads_to_tensors(content.get(key), depth)] for keys in (RAW, AVERAGED))
    if raw and averaged:
        chosen, other = (averaged[0], raw[0]) if ema else (raw[0], averaged[0])
        kind = "averaged (EMA) weights" if ema else "raw weights, not the averaged (EMA) ones,"
        notes.append(f"Took the {kind} under {chosen!r}; the other ones are under {other!r} (ema={not ema}).")
        return chosen
    if averaged:
        notes.append(f"Took the averaged (EMA) weights under {averaged[0]!r}; there are no others.")
    if raw or averaged:
        return (raw or averaged)[0]
    if _has_tensors(content) or depth <= 0:
        return None
    others = [key for key, value in content.items() if isinstance(key, str) and _is_state_dict(value)]
    if len(others) > 1:
        raise CheckpointError(f"Several dictionaries of tensors are in the file, under {listed(others)}; save the one that is meant alone.")
    return others[0] if others else None


def _leads_to_tensors(value: object, depth: int) -> bool:
    if depth <= 0 or not isinstance(value, Mapping):
        return False
    return _has_tensors(value) or any(_leads_to_tensors(value.get(key), depth - 1) for key in (*RAW, *AVERAGED))


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in content.values())


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _emptiness(content: Mapping[Any, Any]) -> str:
    if not content:
        return "holds an empty dictionary"
    if {"optimizer", "param_groups", "optimizer_states"} & {key for key in content if isinstance(key, str)}:
        return "holds the state of an optimizer and no weights"
    return f"holds no tensors, only {listed(content)}"


def plain(state: Mapping[Any, Any], source: object) -> dict[str, Tensor]:
    """The tensors among the values, without history. Errors: CheckpointError for one that is no plain tensor of numbers."""
    tensors = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            if problem := _problem(name, value):
                raise CheckpointError(f"{source}: {shown(name)} {problem}.")
            # Called on the class: an attribute that a file put on a tensor must not answer for it. Also frees a Parameter of its gradient.
            tensors[name] = Tensor.detach(value)
    return tensors


def _problem(name: object, value: Tensor) -> str:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= _LONGEST:
        return f"is no name of a tensor; expected at most {_LONGEST} printable characters"
    if type(value) not in (Tensor, torch.nn.Parameter) or value.layout is not torch.strided or value.device.type != "cpu":
        return f"is a {type(value).__name__} ({value.layout}, on {value.device}); expected a plain dense tensor: save it as one"
    if min(value.shape, default=0) < 0:
        return f"has the impossible shape {tuple(value.shape)}; the file is broken: download or save it again"
    if value.dtype not in NUMBERS:
        return f"has numbers of type {value.dtype}; expected float16, bfloat16, float32, float64 or integers: convert it before saving"
    return ""


def check_claims(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Errors: CheckpointError for a tensor larger than its file could fill, such as one number that is said to be repeated 10^12 times."""
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.numel() > size or tensor.untyped_storage().nbytes() > size:
            shape = "x".join(map(str, tensor.shape))
            raise CheckpointError(
                f"{path}: {shown(name)} claims {shape} numbers in a file of {size:,} bytes; the file is broken or malicious."
            )


def _strip(tensors: dict[str, Tensor], notes: list[str]) -> tuple[dict[str, Tensor], str]:
    """Take off, again and again, each wrapper prefix that all names carry."""
    stripped = ""
    if "n_averaged" in tensors and len(tensors) > 1 and all(n.startswith("module.") for n in tensors if n != "n_averaged"):
        tensors = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}
        notes.append("Left out 'n_averaged', the counter of torch's AveragedModel.")
    while prefix := next((p for p in WRAPPERS if all(n.startswith(p) and n != p for n in tensors)), ""):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        stripped += prefix
    if stripped:
        notes.append(f"Took the prefix {stripped!r} off all names.")
    return tensors, stripped


def shown(name: object) -> str:
    """A name as a message can carry it: escaped and short."""
    text = repr(name) if isinstance(name, (str, int, float, bytes)) else f"a {type(name).__name__}"
    return text if len(text) <= 80 else f"{text[:76]}...{text[0]}"


def listed(names: Iterable[object], most: int = 6) -> str:
    """The first names, for a message."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more
