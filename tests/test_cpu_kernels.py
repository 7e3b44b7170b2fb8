"""The C++ kernels of training give what the definitions give, outputs and every gradient, on each instruction set."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.small_models import SMALL

from swinkit import kernels
from swinkit.config import SwinConfig
from swinkit.kernels import chunked, gpu, products
from swinkit.kernels.cpu import attention, library, linear
from swinkit.model import SwinTransformer, window_attention

ISAS = library.instruction_sets() if library.find() else ()
pytestmark = pytest.mark.skipif(not ISAS, reason="needs the C++ library, which is built where there is a compiler")
half = pytest.mark.skipif("avx512_bf16" not in ISAS, reason="needs a CPU with AVX512-BF16")
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=half)]
BOUND = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Largest difference to float64, of the largest value."""


def difference(got, wanted, least=1e-30):
    assert got.shape == wanted.shape
    return ((got.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=least)).item()


def gradients(attend, tensors, grad, **options):
    """The output and the gradients of qkv, bias, scale and pad; zeros for what took no part."""
    qkv, bias, scale, pad = leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    out = attend(qkv, bias, scale=scale.view(-1, 1, 1), pad=pad, **options)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)]


def random_case(seed, shape, window, heads, dim, dtype, cosine):
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = shape
    tokens = window[0] * window[1]
    sizes = [(batch, height, width, 3, heads, dim), (heads, tokens, tokens), (heads,), (3, heads, dim), (batch, height, width, heads * dim)]
    qkv, bias, scale, pad, grad = (torch.randn(size, generator=generator) for size in sizes)
    scale = scale.abs() * (10 if cosine else 0.3) + 0.1
    return (qkv.to(dtype), bias, scale, pad), grad.to(dtype)


def check(case, bound, **options):
    tensors, grad = case
    got = gradients(attention.attend, tensors, grad, **options)
    wanted = gradients(window_attention, [tensor.double() for tensor in tensors], grad.double(), **options)
    for name, a, b in zip(("out", "qkv", "bias", "scale", "pad"), got, wanted, strict=True):
        # Gradients are sums of products over the channels, which may cancel each other.
        assert difference(a, b, least=max(tensors[0].shape[-1], 8)) <= bound, name


@st.composite
def cases(draw):
    window = (draw(st.integers(1, 8)), draw(st.integers(1, 8)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 17)), draw(st.integers(1, 17)))
    shift = tuple(draw(st.integers(0, side - 1)) for side in window)
    return shape, window, shift, draw(st.integers(1, 3)), draw(st.sampled_from([4, 8, 12, 24, 32, 40, 64])), draw(st.integers(0, 99))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cosine", [False, True])
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(cases())
def test_attention_and_every_gradient_are_the_definitions(monkeypatch, isa, cosine, case):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    shape, window, shift, heads, dim, seed = case
    for dtype in (torch.float32, torch.bfloat16):
        data = random_case(seed, shape, window, heads, dim, dtype, cosine)
        check(data, BOUND[dtype], window=window, shift=shift, cosine=cosine)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [4, 7, 8, 12, 16, 24])
def test_every_published_window(side, dtype):
    for cosine, height in ((False, side + 3), (True, side + 3), (False, side)):  # the last: windows without padding
        data = random_case(side, (1, height, 2 * side), (side, side), 2, 32, dtype, cosine)
        check(data, BOUND[dtype], window=(side, side), shift=(side // 2, side // 2), cosine=cosine)


def test_gradients_are_right_at_the_finest():
    """Not only near: a central difference of the loss in float64 along a random direction, for each input."""
    tensors, grad = random_case(3, (1, 6, 5), (4, 3), 2, 8, torch.float32, True)
    options = {"window": (4, 3), "shift": (2, 1), "cosine": True}
    got = gradients(attention.attend, tensors, grad, **options)[1:]

    def loss(values):
        qkv, bias, scale, pad = values
        return (window_attention(qkv, bias, scale=scale.view(-1, 1, 1), pad=pad, **options) * grad.double()).sum()

    for i, gradient in enumerate(got):
        wide = [tensor.double() for tensor in tensors]
        direction = torch.randn(wide[i].shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        ahead, behind = ([*wide[:i], wide[i] + step * direction, *wide[i + 1 :]] for step in (1e-5, -1e-5))
        slope = (loss(ahead) - loss(behind)) / 2e-5
        assert torch.isclose((gradient.double() * direction).sum(), slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
def test_vectors_that_are_too_short_for_a_direction(monkeypatch, isa):
    """Below a length of 1e-12 `F.normalize` only scales, and so does its gradient; zero is such a vector."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    tensors, grad = random_case(4, (1, 4, 4), (4, 4), 1, 16, torch.float32, True)
    tensors[0][0, 0, 0, :2] = 0
    for token, length in ((1, 6e-13), (2, 2e-12)):
        tensors[0][0, 0, token, :2] = length * F.normalize(tensors[0][0, 0, token, :2], dim=-1)
    options = {"window": (4, 4), "shift": (0, 0), "cosine": True}
    got = gradients(attention.attend, tensors, grad, **options)[1]
    wanted = gradients(window_attention, [tensor.double() for tensor in tensors], grad.double(), **options)[1]
    for token in range(4):
        for part in range(2):
            assert difference(got[0, 0, token, part], wanted[0, 0, token, part]) <= 1e-4, (token, part)


@pytest.fixture
def filled_with_nan():
    """Memory that nobody wrote to holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_is_written(filled_with_nan, dtype):
    data = random_case(1, (2, 9, 10), (7, 7), 2, 24, dtype, False)
    assert torch.isnan(torch.empty(3)).all()
    check(data, BOUND[dtype], window=(7, 7), shift=(3, 3))


def test_nan_in_one_image_stays_there():
    tensors, grad = random_case(1, (2, 9, 10), (7, 7), 2, 8, torch.float32, False)
    tensors[0][0] = float("nan")
    out, qkv_grad, *_ = gradients(attention.attend, tensors, grad, window=(7, 7), shift=(3, 3))
    assert out[0].isnan().all()
    assert not torch.cat((out[1].flatten(), qkv_grad[1].flatten())).isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_threads_nor_on_the_run(dtype):
    tensors, grad = random_case(5, (3, 16, 15), (4, 4), 3, 8, dtype, True)
    options = {"window": (4, 4), "shift": (2, 2), "cosine": True}
    x, weight, bias = torch.randn(900, 64).to(dtype), torch.randn(96, 64), torch.randn(96)
    y_grad = torch.randn(900, 96).to(dtype)

    def everything():
        yield from gradients(attention.attend, tensors, grad, **options)
        yield linear.forward(x, weight, bias, dtype, True)
        yield from linear.backward(y_grad, x, weight, dtype, True, (True, True, True), dtype)

    before = torch.get_num_threads()
    try:
        wanted = list(everything())
        for threads in (1, 2, 3, 4, before):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(everything(), wanted, strict=True)), threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operations_keep_to_their_schemas():
    tensors, _ = random_case(2, (1, 5, 6), (4, 4), 2, 8, torch.float32, True)
    inputs = tuple(tensor.detach().requires_grad_() for tensor in (tensors[0], tensors[1], tensors[3], tensors[2]))
    torch.library.opcheck(torch.ops.swinkit.cpu_window_attention.default, (*inputs, [4, 4], [2, 2], True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_compiles_without_a_break_and_with_the_operation_inside(version):
    model = SwinTransformer(SwinConfig(version=version, drop_path_rate=0.0, **SMALL), kernels.attend)
    x = torch.randn(2, 3, 35, 32)
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert torch.allclose(compiled(x), model(x), atol=1e-6)
    assert sum("cpu_window_attention" in target for target in seen) == 4
    seen.clear()
    exported = torch.export.export(model, (x,))
    assert not any("swinkit" in str(node.target) for node in exported.graph.nodes)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(130, 96, 64), (1, 33, 10), (1200, 20, 45), (577, 64, 32), (15, 35, 70), (951, 45, 2010)]
)
@pytest.mark.parametrize("isa", ISAS)
def test_linear_layers_and_every_gradient(monkeypatch, isa, rows, inputs, outputs):
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    torch.manual_seed(rows)
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and isa != "avx512_bf16":
            continue
        for gelu, x_dtype, grad_dtype in [(False, dtype, dtype), (True, dtype, torch.float32), (False, torch.float32, dtype)]:
            x, weight, bias = torch.randn(rows, inputs).to(x_dtype), torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
            grad = torch.randn(rows, outputs).to(grad_dtype)
            got = [linear.forward(x, weight, bias, dtype, gelu)]
            got += linear.backward(grad, x, weight, dtype, gelu, (True, True, True), x.dtype)
            leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
            wanted = F.linear(F.gelu(leaves[0]) if gelu else leaves[0], *leaves[1:])
            wanted.backward(grad.double())
            for a, b in zip(got, [wanted.detach(), *(leaf.grad for leaf in leaves)], strict=True):
                assert difference(a, b) <= BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_gradients_that_are_wanted(filled_with_nan, dtype):
    """A trained bias beside a frozen weight, and every other choice."""
    x, weight, grad = torch.randn(700, 32).to(dtype), torch.randn(64, 32), torch.randn(700, 64).to(dtype)
    whole = linear.backward(grad, x, weight, dtype, False, (True, True, True), dtype)
    for number in range(8):
        wanted = tuple(bool(number >> i & 1) for i in range(3))
        got = linear.backward(grad, x if wanted[1] else None, weight, dtype, False, wanted, dtype)
        for asked, a, b in zip(wanted, got, whole, strict=True):
            assert torch.equal(a, b) if asked else a is None


def test_the_default_dtype_changes_nothing():
    tensors, _ = random_case(2, (1, 5, 6), (4, 4), 2, 8, torch.float32, False)
    options = {"window": (4, 4), "shift": (2, 2), "scale": 0.3, "pad": 0.0}
    wanted = attention.attend(tensors[0], tensors[1], **options)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(attention.attend(tensors[0], tensors[1], **options), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_gelu_and_its_slope_over_the_whole_line():
    x = torch.cat((torch.linspace(-12, 12, 32 * 400), torch.tensor([0.0, -0.0, 1e-30, -1e30, 1e30] + [3.0] * 27))).view(-1, 32)
    one = torch.eye(32)
    out = linear.forward(x, one, None, torch.float32, True)
    assert ((out - F.gelu(x.double())).abs() <= 4e-7 * x.abs() + 1e-6).all()
    slope, *_ = linear.backward(torch.ones_like(x), x, one, torch.float32, True, (True, False, False), torch.float32)
    leaf = x.double().requires_grad_()
    F.gelu(leaf).sum().backward()
    assert (slope - leaf.grad).abs().max() <= 2e-6
    assert linear.forward(x.fill_(float("nan")), one, None, torch.float32, True).isnan().all()


@half
def test_the_slope_of_gelu_in_bfloat16():
    x = torch.linspace(-8, 8, 32 * 400).bfloat16().view(-1, 32)
    slope, *_ = linear.backward(torch.ones_like(x), x, torch.eye(32), x.dtype, True, (True, False, False), torch.bfloat16)
    leaf = x.double().requires_grad_()
    F.gelu(leaf).sum().backward()
    assert ((slope - leaf.grad).abs() <= 2e-4 + leaf.grad.abs() / 256).all()


@pytest.mark.parametrize("gelu", [False, True])
def test_products_without_the_library_are_the_same(monkeypatch, gelu):
    x, weight, bias, grad = torch.randn(70, 32), torch.randn(64, 32), torch.randn(64), torch.randn(70, 64)
    with_bias = (True, True, True)
    native = [products.forward(x, weight, bias, x.dtype, gelu), *products.backward(grad, x, weight, x.dtype, gelu, with_bias, x.dtype)]
    monkeypatch.setattr(products, "native", lambda *_: False)
    plain = [products.forward(x, weight, bias, x.dtype, gelu), *products.backward(grad, x, weight, x.dtype, gelu, with_bias, x.dtype)]
    for a, b in zip(native, plain, strict=True):
        assert difference(a, b) <= 1e-5


@pytest.mark.parametrize("shift", [(0, 0), (2, 3), (3, 0), (0, 1)])
@pytest.mark.parametrize("height", [3, 5, 8, 11, 20])
def test_a_band_at_a_time_is_the_definition(height, shift):
    tensors, grad = random_case(height, (2, height, 9), (4, 5), 2, 8, torch.float64, False)
    tensors = [tensor.double() for tensor in tensors]
    for most in (1, 2 * 2 * 2 * 400, 10**9):  # one row of windows at a time, two, all
        got = gradients(lambda *a, most=most, **o: chunked.attend(*a, most_scores=most, **o), tensors, grad, window=(4, 5), shift=shift)
        wanted = gradients(window_attention, tensors, grad, window=(4, 5), shift=shift)
        for a, b in zip(got, wanted, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_what_the_library_does_not_take_goes_by_the_definition():
    tensors, _ = random_case(2, (1, 5, 6), (4, 4), 2, 8, torch.float32, False)
    qkv, bias, _, pad = tensors
    options = {"window": (4, 4), "shift": (2, 2), "scale": 0.3}
    for changed in (qkv.double(), qkv.half()):
        wide = bias.to(changed.dtype), pad.to(changed.dtype)
        assert torch.equal(
            kernels.attend(changed, wide[0], pad=wide[1], **options), window_attention(changed, wide[0], pad=wide[1], **options)
        )
    assert "no dropout" in attention.why_not(qkv, 0.1)
    assert "not in torch.float64" in attention.why_not(qkv.double(), 0.0)
    torch.manual_seed(0)
    dropped = kernels.attend(qkv, bias, pad=pad, dropout_p=0.5, **options)
    torch.manual_seed(0)
    assert torch.equal(dropped, window_attention(qkv, bias, pad=pad, dropout_p=0.5, **options))
    mapped = torch.func.vmap(lambda one: kernels.attend(one[None], bias, pad=pad, **options)[0])(qkv)
    assert torch.allclose(mapped, kernels.attend(qkv, bias, pad=pad, **options), atol=1e-6)


def test_second_derivatives_are_refused_in_a_sentence():
    tensors, _ = random_case(2, (1, 4, 4), (4, 4), 1, 8, torch.float32, False)
    qkv = tensors[0].requires_grad_()
    out = attention.attend(qkv, tensors[1], window=(4, 4), shift=(0, 0), scale=1.0)
    (first,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    with pytest.raises(Exception, match="second derivatives"):
        first.sum().backward()


def test_a_model_with_the_kernel_is_the_model_without():
    config = SwinConfig(drop_path_rate=0.0, **SMALL)
    model, plain = SwinTransformer(config, kernels.attend), SwinTransformer(config)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 45, 38)
    for each in (model, plain):
        each(x).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert difference(a.grad, b.grad) <= 2e-5, name
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_the_choice_says_what_runs_on_each_device():
    assert kernels.choose().name == "fused"
    assert kernels.choose("mps").reason == "plain PyTorch operations: there is no faster one for mps devices"
    assert kernels.choose("cuda").name == ("definition" if gpu.OBSTACLE else "fused")


def test_on_a_gpu_the_triton_kernel_takes_what_it_can(monkeypatch):
    """Where a tensor goes, told by tensors that claim to be on a GPU."""
    monkeypatch.setattr(gpu, "OBSTACLE", None)
    near = torch.zeros(1, 4, 4, 3, 1, 8)

    class There:
        device, shape, dtype = torch.device("cuda"), near.shape, near.dtype

        def numel(self):
            return near.numel()

    options = {"window": (4, 4), "shift": (2, 2)}
    assert kernels._fused(There(), options) is gpu.attend
    for other in ({"dropout_p": 0.1}, {"window": (25, 4)}, {"shift": (4, 0)}):
        assert kernels._fused(There(), options | other) is None


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("gelu", [False, True])
def test_large_matrices_are_the_same_in_parts(monkeypatch, isa, gelu):
    """Beyond 8 MiB the caches are passed by: of the output in one of these layers, of the input's gradient in the other."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    dtype = torch.bfloat16 if isa == "avx512_bf16" else torch.float32
    for inputs, outputs, rows in ((32, 512, 9000), (512, 32, 9000)):
        torch.manual_seed(inputs)
        x, weight, bias = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs) / 16, torch.randn(outputs)
        grad, third = torch.randn(rows, outputs).to(dtype), rows // 3 // 112 * 112
        assert rows * 512 * x.element_size() > 2**23 > (rows - 2 * third) * 512 * x.element_size()
        whole = linear.forward(x, weight, bias, dtype, gelu), linear.backward(grad, x, weight, dtype, gelu, (True, False, False), dtype)[0]
        for rows_of in (slice(None, third), slice(third, 2 * third), slice(2 * third, None)):
            assert torch.equal(linear.forward(x[rows_of], weight, bias, dtype, gelu), whole[0][rows_of])
            part = linear.backward(grad[rows_of], x[rows_of], weight, dtype, gelu, (True, False, False), dtype)[0]
            assert torch.equal(part, whole[1][rows_of])
