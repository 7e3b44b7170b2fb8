"""The peers that run a file: OpenVINO and ONNX Runtime. One process writes the file from a model in PyTorch, another reads and runs it.

So the process that is measured holds what a program with that runtime would hold, and nothing of the export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import swinkit
from swinkit.bench.builders import images
from swinkit.bench.jobs import NATIVE, Engine, Job
from swinkit.bench.peers import timm_model
from swinkit.checkpoints.files import atomic_folder
from swinkit.environment import package_version
from swinkit.errors import ConfigError
from swinkit.runtimes.openvino import core

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names."""


@dataclass(frozen=True)
class Exported:
    """A file was written."""

    says: str


def to_openvino(job: Job) -> Exported:
    """Write model.xml and model.bin, in float32, for exactly this batch, into the job's folder of graphs."""
    ov = import_module("openvino")

    def write(model: nn.Module, x: Tensor, folder: Path) -> None:
        with torch.no_grad():
            ov.save_model(_openvino_graph(ov, job, model, x), folder / "model.xml", compress_to_fp16=False)

    return _export(job, write)


def _openvino_graph(ov: Any, job: Job, model: nn.Module, x: Tensor) -> Any:
    """timm's model is traced, which is OpenVINO's usual way; ours is exported, for tracing cannot follow how it makes windows."""
    if job.layout == NATIVE:
        return ov.convert_model(torch.export.export(model, (x,)))
    return ov.convert_model(model, example_input=x, input=list(x.shape))


def to_onnx(job: Job) -> Exported:
    """Write model.onnx for exactly this batch into the job's folder of graphs."""

    def write(model: nn.Module, x: Tensor, folder: Path) -> None:
        torch.onnx.export(model, (x,), folder / "model.onnx", dynamo=True)

    return _export(job, write)


def _export(job: Job, write: Callable[[nn.Module, Tensor, Path], None]) -> Exported:
    model = timm_model(job.weights) if job.layout == "timm" else swinkit.from_pretrained(job.weights)
    with atomic_folder(job.graph) as folder:
        write(model, torch.from_numpy(images(job)), folder)
    return Exported(f"written to {job.graph}")


def _whose(job: Job) -> str:
    return "timm's model" if job.layout == "timm" else "swinkit's model"


def openvino(job: Job) -> Engine:
    """OpenVINO for the smallest latency, with the precision asked for."""
    x, short = images(job), PRECISIONS[job.dtype]
    hints = {"INFERENCE_PRECISION_HINT": short, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job.threads}
    network = core().compile_model(job.graph / "model.xml", "CPU", hints)
    got = network.get_property("INFERENCE_PRECISION_HINT").to_string()
    if got not in (short, job.dtype):
        raise ConfigError(f"OpenVINO computes in {got} on this processor and not in {short}.")
    request, count = network.create_infer_request(), len(network.outputs)

    def call() -> Sequence[np.ndarray]:
        request.infer([x], share_inputs=True)
        return [request.get_output_tensor(number).data for number in range(count)]

    return Engine(call, f"openvino {package_version('openvino')}, {_whose(job)}, {short}, latency hint")


def onnxruntime(job: Job) -> Engine:
    """ONNX Runtime; its threads sleep between calls, not to disturb the others."""
    ort, x = import_module("onnxruntime"), images(job)
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(job.graph / "model.onnx", options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Engine(lambda: session.run(None, {name: x}), f"onnxruntime {package_version('onnxruntime')}, {_whose(job)}")
