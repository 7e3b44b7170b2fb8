"""ONNX files in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.errors import CheckpointError, ConfigError
from swinkit.runtimes.artefacts import Artefact, need
from swinkit.runtimes.facts import KEY, Facts


class OnnxArtefact(Artefact):
    """An ONNX file on the CPU."""

    def __init__(self, path: Path, bfloat16: bool = False) -> None:
        if bfloat16:
            raise ConfigError(f"{path} computes in the dtype it was exported in; leave amp out.")
        runtime = need("onnxruntime", "onnx", f"{path.name}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Idle threads would spin, and take processors from whatever else computes.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common root
            raise CheckpointError(f"{path} cannot be opened by ONNX Runtime ({_first(error)}); export the model again.") from None
        facts = Facts.from_json(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        super().__init__(path, facts, f"onnxruntime {runtime.__version__}, {facts.precision}")
        self.name = self.session.get_inputs()[0].name

    def call(self, images: Tensor) -> Sequence[Any]:
        """What the graph gives."""
        outputs: Sequence[Any] = self.session.run(None, {self.name: images.numpy()})
        return outputs


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
