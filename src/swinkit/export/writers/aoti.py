"""A program that AOTInductor compiles for this kind of machine: model.pt2 with a shared library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from swinkit.errors import ExportError
from swinkit.export.capture import TRACED_BATCH, capture, example, traced_size
from swinkit.runtimes.facts import KEY, Facts


def write(net: nn.Module, facts: Facts, file: Path) -> None:
    """Write `file`. Errors: ExportError where there is no C++ compiler, or it fails."""
    import torch
    from torch._inductor.exc import InductorError
    from torch.export.pt2_archive._package import package_pt2

    program = capture(net, facts)
    images = example(facts, facts.batch_size or TRACED_BATCH, traced_size(facts), torch.Generator().manual_seed(0))
    module: Any = program.module(check_guards=False)
    try:
        files: Any = torch._inductor.aot_compile(module, (images,), options={"aot_inductor.package": True})
    except InductorError as error:
        says = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise ExportError(f"AOTInductor could not compile the model ({says}); it needs a C++ compiler (g++).") from error
    # The sources name paths of this machine, and nothing reads them.
    files = [name for name in files if not str(name).endswith(".cpp")]
    package_pt2(str(file), aoti_files=files, extra_files={f"{KEY}.json": facts.to_json()})
