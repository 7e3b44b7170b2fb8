"""Names: what each builds, and what happens when a name is wrong."""

import pytest
import timm
import torch

from swinkit import create_model, list_models
from swinkit.errors import UnknownNameError
from swinkit.model import SwinTransformer
from swinkit.variants import PUBLISHED, VARIANTS, get_config

PARAMETERS = {
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_small_patch4_window7_224": 49_606_258,
    "swin_base_patch4_window7_224": 87_768_224,
    "swin_large_patch4_window7_224": 196_532_476,
    "swin_base_patch4_window12_384": 87_903_584,
    "swin_large_patch4_window12_384_in22k": 228_768_133,
    "swinv2_tiny_window8_256": 28_347_154,
    "swinv2_base_window12to24_192to384": 87_918_816,
}


def on_meta(name):
    with torch.device("meta"):
        return SwinTransformer(get_config(name))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_variant_builds_at_its_size(name):
    model = on_meta(name)
    height = model.config.img_size
    images = torch.empty(1, 3, height, height, device="meta")
    assert model(images).shape == (1, model.config.num_classes)
    assert str(height) in name


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_published_parameter_counts(name, count):
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == count


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in timm.list_models("swin*")])
def test_same_parameters_and_windows_as_timm(name):
    with torch.device("meta"):
        peer = timm.create_model(name)
    ours = on_meta(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
    for stage, theirs in zip(ours.layers, peer.layers, strict=True):
        assert stage.blocks[0].attn.window == tuple(theirs.blocks[0].window_size)
        assert [block.shift(ours.config.grids[i]) for i, s in enumerate(ours.layers) if s is stage for block in stage.blocks] == [
            tuple(block.shift_size) for block in theirs.blocks
        ]


def test_shared_names_cover_timm():
    missing = [name for name in timm.list_models("swin*") if not name.startswith(("swinv2_cr",)) and name not in VARIANTS]
    assert missing == []


def test_list_models_finds_by_pattern():
    assert list_models("swin_s3_*") == ["swin_s3_base_224", "swin_s3_small_224", "swin_s3_tiny_224"]
    assert list_models("nothing*") == []
    assert list_models() == sorted(VARIANTS)


def test_weight_tags_choose_the_head():
    assert get_config("swin_base_patch4_window7_224.ms_in22k").num_classes == 21841
    assert get_config("swin_base_patch4_window7_224.ms_in22k_ft_in1k").num_classes == 1000
    for name in ("swin_base_patch4_window7_224.ms_in2k", "swin_s3_tiny_224.ms_in22k", "swinv2_base_window12_192.ms_in1k"):
        with pytest.raises(UnknownNameError, match="There is no weight tag of"):
            get_config(name)


@pytest.mark.parametrize("name", [name for name in timm.list_models("swin*", pretrained=True) if not name.startswith("swinv2_cr")])
def test_every_weight_tag_of_timm_is_understood(name):
    assert get_config(name).num_classes == timm.get_pretrained_cfg(name).num_classes


def test_unknown_name_gets_close_matches():
    with pytest.raises(UnknownNameError, match="Did you mean swin_tiny_patch4_window7_224"):
        create_model("swin_tiny_patch4_windw7_224")
