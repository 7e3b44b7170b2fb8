"""ONNX, opset 20, or 23 where its Attention is used: one file, with the weights in it as long as protobuf can hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinkit.export.capture import capture
from swinkit.runtimes.facts import KEY, Facts

OPSET, WITH_ATTENTION = 20, 23
"""The oldest that has all operators: GELU is of 20."""
LIMIT = 1_900_000_000
"""Bytes of weights in one file; protobuf ends at 2 GiB."""


def write(net: nn.Module, facts: Facts, file: Path) -> None:
    """Write `file`, and `file`.data beside it where the weights are too large for one."""
    program = to_onnx(net, facts)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values() if value.const_value is not None)
    program.save(file, external_data=size > LIMIT)


def to_onnx(net: nn.Module, facts: Facts) -> Any:
    """The graph in memory, an ONNXProgram."""
    maps = facts.out_indices
    outputs = [f"map{stage}" for stage in maps] if maps is not None else ["probabilities" if facts.gives_probabilities else "logits"]
    captured = capture(net, facts)
    opset = WITH_ATTENTION if any(str(node.target).startswith("onnx.Attention") for node in captured.graph.nodes) else OPSET
    program: Any = torch.onnx.export(
        captured, (), dynamo=True, opset_version=opset, input_names=["images"], output_names=outputs, verbose=False
    )
    graph = program.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()  # where in the source it came from
        node.doc_string = None
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    program.model.metadata_props[KEY] = facts.to_json()
    program.model.producer_name, program.model.producer_version = "swinkit", facts.version
    return program
