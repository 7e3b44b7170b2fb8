"""The engine "packed": the same numbers as the plain model, for every version, policy, size and kind of output."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn

import golden_cases as golden
from small_models import POLICIES, SMALL, VERSIONS, check_threads, small
from swinkit.backbone import SwinBackbone
from swinkit.config import SwinConfig
from swinkit.errors import InputError
from swinkit.kernels.packed import block, linear, pack, weight_bytes, why_not
from swinkit.kernels.packed.windows import pieces, seam, token_places, window_kinds, window_tokens
from swinkit.model import SwinTransformer, seam_mask, seam_sides, to_windows

FLOAT32 = 2e-5
"""Largest difference allowed, as a share of the largest value."""
BFLOAT16 = 0.015
"""The same in bfloat16. Measured on 144 such models: up to 0.008, where autocast differs by up to 0.011."""

NO_BFLOAT16 = why_not(small(), torch.bfloat16)
needs_bfloat16 = pytest.mark.skipif(NO_BFLOAT16 is not None, reason=str(NO_BFLOAT16))
GEOMETRIES = [
    ((8, 8), (4, 4), (2, 2)),
    ((7, 13), (4, 4), (2, 2)),
    ((3, 9), (4, 4), (2, 2)),
    ((5, 6), (3, 5), (1, 2)),
    ((9, 4), (4, 4), (2, 0)),
    ((4, 9), (4, 4), (0, 2)),
    ((6, 6), (1, 6), (0, 3)),
    ((8, 5), (4, 4), (0, 0)),
]


def speaking(model):
    """Every norm, bias and table away from its initial value, so that leaving one out would show."""
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "norm" in name or "table" in name or "logit_scale" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def assert_close(got, wanted, share=FLOAT32):
    assert got.dtype == torch.float32
    assert got.shape == wanted.shape
    assert got.isfinite().all()
    difference, largest = (got - wanted).abs().max().item(), wanted.abs().max().item()
    assert difference <= share * largest, f"differs by {difference / largest:.2g} of the largest value"


@VERSIONS
@POLICIES
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (7, 64), (5, 5), (2, 90)])
@pytest.mark.parametrize("batch", [1, 3])
def test_classifier(version, policy, size, batch):
    model = speaking(small(version, size_policy=policy))
    x = torch.randn(batch, 3, *size)
    ready = pack(model)
    with torch.no_grad():
        assert_close(ready(x), model(x))
        features = model.forward_features(x)
        assert_close(ready.forward_features(x), features)
        assert_close(ready.forward_head(features), model.forward_head(features))
        assert_close(ready.forward_head(features, pre_logits=True), features.mean((1, 2)))


@VERSIONS
@pytest.mark.parametrize(
    "changes",
    [
        {"window_size": (3, 5), "img_size": (24, 40), "patch_size": (2, 4)},
        {"window_size": [(4, 2), 3]},
        {"ape": True, "qkv_bias": False},
        {"patch_norm": False, "in_chans": 1, "num_classes": 0},
        {"embed_dim": 12, "num_heads": (1, 3), "mlp_ratio": 1.5, "window_size": 1},
        {"embed_dim": 10, "depths": (1, 1, 2), "num_heads": (1, 2, 5)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_architectures(version, changes):
    model = speaking(small(version, **changes))
    x = torch.randn(2, model.config.in_chans, 27, 34)
    with torch.no_grad():
        assert_close(pack(model)(x), model(x))


@VERSIONS
@POLICIES
def test_backbone(version, policy):
    torch.manual_seed(1)
    config = SwinConfig(**SMALL | {"version": version, "size_policy": policy, "ape": True})
    model, x = speaking(SwinBackbone(config)), torch.randn(2, 3, 37, 50)
    ready = pack(model)
    assert isinstance(ready, SwinBackbone)
    assert ready.feature_info == model.feature_info
    with torch.no_grad():
        for got, wanted in zip(ready(x), model(x), strict=True):
            assert_close(got, wanted)
            assert got.is_contiguous()


@VERSIONS
@pytest.mark.parametrize("output_fmt", ["NCHW", "NHWC"])
def test_intermediates(version, output_fmt):
    model, x = speaking(small(version)), torch.randn(2, 3, 30, 41)
    with torch.no_grad():
        wanted = model.forward_intermediates(x, output_fmt=output_fmt)
        for got, expected in zip(pack(model).forward_intermediates(x, output_fmt=output_fmt), wanted, strict=True):
            assert_close(got, expected)


@pytest.mark.parametrize("name", [name for name in golden.names("classification_v1", "classification_v2") if "_base_" not in name])
def test_the_original_authors_numbers(name):
    case = golden.CASES[name]
    model = pack(golden.fill(SwinTransformer(golden.config_of(case))))
    golden.compare(case, "logits", model(golden.image(case, torch.float32)), torch.float32)


@needs_bfloat16
@VERSIONS
@POLICIES
@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_bfloat16_is_as_close_as_autocast(version, policy, size):
    model = speaking(small(version, size_policy=policy))
    x = torch.randn(3, 3, *size)
    with torch.no_grad():
        wanted, got = model.forward_features(x), pack(model, torch.bfloat16).forward_features(x)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model.forward_features(x).float()
    assert_close(got, wanted, BFLOAT16)
    assert (got - wanted).norm() <= (autocast - wanted).norm()
    assert (got - wanted).abs().max() > FLOAT32 * wanted.abs().max(), "this is float32"


@VERSIONS
def test_small_tiles_give_the_same(version, monkeypatch):
    model, x = speaking(small(version, size_policy="dense")), torch.randn(3, 3, 33, 47)
    whole = pack(model)(x)
    for tokens in (1, 50, 200):
        monkeypatch.setattr(block, "TILE_TOKENS", tokens)
        assert_close(pack(model)(x), whole)


@VERSIONS
def test_without_the_operations_of_onednn(version, monkeypatch):
    monkeypatch.setattr(linear, "onednn_works", lambda dtype: False)
    model, x = speaking(small(version)), torch.randn(2, 3, 33, 32)
    ready = pack(model)
    assert not ready.layers[0].blocks[0].fc1.prepacked
    with torch.no_grad():
        assert_close(ready(x), model(x))


def test_the_trial_finds_missing_and_wrong_operations(monkeypatch):
    trial = linear.onednn_works.__wrapped__
    assert trial(torch.float32)
    monkeypatch.setattr(linear, "_add", lambda x, other, packed, bias: linear._gelu(x, packed, bias))
    assert not trial(torch.float32)

    def absent(*_):
        raise AttributeError("no such operation")

    monkeypatch.setattr(linear, "_add", absent)
    assert not trial(torch.float32)


@VERSIONS
def test_original_and_copy_do_not_touch(version):
    model, x = speaking(small(version)), torch.randn(1, 3, 32, 32)
    model.labels, before = tuple("abcde"), copy.deepcopy(model.state_dict())
    ready = pack(model)
    first = ready(x)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (ready.config, ready.labels, ready.training) == (model.config, model.labels, False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(ready(x), first)
    for again in (copy.deepcopy(ready), pickle.loads(pickle.dumps(ready))):
        assert torch.equal(again(x), first)


@VERSIONS
def test_modes_around_the_call_change_nothing(version):
    ready, x = pack(speaking(small(version, drop_rate=0.5, drop_path_rate=0.5))), torch.randn(2, 3, 33, 32)
    wanted = ready(x)
    with torch.inference_mode():
        assert torch.equal(ready(x), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ready(x), wanted)
    assert not ready(x.clone().requires_grad_()).requires_grad
    assert torch.equal(ready.train()(x), wanted)
    model = small(version)
    model.set_grad_checkpointing()
    assert torch.equal(pack(model)(x), pack(model)(x))


@VERSIONS
def test_packed_in_inference_mode_and_from_other_dtypes(version):
    model, x = speaking(small(version)), torch.randn(2, 3, 32, 32)
    wanted = pack(model)(x)
    with torch.inference_mode():
        ready = pack(model)
    assert torch.equal(ready(x), wanted)
    assert_close(pack(copy.deepcopy(model).double())(x), wanted)


@VERSIONS
def test_not_a_number_stays_in_its_image(version):
    model, x = pack(speaking(small(version, size_policy="dense"))), torch.randn(3, 3, 35, 45)
    wanted = model(x)
    x[1] = float("nan")
    got = model(x)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[[0, 2]], wanted[[0, 2]])


def test_threads():
    model = pack(speaking(small()))
    check_threads(model, 2)


def test_reasons():
    model = small()
    assert why_not(model, torch.float32) is None
    assert why_not(model, torch.float16) == "Packed weights are float32 or bfloat16, not float16."
    with torch.device("meta"):
        elsewhere = SwinTransformer(SwinConfig(**SMALL))
    assert "meta device" in why_not(elsewhere, torch.float32)
    with pytest.raises(InputError, match="float32 or bfloat16, not float64"):
        pack(model, torch.float64)


def test_weight_bytes():
    model = small()
    kept = sum(p.numel() for name, p in model.named_parameters() if "relative_position_bias_table" not in name)
    biases = 2 * (2 + 4) * 16 * 16
    assert weight_bytes(pack(model)) == 4 * (kept + biases)


@pytest.mark.parametrize(("grid", "window", "shift"), GEOMETRIES)
def test_every_token_has_one_place(grid, window, shift):
    tokens, places = window_tokens(grid, window, shift), token_places(grid, window, shift)
    assert sorted(tokens[tokens >= 0].tolist()) == list(range(grid[0] * grid[1]))
    assert torch.equal(tokens.flatten()[places], torch.arange(grid[0] * grid[1]))
    assert sum(count for _, count in window_kinds(grid, window, shift)) == len(tokens)


@pytest.mark.parametrize(("grid", "window", "shift"), GEOMETRIES)
def test_kinds_have_the_seam_of_the_definition(grid, window, shift):
    """Which pairs of a window's tokens may see each other, found by token: from the definition's order of windows to ours."""
    padded = tuple(-(-length // side) * side for length, side in zip(grid, window, strict=True))
    whole = torch.arange(padded[0] * padded[1]).view(1, *padded).roll((-shift[0], -shift[1]), dims=(1, 2))
    order = {tuple(row): number for number, row in enumerate(to_windows(whole, window)[0].tolist())}
    mask = seam_mask(seam_sides(padded, window, shift))
    ours = window_tokens(padded, window, shift).tolist()
    kinds = [kind for kind, count in window_kinds(grid, window, shift) for _ in range(count)]
    for row, kind in zip(ours, kinds, strict=True):
        expected = -100.0 * ~mask[order[tuple(row)]]
        assert torch.equal(seam(window, (shift[0] if kind & 2 else 0, shift[1] if kind & 1 else 0)), expected)


@pytest.mark.parametrize("largest", [1, 2, 5, 7, 100])
def test_pieces_cover_all_windows_in_order(largest):
    kinds, images = [(0, 4), (1, 2), (3, 1)], 3
    wanted = [kind for kind, count in kinds for _ in range(images * count)]
    got = []
    for tile in pieces(kinds, images, largest):
        assert 0 < tile[-1][2] <= largest
        assert tile[0][1] == 0
        assert all(last == first for (_, _, last), (_, first, _) in pairwise(tile))
        got += [kind for kind, first, last in tile for _ in range(first, last)]
    assert got == wanted


def test_linear_layers_keep_shape_dtype_and_input():
    layer, x = nn.Linear(6, 4, bias=False), torch.randn(2, 3, 6)
    residual = torch.randn(2, 3, 4)
    before = residual.clone()
    for dtype in (torch.float32, *(() if NO_BFLOAT16 else (torch.bfloat16,))):
        packed_layer = linear.PackedLinear.of(layer, dtype)
        with torch.no_grad():
            assert_close(packed_layer(x), layer(x), FLOAT32 if dtype == torch.float32 else BFLOAT16)
            assert_close(packed_layer.add(x, residual), residual + layer(x), FLOAT32 if dtype == torch.float32 else BFLOAT16)
        assert torch.equal(residual, before)
