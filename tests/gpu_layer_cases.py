"""MLPs and patch embedding on GPUs, run by tests/test_gpu_kernels.py like gpu_cases.py."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from triton.runtime import interpreter

from gpu_cases import differences
from odd_mlps import ODD, Quantised
from swinkit.config import SwinConfig
from swinkit.errors import SwinkitError
from swinkit.kernels import gpu
from swinkit.kernels.gpu import mlp_ops, plan
from swinkit.model import Mlp, PatchEmbed, SwinTransformer, window_attention

BOUND = {torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""The largest difference, as a part of the largest value of the definition in float64."""


def layer(channels, hidden, dtype=torch.float32, drop=0.0, attend=gpu.attend):
    torch.manual_seed(0)
    made = Mlp(channels, hidden, drop, attend).to(dtype)
    for linear in (made.fc1, made.fc2):
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        nn.init.normal_(linear.bias)
    return made


def results(mlp, x, grad):
    """The output and the gradients of the input and of all weights."""
    leaf = x.detach().clone().requires_grad_()
    out = mlp(leaf)
    return [out.detach(), *torch.autograd.grad(out, (leaf, *mlp.parameters()), grad.to(out.dtype))]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """What a kernel does not write is not a number."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty_like", lambda like, **options: torch.full_like(like, float("nan"), **options))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *given, **options: empty(*given, **options).fill_(float("nan")))


class TestMlp:
    @pytest.mark.parametrize("dtype", BOUND)
    @pytest.mark.parametrize(
        ("shape", "hidden"),
        [((1, 1, 1, 16), 64), ((2, 5, 13, 96), 384), ((70, 48), 176), ((1, 3, 22, 192), 256), ((2, 65, 272), 144)],
    )
    def test_outputs_and_gradients_are_those_of_the_definition(self, dtype, shape, hidden):
        mlp = layer(shape[-1], hidden, dtype)
        x, grad = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        wide = copy.deepcopy(mlp).double()
        mine = results(mlp, x, grad)
        assert all(value.dtype == dtype for value in mine)
        assert max(differences(mine, results(wide, x.double(), grad.double()))) < BOUND[dtype]

    def test_every_layout_of_the_kernels_is_taken(self):
        assert [plan.tiles("expand", channels).sizes["BLOCK_M"] for channels in (96, 128, 192, 256, 384, 1024)] == [
            64,
            64,
            64,
            64,
            128,
            128,
        ]
        assert [plan.tiles("contract_backward", channels).sizes["BLOCK_F"] for channels in (128, 192)] == [64, 128]

    def test_autocast_takes_part(self):
        mlp = layer(32, 128)
        x, grad = torch.randn(3, 7, 32), torch.randn(3, 7, 32)
        with torch.autocast("cpu", torch.bfloat16):
            mine = results(mlp, x, grad)
        assert [value.dtype for value in mine] == [torch.bfloat16, *[torch.float32] * 5]
        assert max(differences(mine, results(copy.deepcopy(mlp).double(), x.double(), grad.double()))) < 2e-2

    def test_without_gradients_nothing_is_kept(self, monkeypatch):
        mlp, x, kept = layer(32, 128, torch.bfloat16), torch.randn(4, 32).bfloat16(), []
        forward = mlp_ops.forward
        monkeypatch.setattr(mlp_ops, "forward", lambda *given: kept.append(given[-1]) or forward(*given))
        with torch.no_grad():
            quiet = mlp(x)
        assert torch.equal(quiet, mlp(x))
        assert kept == [False, True]

    def test_frozen_weights_have_no_gradient_and_change_no_other(self):
        mlp = layer(32, 128, torch.bfloat16)
        x, grad = torch.randn(9, 32).bfloat16(), torch.randn(9, 32).bfloat16()
        whole = results(mlp, x, grad)
        mlp.fc1.weight.requires_grad_(False)
        mlp.fc2.bias.requires_grad_(False)
        out = mlp(x)
        rest = torch.autograd.grad(out, (mlp.fc1.bias, mlp.fc2.weight), grad)
        assert torch.equal(rest[0], whole[3])
        assert torch.equal(rest[1], whole[4])

    def test_strides_do_not_matter(self):
        mlp = layer(32, 128, torch.bfloat16)
        x, grad = torch.randn(5, 3, 32).bfloat16(), torch.randn(5, 3, 32).bfloat16()
        apart = results(mlp, x.transpose(0, 1).contiguous().transpose(0, 1), grad.permute(2, 0, 1).contiguous().permute(1, 2, 0))
        assert all(torch.equal(a, b) for a, b in zip(apart, results(mlp, x, grad), strict=True))

    @pytest.mark.parametrize("value", [float("nan"), 1e4, -1e4, 200.0, -200.0, 0.0])
    def test_gelu_of_odd_numbers(self, value):
        mlp = layer(16, 16, torch.bfloat16)
        with torch.no_grad():
            for parameter in mlp.parameters():
                parameter.zero_()
            mlp.fc1.bias.fill_(value)
            mlp.fc2.weight.copy_(torch.eye(16))
            expected = F.gelu(torch.tensor(value).bfloat16())
            torch.testing.assert_close(mlp(torch.zeros(1, 16).bfloat16())[0, 0], expected, equal_nan=True, rtol=0, atol=1e-6)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
    def test_pytorch_accepts_the_operations(self):
        mlp = layer(16, 48, torch.bfloat16)
        given = (torch.randn(3, 16).bfloat16().requires_grad_(), *(tensor.detach().requires_grad_() for tensor in mlp.parameters()))
        torch.library.opcheck(torch.ops.swinkit.gpu_mlp.default, (*given, True))
        torch.library.opcheck(torch.ops.swinkit.gpu_mlp.default, (*(tensor.detach() for tensor in given), False))

    def test_second_derivatives_are_refused_in_a_sentence(self):
        x = torch.randn(3, 16).bfloat16().requires_grad_()
        (first,) = torch.autograd.grad(layer(16, 48, torch.bfloat16)(x).square().sum(), x, create_graph=True)
        with pytest.raises(SwinkitError, match="second derivatives"):
            first.sum().backward()

    @pytest.mark.parametrize("change", ODD, ids=lambda change: change.__name__)
    def test_what_is_not_usual_goes_the_way_of_the_definition(self, change):
        mlp, x = layer(32, 128, torch.bfloat16), torch.randn(3, 32).bfloat16()
        assert gpu.feed(mlp, x) is not None
        x = change(mlp, x)
        assert gpu.feed(mlp, x) is None
        assert mlp(x).shape == x.shape

    @pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
    def test_hooks_of_all_modules_are_called(self, register):
        seen = []
        handle = getattr(nn.modules.module, register)(lambda module, *_: seen.append(type(module)))
        try:
            layer(32, 128, torch.bfloat16)(torch.randn(3, 32).bfloat16())
        finally:
            handle.remove()
        assert seen.count(nn.Linear) == 2

    def test_wrong_channels_are_refused_as_ever(self):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer(32, 128, torch.bfloat16)(torch.randn(5, 64).bfloat16())

    def test_float64_stays_wide_under_autocast(self):
        mlp, x = layer(32, 128, torch.float64), torch.randn(3, 32, dtype=torch.float64)
        with torch.autocast("cpu", torch.bfloat16):
            assert mlp(x).dtype == torch.float64


class TestEmbed:
    @pytest.mark.parametrize("policy", ["official", "per_axis"])
    @pytest.mark.parametrize("size", [(16, 24), (17, 21), (4, 5)])
    @pytest.mark.parametrize("patch", [4, (2, 3)])
    def test_tokens_and_gradients_are_those_of_the_convolution(self, policy, size, patch):
        config = SwinConfig(img_size=24, patch_size=patch, embed_dim=24, depths=(1,), num_heads=(1,), window_size=2, size_policy=policy)
        torch.manual_seed(0)
        mine, plain = PatchEmbed(config, gpu.attend), PatchEmbed(config)
        plain.load_state_dict(mine.state_dict())
        x = torch.randn(2, 3, *size)
        assert gpu.embed(mine, F.pad(x, (0, 8 - size[1] % 4, 0, 8 - size[0] % 4))) is not None
        for channels_last in (False, True):
            image = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            told = [embedding(image) for embedding in (mine, plain)]
            torch.testing.assert_close(*told, rtol=1e-5, atol=1e-5)
            grads = [torch.autograd.grad(out.sin().sum(), module.proj.weight) for out, module in zip(told, (mine, plain), strict=True)]
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)
        assert mine(x).is_contiguous()

    @pytest.mark.parametrize("odd", ["padding", "stride", "dilation", "groups", "hook", "channels", "weight"])
    def test_another_convolution_goes_its_own_way(self, odd):
        patches = PatchEmbed(SwinConfig(img_size=8, embed_dim=9, depths=(1,), num_heads=(1,), window_size=2), gpu.attend)
        x = torch.randn(1, 3, 8, 8)
        assert gpu.embed(patches, x) is not None
        options = {"padding": 2} if odd == "padding" else {"dilation": 2} if odd == "dilation" else {"groups": 3} if odd == "groups" else {}
        if odd == "hook":
            patches.proj.register_forward_hook(lambda *_: None)
        elif odd == "weight":
            patches.proj.weight = nn.Parameter(patches.proj.weight.detach().as_subclass(Quantised))
        elif odd == "channels":
            x = x[:, :2]
        else:
            patches.proj = nn.Conv2d(3, 9, kernel_size=4, stride=2 if odd == "stride" else 4, **options)
        assert gpu.embed(patches, x) is None


def small(version, **changes):
    """A model with the kernels, and the same one with the definition."""
    sizes = {"img_size": 16, "patch_size": 2, "embed_dim": 16, "depths": (2,), "num_heads": (1,), "window_size": 4}
    config = SwinConfig(version=version, num_classes=3, drop_path_rate=0.0, **sizes | changes)
    torch.manual_seed(0)
    fused, plain = SwinTransformer(config, gpu.attend), SwinTransformer(config, window_attention)
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def check_gradients(run, fused, plain, dtype=torch.bfloat16):
    x = torch.randn(2, 3, 16, 16)
    for model in (run, plain):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            out = model(x)
        F.cross_entropy(out.float(), torch.tensor([0, 2])).backward()
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        bound = (2e-5 if dtype is None else 0.05) * theirs.grad.abs().max().item() + 1e-6
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0.1, atol=bound)


@pytest.mark.parametrize("version", [1, 2])
def test_a_compiled_model_in_half_precision_has_one_graph(version):
    (fused, plain), targets = small(version), []
    compiled = torch.compile(
        fused, fullgraph=True, backend=lambda graph, _: targets.extend(node.target for node in graph.graph.nodes) or graph
    )
    check_gradients(compiled, fused, plain)
    assert sum("gpu_mlp" in str(target) for target in targets) == 2


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("version", [1, 2])
def test_checkpointed_stages(version, dtype):
    fused, plain = small(version)
    fused.set_grad_checkpointing()
    check_gradients(fused, fused, plain, dtype)


def test_an_export_in_half_precision_keeps_the_operations_and_any_batch():
    fused, plain = (model.eval().bfloat16() for model in small(1))
    x = torch.randn(5, 3, 16, 16).bfloat16()
    program = torch.export.export(fused, (x[:2],), dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}})
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("gpu_mlp" in name for name in names) == sum("gpu_window_attention" in name for name in names) == 2
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), plain(x), rtol=0, atol=2e-2)


@pytest.mark.parametrize("version", [1, 2])
def test_the_products_are_counted(version):
    told = []
    for model in small(version, img_size=20):
        with FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(2, 3, 20, 20)).sum().backward()
        told.append(counter.get_total_flops())
    assert abs(told[0] - told[1]) < 0.02 * told[1]  # a convolution has no gradient for its images, a product's costs nothing then


def test_triton_is_interpreted():
    assert interpreter is not None
    assert mlp_ops.ops.INTERPRETED
