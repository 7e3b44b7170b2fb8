"""Resized weights: the originals' formulas, the peers' functions, and what a model still knows afterwards."""

import json
import math
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed, resize_rel_pos_bias_table
from timm.models._manipulate import adapt_input_conv

import swinkit
from small_models import SMALL, VERSIONS, small
from swinkit.backbone import SwinBackbone
from swinkit.config import SwinConfig
from swinkit.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from swinkit.model import SwinTransformer
from swinkit.resample import adapt_channels, progression, resize_patch_kernel, spline_weights
from swinkit.resize import CLASS_MAPS, resize_bias_table, resize_tensors, resized_preprocess

INFO = Path(timm.__file__).parent / "data" / "_info"


def keys_cubic(t, a=-0.75):
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def cubic_rows(old, new):
    """(new, old): cubic convolution with half-pixel centres and repeated edges, tap by tap."""
    rows = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            rows[i, min(max(tap, 0), old - 1)] += keys_cubic(centre - tap)
    return rows


@pytest.mark.parametrize(("old", "new"), [((7, 7), (12, 12)), ((7, 7), (4, 4)), ((3, 5), (4, 5)), ((2, 4), (5, 3)), ((1, 1), (3, 3))])
def test_bias_tables_follow_the_originals_formula(old, new):
    table = torch.randn((2 * old[0] - 1) * (2 * old[1] - 1), 3, dtype=torch.float64)
    maps = table.view(2 * old[0] - 1, 2 * old[1] - 1, 3)
    wanted = torch.einsum("ya,xb,abk->yxk", *(cubic_rows(2 * a - 1, 2 * b - 1) for a, b in zip(old, new, strict=True)), maps)
    torch.testing.assert_close(resize_bias_table(table, old, new), wanted.flatten(0, 1), rtol=0, atol=1e-12)


def test_the_same_window_is_the_same_table():
    table = torch.randn(13 * 13, 2)
    for method in ("bicubic", "geometric"):
        assert resize_bias_table(table, (7, 7), (7, 7), method) is table


@pytest.mark.parametrize(("method", "dtype"), [("bicubic", torch.bfloat16), ("geometric", torch.float16)])
def test_half_precision_is_computed_in_float32(method, dtype):
    table = torch.randn(7 * 7, 2).to(dtype)
    half = resize_bias_table(table, (4, 4), (6, 6), method)
    assert half.dtype == dtype
    assert torch.equal(half, resize_bias_table(table.float(), (4, 4), (6, 6), method).to(dtype))


def positions(reach, wanted):
    q = progression(reach, wanted)
    half = [sum(q**term for term in range(count)) for count in range(1, reach + 1)]
    return torch.tensor([-p for p in reversed(half)] + [0.0] + half, dtype=torch.float64)


@pytest.mark.parametrize(("old", "new"), [(7, 12), (7, 14), (4, 5), (12, 24)])
def test_geometric_tables_have_timms_positions(old, new):
    """A table that is linear in the positions is read back linearly by timm's linear interpolation and by our spline."""
    at = positions(old - 1, new - 1)
    assert at[-1] == pytest.approx(new - 1)
    table = torch.stack(((2 * at[:, None] - at).flatten(), (at[:, None] + 3 * at).flatten()), dim=1).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm indexes with a list
        theirs = resize_rel_pos_bias_table(table, (new, new), ((2 * new - 1) ** 2, 2))
    ours = resize_bias_table(table, (old, old), (new, new), "geometric")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)  # they stop their bisection at 1e-6 of q
    offsets = torch.arange(1.0 - new, new)
    torch.testing.assert_close(ours[:, 0], (2 * offsets[:, None] - offsets).flatten(), rtol=0, atol=1e-4)


def test_the_spline_is_the_not_a_knot_one():
    at = positions(5, 11)
    values = torch.randn(len(at), 4, dtype=torch.float64)
    asked = torch.linspace(-11, 11, 57, dtype=torch.float64)

    def powers(x):  # cubic pieces that join at every position but the second and the last but one
        return torch.stack([x**d for d in range(4)] + [(x - knot).clamp(min=0) ** 3 for knot in at[2:-2]], dim=1)

    wanted = powers(asked / 11 * 11) @ torch.linalg.solve(powers(at), values)
    torch.testing.assert_close(spline_weights(at, asked) @ values, wanted, rtol=0, atol=1e-8)
    torch.testing.assert_close(spline_weights(at, at) @ values, values, rtol=0, atol=1e-10)


def test_geometric_keeps_the_middle_of_the_table_in_a_smaller_window():
    maps = torch.randn(13, 13, 2)
    assert torch.allclose(resize_bias_table(maps.flatten(0, 1), (7, 7), (4, 3), "geometric"), maps[3:10, 4:9].flatten(0, 1), atol=1e-6)
    for window in (1, 2):  # nothing to space: the end's value goes on
        table = torch.randn((2 * window - 1) ** 2, 2)
        larger = resize_bias_table(table, (window, window), (5, 5), "geometric").view(9, 9, 2)
        assert torch.allclose(larger[0, 0], table[0], atol=1e-6)
        assert torch.allclose(larger[4, 4], table[len(table) // 2], atol=1e-6)


@pytest.mark.parametrize("patch", [(8, 8), (2, 2), (5, 7), (4, 6), (1, 1)])
def test_patch_kernels_are_timms(patch):
    kernel = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(resize_patch_kernel(kernel, patch), resample_patch_embed(kernel, list(patch)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch", [(8, 8), (5, 7), (4, 6)])
def test_a_larger_kernel_answers_resized_patches_alike(patch):
    kernel, patches = torch.randn(6, 3, 4, 4, dtype=torch.float64), torch.randn(9, 3, 4, 4, dtype=torch.float64)
    resized = F.interpolate(patches, size=patch, mode="bicubic", antialias=True)
    torch.testing.assert_close(F.conv2d(resized, resize_patch_kernel(kernel, patch)), F.conv2d(patches, kernel), rtol=0, atol=1e-10)


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 6, 8])
def test_channels_are_adapted_as_timm_does(in_chans):
    kernel = torch.randn(6, 3, 4, 4)
    torch.testing.assert_close(adapt_channels(kernel, in_chans), adapt_input_conv(in_chans, kernel))


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (1, 4), (3, 6), (4, 1)])
def test_grey_means_the_same_in_any_number_of_channels(old, new):
    kernel, grey = torch.randn(6, old, 4, 4, dtype=torch.float64), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    answers = [F.conv2d(grey.expand(-1, k.shape[1], -1, -1), k) for k in (kernel, adapt_channels(kernel, new))]
    torch.testing.assert_close(answers[1], answers[0])


def test_grey_to_rgb_and_back_is_the_identity():
    kernel = torch.randn(6, 1, 4, 4)
    torch.testing.assert_close(adapt_channels(adapt_channels(kernel, 3), 1), kernel)


@VERSIONS
@pytest.mark.parametrize("policy", ["official", "dense", "per_axis"])
def test_only_stages_whose_window_changes_are_touched(version, policy):
    old = SwinConfig(**SMALL, version=version, size_policy=policy)
    new = old.replace(img_size=12)  # maps of 6 and 3 tokens: "official" alone makes the second window smaller
    tensors = SwinTransformer(old).state_dict()
    resized = resize_tensors(tensors, old, new)
    touched = {name for name in tensors if resized[name] is not tensors[name]}
    shrinks = version == 1 and policy == "official"
    assert touched == {f"layers.1.blocks.{b}.attn.relative_position_bias_table" for b in range(2) if shrinks}
    assert resized["layers.1.blocks.0.norm1.weight"] is tensors["layers.1.blocks.0.norm1.weight"]


@VERSIONS
def test_windows_per_stage_and_of_two_sides(version):
    model = swinkit.resize(small(version), window_size=[(4, 2), (3, 5)], img_size=(24, 40))
    assert [stage.blocks[0].attn.window for stage in model.layers] == [(4, 2), (3, 5)]
    back = swinkit.resize(model, window_size=4, img_size=32)
    assert back.config == small(version).config.replace(pretrained_window_sizes=((4, 4), (4, 4)) if version == 2 else ())
    assert model(torch.randn(1, 3, 24, 40)).shape == (1, 5)


@VERSIONS
def test_nothing_changed_is_an_equal_copy(version):
    old = small(version)
    new = swinkit.resize(old)
    x = torch.randn(2, 3, 27, 35)
    assert new is not old
    assert new.config == old.config
    assert torch.equal(new(x), old(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backbone", [False, True])
def test_position_embeddings_become_what_forward_makes_of_them(backbone, dtype):
    config = SwinConfig(**SMALL, ape=True, size_policy="dense" if backbone else "official")
    old = (SwinBackbone(config) if backbone else SwinTransformer(config)).eval().to(dtype)
    new = swinkit.resize(old, img_size=(48, 40))
    assert new.absolute_pos_embed.shape == ((1, 8, 24, 20) if backbone else (1, 480, 8))
    x = torch.randn(1, 3, 48, 40, dtype=dtype)
    for a, b in zip(*(model(x) if backbone else [model(x)] for model in (old, new)), strict=True):
        assert torch.equal(a, b)


def test_v2_keeps_its_weights_and_its_units():
    old = small(2)
    new = swinkit.resize(old, window_size=8, img_size=64)
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))
    assert new.config.windows == ((8, 8), (8, 8))
    assert new.config.pretrained_windows == ((4, 4), (4, 4))
    before, after = (model.layers[0].blocks[0].attn.bias() for model in (old, new))
    known = torch.tensor([8 * row + column for row in range(4) for column in range(4)])
    torch.testing.assert_close(after[:, known][:, :, known], before)
    again = swinkit.resize(new, window_size=2)
    assert again.config.pretrained_windows == ((4, 4), (4, 4))


def test_the_new_model_trains_alone():
    old = small(1)
    before = {name: tensor.clone() for name, tensor in old.state_dict().items()}
    new = swinkit.resize(old, window_size=6, patch_size=4, in_chans=1).train()
    optimizer = torch.optim.SGD(new.parameters(), lr=1.0)
    new(torch.randn(2, 1, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.is_leaf for parameter in new.parameters())
    assert new.layers[0].blocks[0].attn.relative_position_bias_table.grad.abs().sum() > 0
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in old.state_dict().items())
    assert old.config == SwinConfig(**SMALL)


def test_everything_else_is_kept():
    old = small(1, num_classes=2).to(torch.bfloat16).train()
    old.layers[0].eval()
    old.layers[0].requires_grad_(False)
    old.set_grad_checkpointing()
    old.labels, old.preprocess = ("cat", "dog"), {"size": [32, 32], "mean": [0.1, 0.2, 0.6], "std": [1.0, 1.0, 1.0]}
    new = swinkit.resize(torch.nn.DataParallel(old), img_size=(40, 48), window_size=5)
    assert new.preprocess["mean"] is not old.preprocess["mean"]
    assert new.labels == ("cat", "dog")
    assert new.preprocess == old.preprocess | {"size": [40, 48]}
    assert {parameter.dtype for parameter in new.parameters()} == {torch.bfloat16}
    assert [m.training for m in new.modules()] == [m.training for m in old.modules()]
    assert [p.requires_grad for p in new.parameters()] == [p.requires_grad for p in old.parameters()]
    assert all(stage.grad_checkpointing for stage in new.layers)
    backbone = SwinBackbone(SwinConfig(**SMALL), out_indices=(0,))
    assert type(swinkit.resize(backbone, window_size=8)) is SwinBackbone
    assert swinkit.resize(backbone, window_size=8).out_indices == (0,)


def test_preparation_follows_the_channels():
    rgb, grey, five = (SwinConfig(in_chans=n) for n in (3, 1, 5))
    photo = {"size": [224, 224], "mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "crop_pct": 0.9}
    assert resized_preprocess(photo, rgb, grey) == photo | {"mean": [pytest.approx(0.5)], "std": [pytest.approx(0.2)]}
    assert resized_preprocess(photo | {"mean": [0.5], "std": [0.2]}, grey, rgb) == photo | {"mean": [0.5] * 3, "std": [0.2] * 3}
    assert resized_preprocess(photo, rgb, five) == {}
    assert resized_preprocess({}, rgb, rgb.replace(img_size=384)) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"window_size": 8},
        {"img_size": 24},
        {"in_chans": 1},
        {"patch_size": 4},
        {"img_size": (48, 64), "patch_size": (4, 2), "window_size": [(4, 8), 3], "in_chans": 4},
    ],
    ids=str,
)
@VERSIONS
def test_loading_with_changes_is_loading_and_resizing(tmp_path, version, changes):
    swinkit.save_pretrained(small(version, ape=True), tmp_path / "m", preprocess={"size": [32, 32], "mean": [0.5] * 3, "std": [0.2] * 3})
    loaded = swinkit.from_pretrained(tmp_path / "m", **changes)
    resized = swinkit.resize(swinkit.from_pretrained(tmp_path / "m"), **changes)
    assert loaded.config == resized.config
    assert loaded.preprocess == resized.preprocess
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), resized.state_dict().values(), strict=True))
    assert {name: t.shape for name, t in loaded.state_dict().items()} == {
        name: t.shape for name, t in swinkit.create_model(SwinConfig(**SMALL, version=version, ape=True), **changes).state_dict().items()
    }


def test_another_policy_and_a_backbone_on_the_way(tmp_path):
    swinkit.save_pretrained(small(1, img_size=12, ape=True), tmp_path / "m")  # windows 4 and 3
    dense = swinkit.from_pretrained(tmp_path / "m", features_only=True, size_policy="dense", img_size=24)
    assert dense.config.windows == ((4, 4), (4, 4))
    assert dense.absolute_pos_embed.shape == (1, 8, 12, 12)
    assert dense.layers[1].blocks[0].attn.relative_position_bias_table.shape == (49, 4)


def test_what_cannot_be_is_said():
    model = small(1)
    with pytest.raises(ConfigError, match="smaller than one patch"):
        swinkit.resize(model, img_size=8, patch_size=16)
    with pytest.raises(ConfigError, match="window_size"):
        swinkit.resize(model, window_size=0)
    with pytest.raises(UnknownNameError, match="bicubic"):
        swinkit.resize(model, window_size=8, bias_method="bicubi")
    with pytest.raises(InputError, match="Got a Linear; expected a SwinTransformer"):
        swinkit.resize(torch.nn.Linear(2, 2), img_size=8)
    with pytest.raises(CheckpointError, match=r"position_bias_table is \(9, 2\) instead of \(49, 2\)"):
        resize_tensors(
            {"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(9, 2)},
            model.config,
            SwinConfig(**SMALL | {"window_size": 5}),
        )
    model.head = torch.nn.Sequential(model.head)
    with pytest.raises(CheckpointError, match=r"lack head\.bias"):
        swinkit.resize(model, window_size=5)


def test_names_that_nobody_knows_are_passed_through():
    config, odd = SwinConfig(**SMALL), {f"{name}.relative_position_bias_table": torch.zeros(1) for name in ("", "layers.9.blocks.0.attn")}
    assert resize_tensors(odd, config, config.replace(window_size=5)) == odd


def test_weights_that_are_not_numbers_stay_visible():
    model = small(1)
    with torch.no_grad():
        model.layers[0].blocks[0].attn.relative_position_bias_table[0, 0] = torch.nan
    table = swinkit.resize(model, window_size=6).layers[0].blocks[0].attn.relative_position_bias_table
    assert table[:, 0].isnan().any()
    assert not table[:, 1].isnan().any()


def test_classes_are_picked_by_index():
    model = small(1)
    model.labels = tuple("abcde")
    x = torch.randn(2, 3, 32, 32)
    few = swinkit.map_classes(model, torch.tensor([4, 0, 4]))
    torch.testing.assert_close(few(x), model(x)[:, [4, 0, 4]])
    assert few.labels == ("e", "a", "e")
    assert few.num_classes == 3
    assert swinkit.map_classes(model, range(2), labels=["x", "y"]).labels == ("x", "y")
    assert model.num_classes == 5


@pytest.mark.parametrize(
    ("indices", "labels", "message"),
    [
        ([0, 5], None, "holds 5; expected"),
        ([-1], None, "holds -1"),
        ([], None, "is empty"),
        ([True, False, True, False, True], None, "holds True or False"),
        (torch.tensor([True, False, True, False, True]), None, "holds True or False"),
        ([0.5], None, "expected whole numbers from 0 to 4"),
        ([0, 1], ["a"], "1 labels for 2 classes"),
        ("in22k_to_in1k", None, "picks from 21841 classes, and this classifier has 5"),
    ],
)
def test_wrong_classes_are_sentences(indices, labels, message):
    with pytest.raises(InputError, match=message):
        swinkit.map_classes(small(1), indices, labels)
    with pytest.raises(InputError, match="no classifier"):
        swinkit.map_classes(small(1, num_classes=0), indices, labels)


def test_unknown_lists_of_classes_name_the_known_ones():
    with pytest.raises(UnknownNameError, match="in22k_to_in1k"):
        swinkit.map_classes(small(1), "in21k_to_in1k")


def test_the_22k_head_becomes_the_1k_head():
    """The rows are those of the classes' WordNet names in the 21,843-name list that the original numbers its classes by."""
    names, wanted = ((INFO / file).read_text().split() for file in ("imagenet21k_goog_synsets.txt", "imagenet_synsets.txt"))
    row = {name: number for number, name in enumerate(names)}
    assert [name for name in wanted if name not in row] == ["n04399382"], "the teddy bear"
    rows = [row.get(name, row["n03013580"]) for name in wanted]
    assert CLASS_MAPS == {"in22k_to_in1k": 21841}
    assert json.loads((Path(swinkit.__file__).parent / "in22k_to_in1k.json").read_text()) == rows
    model = small(1, num_classes=21841)
    mapped = swinkit.map_classes(model, "in22k_to_in1k")
    assert torch.equal(mapped.head.weight, model.head.weight[rows])
    assert torch.equal(mapped.head.bias, model.head.bias[rows])


def smooth_images(count, side):
    """Soft blobs of colour, drawn at any resolution."""
    return F.interpolate(torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1)), size=(side, side), mode="bicubic")


def smooth_model(window=4):
    """A V1 model that reads mean colours of patches, with position biases that fall off with distance."""
    model = small(1, num_classes=8, window_size=window)
    model.patch_embed.proj.weight.data.copy_(torch.randn(8, 3, 1, 1).expand(-1, -1, 2, 2) / 4)
    for module in model.modules():
        if hasattr(module, "relative_position_bias_table"):
            torch.nn.init.normal_(module.qkv.weight, std=0.3)
            torch.nn.init.normal_(module.proj.weight, std=0.3)
            steps = torch.linspace(-1, 1, 2 * module.window[0] - 1)
            centre, sharpness = torch.rand(2, module.heads) - 0.5, torch.full((module.heads,), 6.0)
            far = (steps[:, None, None] - centre[0]) ** 2 + (steps[None, :, None] - centre[1]) ** 2
            module.relative_position_bias_table.data.copy_((-sharpness * far).flatten(0, 1))
    return model


def test_twice_the_image_and_the_window_say_the_same():
    """Smooth tables and images at twice the resolution: logits stay close with resized tables, and far from it without any."""
    model = smooth_model()
    before = model(smooth_images(16, 32))
    larger = swinkit.resize(model, img_size=64, window_size=8)
    off = (larger(smooth_images(16, 64)) - before).std() / before.std()
    for name, parameter in larger.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.zeros_(parameter)
    forgotten = (larger(smooth_images(16, 64)) - before).std() / before.std()
    assert off < 0.2
    assert forgotten > 3 * off


def stripes(count, seed):
    """(count, 1, 16, 16) noisy stripes of random phase, and which of four directions they run in."""
    g = torch.Generator().manual_seed(seed)
    direction = torch.randint(4, (count,), generator=g)
    angle, phase = (direction * math.pi / 4)[:, None, None], 2 * math.pi * torch.rand(count, 1, 1, generator=g)
    steps = torch.arange(16.0)
    wave = torch.sin((steps[:, None] * angle.sin() + steps * angle.cos()) * 2 * math.pi / 5 + phase)
    return wave[:, None] + 0.6 * torch.randn(count, 1, 16, 16, generator=g), direction


def test_a_trained_model_knows_what_it_knew():
    """Trained on 16 pixels, asked at 32 with a patch of 4, and in colour."""
    config = SwinConfig(img_size=16, patch_size=2, in_chans=1, num_classes=4, embed_dim=16, depths=(2,), num_heads=(2,), window_size=4)
    model = SwinTransformer(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(100):
        images, directions = stripes(48, 10 + step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), directions).backward()
        optimizer.step()
    images, directions = stripes(400, 0)
    larger = F.interpolate(images, scale_factor=2, mode="bicubic", antialias=True)

    def right(model, images):
        return (model(images).argmax(1) == directions).float().mean().item()

    model.eval()
    assert right(model, images) > 0.9
    resized = right(swinkit.resize(model, img_size=32, patch_size=4), larger)
    assert resized > right(model, images) - 0.03
    assert right(model, larger) < 0.8, "what happens without a resize"
    coloured = swinkit.resize(model, in_chans=3)
    torch.testing.assert_close(coloured(images.expand(-1, 3, -1, -1)), model(images), rtol=0, atol=1e-4)
