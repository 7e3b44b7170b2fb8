"""Checks of weights before they are used: are all numbers finite, is it the file that was promised."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from swinkit.checkpoints.opening.unwrapping import listed
from swinkit.errors import CheckpointError


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with a NaN or an infinity. One pass over the numbers, no copies."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() and not _finite(tensor)]


def _finite(tensor: Tensor) -> bool:
    # A NaN anywhere makes both NaN. (torch.isfinite would build two tensors of the same size.)
    smallest, largest = torch.aminmax(tensor)
    return bool(torch.isfinite(smallest)) and bool(torch.isfinite(largest))


def check_finite(tensors: Mapping[str, Tensor], source: object = "The weights") -> None:
    """Errors: CheckpointError that names the first tensors with a NaN or an infinity."""
    if broken := not_finite(tensors):
        raise CheckpointError(
            f"{source}: {len(broken)} of {len(tensors)} tensors hold NaN or infinite numbers ({listed(broken)}); expected finite weights. "
            "The training probably diverged before they were saved: take an earlier checkpoint."
        )


def check_sha256(path: Path, expected: str) -> None:
    """Compare the SHA-256 of a file with 64 hexadecimal digits, or with its first 8 or more as names of files carry them.

    Errors: CheckpointError if they differ.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", expected):
        raise CheckpointError(f"{expected!r} is no SHA-256; expected its 64 hexadecimal digits, or at least the first 8.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected.lower()):
        came = digest[: max(len(expected), 16)]
        raise CheckpointError(f"{path} has the SHA-256 {came}, expected {expected}: it is another or a broken file; download it again.")
