"""What people do to a block, after which its branches must not be computed as one function each, or must notice."""

import pytest
import torch
from tests.test_branches import block_of, config, results, taken
from tests.test_cpu_kernels import ISAS, difference
from tests.test_training_memory import kept
from torch import nn
from torch.nn.utils import parametrize

from swinkit import kernels
from swinkit.kernels.training import training
from swinkit.model import SwinBlock, SwinTransformer

pytestmark = pytest.mark.skipif(not ISAS, reason="needs the C++ library, which is built where there is a compiler")
__all__ = ["taken"]

WRONG = {
    "fc1": nn.Linear(64, 128), "fc2": nn.Linear(64, 32), "wide fc2": nn.Linear(256, 32), "qkv": nn.Linear(64, 96),
    "narrow qkv": nn.Linear(32, 64), "proj": nn.Linear(64, 32), "long fc2": nn.Linear(128, 64), "long proj": nn.Linear(32, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_layers_that_do_not_fit_are_refused_as_ever(name):
    block, x, grad = block_of()
    part = name.split()[-1]
    setattr(block.mlp if part.startswith("fc") else block.attn, part, WRONG[name])
    with pytest.raises(RuntimeError):
        results(block, x, grad)


def test_a_projection_to_one_number_per_channel_is_broadcast_as_ever(taken):
    block, x, grad = block_of()
    block.attn.proj, block.mlp.fc2 = nn.Linear(32, 1), nn.Linear(128, 1)
    for a, b in zip(results(block, x, grad), results(block, x, grad, plain=True), strict=True):
        assert difference(a, b.double()) <= 2e-5
    assert taken["attend"] == 0


def test_a_table_for_all_heads(taken):
    block, x, grad = block_of(num_heads=(2, 2))
    block.attn.relative_position_bias_table = nn.Parameter(torch.randn(169, 1))
    for a, b in zip(results(block, x, grad), results(block, x, grad, plain=True), strict=True):
        assert difference(a, b.double()) <= 2e-5
    assert taken["attend"] == 1


def test_a_table_for_other_heads_is_refused():
    block, x, grad = block_of(num_heads=(2, 2))
    block.attn.relative_position_bias_table = nn.Parameter(torch.randn(169, 4))
    with pytest.raises(RuntimeError):
        results(block, x, grad)


def _learned(block):
    block.attn.qk_scale = nn.Parameter(torch.tensor(0.3))


def _own_scale(block):
    block.attn.scale = lambda: torch.full((1, 1, 1), 0.7)


def _own_bias_of_qkv(block):
    block.attn.qkv_bias = lambda: block.attn.qkv.bias * 2


@pytest.mark.parametrize("change", [_learned, _own_scale, _own_bias_of_qkv])
def test_a_factor_of_its_own(taken, change):
    block, x, grad = block_of()
    change(block)
    got, wanted = results(block, x, grad), results(block, x, grad, plain=True)
    for a, b in zip(got, wanted, strict=True):
        assert difference(a, b.double()) <= 2e-5
    assert taken["attend"] == 0


def test_a_bias_of_its_own(taken):
    block, x, grad = block_of()
    table = nn.Parameter(torch.randn(1, 49, 49))
    block.attn.bias = lambda: table.sin()
    for a, b in zip(results(block, x, grad), results(block, x, grad, plain=True), strict=True):
        assert difference(a, b.double()) <= 2e-5
    assert taken["attend"] == 1


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("part", ["drop_path", "attn"])
def test_the_mode_of_the_part_decides(part, whole):
    torch.manual_seed(0)
    block = SwinBlock(config(attn_drop_rate=0.5 if part == "attn" else 0.0), 0, 0, 0.5 if part == "drop_path" else 0.0, kernels.attend)
    block.train(whole).get_submodule(part).train(not whole)
    x, grad = torch.randn(8, 7, 7, 32), torch.randn(8, 7, 7, 32)
    told = []
    for plain in (True, False):
        torch.manual_seed(5)
        told.append(results(block, x, grad, plain=plain))
    for a, b in zip(*told, strict=True):
        assert difference(a, b.double()) <= 2e-5


@pytest.mark.parametrize("classes", [64, 0, 5])
def test_second_derivatives_are_refused(classes):
    model = SwinTransformer(config(num_classes=classes), kernels.attend)
    x = torch.randn(2, 3, 56, 56, requires_grad=True)
    with training(model):
        out = model(x)
    (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        (first.square().sum() + out.square().sum()).backward()


def test_a_block_on_the_meta_device():
    block, x, _ = block_of()
    block.to("meta")
    with training(block):
        assert block(x.to("meta")).shape == x.shape


def test_an_attention_of_another_kind():
    class Mean(nn.Module):
        def forward(self, x, shift):
            return x.mean(-1, keepdim=True).expand_as(x)

    block, x, grad = block_of()
    block.attn = Mean()
    for a, b in zip(results(block, x, grad), results(block, x, grad, plain=True), strict=True):
        assert difference(a, b.double()) <= 2e-5


def test_a_gradient_that_is_only_marked_as_negative():
    block, x, grad = block_of()
    wanted = results(block, x, grad)[1]
    leaf = x.clone().requires_grad_()
    with training(block):
        out = block(leaf)
    out.register_hook(torch._neg_view)
    out.backward(grad)
    assert difference(leaf.grad, -wanted.double()) <= 1e-6


def test_bfloat16_without_autocast_is_as_ever():
    block, x, _ = block_of(torch.bfloat16)
    with training(block):
        assert kernels.branches.takes(block, x.requires_grad_(), (0, 0), torch.bfloat16) is False


def test_a_frozen_projection_keeps_no_more(monkeypatch):
    block, x, _ = block_of()
    block.requires_grad_(False).mlp.fc1.weight.requires_grad_(True)
    leaf = x.clone().requires_grad_()
    mine = kept(block, leaf, training(block, "lean"))
    monkeypatch.setattr(kernels.branches, "takes", lambda *given: False)
    assert mine <= 1.01 * kept(block, leaf, training(block, "lean"))


def test_what_became_of_a_block_inside_stays():
    block, x, grad = block_of()
    with training(block):
        block.extra = nn.Parameter(torch.ones(3))
        parametrize.register_parametrization(block, "extra", nn.Tanh())
    assert torch.equal(block.extra, torch.ones(3).tanh())
    assert len(results(block, x, grad)) == 15
