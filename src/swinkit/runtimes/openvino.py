"""OpenVINO's IR: model.xml and model.bin beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.errors import CheckpointError
from swinkit.runtimes.artefacts import Artefact, need
from swinkit.runtimes.facts import KEY, Facts


@cache
def core() -> Any:
    """OpenVINO's one core, never given back: its CPU plugin gives the thread that first compiles a stack for signals and unmaps it when the
    core goes, in whatever thread and order, after which the next signal (Ctrl-C, the end of a child) would kill the process.
    """
    openvino: Any = need("openvino", "openvino", "OpenVINO")
    return openvino.Core()


class OpenVinoArtefact(Artefact):
    """An IR on the CPU, in float32 unless bfloat16 is asked for, whatever OpenVINO would choose."""

    def __init__(self, path: Path, bfloat16: bool = False) -> None:
        openvino: Any = need("openvino", "openvino", f"{path.name}")
        if not path.with_suffix(".bin").is_file():
            raise CheckpointError(f"{path.with_suffix('.bin')} is missing; an IR is two files, which belong beside each other.")
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        hints["INFERENCE_PRECISION_HINT"] = "bf16" if bfloat16 else "f32"
        try:
            model = core().read_model(path)
            facts = Facts.from_json(str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None, path)
            self.network = core().compile_model(model, "CPU", hints)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
            raise CheckpointError(f"{path} cannot be opened by OpenVINO ({lines[-1]}); export the model again.") from None
        dtype = "bfloat16" if bfloat16 else "float32"
        dtype = f"int8 and {dtype}" if facts.int8 and bfloat16 else facts.precision if facts.int8 else dtype
        super().__init__(path, facts, f"openvino {openvino.__version__.partition('-')[0]}, {dtype}")

    def call(self, images: Tensor) -> Sequence[Any]:
        """What the graph gives; a request of its own per call, so that threads do not share one."""
        request = self.network.create_infer_request()
        request.infer([images.numpy()])
        return [request.get_output_tensor(number).data.copy() for number in range(len(self.network.outputs))]
