"""OpenVINO's IR, by way of ONNX: its own reader of torch.export programs does not know sizes that are computed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from swinkit.export.writers import onnx
from swinkit.runtimes.artefacts import need
from swinkit.runtimes.facts import KEY, Facts


def write(net: nn.Module, facts: Facts, file: Path) -> None:
    """Write `file` and its .bin. float16 is how weights are stored; what is computed in is chosen where it runs."""
    openvino: Any = need("openvino", "openvino", "Exporting to OpenVINO")
    with TemporaryDirectory(dir=file.parent) as place:
        between = Path(place) / "model.onnx"
        onnx.write(net, facts, between)
        model = openvino.convert_model(between)
        model.set_rt_info(facts.to_json(), [KEY])
        openvino.save_model(model, file, compress_to_fp16=facts.dtype == "float16")
