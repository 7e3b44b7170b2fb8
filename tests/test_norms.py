"""LayerNorm of training in C++: what PyTorch gives, outputs and every gradient, on each instruction set."""

import pytest
import torch
import torch.nn.functional as F
from tests.test_cpu_kernels import BOUND, DTYPES, ISAS, difference
from torch import nn

from swinkit.kernels import norms
from swinkit.kernels.cpu import library, linear, norm
from swinkit.kernels.training import training

pytestmark = pytest.mark.skipif(not ISAS, reason="needs the C++ library, which is built where there is a compiler")


def case(shape, dtype=torch.float32, mean=0.0):
    torch.manual_seed(len(shape))
    x, grad = (torch.randn(shape) + mean).to(dtype), torch.randn(shape).to(dtype)
    return x, torch.randn(shape[-1]), torch.randn(shape[-1]), grad


def definition(x, weight, bias, grad, eps=1e-5):
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    out = F.layer_norm(leaves[0], (len(weight),), *leaves[1:], eps)
    out.backward(grad.double())
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("shape", [(1, 32), (127, 96), (3, 5, 43, 160), (129, 1536)])
@pytest.mark.parametrize("isa", ISAS)
def test_outputs_and_every_gradient(monkeypatch, isa, shape, mean):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    for dtype in (torch.float32, torch.bfloat16) if isa == "avx512_bf16" else (torch.float32,):
        x, weight, bias, grad = case(shape, dtype, mean)
        got = [norm.forward(x, weight, bias, 1e-5), *norm.backward(grad, x, weight, 1e-5)]
        assert [tensor.dtype for tensor in got] == [dtype, dtype, torch.float32, torch.float32]
        for a, b in zip(got, definition(x, weight, bias, grad), strict=True):
            assert difference(a, b) <= (max(BOUND[dtype], 1e-4) if mean else BOUND[dtype])


def test_rows_without_any_variance():
    x, weight, bias, grad = case((4, 32))
    x[1], x[2] = 0.0, 1e6
    got = [norm.forward(x, weight, bias, 1e-3), *norm.backward(grad, x, weight, 1e-3)]
    assert torch.equal(got[0][1:3], bias.expand(2, -1))
    for a, b in zip(got, definition(x, weight, bias, grad, 1e-3), strict=True):
        assert difference(a, b) <= 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_in_its_row(value):
    x, weight, bias, grad = case((5, 64))
    x[3, 40] = value
    out, x_grad = norm.forward(x, weight, bias, 1e-5), norm.backward(grad, x, weight, 1e-5)[0]
    for tensor in (out, x_grad):
        assert tensor.isnan().any(1).tolist() == [False, False, False, True, False]


def test_a_variance_beyond_all_numbers_is_not_hidden():
    x, weight, bias, grad = case((3, 32))
    x[1] *= 1e25
    for tensor in (norm.forward(x, weight, bias, 1e-5), norm.backward(grad, x, weight, 1e-5)[0]):
        assert tensor.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_do_not_depend_on_the_threads(dtype):
    x, weight, _, grad = case((1000, 96), dtype)
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(norm.backward(grad, x, weight, 1e-5))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


ELSEWHERE = {
    "no weight": ((32,), None, torch.zeros(32)),
    "no bias": ((32,), torch.ones(32), None),
    "two axes": ((4, 32), torch.ones(4, 32), torch.zeros(4, 32)),
    "a weight in bfloat16": ((32,), torch.ones(32).bfloat16(), torch.zeros(32)),
    "every second of a bias": ((32,), torch.ones(32), torch.zeros(64)[::2]),
    "no memory": ((32,), torch.ones(32, device="meta"), torch.zeros(32)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_the_library_would_misread_is_pytorchs(name):
    x = torch.zeros(4, 32)
    assert norms.native(x, (32,), torch.ones(32), torch.zeros(32))
    assert not norms.native(x, *ELSEWHERE[name])
    assert not norms.native(torch._neg_view(x), (32,), torch.ones(32), torch.zeros(32))
    assert not norms.native(x.double(), (32,), torch.ones(32), torch.zeros(32))
    assert not norms.native(torch.zeros(4, 31), (31,), torch.ones(31), torch.zeros(31))
    assert not norms.native(torch.zeros(0, 32), (32,), torch.ones(32), torch.zeros(32))


@pytest.mark.parametrize("channels", [32, 31])
@pytest.mark.parametrize("memory", ["full", "lean"])
def test_layers_inside_a_model(memory, channels):
    """A transposed input, a frozen weight, another epsilon; the linear layer behind it keeps no output in lean memory."""
    layer = nn.Sequential(nn.LayerNorm(channels, eps=1e-3), nn.Linear(channels, 32))
    layer[0].weight.requires_grad_(False)
    x, found = torch.randn(channels, 7), []
    for enter in (training(layer, memory), torch.enable_grad()):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        with enter:
            out = layer(leaf.t())
        out.square().sum().backward()
        found.append([out, leaf.grad, layer[0].bias.grad, layer[1].weight.grad])
        assert layer[0].weight.grad is None
    for a, b in zip(*found, strict=True):
        assert difference(a, b) <= 1e-5


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", [1, 37, 7001])
def test_made_again_inside_a_linear_layer(monkeypatch, isa, rows):
    """Bit for bit what the layer makes of LayerNorm's output, in each combination of dtypes."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    torch.manual_seed(rows)
    halves = (torch.float32, torch.bfloat16) if isa == "avx512_bf16" else (torch.float32,)
    x, weight, grad = torch.randn(rows, 96), torch.randn(64, 96), torch.randn(rows, 64)
    affine = torch.randn(96), torch.randn(96), 1e-3
    for dtype in halves:
        for x_dtype in {dtype, torch.float32}:
            given, y_grad = x.to(x_dtype), grad.to(dtype)
            options = (weight, dtype, False, (True, True, True), x_dtype)
            wanted = linear.backward(y_grad, norm.forward(given, *affine), *options)
            for a, b in zip(linear.backward(y_grad, given, *options, affine), wanted, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("memory", ["full", "lean"])
def test_arguments_by_name(memory):
    x, weight, bias, _ = case((3, 32))
    with training(nn.Identity(), memory):
        named = F.layer_norm(input=x, normalized_shape=(32,), bias=bias, weight=weight.requires_grad_(), eps=1e-3)
        plain = F.layer_norm(x, [32])
    assert difference(named.detach(), definition(x, weight, bias, x, 1e-3)[0]) <= 1e-5
    assert torch.equal(plain, F.layer_norm(x, [32]))
