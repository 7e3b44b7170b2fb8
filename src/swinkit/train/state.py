"""What training has beyond the model: its tensors as safetensors, one file or a part from each process, and the rest as JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from swinkit.errors import CheckpointError
from swinkit.train.optim import Average

FACTS, TENSORS = "state.json", "state.safetensors"
MEMORIES: dict[type[Optimizer], tuple[str, ...]] = {AdamW: ("exp_avg", "exp_avg_sq"), Muon: ("momentum_buffer",)}
"""What each optimiser remembers of every parameter."""


def tensors_of(model: nn.Module, optimizers: Sequence[Optimizer], average: Average | None, make: bool = False) -> dict[str, Tensor]:
    """Raw weights, the optimisers' memories (zeros before the first step), averaged weights: by name, the tensors themselves.

    make: let the optimisers have memories before their first step, to be filled.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {f"model.{name}": parameter.detach() for parameter, name in names.items()}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            for memory in MEMORIES[type(optimizer)]:
                remembered = optimizer.state[parameter].get(memory)
                if remembered is None:
                    remembered = torch.zeros_like(parameter.detach())
                if make:
                    optimizer.state[parameter][memory] = remembered
                found[f"{memory}.{names[parameter]}"] = remembered
    if average:
        found |= {f"average.{name}": parameter.detach() for name, parameter in average.module.named_parameters()}
    return found


def optimizer_facts(optimizer: Optimizer) -> dict[str, Any]:
    """Steps taken (where the optimiser counts them) and learning rates."""
    steps = next((float(state["step"]) for state in optimizer.state.values() if "step" in state), None)
    return {"steps": steps, "lr": [group["lr"] for group in optimizer.param_groups]}


def restore_optimizer(optimizer: Optimizer, facts: Mapping[str, Any]) -> None:
    """The inverse of `optimizer_facts`; the memories are restored with the tensors."""
    for group, lr in zip(optimizer.param_groups, facts["lr"], strict=True):
        group["lr"] = lr
        for parameter in group["params"] if isinstance(optimizer, AdamW) else ():
            device = parameter.device if group["fused"] else "cpu"
            optimizer.state[parameter]["step"] = torch.tensor(facts["steps"] or 0.0, dtype=torch.float32, device=device)


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """state.json, into a folder that nobody reads yet."""
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Errors: CheckpointError for a file that is missing or broken."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / FACTS} cannot be read ({error}); the checkpoint is broken.") from None
    return facts


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """All tensors in one file. Errors: OSError, also for a full disk."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    _oserror(lambda: safetensors.torch.save_file(plain, folder / TENSORS))


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Each process writes its parts; all must call it. Errors: OSError in every process if one fails."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    # Of the formats of torch.distributed.checkpoint, the one whose files are safetensors: nothing in it is unpickled.
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        raise OSError(f"{folder}: {next(iter(error.failures.values()))[0]}") from None


def read_tensors(folder: Path, into: Mapping[str, Tensor], world_size: int) -> None:
    """Fill tensors, sharded or not, from one file or from the parts of any number of processes.

    Errors: CheckpointError if they are broken or do not fit.
    """
    try:
        if (folder / TENSORS).is_file() and not any(hasattr(tensor, "to_local") for tensor in into.values()):
            _fill(into, safetensors.torch.load_file(folder / TENSORS))
        else:
            _read_parts(folder, into, world_size)
    except Exception as error:  # whatever is wrong with the files, a person needs to know which
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{folder} cannot be read ({first}); the checkpoint is broken or of another model.") from None


def _read_parts(folder: Path, into: Mapping[str, Tensor], world_size: int) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # that is meant
        load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world_size == 1)


@torch.no_grad()
def _fill(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    if into.keys() != tensors.keys():
        raise KeyError(f"it holds other tensors, such as {min(into.keys() ^ tensors.keys())}")
    for name, tensor in into.items():
        tensor.copy_(tensors[name])


def _oserror(write: Callable[[], None]) -> None:
    try:
        write()
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from None
