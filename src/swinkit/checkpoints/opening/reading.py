"""What one file holds, by the reader of its format."""

from __future__ import annotations

from pathlib import Path

import safetensors
from torch import Tensor

from swinkit.checkpoints.opening.formats import SAFETENSORS, TORCH_LEGACY, TORCH_ZIP, harmless
from swinkit.checkpoints.opening.unpickling import read_torch_legacy, read_torch_zip
from swinkit.errors import CheckpointError


def read_file(path: Path, kind: str) -> object:
    """The content of a file of the kind that `formats.recognise` found: tensors by name, or whatever torch.save was given.

    Errors: CheckpointError.
    """
    return {SAFETENSORS: read_safetensors, TORCH_ZIP: read_torch_zip, TORCH_LEGACY: read_torch_legacy}[kind](path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, by name. Errors: CheckpointError if its header or its length is wrong."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: _aligned(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except Exception as error:  # safetensors and torch raise several kinds on a broken file
        raise CheckpointError(
            f"{path} is broken or cut off ({harmless(error) or type(error).__name__}); download or save it again."
        ) from None


def _aligned(tensor: Tensor) -> Tensor:
    # The format lets data begin at any byte; kernels may count on numbers that begin at multiples of their size.
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
