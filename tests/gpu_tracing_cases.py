"""What torch.compile sees of the operations, traced for a GPU that is not there; run by tests/test_gpu_kernels.py, not interpreted."""

import pytest
import torch
import triton
from torch._dynamo.source import ConstantSource
from torch._functorch.aot_autograd import aot_function
from torch._library.triton import get_triton_kernels_for_op
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from triton.backends.compiler import GPUTarget

from swinkit.kernels.gpu import mlp_ops, ops

HEADS, DIM = 3, 32
WRITTEN = {
    # window -> for each kernel, what PyTorch found that it writes
    (7, 7): [["out", "lse"], ["qkv_grad", "bias_grad", "pad_grad", "factors_grad"]],
    (16, 16): [["out", "lse"], ["delta", "qkv_grad", "factors_grad"], ["qkv_grad", "pad_grad"], ["bias_grad"]],
}


class Driver:
    """Enough of a driver to compile for."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0


class SeenError(Exception):
    """The graph is there; nothing could run it."""


def attention(window, qkv, bias, pad, scale, grad):
    rest = (bias, pad, scale, 1.0, list(window), [2, 2], True)
    out, lse = torch.ops.swinkit.gpu_window_attention(qkv, *rest)
    return out, torch.ops.swinkit.gpu_window_attention_backward(grad, out, lse, qkv, *rest, True)


def traced(window):
    """The kernels of attention in the graph that Inductor would get."""
    tokens = window[0] * window[1]
    with FakeTensorMode(), torch.no_grad():
        qkv = torch.empty(2, 2 * window[0], 2 * window[1] + 1, 3, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
        bias, pad = torch.empty(HEADS, tokens, tokens, device="cuda"), torch.empty(3, HEADS, DIM, device="cuda")
        grad = torch.empty(*qkv.shape[:3], HEADS * DIM, device="cuda", dtype=torch.bfloat16)
        return kernels(lambda *given: attention(window, *given), qkv, bias, pad, torch.empty(HEADS, 1, 1, device="cuda"), grad)


def kernels(function, *given):
    """The kernels in the graph of a function."""
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        raise SeenError

    with pytest.raises(SeenError):
        aot_function(function, fw_compiler=keep)(*given)
    return [node for node in graphs[0].graph.nodes if "triton_kernel_wrapper" in str(node.target)]


def mlp(x, expanding, expanding_bias, contracting, contracting_bias, grad):
    out, hidden = mlp_ops.forward(x, expanding, expanding_bias, contracting, contracting_bias, True)
    return out, mlp_ops.backward(grad, x, hidden, expanding, contracting, [True] * 5)


@pytest.fixture
def _driver(monkeypatch):
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())


@pytest.mark.usefixtures("_driver")
@pytest.mark.parametrize("window", WRITTEN)
def test_the_compiler_sees_the_kernels_and_what_they_write(window):
    assert [node.kwargs["tensors_to_clone"] for node in traced(window)] == WRITTEN[window]


@pytest.mark.usefixtures("_driver")
def test_the_compiler_sees_the_kernels_of_an_mlp():
    with FakeTensorMode(), torch.no_grad():
        shapes = ((2, 7, 96), (384, 96), (384,), (96, 384), (96,), (2, 7, 96))
        seen = kernels(mlp, *(torch.empty(shape, device="cuda", dtype=torch.bfloat16) for shape in shapes))
    assert [node.kwargs["tensors_to_clone"] for node in seen] == [["out", "hidden"], ["hidden_grad", "out", "bias_grad"]]


@pytest.mark.usefixtures("_driver")
def test_the_batch_of_a_traced_mlp_is_any():
    sizes, graphs = ShapeEnv(), []

    def keep(graph, inputs):
        graphs.append(graph)
        raise SeenError

    any_batch = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC, DimDynamic.STATIC])
    given = torch.empty(6, 7, 96, device="meta", dtype=torch.bfloat16)
    mode = FakeTensorMode(shape_env=sizes)
    symbolic = mode.from_tensor(given, symbolic_context=any_batch, source=ConstantSource("x"))
    with mode, torch.no_grad():
        batch = symbolic.new_empty(symbolic.shape, device="cuda")
        weights = [torch.empty(shape, device="cuda", dtype=torch.bfloat16) for shape in ((384, 96), (384,), (96, 384), (96,))]
        with pytest.raises(SeenError):
            aot_function(lambda x: mlp(x, *weights, x), fw_compiler=keep, dynamic=True)(batch)
    assert not sizes.replacements
    seen = [node for node in graphs[0].graph.nodes if "triton_kernel_wrapper" in str(node.target)]
    assert len(seen) == 2
    assert all(not isinstance(node.kwargs["grid"][0][0], int) for node in seen)


def test_pytorch_finds_the_kernels_in_the_source():
    """So that what it compiled and kept is out of date when a kernel changes."""
    assert not ops.INTERPRETED
    assert len(get_triton_kernels_for_op("swinkit::gpu_window_attention")) == 2
    assert len(get_triton_kernels_for_op("swinkit::gpu_window_attention_backward")) == 4
    assert len(get_triton_kernels_for_op("swinkit::gpu_mlp")) == 1
    assert len(get_triton_kernels_for_op("swinkit::gpu_mlp_backward")) == 1
