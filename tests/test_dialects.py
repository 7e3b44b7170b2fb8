"""Dialects whose code is not installed here, by their own order computed in the tests; what is refused, and what a report says."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import swinkit
from golden_cases import FOLDER as GOLDEN
from swinkit.checkpoints.dialects.patterns import Pattern
from swinkit.checkpoints.dialects.tables import BY_NAME
from swinkit.checkpoints.dialects.writing import tensors_for, write
from swinkit.checkpoints.native import SavedModel
from swinkit.errors import CheckpointError
from swinkit.model import SwinTransformer

pytestmark = pytest.mark.filterwarnings("ignore:.*V2's weights do not tell")

SMALL = {"img_size": 32, "patch_size": 2, "num_classes": 5, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}


def model(version=1, seed=0, **changes):
    ours = swinkit.SwinTransformer(swinkit.SwinConfig(**SMALL | {"version": version} | changes)).eval()
    torch.manual_seed(seed)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    return ours


def backbone(**changes):
    ours = swinkit.SwinBackbone(swinkit.SwinConfig(**SMALL | {"size_policy": "dense", "num_classes": 0} | changes)).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    return ours


def saved(ours):
    return SavedModel(ours.config, dict(ours.state_dict()), out_indices=getattr(ours, "out_indices", None))


def assert_same_tensors(got, wanted):
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


CASES = [
    *((dialect, version) for dialect in ("original", "timm", "torchvision", "transformers", "mmpretrain") for version in (1, 2)),
    ("mmdet", 1),
]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("dialect", "version"), CASES)
def test_there_and_back_is_the_identity(dialect, version, suffix, tmp_path):
    ours = backbone() if dialect == "mmdet" else model(version)
    path = write(saved(ours), tmp_path / f"weights{suffix}", dialect)
    read = swinkit.from_pretrained(path, img_size=32, window_size=4)
    assert_same_tensors(read.state_dict(), ours.state_dict())
    found = swinkit.inspect(path, img_size=32, window_size=4)
    assert (found.dialect, found.complete, found.config.version) == (dialect, True, version)
    again = tensors_for(saved(read), dialect)
    assert_same_tensors(again, tensors_for(saved(ours), dialect))


def unfolded(x):
    """(B, H, W, C) -> (B, H/2, W/2, 4C) as nn.Unfold orders them."""
    B, H, W, _ = x.shape
    return nn.functional.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2).reshape(B, H // 2, W // 2, -1)


@pytest.mark.parametrize("version", [1, 2])
def test_merging_of_mm_computes_the_same_on_its_own_order(version, tmp_path):
    ours = model(version)
    theirs = tensors_for(saved(ours), "mmpretrain")
    start = f"backbone.stages.{0 if version == 1 else 1}.downsample"
    weight, gain, shift = (theirs[f"{start}.{name}"] for name in ("reduction.weight", "norm.weight", "norm.bias"))
    x = torch.randn(2, 6, 4, 8)
    merged = unfolded(x)
    if version == 1:
        merged = nn.functional.linear(nn.functional.layer_norm(merged, (32,), gain, shift), weight)
    else:
        merged = nn.functional.layer_norm(nn.functional.linear(merged, weight), (16,), gain, shift)
    torch.testing.assert_close(merged, ours.layers[0].downsample(x))


@pytest.mark.parametrize("version", [1, 2])
def test_names_of_mmpretrain(version):
    names = tensors_for(saved(model(version)), "mmpretrain").keys()
    stage = "backbone.stages.0.blocks.1"
    expected = {
        "backbone.patch_embed.projection.weight", "backbone.norm1.weight", "head.fc.bias",
        f"{stage}.attn.w_msa.qkv.weight",
        f"{stage}.ffn.layers.0.0.weight", f"{stage}.ffn.layers.1.bias", f"{stage}.attn.w_msa.relative_position_index",
        f"{stage}.norm2.bias",
    }  # fmt: skip
    expected |= {f"{stage}.attn.w_msa.{'relative_position_bias_table' if version == 1 else 'cpb_mlp.0.weight'}"}
    assert expected <= names


def test_constants_are_those_that_the_original_saves():
    stored = np.load(GOLDEN / "tables.npz")
    config = swinkit.SwinConfig(img_size=56, depths=(2,), num_heads=(3,), window_size=7)
    ours = tensors_for(SavedModel(config, dict(swinkit.SwinTransformer(config).state_dict())), "original")
    index, mask = ours["layers.0.blocks.0.attn.relative_position_index"], ours["layers.0.blocks.1.attn_mask"]
    np.testing.assert_array_equal(index.numpy(), stored["relative_position_index.w7"])
    np.testing.assert_array_equal(mask.numpy(), stored["attn_mask.14x14.w7.s3"])
    assert index.dtype == torch.int64
    assert mask.dtype == torch.float32
    assert "layers.0.blocks.0.attn_mask" not in ours


def test_wrappers_and_neighbours_of_a_detector(tmp_path):
    ours = backbone()
    theirs = tensors_for(saved(ours), "mmdet") | {"neck.lateral_convs.0.conv.weight": torch.ones(3), "bbox_head.fc.bias": torch.ones(3)}
    torch.save({"state_dict": theirs, "meta": {"epoch": 12}}, tmp_path / "detector.pth")
    read = swinkit.from_pretrained(tmp_path / "detector.pth", img_size=32)
    assert_same_tensors(read.state_dict(), ours.state_dict())
    dropped = swinkit.inspect(tmp_path / "detector.pth").dropped
    assert dropped["neck.lateral_convs.0.conv.weight"].startswith("outside of 'backbone.'")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_models(wrapper, tmp_path):
    ours = model()
    torch.save({"model": {f"{wrapper}{name}": tensor for name, tensor in ours.state_dict().items()}, "epoch": 3}, tmp_path / "x.pth")
    assert_same_tensors(swinkit.from_pretrained(tmp_path / "x.pth").state_dict(), ours.state_dict())


@pytest.mark.parametrize("version", [1, 2])
def test_masked_pretraining_of_the_original(version, tmp_path):
    ours = model(version, num_classes=0)
    theirs = {f"encoder.{name.replace('cpb_mlp', 'rpe_mlp')}": tensor for name, tensor in ours.state_dict().items()}
    theirs |= {"encoder.mask_token": torch.zeros(1, 1, 8), "decoder.0.weight": torch.ones(12, 16, 1, 1), "decoder.0.bias": torch.ones(12)}
    torch.save({"model": theirs}, tmp_path / "simmim.pth")
    read = swinkit.from_pretrained(tmp_path / "simmim.pth", window_size=4, img_size=32)
    assert_same_tensors(read.state_dict(), ours.state_dict())


def test_timm_before_0_9_and_with_features_only(tmp_path):
    ours = model()
    torch.save(dict(ours.state_dict()), tmp_path / "old.pth")
    assert swinkit.inspect(tmp_path / "old.pth").dialect == "original"
    features = {n: t for n, t in tensors_for(saved(ours), "timm").items() if not n.startswith(("norm", "head"))}
    features = {name.replace("layers.", "layers_", 1): tensor for name, tensor in features.items()}
    torch.save(features, tmp_path / "features.pth")
    read = swinkit.from_pretrained(tmp_path / "features.pth")
    assert isinstance(read, swinkit.SwinBackbone)
    x = torch.randn(1, 3, 32, 32)
    for got, wanted in zip(read(x), ours.forward_intermediates(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_dense_backbones_of_the_original_with_position_embedding(tmp_path):
    ours = backbone(ape=True)
    path = write(saved(ours), tmp_path / "dense.pth", "original")
    read = swinkit.from_pretrained(path)
    assert read.config.img_size == 32
    assert read.config.size_policy == "dense"
    assert read.out_indices == (0, 1)
    assert_same_tensors(read.state_dict(), ours.state_dict())


def test_pretraining_window_of_v2_is_found_where_it_is_stored(tmp_path):
    ours = model(2, window_size=8, pretrained_window_sizes=(6, 3), img_size=64)
    read = swinkit.from_pretrained(write(saved(ours), tmp_path / "x.pth", "original"))
    assert read.config.pretrained_window_sizes == (6, 3)
    assert read.config.window_size == 8
    x = torch.randn(1, 3, 64, 64)
    twin = SwinTransformer(read.config)  # with the kernel that `ours` has
    twin.load_state_dict(read.state_dict())
    assert torch.equal(twin.eval()(x), ours.eval()(x))


def test_pretraining_window_of_v2_in_the_name_of_a_file(tmp_path):
    shape = {"embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 2), "patch_size": 4}
    ours = model(2, window_size=16, pretrained_window_sizes=(12, 12, 12, 6), img_size=256, **shape)
    tensors = {name: tensor for name, tensor in tensors_for(saved(ours), "original").items() if name in ours.state_dict()}
    save_file(tensors, tmp_path / "swinv2_base_patch4_window12to16_192to256_22kto1k_ft.safetensors")
    read = swinkit.from_pretrained(tmp_path / "swinv2_base_patch4_window12to16_192to256_22kto1k_ft.safetensors")
    assert read.config.pretrained_windows == ours.config.pretrained_windows
    assert read.config.windows == ours.config.windows
    save_file(tensors, tmp_path / "unnamed.safetensors")
    notes = " ".join(swinkit.inspect(tmp_path / "unnamed.safetensors").notes)
    assert "window; 8 was assumed" in notes
    assert "pretrained_window_sizes" in notes


def test_what_v2_weights_do_not_tell_is_a_warning(tmp_path):
    path = write(saved(model(2)), tmp_path / "x.pth", "timm")
    with (
        pytest.warns(UserWarning, match="do not tell the window; 8 was assumed"),
        pytest.warns(UserWarning, match="pretrained_window_sizes"),
    ):
        swinkit.from_pretrained(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swinkit.from_pretrained(path, window_size=4, pretrained_window_sizes=(4, 4))


REFUSED = {
    "torchvision": [
        (2, {"window_size": 8, "pretrained_window_sizes": (6, 6), "img_size": 64}, "knows one window only"),
        (1, {"in_chans": 1}, "takes 3"),
        (1, {"ape": True}, "position embedding"),
        (1, {"num_classes": 0}, "no classifier"),
        (1, {"qkv_bias": False}, "have no bias"),
        (1, {"window_size": [4, 2]}, "different windows"),
    ],
    "timm": [(1, {"ape": True}, "position embedding"), (1, {"img_size": 36}, "pads after the shift"), (1, {"qk_scale": 0.5}, "qk_scale")],
    "transformers": [
        (1, {"window_size": (4, 2)}, "not one square"),
        (1, {"window_size": 16}, "keeps the bias table"),
        (2, {"ape": True}, "does not run"),
        (1, {"size_policy": "dense", "window_size": 8}, "size policy dense"),
        (1, {"patch_norm": False}, "norm after the patch embedding"),
    ],
    "mmdet": [(1, {}, "backbones only"), (2, {}, "no Swin V2")],
    "mmpretrain": [(1, {"window_size": (4, 2)}, "not squares"), (2, {"img_size": 33}, "no multiple of its patches")],
    "original": [(1, {"size_policy": "per_axis", "window_size": 16}, "in another way"), (1, {"img_size": 36}, "pads nothing")],
}


@pytest.mark.parametrize(("dialect", "version", "changes", "reason"), [(d, *case) for d, cases in REFUSED.items() for case in cases])
def test_what_a_dialect_cannot_express_is_refused_with_the_reason(dialect, version, changes, reason, tmp_path):
    with pytest.raises(CheckpointError, match=f"cannot be this model: .*{reason}"):
        write(saved(model(version, **changes)), tmp_path / "x.pth", dialect)
    assert not list(tmp_path.iterdir())


def test_another_network_is_named_by_what_it_lacks(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"not a Swin Transformer: there is no patch embedding .* conv1\.weight"):
        swinkit.from_pretrained(tmp_path / "resnet.pth")
    vit = {"cls_token": torch.zeros(1, 1, 8), "patch_embed.proj.weight": torch.zeros(8, 3, 16, 16), "blocks.0.norm1.weight": torch.zeros(8)}
    torch.save(vit, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="no patch embedding and stages"):
        swinkit.from_pretrained(tmp_path / "vit.pth")


def test_the_closest_dialect_and_the_names_that_do_not_fit(tmp_path):
    tensors = tensors_for(saved(model()), "torchvision")
    tensors["features.1.0.attn.gate"] = torch.zeros(3)
    del tensors["features.3.1.norm2.bias"]
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"closest to torchvision .* layers\.1\.blocks\.1\.norm2\.bias; .*features\.1\.0\.attn\.gate"):
        swinkit.from_pretrained(tmp_path / "odd.pth")
    found = swinkit.inspect(tmp_path / "odd.pth")
    assert not found.complete
    assert found.missing == ("layers.1.blocks.1.norm2.bias",)
    assert found.unexpected == ("features.1.0.attn.gate",)
    assert "features.1.0.attn.gate" in found.table()
    assert json.dumps(found.to_dict())


def test_weights_that_are_not_finite(tmp_path):
    ours = model()
    ours.layers[0].blocks[0].attn.qkv.weight.data[0, 0] = float("nan")
    path = write(saved(ours), tmp_path / "x.pth", "timm")
    with pytest.raises(CheckpointError, match=r"NaN .*layers\.0\.blocks\.0\.attn\.qkv\.weight"):
        swinkit.from_pretrained(path)


def test_an_index_in_another_order_is_refused(tmp_path):
    tensors = tensors_for(saved(model()), "torchvision")
    tensors["features.1.0.attn.relative_position_index"] = tensors["features.1.0.attn.relative_position_index"].flip(0)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="orders the offsets"):
        swinkit.from_pretrained(tmp_path / "x.pth")


def test_configuration_files_that_are_not_a_swins(tmp_path):
    write(saved(model()), tmp_path / "timm", "timm")
    (tmp_path / "timm/config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    with pytest.raises(CheckpointError, match="vit_tiny"):
        swinkit.from_pretrained(tmp_path / "timm")
    (tmp_path / "timm/config.json").write_text('{"model_type": "swin", "hidden_act": "relu", "architectures": []}')
    with pytest.raises(CheckpointError, match="hidden_act 'relu'"):
        swinkit.from_pretrained(tmp_path / "timm")


@pytest.mark.parametrize("text", ["layers.{s}.blocks.{b}.norm1.{p}", "features.{2s+1}.{b}.norm1.{p}", "layers.{s+1}.downsample.norm.{p}"])
def test_patterns_are_their_own_inverse(text):
    pattern = Pattern(text)
    for place in ({"s": s, "b": b, "p": p} for s in (0, 3) for b in (0, 17) for p in ("weight", "bias")):
        found = pattern.match(pattern.at(place))
        assert found == {name: value for name, value in place.items() if name in found}
    assert Pattern("features.{2s+1}.{b}").match("features.2.0") is None
    assert Pattern("layers.{s+1}.x").match("layers.0.x") is None


def test_every_dialect_is_offered():
    assert set(BY_NAME) == {"original", "timm", "torchvision", "transformers", "mmpretrain", "mmdet"}
