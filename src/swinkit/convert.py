"""`swinkit convert`: a model from anybody's format into anybody's, or only a report on what a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swinkit._verbs import callable_module
from swinkit.checkpoints.dialects.examine import examine
from swinkit.checkpoints.dialects.findings import Findings
from swinkit.checkpoints.dialects.writing import check_target, dialect_name, write
from swinkit.errors import CheckpointError


def convert(source: str | Path, out: str | Path, *, to: str, force: bool = False, strict: bool = True, **known: Any) -> Findings:
    """Read a model in whatever dialect it is and write it in the dialect `to`; returns the report on what was read.

    out: a file ending in .pth or .safetensors; a folder for native, timm and transformers. known: see `inspect`.
    force: replace what exists.
    strict=False: leave out what is unexpected, listed in the report; what is missing is never made up.
    Errors: CheckpointError where the source cannot be read, or the dialect cannot express the model; nothing is written then.
    """
    out, to = Path(out).expanduser(), dialect_name(to)
    check_target(out, to, force)
    saved, findings = examine(source, strict=strict, **known)
    if findings.missing or findings.wrong_shape:
        raise CheckpointError(f"{source} makes no whole model, so nothing was written: {findings.problems()}.")
    write(saved, out, to, force)
    return findings


def inspect(source: str | Path, **known: Any) -> Findings:
    """What a file or folder of weights holds: its dialect, its configuration, and what became of every tensor.

    source: what `from_pretrained` opens.
    known: fields of SwinConfig that the weights do not tell, such as window_size and pretrained_window_sizes of a V2 model.
    Errors: CheckpointError where it cannot be read or is no Swin Transformer.
    """
    return examine(source, strict=False, **known)[1]


callable_module(__name__)
