"""Tests of the Triton kernels, run by tests/test_gpu_kernels.py in processes of their own: Triton's interpreter must be chosen before
Triton is imported. By hand:

    TRITON_INTERPRET=1 python -m pytest -n 0 -p no:cacheprovider tests/gpu_cases.py
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton.runtime import interpreter

from swinkit.errors import SwinkitError
from swinkit.kernels import gpu
from swinkit.kernels.gpu import ops, plan
from swinkit.model import window_attention

WIDE, HALF = torch.float32, (torch.float16, torch.bfloat16)
BOUND = {torch.float32: 4e-6, torch.float16: 3e-3, torch.bfloat16: 2.5e-2}
"""The largest difference, as a part of the largest value of the definition in float64."""
SIDES = range(4, 25)


def round_to_nearest(data, source, target, mode):
    """Triton's interpreter cuts bfloat16 off; GPUs round to the nearest, and so does PyTorch."""
    if source.is_fp32() and target.is_bf16():
        return torch.from_numpy(data.copy()).bfloat16().view(torch.uint16).numpy()
    if source.is_bf16() and target.is_fp32():
        return torch.from_numpy(data.copy()).view(torch.bfloat16).float().numpy()
    return convert(data, source, target, mode)


convert, interpreter._convert_float = interpreter._convert_float, round_to_nearest


@pytest.fixture(autouse=True)
def _several_windows_per_program(monkeypatch):
    """As on large batches: the interpreter's batches would give each program one window."""
    monkeypatch.setattr(plan, "PROGRAMS", 4)


def inputs(grid, window, heads, dim, cosine, dtype=WIDE, batch=1, seed=0):
    """qkv, bias, pad and scale of a call, and a gradient of its output."""
    torch.manual_seed(seed)
    tokens = window[0] * window[1]
    scale = 1 + 4 * torch.rand(heads, 1, 1) if cosine else torch.tensor(dim**-0.5)
    qkv = torch.randn(batch, *grid, 3, heads, dim).to(dtype)
    grad = torch.randn(batch, *grid, heads * dim).to(dtype)
    return [qkv, torch.randn(heads, tokens, tokens), torch.randn(3, heads, dim).to(dtype).float(), scale], grad


def results(attend, tensors, grad, window, shift, cosine):
    """The output and the gradients of qkv, bias, pad and, in V2, scale."""
    qkv, bias, pad, scale = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    out = attend(qkv, bias, window=window, shift=shift, scale=scale if cosine else float(tensors[3]), cosine=cosine, pad=pad)
    leaves = (qkv, bias, pad, scale) if cosine else (qkv, bias, pad)
    grads = torch.autograd.grad(out, leaves, grad.to(out.dtype), allow_unused=True)
    return [out.detach(), *(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True))]


def differences(mine, wide):
    """Per result the largest difference, as a part of the largest value; terms of about 1 may have cancelled, and left their rounding."""
    return [((a.double() - b).abs().max() / b.abs().max().clamp(min=0.5)).item() for a, b in zip(mine, wide, strict=True)]


def agree(grid, window, shift, heads, dim, cosine, dtype=WIDE, batch=1, seed=0):
    tensors, grad = inputs(grid, window, heads, dim, cosine, dtype, batch, seed)
    mine = results(gpu.attend, tensors, grad, window, shift, cosine)
    wide = results(window_attention, [tensor.double() for tensor in tensors], grad.double(), window, shift, cosine)
    assert [value.dtype for value in mine[:3]] == [dtype, dtype, torch.float32]
    bound = BOUND[dtype]
    limits = [bound] * 4 + [20 * bound]  # the gradient of scale is a sum of many terms that nearly cancel
    assert all(error <= limit for error, limit in zip(differences(mine, wide), limits, strict=False)), differences(mine, wide)


class TestWhole:
    """Windows up to 64 tokens."""

    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def test_any_map_window_and_shift(self, data):
        window = data.draw(st.sampled_from([(2, 2), (3, 5), (4, 4), (4, 8), (5, 5), (6, 6), (7, 7), (8, 8)]))
        grid = tuple(data.draw(st.integers(1, 2 * side)) for side in window)
        shift = tuple(data.draw(st.integers(0, side - 1)) for side in window)
        dim, cosine = data.draw(st.sampled_from([8, 16, 24, 32, 48, 64])), data.draw(st.booleans())
        agree(grid, window, shift, data.draw(st.integers(1, 2)), dim, cosine, batch=data.draw(st.integers(1, 2)))

    @pytest.mark.parametrize("side", [side for side in SIDES if side <= 8])
    def test_each_window(self, side):
        agree((side, side + 1), (side, side), (side // 2, side // 2), 1, 16, cosine=side % 2 == 0)

    @pytest.mark.parametrize(("dtype", "cosine"), [*itertools.product(HALF, (False, True))])
    def test_half_precision(self, dtype, cosine):
        agree((8, 15), (7, 7), (3, 3), 2, 32, cosine, dtype)

    def test_several_images(self):
        agree((9, 9), (4, 4), (2, 2), 1, 16, False, batch=2)

    def test_padding_that_the_shift_moves_into_the_window_before_the_last(self):
        agree((8, 14), (7, 7), (3, 3), 1, 16, True)


class TestBlocks:
    """Windows beyond 64 tokens."""

    @settings(max_examples=2, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def test_any_map_window_and_shift(self, data):
        window = data.draw(st.sampled_from([(9, 8), (5, 14)]))
        grid = (data.draw(st.integers(1, window[0])), data.draw(st.integers(1, window[1] + 2)))
        shift = tuple(data.draw(st.integers(0, side - 1)) for side in window)
        agree(grid, window, shift, 1, data.draw(st.sampled_from([16, 24])), data.draw(st.booleans()))

    @pytest.mark.parametrize("side", [12, 16])
    def test_windows_of_models(self, side):
        agree((side - 1, side), (side, side), (side // 2, side // 2), 1, 16, cosine=side % 4 == 0)

    @pytest.mark.parametrize("dtype", HALF)
    def test_half_precision(self, dtype):
        agree((9, 8), (9, 9), (4, 4), 1, 32, dtype == torch.bfloat16, dtype)


class TestLarge:
    """Each larger window once, with larger blocks, which the interpreter runs faster."""

    @pytest.fixture(autouse=True)
    def _large_blocks(self, monkeypatch):
        monkeypatch.setattr(plan, "BLOCKS", dict.fromkeys(plan.BLOCKS, ((128, 256, 4, 1),) * 2))

    @pytest.mark.parametrize("side", [side for side in SIDES if side > 8])
    def test_each_window(self, side):
        agree((side, side - 1), (side, side), (side // 2, side // 2), 1, 16, cosine=side % 2 == 0)


class TestOperations:
    def test_every_element_is_written_and_nothing_beyond(self, monkeypatch):
        """Whatever memory holds before: each allocation here is full of NaN and has NaN behind it."""
        behind = []

        def poisoned(like, shape, dtype=None):
            buffer = torch.full((torch.Size(shape).numel() + 64,), torch.nan, dtype=dtype or like.dtype)
            behind.append(buffer[-64:])
            return buffer[:-64].view(shape)

        def new_empty(like, *shape, dtype=None, **rest):
            return usual(like, *shape, dtype=dtype, **rest) if rest else poisoned(like, torch.empty(*shape, device="meta").shape, dtype)

        usual = torch.Tensor.new_empty
        monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
        monkeypatch.setattr(torch, "empty_like", lambda x, **_: poisoned(x, x.shape))
        for window in ((4, 4), (9, 9)):
            tensors, grad = inputs((5, 8), window, 1, 24, True)
            assert all(value.isfinite().all() for value in results(gpu.attend, tensors, grad, window, (2, 2), True))
        assert len(behind) > 10
        assert all(tail.isnan().all() for tail in behind)

    @pytest.mark.parametrize("window", [(4, 4), (9, 9)])
    def test_results_are_the_same_every_time(self, window):
        tensors, grad = inputs((5, 8), window, 1, 16, True, torch.bfloat16)
        once, again = (results(gpu.attend, tensors, grad, window, (2, 3), True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))

    def test_windows_per_program_change_little(self, monkeypatch):
        tensors, grad = inputs((5, 8), (4, 4), 2, 16, True)
        few = results(gpu.attend, tensors, grad, (4, 4), (2, 2), True)
        monkeypatch.setattr(plan, "PROGRAMS", 2048)
        assert max(differences(results(gpu.attend, tensors, grad, (4, 4), (2, 2), True), [value.double() for value in few])) < 2e-6

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
    @pytest.mark.parametrize("cosine", [False, True])
    def test_pytorch_accepts_the_operations(self, cosine):
        tensors, _ = inputs((5, 4), (4, 4), 2, 8, cosine)
        qkv, bias, pad, scale = (tensor.requires_grad_() for tensor in tensors)
        arguments = (qkv, bias, pad, scale if cosine else None, 1.0 if cosine else 0.3, [4, 4], [2, 2], cosine)
        torch.library.opcheck(torch.ops.swinkit.gpu_window_attention.default, arguments)

    @pytest.mark.parametrize("needed", [0, 1, 2, 3])
    def test_gradients_alone_are_the_gradients_together(self, needed):
        tensors, grad = inputs((5, 6), (4, 4), 1, 16, True)
        together = results(gpu.attend, tensors, grad, (4, 4), (2, 2), True)[1 + needed]
        leaves = [tensor.clone().requires_grad_(at == needed) for at, tensor in enumerate(tensors)]
        out = gpu.attend(leaves[0], leaves[1], window=(4, 4), shift=(2, 2), scale=leaves[3], cosine=True, pad=leaves[2])
        assert torch.equal(torch.autograd.grad(out, leaves[needed], grad)[0], together)

    def test_what_is_not_contiguous_is_taken_too(self):
        tensors, grad = inputs((6, 5), (4, 4), 2, 16, False)
        qkv = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
        bias = tensors[1].permute(1, 2, 0).contiguous().permute(2, 0, 1)
        strided = results(gpu.attend, [qkv, bias, *tensors[2:]], grad, (4, 4), (2, 2), False)
        assert all(torch.equal(a, b) for a, b in zip(strided, results(gpu.attend, tensors, grad, (4, 4), (2, 2), False), strict=True))

    def test_rows_of_zeros_have_the_gradient_of_normalize(self):
        tensors, grad = inputs((4, 4), (4, 4), 1, 16, True)
        tensors[0][0, 1, 2, :2] = 0
        mine = results(gpu.attend, tensors, grad, (4, 4), (0, 0), True)
        wide = results(window_attention, [tensor.double() for tensor in tensors], grad.double(), (4, 4), (0, 0), True)
        assert max(differences(mine, wide)) < 1e-5

    def test_the_mask_is_added_and_not_minus_infinity(self):
        """With scores of up to 100 a token alone on its side of the seam can prefer one beyond it to itself."""
        tensors, grad = inputs((4, 4), (4, 4), 1, 8, True)
        tensors[3] = torch.full_like(tensors[3], 100.0)
        query = tensors[0][0, 3, 3, 0].clone()  # the first row and column of the window are the last of the map, here without neighbours
        tensors[0][0, 3, 3, 1], tensors[0][0, 1, 1, 1] = -query, query
        mine = results(gpu.attend, tensors, grad, (4, 4), (3, 3), True)
        wide = results(window_attention, [tensor.double() for tensor in tensors], grad.double(), (4, 4), (3, 3), True)
        assert max(differences(mine, wide)[:3]) < 1e-4

    def test_large_scores_of_half_precision_stay_finite(self):
        tensors, grad = inputs((4, 4), (4, 4), 1, 16, False, torch.float16)
        tensors[0] *= 200
        assert all(value.isfinite().all() for value in results(gpu.attend, tensors, grad, (4, 4), (0, 0), False)[:1])

    def test_second_derivatives_are_refused_in_a_sentence(self):
        tensors, _ = inputs((4, 4), (4, 4), 1, 16, False)
        qkv = tensors[0].requires_grad_()
        out = gpu.attend(qkv, tensors[1], window=(4, 4), shift=(0, 0), scale=0.25, pad=tensors[2])
        (first,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
        with pytest.raises(SwinkitError, match="second derivatives"):
            first.sum().backward()

    def test_an_empty_batch(self):
        tensors, _ = inputs((4, 4), (4, 4), 1, 16, False, batch=0)
        assert gpu.attend(tensors[0], tensors[1], window=(4, 4), shift=(0, 0), scale=0.25).shape == (0, 4, 4, 16)

    def test_huge_maps_have_wide_offsets(self):
        wide = plan.Call(1, 2**13, 2**13, 3, 32, (7, 7), (3, 3))
        assert wide.flags(False, False)["HUGE"]
        assert not plan.Call(256, 2**10, 2**10, 3, 32, (7, 7), (3, 3)).flags(False, False)["HUGE"]

    def test_wide_offsets_compute_the_same(self, monkeypatch):
        tensors, grad = inputs((5, 6), (4, 4), 2, 16, True)
        narrow = results(gpu.attend, tensors, grad, (4, 4), (2, 2), True)
        flags = plan.Call.flags
        monkeypatch.setattr(plan.Call, "flags", lambda *given: {**flags(*given), "HUGE": True})
        assert all(torch.equal(a, b) for a, b in zip(narrow, results(gpu.attend, tensors, grad, (4, 4), (2, 2), True), strict=True))

    def test_interpreted_operations_are_opaque(self):
        assert ops.INTERPRETED
