"""PyTorch's own archives, model.pt2: a program of torch.export, or one that AOTInductor compiled to machine code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.errors import CheckpointError, ConfigError
from swinkit.runtimes.artefacts import Artefact
from swinkit.runtimes.facts import KEY, Facts
from swinkit.runtimes.pt2_check import COMPILED, check_program

EXTRA = f"extra/{KEY}.json"


def open_pt2(path: Path, bfloat16: bool = False) -> Artefact:
    """The program in an archive. Nothing is unpickled: torch would, so the archive is looked through before torch gets it.

    A program of torch.export is checked to be made of tensor operations alone. A compiled one is machine code, which nobody can check:
    opening it runs it, so open your own only.
    """
    if bfloat16:
        raise ConfigError(f"{path} computes in the dtype it was exported in; leave amp out.")
    content = path.read_bytes()  # read once: what is checked is what torch gets
    records = _records(content, path)
    facts = Facts.from_json(records[EXTRA].decode(errors="replace") if EXTRA in records else None, path)
    if any(name.startswith(COMPILED) for name in records):
        return CompiledArtefact(path, facts, content, records)
    check_program(records, path)
    return ProgramArtefact(path, facts, content)


class ProgramArtefact(Artefact):
    """A program of torch.export, run by PyTorch operation by operation."""

    def __init__(self, path: Path, facts: Facts, content: bytes) -> None:
        super().__init__(path, facts, f"torch.export in PyTorch {torch.__version__.partition('+')[0]}, {facts.dtype}")
        try:
            self.module = torch.export.load(io.BytesIO(content)).module()
        except Exception as error:  # whatever a broken archive makes torch raise
            raise CheckpointError(f"{path} cannot be opened by torch.export ({_first(error)}); export the model again.") from None

    def call(self, images: Tensor) -> Sequence[Any]:
        """What the program gives."""
        with torch.inference_mode():
            return _several(self.module(images))


class CompiledArtefact(Artefact):
    """A program that AOTInductor compiled."""

    def __init__(self, path: Path, facts: Facts, content: bytes, records: dict[str, bytes]) -> None:
        if strange := [name for name in records if not name.startswith((COMPILED, "extra/", ".data/")) and "/" in name]:
            raise CheckpointError(f"{path} holds {strange[0]} beside its compiled program, which swinkit does not write; it is not opened.")
        super().__init__(path, facts, f"AOTInductor of PyTorch {torch.__version__.partition('+')[0]}, {facts.dtype}")
        from torch.export.pt2_archive._package import load_pt2

        try:
            self.program = load_pt2(io.BytesIO(content)).aoti_runners["model"]
        except Exception as error:  # the loader's errors have no common root
            says = f"{path} cannot be opened by AOTInductor ({_first(error)})"
            raise CheckpointError(f"{says}; a compiled program runs where it was compiled, or on a machine alike.") from None

    def call(self, images: Tensor) -> Sequence[Any]:
        """What the program gives."""
        with torch.inference_mode():
            return _several(self.program(images))


def _several(outputs: Any) -> Sequence[Any]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _records(content: bytes, path: Path) -> dict[str, bytes]:
    """What is in an archive, by torch's own reader, so that nobody sees other members than torch does; of tensors, nothing."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        names: list[str] = reader.get_all_records()
        return {
            name: b"" if name.startswith(("data/weights/weight_", "data/constants/tensor_")) else reader.get_record(name) for name in names
        }
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no archive of PyTorch ({_first(error)}); export the model again.") from None


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
