"""Forward is pure: nothing written, nothing remembered, and compile, export, func, copies, threads and half precision all work."""

import copy
import shutil
import warnings

import pytest
import torch
from torch import nn

from small_models import SMALL, VERSIONS, check_threads, small
from swinkit.backbone import SwinBackbone
from swinkit.config import SwinConfig
from swinkit.model import SwinTransformer, relative_position_index, window_attention


@VERSIONS
def test_forward_writes_nothing_and_remembers_nothing(version):
    model, x = small(version), torch.randn(1, 3, 32, 32)
    before = model(x)
    state = copy.deepcopy(model.state_dict())
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    for size in ((8, 8), (6, 50), (64, 64)):
        model(torch.randn(1, 3, *size))
    assert torch.equal(model(x), before)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    for name, module in model.named_modules():
        assert vars(module).keys() == attributes[name].keys()
        assert all(vars(module)[key] is value for key, value in attributes[name].items()), name


def test_no_buffers():
    assert list(small().buffers()) == list(small(2).buffers()) == []


def test_meta_device():
    with torch.device("meta"):
        model = SwinTransformer(SwinConfig(**SMALL))
        assert model(torch.randn(2, 3, 20, 20)).shape == (2, 5)
    assert small()(torch.randn(1, 3, 20, 20)).device.type == "cpu", "what was made on meta is not reused elsewhere"


def test_inference_mode_first_then_training():
    model = small()
    with torch.inference_mode():
        model(torch.randn(1, 3, 26, 38))
    model(torch.randn(1, 3, 26, 38)).sum().backward()


@VERSIONS
def test_deepcopy_func_grad_and_threads(version):
    model, x = small(version), torch.randn(2, 3, 27, 35)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    grads = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).square().sum())(parameters)
    expected.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)

    check_threads(model, 1)


def test_torch_func_first():
    """The first use of a size inside torch.func must not leave its wrappers behind for later calls."""
    model, x = small(2, window_size=3), torch.randn(2, 3, 27, 35)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    grads = torch.func.grad(lambda p: torch.func.functional_call(model, p, (x,)).square().sum())(parameters)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)


@VERSIONS
def test_vmap_over_samples(version):
    """Per-sample gradients, at a size that needs padding."""
    model, x = small(version), torch.randn(3, 3, 27, 35)
    torch.testing.assert_close(torch.func.vmap(lambda one: model(one[None])[0])(x), model(x))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    loss = lambda p, one: torch.func.functional_call(model, p, (one[None],)).sum()  # noqa: E731
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    model(x).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), parameter.grad, atol=1e-4, rtol=1e-4)


def test_what_is_handed_out_is_not_what_is_remembered():
    model, x = small(), torch.randn(1, 3, 32, 32)
    before = model(x)
    relative_position_index((4, 4)).fill_(0)
    relative_position_index((4, 4), torch.device("cpu")).fill_(0)
    assert torch.equal(model(x), before)


def test_vmap_over_models():
    model, x = small(), torch.randn(1, 3, 32, 32)
    stacked = {name: torch.stack([p.detach(), 2 * p.detach()]) for name, p in model.named_parameters()}
    both = torch.func.vmap(lambda p: torch.func.functional_call(model, p, (x,)))(stacked)
    torch.testing.assert_close(both[0], model(x))


@VERSIONS
@pytest.mark.parametrize("size", [(32, 32), (27, 35)])
def test_compile_without_graph_breaks(version, size):
    model, x = small(version), torch.randn(2, 3, *size)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns about its own imports
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x))
        compiled(x).sum().backward()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compile_to_machine_code():
    model, x = small(2, depths=(2,), num_heads=(2,)), torch.randn(2, 3, 27, 35)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))


@pytest.mark.parametrize("policy", ["official", "dense", "per_axis"])
def test_compiled_backbone_takes_one_size_after_another(policy):
    backbone = SwinBackbone(SwinConfig(**SMALL, size_policy=policy)).eval()
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(backbone, fullgraph=True, backend="eager")
        for size in ((32, 32), (21, 50), (9, 9), (32, 32)):
            x = torch.randn(1, 3, *size)
            for got, wanted in zip(compiled(x), backbone(x), strict=True):
                torch.testing.assert_close(got, wanted)


@VERSIONS
@pytest.mark.parametrize("size", [(32, 32), (27, 35)])
def test_export_with_dynamic_batch(version, size):
    model = small(version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (torch.randn(2, 3, *size),), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    for batch in (1, 5):
        x = torch.randn(batch, 3, *size)
        torch.testing.assert_close(program.module()(x), model(x))


@VERSIONS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(32, 32), (13, 18)])
def test_half_precision_is_finite_on_large_activations(version, dtype, size):
    model, x = small(version), torch.randn(2, 3, *size)
    for name, parameter in model.named_parameters():
        if "qkv.weight" in name:
            nn.init.normal_(parameter, std=100.0)
    assert model.to(dtype)((1000 * x).to(dtype)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cosine", [False, True])
def test_attention_in_half_precision_is_finite(dtype, cosine):
    qkv = (torch.randn(1, 7, 9, 3, 2, 8) * 3e3).to(dtype).requires_grad_()
    out = window_attention(qkv, torch.zeros(2, 16, 16, dtype=dtype), window=(4, 4), shift=(2, 2), scale=1.0, cosine=cosine, pad=0.0)
    out.float().sum().backward()
    assert out.isfinite().all()
    assert qkv.grad.isfinite().all()


@VERSIONS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(version, dtype):
    model, x = small(version), torch.randn(2, 3, 27, 35)
    with torch.autocast("cpu", dtype):
        got = model(x)
    torch.testing.assert_close(got.float(), model(x), atol=0.05, rtol=0.05)
