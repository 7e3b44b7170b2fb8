"""A prepared model gives what the plain one gives: every shape, policy, instruction set and number of threads."""

import copy
import gc
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import swinkit
from swinkit.config import SwinConfig
from swinkit.errors import ConfigError, InputError
from swinkit.kernels.cpu import fused, library
from swinkit.kernels.cpu.fused import FusedNet, Wanted

ISAS = library.instruction_sets() if library.find() else ()
native = pytest.mark.skipif(not ISAS, reason="needs the C++ library, which is built where there is a compiler")
half = pytest.mark.skipif("avx512_bf16" not in ISAS, reason="needs a CPU with AVX512-BF16")

FLOAT32, BFLOAT16 = 3e-6, 2e-2
"""Largest difference to the float64 model, of the largest output."""
SMALL = {"img_size": 28, "patch_size": 2, "embed_dim": 32, "depths": (2, 2), "num_heads": (1, 2), "window_size": 7, "num_classes": 5}


def speaking(config, **features):
    """A model whose every parameter matters: nothing is zero or one."""
    model = swinkit.create_model(config, **features)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit_scale" in name:
                parameter.uniform_(0, 5)  # the largest scales are clamped at log 100
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif "relative_position_bias_table" in name or "absolute_pos_embed" in name:
                parameter.normal_()
            elif "cpb_mlp" not in name:
                parameter.mul_(2)
    return model.eval()


def difference(got, wanted):
    got, wanted = ([value] if isinstance(value, torch.Tensor) else value for value in (got, wanted))
    assert [value.shape for value in got] == [value.shape for value in wanted]
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, wanted, strict=True))


def in_float64(model, x):
    with torch.no_grad():
        return copy.deepcopy(model).double()(x.double())


@st.composite
def cases(draw):
    """(config, image size): any version, head dimension, window, patch, map and policy."""
    side, pixels = st.integers(1, 9), st.integers(4, 40)
    head_dim, heads = draw(st.sampled_from([(8, 1), (8, 3), (8, 4), (16, 1), (16, 3), (24, 1), (32, 1), (32, 2), (40, 1), (64, 1)]))
    depths = draw(st.sampled_from([(2,), (1, 2), (2, 1, 1)]))
    config = SwinConfig(
        version=draw(st.sampled_from([1, 2])),
        img_size=(draw(pixels), draw(pixels)),
        patch_size=draw(st.sampled_from([1, 2, 4, (2, 3)])),
        in_chans=draw(st.sampled_from([1, 3])),
        embed_dim=head_dim * heads,
        depths=depths,
        num_heads=tuple(heads * 2**stage for stage in range(len(depths))),
        num_classes=draw(st.sampled_from([0, 7, 33])),  # of a single output nothing tells the size that an error is small against
        window_size=draw(st.one_of(side, st.tuples(side, side))),
        mlp_ratio=draw(st.sampled_from([0.3, 1.0, 4.0])),
        qkv_bias=draw(st.booleans()),
        ape=draw(st.booleans()),
        patch_norm=draw(st.booleans()),
        size_policy=draw(st.sampled_from(["official", "dense", "per_axis"])),
    )
    return config, (draw(pixels), draw(pixels))


@native
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), batch=st.integers(1, 3), threads=st.integers(1, 4), isa=st.sampled_from(ISAS or ("",)))
def test_any_model_on_any_image(case, batch, threads, isa):
    config, size = case
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(library.ISA_VARIABLE, isa)
        model, x = speaking(config), torch.randn(batch, config.in_chans, *size)
        out = FusedNet(model, torch.float32).run(x, wanted_of(config), threads)
    assert difference(out["logits" if config.num_classes else "pooled"], in_float64(model, x)) < FLOAT32


def wanted_of(config):
    return Wanted(logits=True) if config.num_classes else Wanted(pooled=True)


@half
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), batch=st.integers(1, 3), threads=st.integers(1, 3))
def test_any_model_in_bfloat16(case, batch, threads):
    config, size = case
    torch.manual_seed(0)
    model, x = speaking(config.replace(num_classes=33)), torch.randn(batch, config.in_chans, *size)
    out = FusedNet(model, torch.bfloat16).run(x, Wanted(logits=True), threads)["logits"]
    wanted = in_float64(model, x)
    assert (out - wanted).norm() / wanted.norm() < BFLOAT16


@native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", [12, 16, 24, (32, 20)])
@pytest.mark.parametrize("version", [1, 2])
def test_large_windows(isa, window, version, monkeypatch):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    config = SwinConfig(**(SMALL | {"version": version, "img_size": 80, "window_size": window, "size_policy": "per_axis"}))
    model, x = speaking(config), torch.randn(1, 3, 83, 70)
    assert difference(swinkit.prepare(model, dtype=torch.float32)(x), in_float64(model, x)) < FLOAT32


@pytest.mark.parametrize("engine", ["fused", "packed", "plain"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("policy", ["official", "dense"])
def test_every_method(engine, version, policy):
    config = SwinConfig(**(SMALL | {"version": version, "size_policy": policy, "ape": True}))
    model, x = speaking(config), torch.randn(3, 3, 30, 41)
    fast = prepared(model, engine)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        assert difference(fast(x), exact(x.double())) < FLOAT32
        features = exact.forward_features(x.double())
        assert difference(fast.forward_features(x), features) < FLOAT32
        assert difference(fast.forward_head(fast.forward_features(x)), exact(x.double())) < FLOAT32
        assert difference(fast.pooled(x), exact.forward_head(features, pre_logits=True)) < FLOAT32
        for indices, fmt in ((None, "NCHW"), ([-1, 0], "NHWC"), (1, "NCHW")):
            maps = exact.forward_intermediates(x.double(), indices, fmt)
            assert difference(fast.forward_intermediates(x, indices, fmt), maps) < FLOAT32


@pytest.mark.parametrize("engine", ["fused", "packed", "plain"])
@pytest.mark.parametrize("policy", ["official", "dense"])
def test_backbones(engine, policy):
    config = SwinConfig(**(SMALL | {"size_policy": policy, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}))
    model, x = speaking(config, features_only=True, out_indices=(0, 1)), torch.randn(2, 3, 33, 30)
    fast = prepared(model, engine)
    assert difference(fast(x), in_float64(model, x)) < FLOAT32
    assert fast.feature_info == model.feature_info
    assert all(map.is_contiguous() for map in fast(x))
    with pytest.raises(InputError, match="backbone"):
        fast.pooled(x)


def prepared(model, engine, **options):
    reason = fused.why_not(model, torch.float32) if engine == "fused" else None
    if reason:
        pytest.skip(reason)
    return swinkit.prepare(model, dtype=torch.float32, engine=engine, **options)


@native
@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swin_s3_tiny_224", "swin_mini_patch2_window7_28"]
)
def test_variants(name):
    model = speaking(name)
    x = torch.randn(2, model.config.in_chans, *swinkit.config.pair(model.config.img_size))
    with torch.no_grad():
        plain = model(x)
    assert difference(swinkit.prepare(model, dtype=torch.float32)(x), plain.double()) < 1e-5


@native
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=half)])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_one_image_never_reaches_another(dtype, poison):
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(4, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=dtype)
    clean = fast(x)
    x[2, 1, 13, 5] = poison
    out = fast(x)
    assert not out[2].isfinite().any()
    assert torch.equal(out[[0, 1, 3]], clean[[0, 1, 3]])


@native
def test_results_do_not_depend_on_the_batch_or_on_chance():
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(9, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=torch.float32)
    together = fast(x)
    assert torch.equal(together, fast(x))
    assert torch.equal(together, torch.cat([fast(image[None]) for image in x]))
    assert torch.equal(together, swinkit.prepare(model, dtype=torch.float32, batch_size=2)(x))


@native
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=half)])
@pytest.mark.parametrize("version", [1, 2])
def test_results_do_not_depend_on_the_threads(dtype, version):
    """Few windows for many threads are shared among them in another way; the sums keep their order."""
    config = SwinConfig(**(SMALL | {"version": version, "embed_dim": 224, "num_heads": (7, 14)}))
    model, x = speaking(config), torch.randn(2, 3, 31, 28)
    net = FusedNet(model, dtype)
    alone = net.run(x, Wanted(logits=True), 1)["logits"]
    for threads in (2, 3, 4, 16):
        assert torch.equal(net.run(x, Wanted(logits=True), threads)["logits"], alone)


@native
def test_several_models_in_several_threads():
    torch.set_num_threads(2)
    models = [speaking(SwinConfig(**(SMALL | {"version": version}))) for version in (1, 2)]
    fast, x = [swinkit.prepare(model, dtype=torch.float32) for model in models], torch.randn(3, 3, 28, 28)
    wanted, wrong = [model(x) for model in fast], []

    def call(number):
        for _ in range(20):
            if not torch.equal(fast[number % 2](x), wanted[number % 2]):
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(1)
    assert not wrong


@native
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's count of memory")
def test_no_leak_over_a_thousand_calls_or_many_models():
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(1, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=torch.float32)

    def pages():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    def use(calls, models):
        for _ in range(calls):
            fast(x)
        for _ in range(models):
            swinkit.prepare(model, dtype=torch.float32)(x)

    use(50, 20)
    before = pages()
    use(1000, 50)
    assert (pages() - before) * os.sysconf("SC_PAGE_SIZE") < 2e6


def test_changed_weights_are_taken_over():
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(1, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=torch.float32)
    assert not fast.refresh()
    with torch.no_grad():
        model.layers[1].blocks[0].mlp.fc1.weight.mul_(2)
    assert difference(fast(x), in_float64(model, x)) < FLOAT32
    model.load_state_dict(speaking(SwinConfig(**SMALL)).state_dict())
    assert fast.refresh()
    assert difference(fast(x), in_float64(model, x)) < FLOAT32
    model.reset_classifier(2)
    assert fast(x).shape == (1, 2)
    assert fast.num_classes == 2


def test_the_original_stays_and_may_go():
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(1, 3, 28, 28)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = swinkit.prepare(model.train(), dtype=torch.float32)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    wanted = fast(x)
    del model
    gc.collect()
    assert torch.equal(fast(x), wanted)
    with pytest.raises(TypeError, match="original is gone"):
        pickle.dumps(fast)


def test_copies_and_pickles_are_prepared_again():
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(1, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=torch.float32)
    assert torch.equal(copy.deepcopy(copy.deepcopy(fast))(x), fast(x))
    assert torch.equal(pickle.loads(pickle.dumps(fast))(x), fast(x))


def _in_child(fast, x, queue):
    queue.put(fast(x).tolist())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(method):
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(1, 3, 28, 28)
    fast = swinkit.prepare(model, dtype=torch.float32)
    torch.set_num_threads(2)
    try:
        wanted = fast(x).tolist()
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(fast, x, queue))
        child.start()
        assert queue.get(timeout=60) == wanted
        child.join(timeout=60)
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(1)


def test_input_as_the_original_takes_it():
    model = speaking(SwinConfig(**SMALL))
    fast, x = swinkit.prepare(model, dtype=torch.float32), torch.randn(2, 3, 28, 28)
    wanted = fast(x)
    assert torch.equal(fast(x.contiguous(memory_format=torch.channels_last)), wanted)
    assert torch.equal(fast(torch.cat((x, x), 3)[..., :28]), wanted)
    assert fast(x.half()).dtype == torch.float16
    assert not fast(x).requires_grad
    with torch.inference_mode():
        assert torch.equal(fast(x), wanted)
    with pytest.raises(InputError, match="4 channels"):
        fast(torch.randn(1, 4, 28, 28))
    with pytest.raises(InputError, match="require gradients"):
        fast(x.requires_grad_())


def test_what_cannot_be_prepared():
    model = speaking(SwinConfig(**SMALL))
    with pytest.raises(InputError, match="Got a Linear"):
        swinkit.prepare(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="prepared already"):
        swinkit.prepare(swinkit.prepare(model))
    for wrong, message in (
        ({"dtype": torch.float16}, "float16"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"engine": "fast"}, "engine is 'fast'"),
    ):
        with pytest.raises(ConfigError, match=message):
            swinkit.prepare(model, **wrong)
    with pytest.raises(ConfigError, match="train the original"):
        swinkit.prepare(model).train()
    odd = swinkit.create_model(SwinConfig(**(SMALL | {"embed_dim": 36, "num_heads": (3, 6)})))
    assert swinkit.prepare(odd).engine.name != "fused"
    assert "12 channels per head" in swinkit.prepare(odd, dtype=torch.float32).engine.reason


@native
def test_the_instruction_set_can_be_asked_for(monkeypatch):
    model = speaking(SwinConfig(**SMALL))
    monkeypatch.setenv(library.ISA_VARIABLE, "baseline")
    assert "BASELINE" in swinkit.prepare(model, dtype=torch.float32).engine.reason
    monkeypatch.setenv(library.ISA_VARIABLE, "mmx")
    with pytest.raises(ConfigError, match="SWINKIT_CPU_ISA is 'mmx'"):
        swinkit.prepare(model)


def test_without_the_library_it_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "NOTE", tmp_path / "not_built.txt")
    model, x = speaking(SwinConfig(**SMALL)), torch.randn(1, 3, 28, 28)
    (tmp_path / "not_built.txt").write_text("no g++ here.")
    fast = swinkit.prepare(model, dtype=torch.float32)
    assert "no g++ here" in fast.engine.reason
    assert difference(fast(x), in_float64(model, x)) < FLOAT32
    with pytest.raises(ConfigError, match="no g"):
        swinkit.prepare(model, engine="fused")
