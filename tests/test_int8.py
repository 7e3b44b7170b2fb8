"""int8 inference: near enough to float64 on any model, apart for every image and token, and never without being asked for."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import swinkit
from swinkit.config import SwinConfig
from swinkit.errors import ConfigError
from swinkit.kernels.cpu import library
from swinkit.kernels.cpu.fused import FusedNet, Wanted
from test_prepare import SMALL, cases, in_float64, speaking

HAS = bool(library.find()) and library.has(library.instruction_sets()[-1], library.INT8)
needs_int8 = pytest.mark.skipif(not HAS, reason="needs a CPU with AVX512-VNNI and AVX512-BF16")

TOLERANCE = 0.05
"""Norm of the difference to float64, of the norm of float64. Of 250 random models the median had 0.4 %, the worst 1.8 %."""


def error(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


@needs_int8
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), batch=st.integers(1, 3), threads=st.integers(1, 3))
def test_any_model_on_any_image(case, batch, threads):
    config, size = case
    torch.manual_seed(0)
    model, x = speaking(config.replace(num_classes=33)), torch.randn(batch, config.in_chans, *size)
    out = FusedNet(model, torch.int8).run(x, Wanted(logits=True), threads)["logits"]
    assert error(out, in_float64(model, x)) < TOLERANCE


@needs_int8
@pytest.mark.parametrize("version", [1, 2])
def test_small_errors_in_small_memory(version):
    torch.manual_seed(0)
    model, x = speaking(SwinConfig(**(SMALL | {"version": version, "embed_dim": 96, "num_heads": (3, 6)}))), torch.randn(4, 3, 33, 30)
    half, int8 = (swinkit.prepare(model, dtype=dtype) for dtype in (torch.bfloat16, torch.int8))
    assert int8.engine.dtype == torch.int8
    assert "AVX512-VNNI, int8" in int8.engine.reason
    assert int8.engine.weight_bytes < 0.7 * half.engine.weight_bytes
    assert error(half(x), in_float64(model, x)) < error(int8(x), in_float64(model, x)) < 0.02


@needs_int8
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_one_image_never_reaches_another(version, poison):
    model, x = speaking(SwinConfig(**(SMALL | {"version": version}))), torch.randn(4, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=torch.int8)
    clean = fast(x)
    x[2, 1, 13, 5] = poison
    out = fast(x)
    assert not out[2].isfinite().any()
    assert torch.equal(out[[0, 1, 3]], clean[[0, 1, 3]])


@needs_int8
@pytest.mark.parametrize("layer", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
def test_a_weight_that_is_not_a_number_is_not_lost(layer):
    model = speaking(SwinConfig(**SMALL))
    with torch.no_grad():
        model.layers[0].blocks[1].get_submodule(layer).weight[3, 2] = float("nan")
    assert not swinkit.prepare(model, dtype=torch.int8)(torch.randn(1, 3, 28, 28)).isfinite().any()


@needs_int8
def test_zeros_and_large_numbers():
    model = speaking(SwinConfig(**SMALL))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("layers.0.blocks.0."):
                parameter.zero_()
        model.layers[0].blocks[1].mlp.fc2.weight[5] = 0
        model.layers[0].blocks[1].mlp.fc2.weight[6] *= 1e4
    for x in (torch.zeros(1, 3, 28, 28), 1e4 * torch.randn(1, 3, 28, 28), 1e-30 * torch.randn(1, 3, 28, 28)):
        assert error(swinkit.prepare(model, dtype=torch.int8)(x), in_float64(model, x)) < TOLERANCE


@needs_int8
@pytest.mark.parametrize("version", [1, 2])
def test_results_depend_neither_on_the_batch_nor_on_the_threads(version):
    """1,024 hidden channels: more than are in work at a time."""
    config = SwinConfig(**(SMALL | {"version": version, "embed_dim": 128, "num_heads": (4, 8), "depths": (1, 2)}))
    model, x = speaking(config), torch.randn(5, 3, 28, 28)
    net = FusedNet(model, torch.int8)
    together = net.run(x, Wanted(logits=True), 1)["logits"]
    assert torch.equal(together, torch.cat([net.run(image[None], Wanted(logits=True), 1)["logits"] for image in x]))
    for threads in (2, 3, 7):
        assert torch.equal(together, net.run(x, Wanted(logits=True), threads)["logits"])
        assert torch.equal(together[:1], net.run(x[:1].clone(), Wanted(logits=True), threads)["logits"])


def test_only_where_it_is_asked_for_and_there(monkeypatch):
    model = speaking(SwinConfig(**SMALL))
    assert swinkit.prepare(model).engine.dtype != torch.int8
    for engine in ("packed", "plain"):
        with pytest.raises(ConfigError, match=f"{engine} engine does not compute in int8"):
            swinkit.prepare(model, dtype=torch.int8, engine=engine)
    if library.find():
        monkeypatch.setenv(library.ISA_VARIABLE, "baseline")
        with pytest.raises(ConfigError, match="AVX512-VNNI"):
            swinkit.prepare(model, dtype=torch.int8)
