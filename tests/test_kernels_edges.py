"""Unusual callers of the training kernels: shapes, dtypes and kinds of tensors that they do not take, and what PyTorch does around them."""

import copy
import io
import os
import pickle
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from tests.test_cpu_kernels import DTYPES, half, random_case
from tests.test_training_memory import MEMORY, check_alike, gradients, model_of, nothing
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from swinkit import kernels
from swinkit.kernels import products
from swinkit.kernels import training as module
from swinkit.kernels.cpu import attention, library
from swinkit.kernels.training import training
from swinkit.model import Mlp, SwinTransformer, window_attention

pytestmark = pytest.mark.skipif(not library.find(), reason="needs the C++ library, which is built where there is a compiler")
OPTIONS = {"window": (4, 4), "shift": (2, 2), "scale": 0.3}


def attention_case(batch=1):
    tensors, _ = random_case(2, (batch, 5, 6), (4, 4), 2, 8, torch.float32, False)
    return tensors[0], tensors[1], tensors[3]


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_bias_for_all_heads_is_spread_and_another_size_is_refused():
    qkv, bias, pad = attention_case()
    leaves = [bias[:1].clone().requires_grad_() for _ in range(2)]
    outs = [attend(qkv, leaf, pad=pad, **OPTIONS) for attend, leaf in zip((kernels.attend, window_attention), leaves, strict=True)]
    assert close(*outs)
    for out in outs:
        out.square().sum().backward()
    assert close(leaves[0].grad, leaves[1].grad)
    with pytest.raises(RuntimeError, match="size"):
        kernels.attend(qkv, bias[:, :9, :9], pad=pad, **OPTIONS)


def test_an_empty_batch_and_a_shift_of_a_whole_window_go_by_the_definition():
    qkv, bias, pad = attention_case()
    assert kernels.attend(qkv[:0], bias, pad=pad, **OPTIONS).shape == (0, 5, 6, 16)
    options = OPTIONS | {"shift": (4, 0)}
    assert torch.equal(kernels.attend(qkv, bias, pad=pad, **options), window_attention(qkv, bias, pad=pad, **options))
    assert "by less than their sides" in attention.why_not(qkv, 0.0, (4, 4), (4, 0))


def test_the_operation_reads_tensors_however_they_lie_in_memory():
    qkv, bias, pad = attention_case(2)
    inputs = [qkv, bias, pad, torch.ones(2)]
    strided = [torch.stack((tensor, tensor + 1), dim=-1)[..., 0] for tensor in inputs]
    operation = torch.ops.swinkit.cpu_window_attention
    wanted = operation(*inputs, [4, 4], [2, 2], False)
    assert torch.equal(operation(*strided, [4, 4], [2, 2], False)[0], wanted[0])
    backward, grad = torch.ops.swinkit.cpu_window_attention_backward, torch.randn_like(wanted[0])
    for a, b in zip(
        backward(torch.stack((grad, grad), dim=-1)[..., 0], *strided, wanted[1], [4, 4], [2, 2], False),
        backward(grad, *inputs, wanted[1], [4, 4], [2, 2], False), strict=True,
    ):  # fmt: skip
        assert torch.equal(a, b)


@pytest.mark.parametrize("isa", library.instruction_sets() if library.find() else ())
def test_a_key_that_nobody_may_see(monkeypatch, isa):
    """A bias of minus infinity: the key has no weight, and no gradient is NaN."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    qkv, bias, pad = attention_case()
    bias[:, :, 3] = float("-inf")
    found = []
    for attend in (kernels.attend, window_attention):
        leaves = [tensor.clone().requires_grad_() for tensor in (qkv, bias)]
        out = attend(*leaves, pad=pad, **OPTIONS)
        out.square().sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", range(3))
def test_nan_reaches_what_it_reaches_in_the_definition(dtype, part):
    """NaN in the query, key or value of one head of one token. Padding is no query here, so its gradients are not compared."""
    tensors, grad = random_case(6, (2, 8, 12), (4, 4), 3, 16, dtype, False)
    tensors[0][1, 2, 5, part, 1, 3] = float("nan")
    found = []
    for attend in (kernels.attend, window_attention):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors[:2]]
        out = attend(*leaves, window=(4, 4), shift=(2, 0), scale=0.3)
        out.backward(grad)
        found.append([out.isnan(), *(leaf.grad.isnan() for leaf in leaves)])
    assert found[0][0].any()
    assert not found[0][0].all()
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("forward", [torch.func.jvp, None])
def test_forward_differentiation_goes_by_the_definition(forward):
    qkv, bias, pad = attention_case()
    direction = torch.ones_like(qkv)

    def slope(attend):
        if forward:
            return forward(lambda qkv: attend(qkv, bias, pad=pad, **OPTIONS), (qkv,), (direction,))[1]
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(attend(forward_ad.make_dual(qkv, direction), bias, pad=pad, **OPTIONS)).tangent

    assert torch.equal(slope(kernels.attend), slope(window_attention))


LINEARS = {
    "another number of channels": (torch.zeros(4, 64), torch.zeros(32, 32), None),
    "one bias for all": (torch.zeros(4, 32), torch.zeros(32, 32), torch.zeros(1)),
    "a bias in bfloat16": (torch.zeros(4, 32), torch.zeros(32, 32), torch.zeros(32).bfloat16()),
    "every second of a bias": (torch.zeros(4, 32), torch.zeros(32, 32), torch.zeros(64)[::2]),
    "no memory": (torch.zeros(4, 32), torch.zeros(32, 32, device="meta"), None),
    "another kind of tensor": (torch.zeros(4, 32), FakeTensorMode().from_tensor(torch.zeros(32, 32)), None),
    "no rows": (torch.zeros(0, 32), torch.zeros(32, 32), None),
}


@pytest.mark.parametrize("name", LINEARS)
def test_linear_layers_that_the_library_would_misread_are_pytorchs(name):
    assert products.native(torch.zeros(4, 32), torch.zeros(32, 32), torch.zeros(32), torch.float32, False)
    assert not products.native(*LINEARS[name], torch.float32, False)


@MEMORY
@pytest.mark.parametrize("shape", [(32,), (0, 32), (2, 3, 4, 32), (31,), (0, 31)])
def test_inputs_of_any_number_of_axes(memory, shape):
    layer, found = nn.Linear(shape[-1], 64), []
    for context in (training(layer, memory), nullcontext()):
        layer.zero_grad()
        x = torch.ones(shape, requires_grad=True)
        with context:
            out = layer(x)
        out.sum().backward()
        found.append([out, x.grad, layer.weight.grad, layer.bias.grad])
    assert all(close(a, b) for a, b in zip(*found, strict=True))


@half
def test_a_first_layer_that_widens_under_autocast():
    """GELU then gets float32, which the library takes in bfloat16 neither on its way there nor back."""
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    wanted = gradients(model, x, nullcontext())
    for mlp in (layer for layer in model.modules() if isinstance(layer, Mlp)):
        mlp.fc1.register_forward_hook(lambda *args: args[-1].float())
    out, grads = gradients(model, x, training(model, "lean"), torch.bfloat16)
    check_alike((out.float(), grads), wanted, 3e-2)


def test_a_norm_before_the_gelu():
    """The input of the second layer is then both a LayerNorm's output and goes through GELU."""
    x, found = torch.randn(2, 3, 28, 28), []
    for context in (training, lambda *_: nullcontext()):
        model = model_of()
        for mlp in (layer for layer in model.modules() if isinstance(layer, Mlp)):
            mlp.fc1 = nn.Sequential(mlp.fc1, nn.LayerNorm(mlp.fc1.out_features))
        found.append(gradients(model, x, context(model, "lean")))
    check_alike(*found, 2e-5)


def test_autocast_leaves_float64_alone():
    layer, x = nn.Linear(32, 32).double(), torch.randn(3, 32, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16), training(layer, "lean"):
        assert layer(x).dtype == torch.float64


@MEMORY
def test_transforms_of_functions_inside(memory):
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    wanted = torch.func.grad(loss)(parameters)
    with training(model, memory):
        got = torch.func.grad(loss)(parameters)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@MEMORY
def test_a_checkpoint_of_the_callers_own(memory):
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    wanted = gradients(model, x, nothing(model))
    whole = copy.copy(model)
    whole.forward = lambda x: checkpoint(lambda x: SwinTransformer.forward(model, x), x, use_reentrant=False)
    check_alike(gradients(whole, x, training(model, memory)), wanted, 2e-5)


def test_a_model_on_the_meta_device_has_shapes_in_lean_memory():
    model = model_of().to("meta")
    with training(model, "lean"):
        out = model(torch.zeros(2, 3, 28, 28, device="meta"))
    out.sum().backward()
    assert model.head.weight.grad.shape == (5, 64)


def test_copies_made_inside_are_usual_models():
    model = model_of()
    with training(model, "lean"):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.layers[0].blocks[0].mlp._replicate_for_data_parallel()]
        features = model.forward_features(torch.randn(1, 3, 28, 28))
    for layer in (layer for one in copies[:2] for layer in one.modules()):
        assert type(layer) is not module._LeanMlp
        assert "forward" not in vars(layer)
    assert "forward" not in vars(copies[2])  # it would be the first model's
    file = io.BytesIO()
    torch.save(features.detach(), file), torch.save(features, file)


def test_nothing_is_remembered_of_a_step():
    model = model_of()
    for _ in range(2):
        gradients(model, torch.randn(1, 3, 28, 28), training(model, "lean"))
    assert len(module.MADE) == 0


@MEMORY
@pytest.mark.parametrize("name", ["norm1.weight", "mlp.fc2.weight"])
def test_a_weight_changed_before_the_backward_pass_is_noticed(memory, name):
    model = model_of()
    with training(model, memory):
        out = model(torch.randn(1, 3, 28, 28))
    with torch.no_grad():
        model.layers[0].blocks[0].get_parameter(name).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@MEMORY
def test_gradients_in_float64_are_slopes(memory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), Mlp(8, 12, 0.0)).double()

    def run(x):
        with training(model, memory):
            return model(x)

    assert torch.autograd.gradcheck(run, (torch.randn(3, 8, dtype=torch.float64, requires_grad=True),))


def test_anomaly_mode_and_hooks_on_saved_tensors():
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    wanted = gradients(model, x, training(model, "lean"))
    with torch.autograd.set_detect_anomaly(True), torch.autograd.graph.save_on_cpu():
        check_alike(gradients(model, x, training(model, "lean")), wanted, 1e-6)


def test_threads_and_forked_children_train_alike():
    model, x = model_of(), torch.randn(2, 3, 28, 28)
    wanted = gradients(model, x, training(model, "full"))[1]
    found = {}

    def step(number):
        mine = copy.deepcopy(model)
        with training(mine, "full"):
            out = mine(x)
        found[number] = torch.autograd.grad(out.square().sum(), list(mine.parameters()))

    threads = [threading.Thread(target=step, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(a, b) for grads in found.values() for a, b in zip(grads, wanted, strict=True))
    child = os.fork()
    if child == 0:
        try:
            step(3)
            os._exit(0 if all(close(a, b) for a, b in zip(found[3], wanted, strict=True)) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_gradients_are_only_made_for_what_asks():
    qkv, bias, pad = attention_case()
    bias.requires_grad_()
    out = kernels.attend(qkv, bias, pad=pad, **OPTIONS)
    out.sum().backward()
    assert qkv.grad is None
    assert pad.grad is None
    assert bias.grad.shape == bias.shape
    assert F.linear(torch.ones(2, 32), torch.ones(32, 32)).grad_fn is None


@half
def test_gradients_of_scores_add_up_to_nothing():
    """A softmax does not feel what is added to all of its inputs, so rows of the gradient of the bias sum to zero, in bfloat16 too."""
    (qkv, bias, scale, _), grad = random_case(7, (4, 7, 7), (7, 7), 2, 32, torch.bfloat16, True)
    bias.requires_grad_()
    out = kernels.attend(qkv, bias, window=(7, 7), shift=(0, 0), scale=scale.view(-1, 1, 1), cosine=True)
    out.backward(grad)
    assert (bias.grad.sum(-1).abs() / bias.grad.abs().sum(-1)).max() <= 1e-3
