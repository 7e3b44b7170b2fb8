"""The shift trick, proved: masked attention on a rolled map is attention inside irregular windows, and nothing crosses the seam.

The irregular regions here come from unrolled coordinates: token (y, x) lies in the region numbered by where the shifted window borders
fall, with no roll and no mask involved.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swinkit.config import SwinConfig
from swinkit.model import SwinTransformer, relative_position_index, window_attention

SIDE = st.integers(1, 13)
WINDOW = st.integers(1, 5)


def regions(length, window, shift):
    """Region number and place inside its window of each of `length` positions, window borders moved by `shift`."""
    start = window - shift if shift else 0
    number = [0 if i < shift else 1 + (i - shift) // window for i in range(length)] if shift else [i // window for i in range(length)]
    place = [(i + start) % window for i in range(length)]
    return number, place


def by_region(qkv, bias, window, shift, scale, pad, cosine=False):
    """Attention computed separately in every irregular region of the padded map, token by token."""
    B, H, W, _, K, D = qkv.shape
    rows, cols = H + -H % window[0], W + -W % window[1]
    (row_region, row_place), (col_region, col_place) = regions(rows, window[0], shift[0]), regions(cols, window[1], shift[1])
    members = {}
    for y in range(rows):
        for x in range(cols):
            members.setdefault((row_region[y], col_region[x]), []).append((y, x))
    out = torch.empty(B, H, W, K * D, dtype=qkv.dtype)
    for tokens in members.values():
        qkv_here = torch.stack([qkv[:, y, x] if y < H and x < W else pad.expand(B, 3, K, D) for y, x in tokens])  # n, B, 3, K, D
        q, k, v = qkv_here.permute(2, 1, 3, 0, 4)  # B, K, n, D
        if cosine:
            q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
        place = torch.tensor([row_place[y] * window[1] + col_place[x] for y, x in tokens])
        scores = scale * (q @ k.transpose(-2, -1)) + bias[:, place][:, :, place]
        result = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        for i, (y, x) in enumerate(tokens):
            if y < H and x < W:
                out[:, y, x] = result[:, i]
    return out


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDE, SIDE), st.tuples(WINDOW, WINDOW), st.data())
def test_equals_attention_in_every_irregular_region(size, window, data):
    shift = (data.draw(st.integers(0, window[0] - 1)), data.draw(st.integers(0, window[1] - 1)))
    cosine = data.draw(st.booleans())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    K, D, N = 2, 3, window[0] * window[1]
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    qkv, bias, pad = draw(2, *size, 3, K, D), draw(K, N, N), draw(3, K, D)
    scale = draw(K, 1, 1).abs() if cosine else 0.5
    arguments = {"scale": scale, "pad": pad, "cosine": cosine}
    got = window_attention(qkv, bias, window=window, shift=shift, **arguments)
    torch.testing.assert_close(got, by_region(qkv, bias, window, shift, **arguments), atol=1e-12, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(5, 17), st.integers(5, 17)), st.tuples(st.integers(2, 5), st.integers(2, 5)))
def test_a_token_hears_nothing_from_the_far_edge(size, window):
    """Gradients in float64: what passes between tokens that the shifted windows separate is below 1e-30."""
    shift = (window[0] // 2, window[1] // 2)
    qkv = torch.randn(1, *size, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    N = window[0] * window[1]
    out = window_attention(qkv, torch.randn(1, N, N, dtype=torch.float64), window=window, shift=shift, scale=0.5)
    row_region, _ = regions(size[0] + -size[0] % window[0], window[0], shift[0])
    col_region, _ = regions(size[1] + -size[1] % window[1], window[1], shift[1])
    for y, x in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] - 1)):
        (heard,) = torch.autograd.grad(out[0, y, x].sum(), qkv, retain_graph=True)
        strength = heard[0].abs().amax(dim=(2, 3, 4))
        for v in range(size[0]):
            for u in range(size[1]):
                if (row_region[v], col_region[u]) != (row_region[y], col_region[x]):
                    assert strength[v, u] < 1e-30, f"({y}, {x}) hears ({v}, {u})"
        assert strength[y, x] > 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("policy", ["official", "dense", "per_axis"])
def test_the_seam_of_a_model_at_sizes_that_do_not_divide(version, policy):
    """One shifted block of a whole model on a 13 x 11 map: the last row must not hear the first rows."""
    tiny = {"img_size": (13, 11), "patch_size": 1, "in_chans": 1, "num_classes": 0, "embed_dim": 8, "depths": (2,), "num_heads": (2,)}
    config = SwinConfig(version=version, window_size=4, size_policy=policy, **tiny)
    block = SwinTransformer(config).double().eval().layers[0].blocks[1]
    for norm in (block.norm1, block.norm2):
        torch.nn.init.ones_(norm.weight)  # V2 starts as the identity: nothing would be heard at all
    x = torch.randn(1, 13, 11, 8, dtype=torch.float64, requires_grad=True)
    (heard,) = torch.autograd.grad((block(x)[0, -1] * torch.randn(11, 8)).sum(), x)
    rows = heard[0].abs().amax(dim=(1, 2))
    assert rows[:10].max() < 1e-30
    assert (rows[10:] > 1e-6).all()  # shift 2, window 4: the last window holds rows 10 to 13


def test_information_crosses_windows_after_a_shifted_block():
    config = SwinConfig(img_size=16, patch_size=1, in_chans=1, num_classes=0, embed_dim=8, depths=(2,), num_heads=(2,), window_size=4)
    stage = SwinTransformer(config).double().eval().layers[0]
    x = torch.randn(1, 16, 16, 8, dtype=torch.float64, requires_grad=True)
    one = torch.autograd.grad(stage.blocks[0](x)[0, 5, 5].sum(), x)[0][0].abs().amax(-1) > 0
    two = torch.autograd.grad(stage(x)[0, 5, 5].sum(), x)[0][0].abs().amax(-1) > 1e-12
    assert one.nonzero().tolist() == [[y, x] for y in range(4, 8) for x in range(4, 8)]
    assert two[:4].any()
    assert two[4:8, :4].any()
    assert two.sum() > one.sum()


def test_relative_offsets_do_not_collide():
    index = relative_position_index((4, 5))
    token = lambda y, x: y * 5 + x  # noqa: E731
    assert index[token(2, 1), token(0, 0)] != index[token(1, 2), token(0, 0)]
    assert index[token(3, 4), token(1, 1)] == index[token(2, 3), token(0, 0)]
    assert sorted(index.unique().tolist()) == list(range(7 * 9))
