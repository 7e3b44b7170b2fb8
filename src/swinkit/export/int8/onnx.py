"""ONNX Runtime's static quantisation: Q and DQ around the inputs of linear layers, weights per output.

Outputs stay in float: a product and its scale are fused, and bias, norm, GELU and softmax are computed as before. Patch embedding stays in
float, since ONNX Runtime computes a convolution in 8 bits only if its output is, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Container, Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from swinkit.export.int8.groups import assign
from swinkit.runtimes.artefacts import need
from swinkit.runtimes.facts import KEY, Facts

PRODUCTS = ("MatMul", "Gemm")
OPTIONS = {"OpTypesToExcludeOutputQuantization": list(PRODUCTS), "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1}}


class Graphs:
    """A float32 file, and what becomes of it with some layers in 8 bits."""

    def __init__(self, file: Path, layers: list[tuple[str, int]]) -> None:
        self.onnx: Any = need("onnx", "onnx", "8 bits in ONNX")
        self.original = self.onnx.load(file)
        graph = self.original.graph
        self.weights = {weight.name: weight for weight in graph.initializer}
        nodes = [node for node in graph.node if node.op_type in (*PRODUCTS, "Conv") and node.input[1] in self.weights]
        layer_of = assign([(node.name, _count(self.weights[node.input[1]])) for node in nodes], layers)
        self.layer_of = {node.name: layer_of[node.name] for node in nodes if node.op_type != "Conv"}
        self.inputs = {node.name: list(node.input) for node in nodes}
        self.biases = _biases(graph, self.layer_of, self.weights)
        self.fixed_batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value > 0
        self.quantised: Any = None

    @property
    def layers(self) -> list[str]:
        """Those that can be in 8 bits."""
        return list(dict.fromkeys(self.layer_of.values()))

    def calibrate(self, batches: list[NDArray[Any]], narrow: bool) -> None:
        """Set ranges by images as the file takes them, and quantise every layer."""
        with TemporaryDirectory() as place:
            before, after = Path(place) / "float32.onnx", Path(place) / "int8.onnx"
            model = self.onnx.ModelProto()
            model.CopyFrom(self.original)
            # Else advice is printed, which torch's exporter has followed already.
            model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
            self.onnx.save(model, before)
            _quantise(before, after, _Reader(model.graph.input[0].name, batches), list(self.layer_of), narrow)
            self.quantised = self.onnx.load(after)

    def write(self, file: Path, kept: Set[str], facts: Facts) -> None:
        """A file with all layers in 8 bits but the `kept`."""
        model = self.onnx.ModelProto()
        model.CopyFrom(self.quantised)
        back: dict[str, Any] = {}
        for node in model.graph.node:
            if self.layer_of.get(node.name) in kept:
                node.input[:] = self.inputs[node.name]
                back |= {name: self.weights[name] for name in node.input if name in self.weights}
        _drop_unused(model.graph, back)
        if self.fixed_batch:
            _guard(model.graph, {bias for node, bias in self.biases.items() if self.layer_of[node] not in kept})
        del model.graph.value_info[:], model.metadata_props[:]
        model.metadata_props.add(key=KEY, value=facts.to_json())
        model.producer_name, model.producer_version = "swinkit", facts.version
        self.onnx.save(model, file)


class _Reader:
    """Feeds calibration."""

    def __init__(self, name: str, batches: list[NDArray[Any]]) -> None:
        self.batches = iter([{name: part} for part in batches])

    def get_next(self) -> Any:
        """The next batch, or None."""
        return next(self.batches, None)


def _quantise(before: Path, after: Path, reader: _Reader, nodes: list[str], narrow: bool) -> None:
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    quantization.quantize_static(
        before, after, reader, quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=list(PRODUCTS), nodes_to_quantize=nodes,
        per_channel=True, reduce_range=narrow, activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax, extra_options=OPTIONS,
    )  # fmt: skip


def _drop_unused(graph: Any, back: dict[str, Any]) -> None:
    """Drop nodes and weights that lead nowhere now; `back` are weights that come back, some under the name of what a node has given."""
    wanted, nodes = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output) - back.keys():
            wanted.update(node.input)
            nodes.append(_copy(node))
    values = [_copy(value) for value in graph.initializer if value.name in wanted and value.name not in back]
    values += map(_copy, back.values())
    nodes.reverse()
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(values)


def _biases(graph: Any, products: Container[str], weights: dict[str, Any]) -> dict[str, str]:
    """Product -> the bias that is added to what it gives."""
    found, product_of = {}, {node.output[0]: node.name for node in graph.node if node.name in products}
    for node in graph.node:
        if node.op_type == "Add":
            for one, other in (node.input, reversed(node.input)):
                if one in product_of and other in weights and len(weights[other].dims) == 1:
                    found[product_of[one]] = other
    return found


def _guard(graph: Any, biases: Container[str]) -> None:
    """Give biases three axes, of which two are 1.

    Where all sizes are known, ONNX Runtime would make one float32 Gemm of a product and a bias of one axis before it looks for 8 bits.
    """
    for value in graph.initializer:
        if value.name in biases:
            value.dims[:] = [1, 1, *value.dims]


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _count(tensor: Any) -> int:
    count = 1
    for side in tensor.dims:
        count *= side
    return count
