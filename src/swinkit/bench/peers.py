"""The peers with a model of ours in them, made in a worker's process: each in the way that its own documentation recommends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import swinkit
from swinkit.bench.builders import images, in_pytorch
from swinkit.bench.jobs import NATIVE, Engine, Job
from swinkit.checkpoints.dialects.examine import read
from swinkit.config import pair
from swinkit.environment import package_version
from swinkit.errors import ConfigError


def timm(job: Job) -> Engine:
    """timm's model, read from a folder as timm does."""
    return in_pytorch(job, _timm_model(job.weights), f"timm {package_version('timm')}")


def _timm_model(folder: str) -> nn.Module:
    model: nn.Module = import_module("timm").create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def torchvision(job: Job) -> Engine:
    """torchvision's model of the same sizes; its files hold no configuration, so ours beside it is read."""
    from torchvision.models import swin_transformer as theirs

    config = read(Path(job.weights).with_name(NATIVE)).config
    one = config.version == 1
    model = theirs.SwinTransformer(
        list(pair(config.patch_size)), config.embed_dim, list(config.depths), list(config.num_heads), list(config.windows[0]),
        mlp_ratio=config.mlp_ratio, num_classes=config.num_classes,
        block=theirs.SwinTransformerBlock if one else theirs.SwinTransformerBlockV2,
        downsample_layer=theirs.PatchMerging if one else theirs.PatchMergingV2,
    )  # fmt: skip
    model.load_state_dict(torch.load(job.weights, weights_only=True))
    return in_pytorch(job, model, f"torchvision {package_version('torchvision')}")


def transformers(job: Job) -> Engine:
    """transformers' class that the folder names, read as transformers does."""
    library = import_module("transformers")
    library.logging.set_verbosity_error()
    kind = json.loads((Path(job.weights) / "config.json").read_text())["architectures"][0]
    model = getattr(library, kind).from_pretrained(job.weights)
    return in_pytorch(job, model, f"transformers {package_version('transformers')}", _picked)


def _picked(outputs: Any) -> Any:
    for name in ("logits", "feature_maps", "pooler_output"):
        if getattr(outputs, name, None) is not None:
            return getattr(outputs, name)
    raise ConfigError(f"transformers returned {type(outputs).__name__} without logits, feature maps or pooled features.")


def _exported(job: Job) -> tuple[nn.Module, str]:
    """The module that is converted, and whose it is."""
    if job.layout == "timm":
        return _timm_model(job.weights), "timm's model"
    return swinkit.from_pretrained(job.weights), "swinkit's model"


def openvino(job: Job) -> Engine:
    """OpenVINO for the smallest latency, compiled for exactly this batch, with the precision asked for."""
    ov, x, (model, whose) = import_module("openvino"), images(job), _exported(job)
    graph = _graph(ov, job, model, torch.from_numpy(x))
    short = {"float32": "f32", "bfloat16": "bf16"}[job.dtype]
    hints = {"INFERENCE_PRECISION_HINT": short, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job.threads}
    network = ov.Core().compile_model(graph, "CPU", hints)
    got = network.get_property("INFERENCE_PRECISION_HINT").to_string()
    if got not in (short, job.dtype):
        raise ConfigError(f"OpenVINO computes in {got} on this processor and not in {short}.")
    request, count = network.create_infer_request(), len(network.outputs)

    def call() -> Sequence[np.ndarray]:
        request.infer([x], share_inputs=True)
        return [request.get_output_tensor(number).data for number in range(count)]

    return Engine(call, f"openvino {package_version('openvino')}, {whose}, {short}, latency hint")


def _graph(ov: Any, job: Job, model: nn.Module, x: Tensor) -> Any:
    """timm's model is traced, which is OpenVINO's usual way; ours is exported, because tracing meets an operation that OpenVINO has not."""
    with torch.no_grad():
        if job.layout == NATIVE:
            return ov.convert_model(torch.export.export(model, (x,)))
        return ov.convert_model(model, example_input=x, input=list(x.shape))


def onnxruntime(job: Job) -> Engine:
    """ONNX Runtime on torch.onnx.export's graph of this batch; its threads sleep between calls, not to disturb the others."""
    ort, x, (model, whose) = import_module("onnxruntime"), images(job), _exported(job)
    file = Path(job.images).with_name(f"{job.batch_size}.onnx")
    try:
        torch.onnx.export(model, (torch.from_numpy(x),), file, dynamo=True)
        options = ort.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    finally:
        for path in (file, file.with_name(f"{file.name}.data")):
            with suppress(OSError):
                path.unlink()
    name = session.get_inputs()[0].name
    return Engine(lambda: session.run(None, {name: x}), f"onnxruntime {package_version('onnxruntime')}, {whose}")
