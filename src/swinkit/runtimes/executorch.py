"""ExecuTorch's files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from swinkit.errors import CheckpointError, ConfigError
from swinkit.runtimes.artefacts import Artefact, need
from swinkit.runtimes.facts import KEY, Facts


class ExecuTorchArtefact(Artefact):
    """A program for ExecuTorch, which brings its own threads."""

    def __init__(self, path: Path, bfloat16: bool = False) -> None:
        if bfloat16:
            raise ConfigError(f"{path} computes in the dtype it was exported in; leave amp out.")
        runtime: Any = need("executorch.runtime", "executorch", path.name)
        try:
            self.program = runtime.Runtime.get().load_program(path.read_bytes())
            says = self.program.load_method(KEY).execute([])[0] if KEY in self.program.method_names else None
            self.method = self.program.load_method("forward")
        except Exception as error:  # the runtime's errors have no common root
            raise CheckpointError(f"{path} cannot be opened by ExecuTorch ({error}); export the model again.") from None
        facts = Facts.from_json(says, path)
        super().__init__(path, facts, f"executorch {version('executorch')}, {facts.dtype}")

    def call(self, images: Tensor) -> Sequence[Any]:
        """What the program gives; copied, since its memory is used again."""
        return [output.clone() for output in self.method.execute([images])]
