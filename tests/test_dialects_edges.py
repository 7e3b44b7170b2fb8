"""Files at the edge of what a dialect is: odd sizes, mixtures, other architectures, tensors and configurations that lie."""

import json
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import swinkit
from small_models import SMALL
from swinkit.checkpoints.dialects.limits import reasons
from swinkit.checkpoints.dialects.writing import tensors_for, write
from swinkit.checkpoints.native import SavedModel
from swinkit.errors import CheckpointError, SwinkitError

pytestmark = pytest.mark.filterwarnings("ignore:.*V2's weights do not tell")
DIALECTS = ("original", "timm", "torchvision", "transformers", "mmpretrain", "mmdet")
FOLDERS = ("timm", "transformers")


def saved(version=1, backbone=None, **changes):
    config = swinkit.SwinConfig(**SMALL | {"version": version} | changes)
    model = swinkit.SwinTransformer(config) if backbone is None else swinkit.SwinBackbone(config, backbone)
    tensors = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    return SavedModel(config, tensors, out_indices=backbone)


def same(got, wanted):
    return got.keys() == wanted.keys() and all(torch.equal(got[name], tensor) for name, tensor in wanted.items())


@st.composite
def configurations(draw):
    stages = draw(st.integers(1, 3))
    window = st.sampled_from([1, 2, 3, 4, 7])
    return {
        "version": draw(st.sampled_from([1, 2])),
        "img_size": draw(st.sampled_from([8, 16, 17, (16, 8), 20])),
        "patch_size": draw(st.sampled_from([1, 2, (1, 2)])),
        "in_chans": draw(st.sampled_from([1, 3, 4])),
        "num_classes": draw(st.sampled_from([0, 5])),
        "embed_dim": draw(st.sampled_from([6, 12])),
        "depths": tuple(draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))),
        "num_heads": tuple(draw(st.lists(st.sampled_from([1, 2, 3]), min_size=stages, max_size=stages))),
        "window_size": draw(window | st.just((4, 2)) | st.lists(window, min_size=stages, max_size=stages)),
        "mlp_ratio": draw(st.sampled_from([4.0, 1.5, 3.7, 2.3])),
        "qkv_bias": draw(st.booleans()),
        "ape": draw(st.booleans()),
        "patch_norm": draw(st.booleans()),
        "size_policy": draw(st.sampled_from(["official", "per_axis", "dense"])),
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=configurations(), dialect=st.sampled_from(DIALECTS[:5]))
def test_whatever_a_dialect_does_not_refuse_comes_back(changes, dialect, tmp_path_factory):
    ours = saved(**changes)
    if reasons(ours, dialect):
        return
    config, out = ours.config, tmp_path_factory.mktemp("edges")
    known = {"img_size": config.img_size, "window_size": list(config.windows), "size_policy": config.size_policy}
    for path, hints in ((out / "x.pth", known), *([(out / "folder", {})] if dialect in FOLDERS else [])):
        write(ours, path, dialect)
        read = swinkit.from_pretrained(path, **hints)
        assert same(read.state_dict(), ours.tensors)
        assert (read.config.windows, read.config.grids) == (config.windows, config.grids)


@pytest.mark.parametrize("depths", [(1,), (1, 1)])
@pytest.mark.parametrize("classes", [0, 5])
def test_a_dense_classifier_is_not_written_as_what_reads_as_a_backbone(depths, classes, tmp_path):
    sizes = {"img_size": 8, "patch_size": 1, "window_size": 2, "depths": depths, "num_heads": (1,) * len(depths), "num_classes": classes}
    assert any("backbone" in reason for reason in reasons(saved(**sizes, size_policy="dense"), "mmpretrain"))
    ours = saved(**sizes)
    assert reasons(ours, "mmpretrain") == []
    assert same(
        swinkit.from_pretrained(write(ours, tmp_path / "x.pth", "mmpretrain"), img_size=8, window_size=2).state_dict(), ours.tensors
    )


@pytest.mark.parametrize("ratio", [3.7, 2.3, 1.5, 4.0, 1 / 3, 49 / 8])
def test_mlp_ratio_gives_the_hidden_channels_of_every_stage(ratio, tmp_path):
    write(saved(mlp_ratio=ratio), tmp_path / "x.pth", "timm")
    read = swinkit.from_pretrained(tmp_path / "x.pth")
    assert [int(dim * read.config.mlp_ratio) for dim in read.config.dims] == [int(dim * ratio) for dim in (8, 16)]
    assert read.config.mlp_ratio == pytest.approx(ratio, abs=0.1)


@pytest.mark.parametrize("dialect", ["original", "mmdet", "transformers"])
def test_a_backbone_without_its_last_stages(dialect, tmp_path):
    ours = saved(backbone=(0,), size_policy="dense", num_classes=0)
    read = swinkit.from_pretrained(write(ours, tmp_path / "x.pth", dialect), img_size=32, window_size=4, size_policy="dense")
    assert same(read.state_dict(), ours.tensors)
    assert (read.out_indices, read.config.depths) == ((0,), (2,))


@pytest.mark.parametrize("version", [1, 2])
def test_a_transformers_backbone_inside_a_larger_model(version, tmp_path):
    ours = saved(version, backbone=(0, 1), size_policy="dense" if version == 1 else "official", num_classes=0)
    write(ours, tmp_path, "transformers", force=True)
    config, theirs = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    # As UperNet saves it: the stages lose "swin.", what lies beside them does not.
    inside = {f"backbone.{name if 'layernorm' in name[:16] else name.removeprefix('swin.')}": t for name, t in theirs.items()}
    inside |= {f"backbone.hidden_states_norms.stem.{name}": torch.ones(8) for name in ("weight", "bias") if version == 1}
    (tmp_path / "model.safetensors").unlink()
    torch.save(inside | {"decode_head.classifier.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    config |= {"out_indices": [-2, -1], "out_features": ["stage1", "stage2"]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "upernet", "architectures": [], "backbone_config": config}))
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        read = swinkit.from_pretrained(path)
        assert same(read.state_dict(), ours.tensors)
        assert (read.out_indices, read.config.img_size) == ((0, 1), 32)
    del config["out_indices"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"out_features": ["stage1"]}))
    assert swinkit.from_pretrained(tmp_path).out_indices == ((0, 1) if version == 1 else (0,))


def test_names_of_maskformer_and_donut(tmp_path):
    ours = saved(backbone=(0, 1), size_policy="dense", num_classes=0)
    theirs = tensors_for(ours, "transformers")
    theirs = {
        name.replace("norms.stage1", "norms.0").replace("norms.stage2", "norms.1").replace("swin.", "model."): t
        for name, t in theirs.items()
    }
    torch.save(
        {f"model.pixel_level_module.encoder.{name}": t for name, t in theirs.items()} | {"class_predictor.bias": torch.ones(2)},
        tmp_path / "x.pth",
    )
    assert same(swinkit.from_pretrained(tmp_path / "x.pth").state_dict(), ours.tensors)
    plain = saved(backbone=(0, 1), num_classes=0)
    dense = SavedModel(ours.config, ours.tensors | plain.tensors, out_indices=(0, 1))
    write(dense, tmp_path / "donut", "transformers")
    kept = {name.removeprefix("swin."): t for name, t in load_file(tmp_path / "donut/model.safetensors").items() if "norms." not in name}
    kept = {name: t for name, t in kept.items() if not name.startswith("layernorm.")}
    (tmp_path / "donut/model.safetensors").unlink()
    torch.save({f"encoder.{name}": t for name, t in kept.items()} | {"decoder.x": torch.ones(1)}, tmp_path / "donut/pytorch_model.bin")
    config = json.loads((tmp_path / "donut/config.json").read_text()) | {"model_type": "donut-swin"}
    del config["out_indices"], config["out_features"]
    (tmp_path / "donut/config.json").write_text(json.dumps({"model_type": "vision-encoder-decoder", "encoder": config}))
    assert same(swinkit.from_pretrained(tmp_path / "donut").state_dict(), plain.tensors)


def test_a_detector_with_one_map_is_no_classifier(tmp_path):
    ours = saved(backbone=(1,), size_policy="dense", num_classes=0)
    theirs = tensors_for(ours, "mmdet")
    torch.save({"state_dict": theirs | {"neck.conv.weight": torch.ones(3)}}, tmp_path / "x.pth")
    assert same(swinkit.from_pretrained(tmp_path / "x.pth", img_size=32).state_dict(), ours.tensors)
    torch.save({"state_dict": theirs}, tmp_path / "x.pth")
    assert swinkit.inspect(tmp_path / "x.pth").dialect == "mmpretrain"
    assert swinkit.inspect(tmp_path / "x.pth", size_policy="dense").dialect == "mmdet"


RELATIVES = {
    "layers.0.blocks.1.mlp._moe_layer.gates.0.wg.weight": "Swin-MoE",
    "layers.0.blocks.0.spatial_mlp.weight": "Swin-MLP",
    "stages.0.blocks.0.attn.meta_mlp.fc1.weight": "swinv2_cr",
    "stages.0.blocks.1.norm3.weight": "V2-H or -G",
    "anything.else": r"Names that .* does not have: .*anything\.else",
}


@pytest.mark.parametrize(("name", "what"), RELATIVES.items())
def test_relatives_are_named(name, what, tmp_path):
    tensors = {"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4), "patch_embed.projection.weight": torch.zeros(8, 3, 4, 4)}
    torch.save(tensors | {name: torch.zeros(4, 4)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=what):
        swinkit.from_pretrained(tmp_path / "x.pth")


def test_a_video_swin_transformer_is_named(tmp_path):
    theirs = {f"backbone.{name}": tensor for name, tensor in tensors_for(saved(), "original").items()}
    torch.save({"state_dict": theirs | {"backbone.patch_embed.proj.weight": torch.zeros(8, 3, 2, 4, 4)}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"Video Swin Transformer .*kernel of 3 axes"):
        swinkit.from_pretrained(tmp_path / "x.pth")


LIES = [
    ({"model_type": "swinv2"}, "version is 2 in the configuration and 1 in the tensors"),
    ({"depths": [2, 6]}, r"depths is \(2, 6\) in the configuration and \(2, 2\) in the tensors\."),
    ({"depths": [2, 10**9]}, "they are of two models"),
    ({"embed_dim": 16}, "embed_dim is 16 in the configuration and 8 in the tensors"),
    ({"num_heads": [4, 8]}, "num_heads is"),
    ({"depths": "ab"}, "whole number"),
    ({"image_size": 0}, "img_size is 0"),
    ({"id2label": [1]}, "id2label is .* expected a dictionary"),
    ({"out_indices": [9]}, "name no stages"),
]


@pytest.mark.parametrize(("lie", "why"), LIES)
def test_a_configuration_of_another_model(lie, why, tmp_path):
    write(saved(), tmp_path / "x", "transformers")
    path = tmp_path / "x/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | lie))
    with pytest.raises(CheckpointError, match=why):
        swinkit.from_pretrained(tmp_path / "x")


def test_names_of_other_classes_are_left_out_and_said(tmp_path):
    write(saved(), tmp_path / "x", "transformers")
    path = tmp_path / "x/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "cat", "1": "dog"}}))
    assert swinkit.from_pretrained(tmp_path / "x").labels == ()
    assert any("names of 2 classes: the classifier has 5" in note for note in swinkit.inspect(tmp_path / "x").notes)


def test_what_a_timm_folder_says(tmp_path):
    write(saved(drop_rate=0.25), tmp_path / "x", "timm")
    assert swinkit.from_pretrained(tmp_path / "x").config.drop_rate == 0.25
    path = tmp_path / "x/config.json"
    content = json.loads(path.read_text())
    flat = {name: value for name, value in content.items() if name != "pretrained_cfg"} | content["pretrained_cfg"]
    path.write_text(json.dumps(flat))  # as timm wrote before 0.9
    assert swinkit.from_pretrained(tmp_path / "x").preprocess["mean"] == [0.485, 0.456, 0.406]
    path.write_text(json.dumps(content | {"model_args": content["model_args"] | {"global_pool": "max"}}))
    with pytest.raises(CheckpointError, match="global_pool 'max'"):
        swinkit.from_pretrained(tmp_path / "x")


ODD = [
    ("head.fc.weight", torch.tensor(1.0), r"unexpected: head\.fc\.bias, head\.fc\.weight"),
    ("norm.weight", torch.ones(16, dtype=torch.int64), "whole numbers"),
    ("patch_embed.proj.weight", torch.zeros(0, 3, 2, 2), "could be a Swin Transformer's"),
    ("layers.0.blocks.0.attn.relative_position_bias_table", torch.tensor(1.0), r"num_heads\[0\] is 0"),
]


@pytest.mark.parametrize(("name", "tensor", "why"), ODD)
def test_tensors_that_no_model_has(name, tensor, why, tmp_path):
    torch.save(tensors_for(saved(), "timm") | {name: tensor}, tmp_path / "x.pth")
    with pytest.raises(SwinkitError, match=why):
        swinkit.from_pretrained(tmp_path / "x.pth")


@pytest.mark.parametrize(("dialect", "version"), [("transformers", 1), ("transformers", 2), ("mmpretrain", 1), ("torchvision", 2)])
def test_shapes_that_cannot_be_changed_into_ours(dialect, version, tmp_path):
    theirs = tensors_for(saved(version), dialect)
    ends = ("query.weight", "downsample.reduction.weight", "qkv.bias")
    name = next(name for name in theirs if name.endswith(ends))
    for shape in ((), (1,), (1, 8, 8)):
        torch.save(theirs | {name: torch.zeros(shape)}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError):
            swinkit.from_pretrained(tmp_path / "x.pth")


def test_not_strict_says_what_is_new_and_what_was_ignored(tmp_path):
    ours = saved()
    theirs = tensors_for(ours, "timm") | {"extra": torch.ones(1), "norm.bias": torch.ones(3)}
    del theirs["layers.0.blocks.1.mlp.fc1.weight"]
    torch.save({name: tensor.half() for name, tensor in theirs.items()}, tmp_path / "x.pth")
    with pytest.warns(
        UserWarning, match=r"missing: layers\.0\.blocks\.1\.mlp\.fc1\.weight; unexpected: extra; of another shape: norm\.bias"
    ):
        model = swinkit.from_pretrained(tmp_path / "x.pth", strict=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert torch.equal(model.layers[0].blocks[0].norm1.bias, ours.tensors["layers.0.blocks.0.norm1.bias"].half())
    assert model.layers[0].blocks[1].mlp.fc1.weight.std() > 0
    assert model(torch.randn(1, 3, 32, 32).half()).isfinite().all()
    write(ours, tmp_path / "whole.pth", "timm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swinkit.from_pretrained(tmp_path / "whole.pth", strict=False)


def test_a_folder_of_ours_that_is_not_whole(tmp_path):
    ours = saved()
    tensors = {name: tensor for name, tensor in ours.tensors.items() if name != "norm.bias"}
    write(SavedModel(ours.config, tensors), tmp_path / "x", "native")
    assert swinkit.inspect(tmp_path / "x").missing == ("norm.bias",)
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json: missing: norm\.bias"):
        swinkit.from_pretrained(tmp_path / "x")
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=r"missing: norm\.bias"):
            swinkit.convert(tmp_path / "x", tmp_path / "y.pth", to="timm", strict=strict)
    assert not (tmp_path / "y.pth").exists()


@pytest.mark.parametrize(("builder", "weights"), [("swin_t", "Swin_T_Weights"), ("swin_v2_b", "Swin_V2_B_Weights")])
def test_files_of_torchvision_are_evaluated_as_torchvision_does(builder, weights, tmp_path):
    import torchvision

    preset = getattr(torchvision.models, weights).DEFAULT.transforms()
    with torch.device("meta"):
        names = getattr(torchvision.models, builder)().state_dict()
    torch.save(
        {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in names.items() if "index" not in name}, tmp_path / "x.pth"
    )
    usual = swinkit.from_pretrained(tmp_path / "x.pth").preprocess
    assert (usual["size"], usual["mean"], usual["std"]) == ([preset.crop_size[0]] * 2, preset.mean, preset.std)
    assert int(usual["size"][0] / usual["crop_pct"]) == preset.resize_size[0]
    assert usual["interpolation"] == preset.interpolation.value == "bicubic"
