"""A model on a picture: attention maps, rollout, class maps, insides, and that nothing of it changes the model."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

import swinkit
from small_models import SMALL, small
from swinkit.config import SwinConfig
from swinkit.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from swinkit.explain import class_maps, explain, faithfulness, insides
from swinkit.explain.blending import blend
from swinkit.explain.evidence import evidence
from swinkit.explain.interactive import _compressed, packed
from swinkit.explain.mapping import attention_map, attention_tokens, rollout, spread, token_at, unmerge, window_of
from swinkit.explain.overlay import overlay
from swinkit.explain.recording import attention_values, attention_weights, record, twin
from swinkit.explain.similar import similar_pictures
from swinkit.explain.subject import open_subject, subject
from swinkit.model import SwinTransformer, seam_sides, window_attention

PREPROCESS = {"size": [27, 35], "mean": [0.5] * 3, "std": [0.25] * 3}
GEOMETRIES = pytest.mark.parametrize(
    ("window", "shift", "grid"), [((4, 4), (2, 2), (9, 13)), ((3, 5), (1, 2), (7, 20)), ((4, 4), (0, 0), (6, 5)), ((7, 7), (3, 3), (5, 7))]
)


def arguments(version, window, shift, grid, seed=0):
    """The arguments of the door, at random, in float64."""
    draw = torch.Generator().manual_seed(seed)
    heads, dim, tokens = 2, 3, window[0] * window[1]
    qkv = torch.randn(1, *grid, 3, heads, dim, generator=draw, dtype=torch.float64)
    bias = torch.randn(heads, tokens, tokens, generator=draw, dtype=torch.float64)
    pad = torch.randn(3, heads, dim, generator=draw, dtype=torch.float64)
    scale = 0.7 if version == 1 else torch.rand(heads, 1, 1, generator=draw, dtype=torch.float64) * 5 + 1
    return qkv, bias, {"window": window, "shift": shift, "scale": scale, "cosine": version == 2, "pad": pad}


def picture(height=40, width=52, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8))


def block_of(version, window, shift, grid):
    from swinkit.explain.recording import BlockAttention

    qkv, bias, options = arguments(version, window, shift, grid)
    return BlockAttention((0, 1), attention_weights(qkv, bias, **options)[0], grid, window, shift), (qkv, bias, options)


@pytest.mark.parametrize("version", [1, 2])
@GEOMETRIES
def test_a_map_is_what_the_definition_multiplies_values_by(version, window, shift, grid):
    block, (qkv, bias, options) = block_of(version, window, shift, grid)
    qkv.requires_grad_()
    options["pad"].requires_grad_()
    out = window_attention(qkv, bias, **options).unflatten(-1, (2, 3))
    for query, head in [((0, 0), 0), ((grid[0] - 1, grid[1] - 1), 1), ((grid[0] // 2, 1), 1)]:
        # The output is linear in v, so its gradient with respect to v is the attention, wherever the definition took v from.
        by_token, by_pad = torch.autograd.grad(out[0, query[0], query[1], head, 0], (qkv, options["pad"]), retain_graph=True)
        found = attention_tokens(block, query, head)
        np.testing.assert_allclose(found[: grid[0], : grid[1]], by_token[0, :, :, 2, head, 0].numpy(), atol=1e-12)
        padding = found.sum() - found[: grid[0], : grid[1]].sum()
        np.testing.assert_allclose(padding, float(by_pad[2, head, 0]), atol=1e-12)
        np.testing.assert_allclose(found.sum(), 1, atol=1e-12)


@GEOMETRIES
def test_no_mass_crosses_a_seam_or_leaves_its_window(window, shift, grid):
    block, _ = block_of(1, window, shift, grid)
    padded = block.padded
    # Region numbers of the rolled map, as the originals make them: by slices.
    regions = np.zeros(padded, dtype=int)
    cuts = [(slice(0, -m), slice(-m, -s), slice(-s, None)) if s else (slice(0, None),) for m, s in zip(window, shift, strict=True)]
    for number, (rows, columns) in enumerate((r, c) for r in cuts[0] for c in cuts[1]):
        regions[rows, columns] = number
    windows = np.arange(padded[0])[:, None] // window[0] * 100 + np.arange(padded[1]) // window[1]
    home = np.roll(regions + 10000 * windows, shift, (0, 1))
    for y in range(grid[0]):
        for x in range(grid[1]):
            found = attention_tokens(block, (y, x), 0)
            assert found[home != home[y, x]].sum() < 1e-30
            np.testing.assert_allclose(found[home == home[y, x]].sum(), 1, atol=1e-12)


def test_window_and_place_belong_to_the_token():
    block, _ = block_of(1, (3, 5), (1, 2), (7, 20))
    sides = seam_sides(block.padded, block.window, block.shift)
    places = {window_of(block, (y, x)) for y in range(9) for x in range(20)}
    assert len(places) == 180
    assert {(g, n) for g, n in places} == {(g, n) for g in range(sides.shape[0]) for n in range(sides.shape[1])}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (27, 35), (50, 9)])
@pytest.mark.parametrize("policy", ["official", "dense", "per_axis"])
def test_recording_is_the_plain_forward_and_maps_sum_to_one(version, size, policy):
    model, x = small(version, size_policy=policy), torch.randn(1, 3, *size)
    recording = record(model, x)
    with torch.no_grad():
        assert torch.equal(recording.logits, model(x)[0])
    assert list(recording.blocks) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    query = (size[0] - 2, size[1] - 2)
    for place in recording.blocks:
        for head in (None, 1):
            found = attention_map(recording, query, place, head)
            assert found.values.shape == size
            assert found.values.min() >= 0
            np.testing.assert_allclose(found.values.sum() + found.padding, 1, atol=1e-6)
    everywhere = rollout(recording)
    np.testing.assert_allclose(everywhere.values.sum() + everywhere.padding, 1, atol=1e-6)
    assert attention_values(model, size) == sum(block.weights.numel() for block in recording.blocks.values())


def dense(block, residual):
    """(H'W', H'W') matrix of a block over its padded map, row by row from the public map of each query."""
    (H, W), (height, width) = block.grid, block.padded
    matrix = np.zeros((height * width, height * width))
    for y in range(height):
        for x in range(width):
            row = y * width + x
            if y < H and x < W:
                matrix[row] = (1 - residual) * attention_tokens(block, (y, x)).ravel()
                matrix[row, row] += residual
    return matrix


@pytest.mark.parametrize(("version", "size", "residual"), [(1, (27, 35), 0.5), (2, (22, 36), 0.5), (1, (18, 31), 0.2)])
def test_rollout_is_the_product_of_dense_matrices(version, size, residual):
    model = small(version)
    recording = record(model, torch.randn(1, 3, *size))
    blocks = list(recording.blocks.values())
    last = blocks[-1].grid
    mass, padding = np.full(last, 1 / (last[0] * last[1])), 0.0
    for block, before in zip(blocks[::-1], [*blocks[-2::-1], None], strict=True):
        whole = np.zeros(block.padded)
        whole[: block.grid[0], : block.grid[1]] = mass
        whole = (whole.ravel() @ dense(block, residual)).reshape(block.padded)
        mass = whole[: block.grid[0], : block.grid[1]]
        padding += whole.sum() - mass.sum()
        if before is not None and before.place[0] != block.place[0]:
            parents, mass = mass, np.zeros(before.grid)
            for y in range(parents.shape[0]):
                for x in range(parents.shape[1]):
                    children = mass[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                    children += parents[y, x] / children.size
    found = rollout(recording, residual=residual)
    np.testing.assert_allclose(found.padding, padding, atol=1e-9)
    for y in range(mass.shape[0]):
        for x in range(mass.shape[1]):
            token = found.values[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].sum()
            np.testing.assert_allclose(token, mass[y, x], atol=1e-9)


def test_rollout_from_a_token_without_attention_stays_under_it():
    recording = record(small(), torch.randn(1, 3, 32, 32))
    found = rollout(recording, query=(9, 21), residual=1.0)
    wanted = np.zeros((32, 32))
    wanted[8:12, 20:24] = 1 / 16
    np.testing.assert_allclose(found.values, wanted)
    assert found.padding == 0


def test_unmerging_and_spreading_keep_the_mass():
    mass = torch.rand(3, 4, dtype=torch.float64)
    children = unmerge(mass, (5, 7))
    np.testing.assert_allclose(children.sum(), mass.sum())
    np.testing.assert_allclose(children[4, 6], mass[2, 3])
    np.testing.assert_allclose(children[4, :2], mass[2, 0] / 2)
    np.testing.assert_allclose(spread(children.numpy(), (4, 4), (18, 26)).sum(), mass.sum())


def head_on(model, rows):
    """The model with a head that reads `rows` of the last map's channels."""
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        for index, channel in enumerate(rows):
            model.head.weight[index, channel] = 1
    return model


@pytest.mark.parametrize("size", [(32, 32), (27, 35), (33, 50)])
def test_grad_cam_has_a_known_answer_on_a_head_that_reads_one_channel(size):
    pytest.importorskip("captum")
    model, x = head_on(small(), [3, 5]), torch.randn(1, 3, *size)
    with torch.no_grad():
        channel = model.forward_features(x)[0, :, :, 5].double().relu()
    wanted = class_maps.upsampled(channel, (4, 4), size)
    found = class_maps.grad_cam(model, x, 1)
    assert found.shape == size
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=1e-5)
    plain = class_maps.class_activation(model, x, 1)
    np.testing.assert_allclose(plain, wanted, atol=1e-6)
    assert class_maps.grad_cam(model, x, 1, stage=0).shape == size


def test_grad_cam_of_a_stage_is_the_formula():
    pytest.importorskip("captum")
    model, x = small(), torch.randn(1, 3, 27, 35)
    seen = model.layers[0].run_blocks(model.embed(x)).detach().requires_grad_()
    rest = model.norm(model.layers[1](model.layers[0].merge(seen)))
    (gradient,) = torch.autograd.grad(model.forward_head(rest)[0, 2], seen)
    wanted = (gradient.mean((1, 2))[0] * seen[0]).sum(-1).relu().detach().double()
    np.testing.assert_allclose(class_maps.grad_cam(model, x, 2, 0), class_maps.upsampled(wanted, (2, 2), (27, 35)), atol=1e-6)


def test_frozen_weights_and_callers_without_gradients_change_nothing():
    pytest.importorskip("captum")
    model, x = small(), torch.randn(1, 3, 22, 30)
    wanted = class_maps.grad_cam(model, x, 1, 0), insides.receptive_field(model, x).values
    model.requires_grad_(False)
    with torch.no_grad():
        found = class_maps.grad_cam(model, x, 1, 0), insides.receptive_field(model, x).values
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not x.requires_grad


def test_integrated_gradients_add_up():
    pytest.importorskip("captum")
    model, x = small().double(), torch.randn(1, 3, 22, 30, dtype=torch.float64)
    values, remainder = class_maps.integrated_gradients(model, x, 2, steps=100)
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x)))[0, 2]
    np.testing.assert_allclose(values.sum(), float(difference), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(values.sum() - float(difference), remainder, atol=1e-9)


@pytest.mark.parametrize("size", [(22, 30), (27, 35)])
def test_evidence_adds_up_and_is_constant_over_a_patch(size):
    model, x = small(1, patch_size=4).double(), torch.randn(1, 3, *size, dtype=torch.float64)
    values = evidence(model, x, 2, steps=64)
    assert values.shape == size
    blocks = values[: size[0] // 4 * 4, : size[1] // 4 * 4].reshape(size[0] // 4, 4, size[1] // 4, 4)
    np.testing.assert_array_equal(blocks.max((1, 3)), blocks.min((1, 3)))
    with torch.no_grad():
        difference = (model(x) - model(torch.zeros_like(x)))[0, 2]
    np.testing.assert_allclose(values.sum(), float(difference), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="no class 5"):
        evidence(model, x, 5)


def test_occlusion_is_the_fall_of_the_probability():
    model, x = small(), torch.randn(1, 3, 20, 24)
    found = class_maps.occlusion(model, x, 1, window=(20, 24))
    with torch.no_grad():
        fall = (model(x).softmax(1) - model(torch.zeros_like(x)).softmax(1))[0, 1]
    np.testing.assert_allclose(found, float(fall), atol=1e-6)
    parts = class_maps.occlusion(model, x, 1, window=(10, 24))
    assert parts.shape == (20, 24)
    hidden = x.clone()
    hidden[:, :, :10] = 0
    with torch.no_grad():
        fall = (model(x).softmax(1) - model(hidden).softmax(1))[0, 1]
    np.testing.assert_allclose(parts[0], float(fall), atol=1e-6)
    with pytest.raises(InputError, match="1 x 1 up to"):
        class_maps.occlusion(model, x, 1, window=30)


def test_bias_maps_are_the_table():
    model = small(1, window_size=(3, 4))
    maps = insides.position_bias(model, (0, 1))
    bias = model.layers[0].blocks[1].attn.bias()
    for query in range(12):
        for key in range(12):
            dy, dx = key // 4 - query // 4, key % 4 - query % 4
            np.testing.assert_allclose(maps[:, 2 + dy, 3 + dx], bias[:, query, key].detach().numpy(), rtol=1e-6)
    with pytest.raises(InputError, match="V1's bias is a table"):
        insides.position_bias(model, (0, 1), (5, 5))


def test_the_continuous_bias_has_values_for_any_window():
    model, other = small(2), small(2, window_size=6, pretrained_window_sizes=(4, 4))
    maps = insides.position_bias(model, (1, 0), (6, 6))
    other.layers[1].blocks[0].attn.cpb_mlp.load_state_dict(model.layers[1].blocks[0].attn.cpb_mlp.state_dict())
    bias = other.layers[1].blocks[0].attn.bias().detach()
    np.testing.assert_allclose(maps[:, 5 + 3, 5 - 2], bias[:, 0 * 6 + 4, 3 * 6 + 2].numpy(), rtol=1e-5)
    assert insides.position_bias(model, (1, 0)).shape == (4, 7, 7)


def test_colours_tell_features_apart():
    map_ = torch.zeros(4, 6, 9)
    map_[:2, :, 4] = 3
    colours = insides.as_colours(map_)
    assert colours.shape == (4, 6, 3)
    assert set(colours[:2].reshape(-1, 3)[:, 0]) == {1.0}
    assert set(colours[2:].reshape(-1, 3)[:, 0]) == {0.0}
    assert insides.as_colours(torch.randn(1, 1, 8)).shape == (1, 1, 3)


def test_the_receptive_field_is_where_pixels_matter():
    model, x = small(), torch.randn(1, 3, 32, 32)
    field = insides.receptive_field(model, insides.variations(x)[:2])
    np.testing.assert_allclose(field.values.sum(), 1)
    assert 1 <= field.side(0.5) <= field.side(0.9) <= 32
    before = torch.random.get_rng_state()
    new = insides.randomly_initialised(model, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert new.config == model.config
    assert not torch.equal(new.head.weight, model.head.weight)
    alone = insides.receptive_field(small(1, depths=(1, 1), window_size=1), x)  # no attention reaches another token
    assert {int(i) for i in np.flatnonzero(alone.values.sum(1))} == set(range(16, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_in_another_precision(dtype):
    model = small().to(dtype)
    recording = record(model, torch.randn(1, 3, 27, 35).to(dtype))
    assert recording.logits.dtype == dtype
    found = attention_map(recording, (5, 30))
    np.testing.assert_allclose(found.values.sum() + found.padding, 1, atol=1e-6)
    assert class_maps.class_activation(model, torch.randn(1, 3, 27, 35).to(dtype), 0).shape == (27, 35)
    assert insides.as_colours(recording.maps[0]).shape == (14, 18, 3)


def state(model):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attends = [block.attn.attend for stage in model.layers for block in stage.blocks]
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    kinds = [type(m) for m in model.modules()]
    return weights, (attends, hooks, kinds, [m.training for m in model.modules()], [p.grad for p in model.parameters()])


@pytest.mark.parametrize("training", [False, True])
def test_nothing_in_the_model_changes(training):
    model = small(drop_path_rate=0.5, attn_drop_rate=0.1)
    model.preprocess = PREPROCESS
    model.train(training)
    weights, rest = state(model)
    looked = subject(model, picture())
    recording = record(model, looked.x)
    class_maps.class_activation(model, looked.x, 0)
    evidence(model, looked.x, 0)
    insides.receptive_field(model, looked.x)
    if class_maps.importlib.util.find_spec("captum"):
        class_maps.grad_cam(model, looked.x, 0)
        class_maps.integrated_gradients(model, looked.x, 0, steps=2)
    class_maps.occlusion(model, looked.x, 0)
    first, again = overlay(model, picture()), overlay(model, picture())
    assert first == again
    after, rest_after = state(model)
    assert rest == rest_after
    assert all(torch.equal(weights[name], after[name]) for name in weights)
    assert recording.logits.shape == (5,)


def test_a_twin_shares_every_weight():
    model = small()
    copied = twin(model)
    assert copied is not model
    assert [p.data_ptr() for p in copied.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert copied.layers[0].blocks[0].attn is not model.layers[0].blocks[0].attn


def test_overlays_while_the_model_predicts_in_another_thread():
    model = small()
    model.preprocess = PREPROCESS
    x = torch.randn(2, 3, 27, 35)
    with torch.no_grad():
        wanted, drawn = model(x), overlay(model, picture(), label=2)
    wrong = []

    def predict():
        with torch.no_grad():
            wrong.extend(index for index in range(10) if not torch.equal(model(x), wanted))

    def explain_it():
        wrong.extend(index for index in range(10) if overlay(model, picture(), label=2) != drawn)

    threads = [threading.Thread(target=work) for work in (predict, explain_it, explain_it)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_overlay_is_coloured_where_the_evidence_is():
    dark = np.zeros((4, 6, 3), np.uint8)
    heat = np.zeros((4, 6))
    heat[1, 2] = 2.0
    blended = blend(dark, heat)
    assert blended[1, 2].sum() > 300
    blended[1, 2] = 0
    assert blended.sum() == 0


def test_curves_reward_the_right_order():
    model = head_on(small(1, depths=(1, 1), window_size=1, num_classes=2), [3, 5])
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        model.head.weight *= 20
        targets = model(x).argmax(1).tolist()
    maps = [class_maps.occlusion(model, one[None], target, window=4) for one, target in zip(x, targets, strict=True)]
    good = np.stack([faithfulness.order_of(values, 4) for values in maps])
    found = faithfulness.curves(model, x, targets, good, steps=8, side=4)
    opposite = faithfulness.curves(model, x, targets, good[:, ::-1].copy(), steps=8, side=4)
    assert found.deletion_area < opposite.deletion_area
    assert found.insertion_area > opposite.insertion_area
    with torch.no_grad():
        whole = float(model(x).double().softmax(1).gather(1, torch.tensor(targets)[:, None]).mean())
    np.testing.assert_allclose([found.deletion[0], found.insertion[-1]], whole)
    np.testing.assert_allclose(found.deletion[-1], found.insertion[0])
    assert faithfulness.centre_order((12, 12), 4)[0] == 4
    with pytest.raises(InputError, match="do not divide"):
        faithfulness.order_of(np.zeros((10, 12)), 4)


def test_what_cannot_be_looked_into_is_refused_in_a_sentence(tmp_path):
    model = small()
    model.preprocess = PREPROCESS
    with pytest.raises(InputError, match="expected one"):
        record(model, torch.randn(2, 3, 32, 32))
    with pytest.raises(InputError, match="heads 0 to 1; got head 2"):
        attention_map(record(model, torch.randn(1, 3, 32, 32)), (0, 0), (0, 0), 2)
    with pytest.raises(InputError, match="outside the picture"):
        attention_map(record(model, torch.randn(1, 3, 32, 32)), (32, 0))
    with pytest.raises(CheckpointError, match="SwinBackbone"):
        open_subject(swinkit.create_model(SwinConfig(**SMALL), features_only=True), picture())
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="exported file"):
        open_subject(tmp_path / "model.onnx", picture())
    with pytest.raises(InputError, match="no class 'cat'"):
        overlay(model, picture(), label="cat")
    headless = SwinTransformer(SwinConfig(**SMALL | {"num_classes": 0})).eval()
    with pytest.raises(InputError, match="no classifier"):
        overlay(headless, picture())
    floored = record(small(size_policy="per_axis"), torch.randn(1, 3, 33, 33))
    with pytest.raises(InputError, match="remainder"):
        token_at(floored, floored.block((0, 0)), (32, 5))


def test_large_pictures_are_refused_or_kept_smaller(monkeypatch):
    from swinkit.explain import recording

    model, x = small(), torch.randn(1, 3, 32, 32)
    monkeypatch.setattr(recording, "MOST_VALUES", 10_000)
    with pytest.raises(InputError, match="smaller img_size"):
        record(model, x)
    kept = record(model, x, keep=lambda weights: weights.mean(1, keepdim=True))
    assert kept.block((0, 0)).weights.shape[1] == 1


def test_data_for_the_page_fits(monkeypatch):
    recording = record(small(), torch.randn(1, 3, 32, 32))
    about, data = packed(recording)
    assert sum(one["bytes"] for one in about) == len(data)
    assert [one["heads"] for one in about] == [2, 2, 4, 4]
    fewer, smaller = packed(recording, most=len(data) * 3 // 4)
    assert len(smaller) <= len(data) * 3 // 4
    assert any(one["averaged"] for one in fewer)
    mean = {place: len(_compressed(block.weights.mean(1, keepdim=True))) for place, block in recording.blocks.items()}
    fewest, _ = packed(recording, most=mean[0, 1] + mean[1, 1])
    assert [(one["stage"], one["block"]) for one in fewest] == [(0, 1), (1, 1)]


@pytest.fixture(scope="module")
def explained(trained, tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("explained")
    first = sorted((pictures / "test" / "red").iterdir())[0]
    said = []
    made = explain(trained.run, first, out=folder / "figures", html=folder / "page.html", similar=pictures / "test", say=said.append)
    return folder, made, said, first


def test_a_trained_run_is_explained_whole(explained, pictures):
    pytest.importorskip("captum")
    folder, made, _, first = explained
    names = {path.stem for path in made.files}
    assert {
        "attention",
        "rollout",
        "evidence",
        "gradcam",
        "integrated-gradients",
        "occlusion",
        "bias",
        "features",
        "receptive-field",
    } <= names
    facts = made.to_dict()
    assert facts["label"] in ("blue", "green", "red")
    assert facts["similar"]["similar"][0]["source"] == str(first)
    np.testing.assert_allclose(facts["similar"]["similar"][0]["cosine"], 1, atol=1e-5)
    assert (folder / "page.html").stat().st_size < 5e6
    assert "https:" not in (folder / "page.html").read_text()
    with pytest.raises(InputError, match="exists already"):
        explain(folder.parent / "x", first, html=folder / "page.html")


def test_options_are_checked_before_anything_is_computed(trained):
    for options, error, words in [
        ({"methods": ["grad"]}, UnknownNameError, "no method 'grad'"),
        ({"methods": ["similar"]}, InputError, "needs a folder"),
        ({"block": "2.5"}, InputError, "no block '2.5'"),
        ({"block": "x"}, InputError, "STAGE.BLOCK"),
        ({"head": 99}, InputError, "got head 99"),
        ({"query": (400, 2)}, InputError, "16 x 16 pixels"),
        ({"label": "cat"}, InputError, "no class 'cat'"),
        ({"formats": ["gif"]}, InputError, "png or svg"),
    ]:
        with pytest.raises(error, match=words):
            explain(trained.run, picture(), **options)


def test_one_method_on_a_name_without_weights_says_so():
    said = []
    made = explain("swin_pico_patch2_window4_32", picture(), methods=["rollout"], say=said.append)
    assert any("random" in line for line in said)
    assert set(made.to_dict()) >= {"rollout", "random_weights"}
    assert made.to_dict()["random_weights"] is True


def test_without_captum_its_methods_are_left_out_or_refused(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "captum" else real(name, *rest))
    with pytest.raises(ConfigError, match=r"pip install 'swinkit\[explain\]'"):
        explain("swin_pico_patch2_window4_32", picture(), methods=["gradcam"])


def test_similar_pictures_are_those_of_like_vectors(trained, pictures):
    first = sorted((pictures / "test" / "green").iterdir())[2]
    looked = open_subject(trained.run, first, device="cpu")
    found = similar_pictures(looked, pictures / "test", count=4)
    vectors = swinkit.embed(trained.run, pictures / "test", device="cpu")
    own = vectors.vectors[vectors.sources.index(str(first))].astype(np.float64)
    cosines = vectors.vectors @ own / np.linalg.norm(vectors.vectors, axis=1) / np.linalg.norm(own)
    wanted = [vectors.sources[index] for index in np.argsort(-cosines, kind="stable")[:4]]
    assert found[0].source == str(first)
    assert {one.source for one in found} == set(wanted)
    np.testing.assert_allclose([one.cosine for one in found], np.sort(cosines)[::-1][:4], atol=1e-5)
