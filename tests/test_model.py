"""What a model computes beyond the golden numbers: sizes, policies, features, training behaviour, errors."""

import math

import pytest
import torch
from torch import nn

from small_models import POLICIES, SMALL, VERSIONS, small
from swinkit.backbone import SwinBackbone
from swinkit.config import SwinConfig
from swinkit.errors import InputError
from swinkit.model import DropPath, PatchMerging, SwinTransformer, log_spaced_offsets


@VERSIONS
@POLICIES
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (7, 64), (5, 5), (2, 90)])
def test_any_size_gives_logits_and_gradients(version, policy, size):
    model = small(version, size_policy=policy)
    model(torch.randn(2, 3, *size)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_official_shrinks_the_window_to_the_smaller_side_at_construction():
    config = SwinConfig(img_size=(56, 112), window_size=7, size_policy="official")
    assert config.grids == ((14, 28), (7, 14), (4, 7), (2, 4))
    assert config.windows == ((7, 7), (7, 7), (4, 4), (2, 2))
    assert SwinConfig(img_size=(56, 112), size_policy="dense").windows == ((7, 7),) * 4


@pytest.mark.parametrize(
    ("policy", "grid", "shift"),
    [
        ("official", (14, 14), (3, 3)),
        ("official", (7, 14), (0, 0)),
        ("official", (5, 14), (0, 0)),
        ("official", (8, 8), (3, 3)),
        ("dense", (7, 14), (3, 3)),
        ("dense", (3, 3), (3, 3)),
        ("per_axis", (7, 14), (0, 3)),
        ("per_axis", (9, 2), (3, 0)),
        ("per_axis", (7, 7), (0, 0)),
    ],
)
def test_shift_by_policy(policy, grid, shift):
    blocks = SwinTransformer(SwinConfig(depths=(2,), num_heads=(3,), size_policy=policy)).layers[0].blocks
    assert blocks[0].shift(grid) == (0, 0)
    assert blocks[1].shift(grid) == shift


def test_the_official_stem_drops_the_remainder_at_img_size_only():
    model = small(img_size=31)
    assert model.patch_embed(torch.randn(1, 3, 31, 31)).shape[1:3] == (15, 15)
    assert model.patch_embed(torch.randn(1, 3, 29, 31)).shape[1:3] == (15, 16)
    assert small(size_policy="per_axis").patch_embed(torch.randn(1, 3, 29, 31)).shape[1:3] == (14, 15)
    assert small(size_policy="dense").patch_embed(torch.randn(1, 3, 29, 31)).shape[1:3] == (15, 16)


def test_non_square_windows_and_patches():
    model = small(img_size=(24, 40), patch_size=(2, 4), window_size=(3, 5))
    assert model.config.windows == ((3, 5), (3, 5))
    assert model(torch.randn(1, 3, 25, 39)).shape == (1, 5)
    per_stage = small(window_size=[(4, 2), 3])
    assert [stage.blocks[0].attn.window for stage in per_stage.layers] == [(4, 2), (3, 3)]


def test_merging_pads_odd_maps_with_zeros():
    merging = PatchMerging(2, 1)
    x = torch.randn(1, 3, 5, 2)
    padded = torch.zeros(1, 4, 6, 2)
    padded[:, :3, :5] = x
    assert merging(x).shape == (1, 2, 3, 4)
    assert torch.equal(merging(x), merging(padded))


def test_v2_window_of_one_has_finite_bias():
    assert log_spaced_offsets((1, 1), (1, 1)).tolist() == [[0.0, 0.0]]
    assert log_spaced_offsets((1, 3), (1, 3)).isfinite().all()
    model = small(2, window_size=1)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_v2_coordinates_are_in_units_of_the_pretrained_window():
    offsets = log_spaced_offsets((4, 4), (2, 2)).reshape(7, 7, 2)
    assert offsets[3, 3].tolist() == [0.0, 0.0]
    assert offsets[6, 3].tolist() == pytest.approx([math.log2(8 * 3 + 1) / 3, 0.0])
    assert offsets[0, 4].tolist() == pytest.approx([-math.log2(8 * 3 + 1) / 3, math.log2(8 + 1) / 3])


@pytest.mark.parametrize("size", [(16, 16), (9, 13)])
def test_absolute_position_is_added_and_resized(size):
    model = small(ape=True, img_size=32)
    assert model.absolute_pos_embed.shape == (1, 256, 8)
    tokens = torch.zeros(1, *size, 8)
    position = model.add_position(tokens)
    table = model.absolute_pos_embed.unflatten(1, (16, 16)).permute(0, 3, 1, 2)
    wanted = table if size == (16, 16) else torch.nn.functional.interpolate(table, size=size, mode="bicubic")
    assert torch.equal(position, wanted.permute(0, 2, 3, 1))
    assert SwinBackbone(SwinConfig(**SMALL | {"ape": True, "size_policy": "dense"})).absolute_pos_embed.shape == (1, 8, 16, 16)


def test_steps_equal_the_whole():
    model, x = small(), torch.randn(2, 3, 32, 32)
    features = model.forward_features(x)
    assert features.shape == (2, 8, 8, 16)
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((1, 2)))
    by_hand = model.add_position(model.patch_embed(x))
    for stage in model.layers:
        by_hand = stage(by_hand)
    assert torch.equal(model.norm(by_hand), features)


def test_intermediates_are_taken_before_merging():
    model, x = small(), torch.randn(2, 3, 32, 32)
    first, last = model.forward_intermediates(x)
    assert first.shape == (2, 8, 16, 16)
    assert last.shape == (2, 16, 8, 8)
    assert torch.equal(model.norm(last.permute(0, 2, 3, 1)), model.forward_features(x))
    (nhwc,) = model.forward_intermediates(x, [-2], output_fmt="NHWC")
    assert torch.equal(nhwc.permute(0, 3, 1, 2), first)
    assert torch.equal(model.forward_intermediates(x, 1)[0], last)
    assert [info["num_chs"] for info in model.feature_info] == model.feature_info.channels() == [8, 16]
    assert model.feature_info.reduction() == [2, 4]
    with pytest.raises(InputError, match="output_fmt is 'nchw'"):
        model.forward_intermediates(x, output_fmt="nchw")
    with pytest.raises(InputError, match="indices are 5"):
        model.forward_intermediates(x, 5)


def test_backbone_builds_no_stage_beyond_the_last_wanted():
    backbone = SwinBackbone(SwinConfig(**SMALL), [0])
    assert len(backbone.layers) == 1
    assert backbone.layers[0].downsample is None
    assert [m.shape for m in backbone(torch.randn(1, 3, 20, 30))] == [(1, 8, 10, 15)]
    assert backbone.feature_info.channels() == [8]
    assert not any(name.startswith("norm") for name, _ in backbone.named_parameters())


def test_num_classes_0_and_reset_classifier():
    model, x = small(num_classes=0), torch.randn(2, 3, 32, 32)
    pooled = model(x)
    assert pooled.shape == (2, 16)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == model.config.num_classes == 7
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    half = small().bfloat16()
    half.reset_classifier(3)
    assert half.head.weight.dtype == torch.bfloat16


def test_stochastic_depth_grows_linearly_on_both_branches():
    model = small(drop_path_rate=0.3, depths=(2, 2))
    assert [block.drop_path.rate for stage in model.layers for block in stage.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    block = model.layers[1].blocks[1].train()
    block.drop_path.rate = 0.999
    x = torch.randn(8, 8, 8, 16)
    assert torch.equal(block(x), x), "with both branches left out, the input passes unchanged"


def test_drop_path_keeps_the_mean():
    drop = DropPath(0.25).train()
    kept = drop(torch.ones(4000, 1, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)


@VERSIONS
def test_initialisation_is_the_originals(version):
    model = SwinTransformer(SwinConfig(version=version, img_size=32, patch_size=2, window_size=4, depths=(2, 2), num_heads=(3, 6)))
    block = model.layers[0].blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.fc1.bias.abs().max() == 0
    assert block.norm1.weight.unique().tolist() == ([1.0] if version == 1 else [0.0])
    assert model.norm.weight.unique().tolist() == [1.0]
    if version == 1:
        assert block.attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.15)
    else:
        assert block.attn.logit_scale.exp().unique().tolist() == pytest.approx([10.0])
        assert torch.equal(model.layers[0].run_blocks(x := torch.randn(1, 16, 16, 96)), x), "V2 blocks start as the identity"


@VERSIONS
def test_gradient_checkpointing_changes_nothing(version):
    model = small(version, drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1).train()
    x = torch.randn(4, 3, 20, 30)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        model(x).square().sum().backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_attention_dropout_acts_in_training_only():
    model, x = small(attn_drop_rate=0.5, drop_path_rate=0.0), torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_logit_scale_is_clamped_at_100():
    model = small(2)
    attn = model.layers[0].blocks[0].attn
    nn.init.constant_(attn.logit_scale, 50.0)
    assert attn.scale().flatten().tolist() == pytest.approx([100.0, 100.0])


def test_no_weight_decay_names_positions_and_scales():
    attn = [f"layers.{stage}.blocks.{block}.attn" for stage in (0, 1) for block in (0, 1)]
    assert small(ape=True).no_weight_decay() == {"absolute_pos_embed", *(f"{a}.relative_position_bias_table" for a in attn)}
    scale_and_mlp = ("logit_scale", "cpb_mlp.0.weight", "cpb_mlp.0.bias", "cpb_mlp.2.weight")
    assert small(2).no_weight_decay() == {f"{a}.{name}" for a in attn for name in scale_and_mlp}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 32, 32), "1 channels; this model takes 3"),
        ((1, 32, 32, 3), "channels seem to be last"),
        ((0, 3, 32, 32), "empty batch"),
        ((3, 32, 32), "Add a batch axis"),
        ((1, 3, 0, 32), "0 x 32 pixels"),
    ],
)
def test_wrong_input_is_a_sentence(shape, message):
    with pytest.raises(InputError, match=message):
        small()(torch.zeros(shape))


def test_pixels_of_whole_numbers_are_refused():
    with pytest.raises(InputError, match="whole numbers; expected normalised"):
        small()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_stage_indices_of_a_backbone_that_ends_early():
    backbone = SwinBackbone(SwinConfig(**SMALL), [0]).eval()
    x = torch.randn(1, 3, 32, 32)
    assert len(backbone.forward_intermediates(x)) == 1
    assert torch.equal(backbone.forward_intermediates(x, [-1])[0], backbone(x)[0])
    for wrong in ([1], 2, 0, []):
        with pytest.raises(InputError, match="Stage indices"):
            backbone.forward_intermediates(x, wrong)


def test_per_axis_needs_one_patch():
    with pytest.raises(InputError, match="smallest this model takes is 2 x 2"):
        small(size_policy="per_axis")(torch.zeros(1, 3, 1, 32))
