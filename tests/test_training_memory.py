"""`training`: the forward pass of training with our linear layers, in full and in lean memory."""

import copy
import platform
import subprocess
import sys

import pytest
import torch
from tests.small_models import VERSIONS
from torch import nn

import swinkit
from swinkit import kernels
from swinkit.config import SwinConfig
from swinkit.errors import ConfigError
from swinkit.kernels.training import training
from swinkit.model import SwinTransformer

CONFIG = {"img_size": 28, "patch_size": 2, "embed_dim": 32, "depths": (2, 2), "num_heads": (1, 2), "window_size": 7, "num_classes": 5}
CONFIG |= {"drop_path_rate": 0.0}
MEMORY = pytest.mark.parametrize("memory", ["full", "lean"])


def model_of(version=1, **changes):
    torch.manual_seed(0)
    return SwinTransformer(SwinConfig(version=version, **CONFIG | changes), kernels.attend).train()


def gradients(model, x, context, dtype=None):
    torch.manual_seed(1)
    model.zero_grad()
    with context, torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = model(x)
    out.float().square().sum().backward()
    return out.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def nothing(model):
    return torch.enable_grad()


def check_alike(got, wanted, bound):
    for a, b in zip([got[0], *got[1]], [wanted[0], *wanted[1]], strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= bound * b.abs().max()


@VERSIONS
@MEMORY
def test_gradients_are_the_plain_ones(version, memory):
    model, x = model_of(version, drop_path_rate=0.3), torch.randn(3, 3, 30, 28)
    check_alike(gradients(model, x, training(model, memory)), gradients(model, x, nothing(model)), 2e-5)


@VERSIONS
@MEMORY
def test_gradients_in_mixed_precision_are_near_those_in_float32(version, memory):
    model, x = model_of(version), torch.randn(3, 3, 28, 28)
    wanted = gradients(model, x, nothing(model))
    plain = gradients(model, x, nothing(model), torch.bfloat16)
    got = gradients(model, x, training(model, memory), torch.bfloat16)
    for a, b, c in zip(got[1], plain[1], wanted[1], strict=True):
        assert (a - c).norm() <= 2 * (b - c).norm() + 0.02 * c.norm()


def kept(model, x, context):
    """Bytes that are kept for the backward pass, each storage once, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with context, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model(x)
    assert out.requires_grad
    return sum(sizes.values())


@VERSIONS
def test_lean_keeps_much_less(version):
    model, x = model_of(version), torch.randn(2, 3, 28, 28)
    plain = kept(model, x, nothing(model))
    assert kept(model, x, training(model, "lean")) <= (0.65 if version == 1 else 0.85) * plain
    assert kept(model, x, training(model, "full")) <= 1.02 * plain


@MEMORY
def test_frozen_layers_have_no_gradients_and_the_rest_have_theirs(memory):
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1" in name or "fc1.bias" in name or "norm1" in name)
    check_alike(gradients(model, x, training(model, memory)), gradients(model, x, nothing(model)), 2e-5)


def test_checkpointed_stages_dropout_and_hooks_go_the_plain_way():
    x, seen = torch.randn(2, 3, 28, 28), []
    model = model_of()
    model.layers[0].blocks[0].mlp.fc2.register_forward_hook(lambda *_: seen.append(1))
    wanted = gradients(model, x, nothing(model))
    check_alike(gradients(model, x, training(model, "lean")), wanted, 2e-5)
    model.set_grad_checkpointing()
    check_alike(gradients(model, x, training(model, "lean")), wanted, 2e-5)
    assert len(seen) == 3  # plain, lean, checkpointed; on its way back it stops before the last layer
    dropping = model_of(drop_rate=0.5)
    check_alike(gradients(dropping, x, training(dropping, "lean")), gradients(dropping, x, nothing(dropping)), 2e-5)


def test_the_model_is_as_before_afterwards():
    model = model_of()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with training(model, "lean"):
        model(torch.randn(1, 3, 28, 28))
    with pytest.raises(RuntimeError), training(model, "lean"):
        raise RuntimeError
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert copy.deepcopy(model) is not model


@pytest.mark.skipif(torch.__version__.startswith("2.11"), reason="PyTorch 2.11 cannot trace `unflatten` under a TorchFunctionMode")
@MEMORY
def test_compiled_models_decide_for_themselves(memory):
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    wanted = gradients(model, x, nothing(model))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.zero_grad()
    with training(model, memory):
        out = compiled(x)
    out.square().sum().backward()
    check_alike((out.detach(), [parameter.grad for parameter in model.parameters()]), wanted, 2e-5)


def test_without_gradients_nothing_changes():
    model, x = model_of().eval(), torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        wanted = model(x)
        with training(model, "lean"):
            assert torch.equal(model(x), wanted)


def test_layers_that_are_no_whole_panels_are_the_plain_ones():
    """A layer whose sizes are no whole panels goes by PyTorch's products, also in lean memory."""
    model = model_of(num_classes=7, embed_dim=24, num_heads=(1, 2))
    x = torch.randn(2, 3, 28, 28)
    check_alike(gradients(model, x, training(model, "lean")), gradients(model, x, nothing(model)), 2e-5)


@MEMORY
def test_a_training_run_ends_with_the_plain_loss(memory):
    """Twenty steps: the loss follows the plain one's, step by step."""
    torch.manual_seed(3)
    images, labels = torch.randn(16, 3, 28, 28), torch.randint(5, (16,))
    curves = []
    for attend, how in ((swinkit.model.window_attention, None), (kernels.attend, memory)):
        torch.manual_seed(0)
        model = SwinTransformer(SwinConfig(**CONFIG), attend).train()
        optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
        for _ in range(20):
            with training(model, how) if how else nothing(model):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(torch.tensor(losses))
    assert curves[0][-1] < 0.7 * curves[0][0]
    assert torch.allclose(curves[0], curves[1], rtol=2e-3)


def test_what_was_written_to_is_not_made_again():
    """A hook may change LayerNorm's output in place; the gradient is that of what the next layer really took."""
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    model.layers[0].blocks[0].norm2.register_forward_hook(lambda module, args, out: out.mul_(3))
    check_alike(gradients(model, x, training(model, "lean")), gradients(model, x, nothing(model)), 2e-5)


def test_a_layer_of_another_kind_is_called():
    class Adapted(nn.Linear):
        def forward(self, x):
            return super().forward(x) + x[..., : self.out_features]

    model, x = model_of(), torch.randn(2, 3, 28, 28)
    mlp = model.layers[0].blocks[0].mlp
    mlp.fc2 = Adapted(mlp.fc2.in_features, mlp.fc2.out_features)
    check_alike(gradients(model, x, training(model, "lean")), gradients(model, x, nothing(model)), 2e-5)


def test_another_memory_is_refused():
    with pytest.raises(ConfigError, match="memory is 'small'; expected full or lean"), training(model_of(), "small"):
        pass


glibc = pytest.mark.skipif(not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc", reason="needs glibc")


@glibc
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_is_kept_if_asked(keep):
    """What a process holds after it freed 200 MB, in MB."""
    script = """
import sys, torch
from swinkit.kernels.cpu.heap import keep_freed_memory
if sys.argv[1] == "True":
    assert keep_freed_memory()
held = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1000
before = held()
torch.ones(50_000_000)
print(held() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(keep)], capture_output=True, text=True, check=True)
    assert (float(done.stdout) > 150) == keep


@glibc
def test_kept_memory_has_no_holes():
    """Tensors of one size that come and go between others that stay: the heap grows by those that stay, in MB."""
    script = """
import torch
from swinkit.kernels.cpu import heap
heap.keep_freed_memory()
held = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1000
kept = []
def turn():
    passing = heap.empty((512, 512), torch.float32).zero_()
    kept.append([torch.empty(4) for _ in range(20)])
    kept.append(heap.empty((512, 512), torch.float32).zero_())
turn()
before = held()
for _ in range(100): turn()
print(held() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 150


@glibc
def test_memory_that_can_be_taken_again_is_as_usual():
    script = """
import torch
from swinkit.kernels.cpu import heap
heap.keep_freed_memory()
for shape in [(1000, 1000), (3, 5, 70001), (1,), (0, 4), ()]:
    for dtype in (torch.float32, torch.bfloat16):
        x, usual = heap.empty(shape, dtype), torch.empty(shape, dtype=dtype)
        assert (x.shape, x.dtype, x.stride(), x.device) == (usual.shape, usual.dtype, usual.stride(), usual.device)
        assert x.data_ptr() % 64 == 0 and not x._is_view()
        x.fill_(3)
        assert (x == 3).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@glibc
@MEMORY
def test_large_outputs_may_be_written_to(memory):
    """In a process that keeps freed memory: in place, as PyTorch's own layers allow."""
    script = """
import sys, torch
from torch import nn
from swinkit.kernels.cpu import heap
from swinkit.kernels.training import training
heap.keep_freed_memory()
model = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 256))
for layer in model:
    layer.register_forward_hook(lambda layer, args, out: out.mul_(2))
x, found = torch.randn(2048, 256), []
for context in (training(model, sys.argv[1]), torch.enable_grad()):
    model.zero_grad()
    with context:
        out = model(x)
    out.relu_()
    out.square().mean().backward()
    found.append([parameter.grad for parameter in model.parameters()])
for a, b in zip(*found, strict=True):
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()
"""
    subprocess.run([sys.executable, "-c", script, memory], check=True)


@MEMORY
def test_the_default_device_is_not_asked(memory):
    layers, x = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32)), torch.randn(4, 32)
    with torch.device("meta"), training(layers, memory):
        out = layers(x)
    assert out.device.type == "cpu"
    assert (out - layers(x)).abs().max() < 1e-5
