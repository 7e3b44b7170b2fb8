"""A prepared model among what programs do around it: defaults, replaced layers, tracing, forks, threads at exit, a broken library."""

import copy
import multiprocessing
import subprocess
import sys

import pytest
import torch
from torch import nn

import swinkit
from swinkit.config import SwinConfig
from swinkit.errors import InputError
from swinkit.kernels.cpu import library

CONFIG = SwinConfig(img_size=28, patch_size=2, embed_dim=32, depths=(2, 2), num_heads=(1, 2), window_size=7, num_classes=5)
native = pytest.mark.skipif(not library.find(), reason="needs the C++ library, which is built where there is a compiler")


@pytest.fixture
def model():
    return swinkit.create_model(CONFIG).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 28, 28)


def check_same(got, model, x):
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(x.double())
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 3e-6 * wanted.abs().max()


@native
def test_defaults_of_pytorch_do_not_matter(model, x):
    fast = swinkit.prepare(model, dtype=torch.float32, engine="fused")
    for dtype in (torch.float64, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            out = fast(x)
        finally:
            torch.set_default_dtype(torch.float32)
        check_same(out, model, x)
    with torch.device("meta"):
        out = fast(x)
    check_same(out, model, x)


def test_the_classifier_may_come_and_go(model, x):
    fast = swinkit.prepare(model, dtype=torch.float32)
    for classes in (0, 3, 7):
        model.reset_classifier(classes)
        check_same(fast(x), model, x)


def test_a_layer_replaced_while_the_old_one_lives_is_noticed(model, x):
    fast, old = swinkit.prepare(model, dtype=torch.float32), model.head
    model.head = nn.Linear(64, 5)
    check_same(fast(x), model, x)
    model.head = old
    check_same(fast(x), model, x)


def test_writes_that_pytorch_does_not_count_are_noticed(model, x):
    fast = swinkit.prepare(model, dtype=torch.float32)
    model.head.weight.data.mul_(2)
    check_same(fast(x), model, x)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model(x).sum().backward()
    optimiser.step()
    check_same(fast(x), model, x)


@pytest.mark.parametrize("head", [nn.Linear(64, 3), nn.Sequential(nn.Linear(64, 5)), nn.Identity()])
def test_layers_replaced_by_hand_are_refused(model, x, head):
    fast = swinkit.prepare(model)
    model.head = head
    with pytest.raises(InputError, match="head"):
        swinkit.prepare(model)
    with pytest.raises(InputError, match="head"):
        fast(x)


def test_what_else_would_compute_something_different_is_refused(model):
    class Doubled(swinkit.SwinTransformer):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(InputError, match="subclass"):
        swinkit.prepare(Doubled(CONFIG))
    with pytest.raises(InputError, match="meta device"):
        swinkit.prepare(copy.deepcopy(model).to("meta"))
    model.norm.eps = 1e-3
    with pytest.raises(InputError, match=r"norm has eps=0\.001"):
        swinkit.prepare(model)
    model.norm.eps = 1e-5
    model.layers[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match=r"layers\.0 has a hook"):
        swinkit.prepare(model)


def test_parametrised_layers_are_evaluated(model, x):
    nn.utils.parametrizations.weight_norm(model.head)
    fast = swinkit.prepare(model, dtype=torch.float32)
    with torch.no_grad():
        model.head.parametrizations.weight.original0.mul_(2)
    assert (fast(x) - model(x)).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tracing_is_refused(model, x):
    fast = swinkit.prepare(model)
    for trace in (lambda: torch.jit.trace(fast, x), lambda: torch.vmap(fast)(x[None])):
        with pytest.raises(InputError, match="cannot be traced"):
            trace()


@native
def test_a_library_that_cannot_be_loaded_is_no_obstacle(model, x, monkeypatch, tmp_path):
    (tmp_path / "_native.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library.load.cache_clear()
    try:
        fast = swinkit.prepare(model, dtype=torch.float32)
        assert fast.engine.name != "fused"
        assert "cannot be used" in fast.engine.reason
        check_same(fast(x), model, x)
    finally:
        library.load.cache_clear()


def _in_child(fast, x):
    fast(x)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_give_images_that_pytorch_converts_in_threads(model):
    fast, x = swinkit.prepare(model, dtype=torch.float32), torch.randn(2, 3, 160, 160).half()
    torch.set_num_threads(2)
    try:
        fast(x)
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(fast, x))
        child.start()
        child.join(timeout=30)
        stuck = child.is_alive()
        child.kill()
        assert not stuck
        assert child.exitcode == 0
    finally:
        torch.set_num_threads(1)


@native
def test_the_process_may_end_while_a_daemon_thread_runs():
    program = """
import threading, time, torch, swinkit
fast = swinkit.prepare(swinkit.create_model("swin_mini_patch2_window7_28"), dtype=torch.float32)
x, started = torch.randn(8, 3, 224, 224), threading.Event()
def run():
    while True:
        started.set()
        fast(x)
threading.Thread(target=run, daemon=True).start()
started.wait()
time.sleep(0.3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
