"""OpenVINO through NNCF: FakeQuantize before linear layers and patch embedding, weights per output.

NNCF's smooth quantisation and its correction of biases are off: the first moves scales along axes on which windows, and not channels, lie
in these graphs; without the second, a layer that is left out is exactly what it was.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any
from unittest import mock

from numpy.typing import NDArray

from swinkit.export.int8.groups import assign
from swinkit.runtimes.artefacts import need
from swinkit.runtimes.facts import KEY, Facts
from swinkit.runtimes.openvino import core

PRODUCTS = ("MatMul", "Convolution")
ATTENTION = ("ScaledDotProductAttention",)


class Graphs:
    """A float32 IR, and what becomes of it with some layers in 8 bits."""

    def __init__(self, file: Path, layers: list[tuple[str, int]]) -> None:
        self.openvino: Any = need("openvino", "openvino", "8 bits in OpenVINO")
        self.original = core().read_model(file)
        ops = [op for op in self.original.get_ordered_ops() if op.get_type_name() in PRODUCTS]
        products = [op for op in ops if _weight(op) is not None]
        self.weights = {op.get_friendly_name(): op.input_value(1) for op in products}
        sizes = [(name, _count(value)) for name, value in self.weights.items()]
        self.layer_of = assign(sizes, layers)
        self.others = [op.get_friendly_name() for op in ops if op.get_friendly_name() not in self.layer_of]
        self.others += [op.get_friendly_name() for op in self.original.get_ordered_ops() if op.get_type_name() in ATTENTION]
        self.quantised: Any = None

    @property
    def layers(self) -> list[str]:
        """Those that can be in 8 bits."""
        return list(dict.fromkeys(self.layer_of.values()))

    def calibrate(self, batches: list[NDArray[Any]], narrow: bool) -> None:
        """Set ranges by images as the file takes them, and quantise every layer."""
        nncf = _nncf()
        advanced = nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1),
            disable_bias_correction=True,
            overflow_fix=nncf.OverflowFix.ENABLE if narrow else nncf.OverflowFix.DISABLE,
        )
        with contextlib.redirect_stdout(io.StringIO()):  # where it draws bars
            self.quantised = nncf.quantize(
                self.original.clone(), nncf.Dataset(batches), preset=nncf.QuantizationPreset.MIXED, model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(batches), advanced_parameters=advanced, ignored_scope=nncf.IgnoredScope(names=self.others, validate=False),
            )  # fmt: skip

    def write(self, file: Path, kept: Set[str], facts: Facts) -> None:
        """An IR with all layers in 8 bits but the `kept`."""
        model = self.quantised.clone()
        ranges_of_others = set()
        products = {op.get_friendly_name(): op for op in model.get_ordered_ops() if op.get_friendly_name() in self.layer_of}
        for name, op in products.items():
            if self.layer_of[name] not in kept:
                ranges_of_others |= {found.get_friendly_name() for found in _ranges(op)}
        for name, op in products.items():
            if self.layer_of[name] in kept:
                op.input(1).replace_source_output(_clone(self.openvino, self.weights[name]))
                for found in _ranges(op):
                    if found.get_friendly_name() not in ranges_of_others:
                        found.output(0).replace(found.input_value(0))
        model.validate_nodes_and_infer_types()
        model.set_rt_info(facts.to_json(), [KEY])
        self.openvino.save_model(model, file, compress_to_fp16=False)


def _nncf() -> Any:
    """NNCF, quiet, and without the reports that it would send to its makers."""
    with warnings.catch_warnings(), mock.patch.dict(os.environ, NNCF_CI="1"):
        warnings.simplefilter("ignore")
        nncf: Any = need("nncf", "openvino", "8 bits in OpenVINO")
    nncf.set_log_level(logging.ERROR)
    return nncf


def _ranges(op: Any) -> list[Any]:
    """The FakeQuantize that a product's input comes from, through operations that only move data."""
    node = op.input_value(0).get_node()
    for _ in range(8):
        if node.get_type_name() == "FakeQuantize":
            return [node]
        if node.get_type_name() not in ("Transpose", "Reshape", "Gather", "Pad", "Squeeze", "Unsqueeze", "Convert"):
            return []
        node = node.input_value(0).get_node()
    return []


def _weight(op: Any) -> Any:
    """The constant that a product's weights come from; None: they are computed."""
    for node in _upstream(op.input_value(1).get_node()):
        if node.get_type_name() == "Constant":
            return node
    return None


def _upstream(node: Any) -> Iterator[Any]:
    while node.get_type_name() in ("Transpose", "Reshape", "Convert"):
        node = node.input_value(0).get_node()
    yield node


def _clone(openvino: Any, weight: Any) -> Any:
    return openvino.opset13.constant(weight.get_node().data.copy()).output(0)


def _count(weight: Any) -> int:
    count = 1
    for side in weight.get_shape():
        count *= side
    return count
