"""The branches of a block as one function each: what the block computes otherwise, outputs and every gradient."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tests.test_cpu_kernels import BOUND, ISAS, difference
from torch import nn

from swinkit import kernels
from swinkit.config import SwinConfig
from swinkit.kernels import branches
from swinkit.kernels.cpu import library, linear, norm
from swinkit.kernels.training import training
from swinkit.model import Mlp, SwinBlock, SwinTransformer, window_attention

pytestmark = pytest.mark.skipif(not ISAS, reason="needs the C++ library, which is built where there is a compiler")

MEMORY = pytest.mark.parametrize("memory", ["full", "lean"])


def config(**changes):
    sizes = {"img_size": 56, "embed_dim": 32, "depths": (2, 2), "num_heads": (1, 2), "window_size": 7, "num_classes": 5}
    return SwinConfig(**sizes | {"drop_path_rate": 0.0} | changes)


@pytest.fixture
def taken(monkeypatch):
    """How often each branch was computed here."""
    counts = {"attend": 0, "feed": 0}

    def counted(name, function):
        def call(*given):
            counts[name] += 1
            return function(*given)

        return call

    for name in counts:
        monkeypatch.setattr(branches, name, counted(name, getattr(branches, name)))
    return counts


def block_of(dtype=None, index=1, **changes):
    """A block with biases that show, its input and a gradient of its output."""
    torch.manual_seed(0)
    block = SwinBlock(config(**changes), 0, index, 0.0, kernels.attend).train()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, grad = torch.randn(3, 10, 9, 32), torch.randn(3, 10, 9, 32)
    return block, x.to(dtype or torch.float32), grad.to(dtype or torch.float32)


def results(block, x, grad, dtype=None, memory="full", plain=False):
    """The output and the gradients of the input and of every parameter that has one."""
    leaf = x.detach().clone().requires_grad_()
    block.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        if plain:
            out = block(leaf)
        else:
            with training(block, memory):
                out = block(leaf)
    out.backward(grad)
    return [out.detach(), leaf.grad, *(parameter.grad for parameter in block.parameters() if parameter.grad is not None)]


def definition(block, x, grad):
    wide = copy.deepcopy(block).double()
    wide.attn.attend = window_attention
    return results(wide, x.double(), grad.double(), plain=True)


@MEMORY
@pytest.mark.parametrize("isa", ISAS)
def test_outputs_and_every_gradient(monkeypatch, taken, isa, memory):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    for dtype in (None, torch.bfloat16) if isa == "avx512_bf16" else (None,):
        block, x, grad = block_of(dtype)
        got = results(block, x, grad, dtype, memory)
        wanted = definition(block, x, grad)
        assert len(got) == len(wanted) == 15
        for a, b in zip(got, wanted, strict=True):
            assert difference(a, b) <= 2 * BOUND[dtype or torch.float32]
    assert taken == {"attend": 1 + (isa == "avx512_bf16"), "feed": 1 + (isa == "avx512_bf16")}


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("size", [(7, 7), (14, 21), (3, 20)])
def test_any_map_shifted_or_not(size, index):
    block, _, _ = block_of(index=index, size_policy="dense")
    x, grad = torch.randn(2, *size, 32), torch.randn(2, *size, 32)
    for a, b in zip(results(block, x, grad), definition(block, x, grad), strict=True):
        assert difference(a, b) <= 2e-5


@MEMORY
def test_stochastic_depth_draws_what_it_draws_otherwise(taken, memory):
    model = SwinTransformer(config(drop_path_rate=0.5), kernels.attend).train()
    x, told = torch.randn(6, 3, 56, 56), []
    for plain in (True, False):
        torch.manual_seed(3)
        model.zero_grad()
        if plain:
            out = model(x)
        else:
            with training(model, memory):
                out = model(x)
        out.square().sum().backward()
        told.append([out.detach(), *(parameter.grad for parameter in model.parameters())])
    for a, b in zip(*told, strict=True):
        assert difference(a, b.double()) <= 2e-5
    assert taken == {"attend": 4, "feed": 4}


def test_frozen_layers_have_no_gradient_and_change_no_other():
    block, x, grad = block_of()
    whole = dict(zip([name for name, _ in block.named_parameters()], results(block, x, grad)[2:], strict=True))
    frozen = ["norm1.weight", "attn.qkv.bias", "attn.relative_position_bias_table", "mlp.fc1.weight", "mlp.fc2.bias"]
    for name in frozen:
        block.get_parameter(name).requires_grad_(False)
    results(block, x, grad)
    for name, parameter in block.named_parameters():
        assert (parameter.grad is None) == (name in frozen)
        assert name in frozen or torch.equal(parameter.grad, whole[name])


def test_an_input_without_gradient_goes_the_usual_way(taken):
    block, x, grad = block_of()
    wanted = results(block, x, grad)[2:]
    block.zero_grad()
    with training(block):
        block(x).backward(grad)
    for parameter, b in zip(block.parameters(), wanted, strict=True):
        assert difference(parameter.grad, b.double()) <= 2e-5
    assert taken == {"attend": 1, "feed": 1}


def test_strides_do_not_matter():
    block, x, grad = block_of()
    apart = [tensor.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0) for tensor in (x, grad)]
    assert all(torch.equal(a, b) for a, b in zip(results(block, *apart), results(block, x, grad), strict=True))


def test_results_do_not_depend_on_threads():
    block, x, grad = block_of()
    before = torch.get_num_threads()
    try:
        told = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            told.append(results(block, x, grad))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*told, strict=True))


def _without_bias(block):
    block.attn.qkv.bias = None


def _adapted(block):
    block.mlp.fc2 = type("Adapted", (nn.Linear,), {})(128, 32)


def _hooked(block):
    block.attn.proj.register_forward_hook(lambda *_: None)


def _own_forward(block):
    block.norm2.forward = lambda x: F.layer_norm(x, (32,)) * 2


def _own_attention(block):
    block.attn.attend = window_attention


def _own_mlp(block):
    block.mlp.__class__ = type("Doubled", (Mlp,), {"forward": lambda self, x: 2 * Mlp.forward(self, x)})


def _own_feed(block):
    block.mlp.feed = lambda mlp, x: x.sin()


def _own_depth(block):
    block.drop_path = nn.Identity()


def _dropout(block):
    block.mlp.drop.p = 0.3


def _double(block):
    block.double()


ODD = (_without_bias, _adapted, _hooked, _own_forward, _own_attention, _own_mlp, _own_feed, _own_depth, _dropout, _double)


@pytest.mark.parametrize("change", ODD)
def test_what_is_not_usual_goes_the_way_of_the_definition(taken, change):
    block, x, grad = block_of()
    change(block)
    x, grad = x.to(block.norm1.weight.dtype), grad.to(block.norm1.weight.dtype)
    torch.manual_seed(1)
    got = results(block, x, grad)
    torch.manual_seed(1)
    for a, b in zip(got, results(block, x, grad, plain=True), strict=True):
        assert difference(a, b.double()) <= 2e-5
    assert taken == {"attend": 0, "feed": 0}


def test_hooks_of_all_modules_are_called(taken):
    block, x, grad = block_of()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module)))
    try:
        results(block, x, grad)
    finally:
        handle.remove()
    assert nn.Linear in seen
    assert taken["attend"] == 0


def test_hooks_of_the_block_are_called(taken):
    block, x, grad = block_of()
    seen = []
    block.register_forward_hook(lambda *_: seen.append("forward"))
    block.register_full_backward_hook(lambda *_: seen.append("backward"))
    results(block, x, grad)
    assert seen == ["forward", "backward"]
    assert taken["attend"] == 1


@MEMORY
def test_the_kind_of_a_block_is_its_own_again(memory):
    block, x, grad = block_of()
    with training(block, memory):
        copied, pickled = copy.deepcopy(block), pickle.loads(pickle.dumps(block.state_dict()))
    assert type(block) is type(copied) is SwinBlock
    assert pickled.keys() == block.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(results(copied, x, grad), results(block, x, grad), strict=True))


def test_without_gradients_the_block_is_plain(taken):
    block, x, _ = block_of()
    with training(block), torch.no_grad():
        block(x)
    assert taken == {"attend": 0, "feed": 0}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 32, 32), (117, 64, 96), (50, 40, 70), (9000, 32, 256)])
def test_a_residual_and_a_norm_in_a_linear_layer(monkeypatch, isa, rows, inputs, outputs):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    for dtype in (torch.float32, torch.bfloat16) if isa == "avx512_bf16" else (torch.float32,):
        torch.manual_seed(rows)
        x, residual = torch.randn(rows, inputs).to(dtype), torch.randn(rows, outputs).to(dtype)
        weight, bias, scale, shift = torch.randn(outputs, inputs) / inputs, torch.randn(outputs), torch.randn(inputs), torch.randn(inputs)
        wide = [tensor.double() for tensor in (x, weight, bias, residual, scale, shift)]
        got = linear.forward(x, weight, bias, dtype, residual=residual)
        assert difference(got, F.linear(*wide[:3]) + wide[3]) <= BOUND[dtype]
        if inputs % 32 == 0:
            got = linear.forward(x, weight, bias, dtype, norm=(scale, shift, 1e-5), residual=residual)
            normed = F.layer_norm(wide[0], (inputs,), wide[4], wide[5])
            assert difference(got, F.linear(normed, *wide[1:3]) + wide[3]) <= BOUND[dtype]


@pytest.mark.parametrize("isa", ISAS)
def test_a_gradient_that_came_along_is_added(monkeypatch, isa):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    for dtype in (torch.float32, torch.bfloat16) if isa == "avx512_bf16" else (torch.float32,):
        torch.manual_seed(0)
        x, grad, passed = (torch.randn(131, 96).to(dtype) for _ in range(3))
        weight = torch.randn(96)
        alone, together = norm.backward(grad, x, weight, 1e-5), norm.backward(grad, x, weight, 1e-5, passed)
        assert difference(together[0], alone[0].double() + passed.double()) <= BOUND[dtype]
        assert torch.equal(together[1], alone[1])
        assert torch.equal(together[2], alone[2])
