"""The spelling that is exported computes what the model does, bit for bit, with gathers in place of padding, rolling and cutting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_models import POLICIES, SMALL, VERSIONS, small
from swinkit.backbone import SwinBackbone
from swinkit.bench.subject import randomised
from swinkit.config import SIZE_POLICIES, SwinConfig, pair
from swinkit.export.capture import capture
from swinkit.export.layers import Form
from swinkit.export.options import build, make_facts
from swinkit.export.places import merging, places, shift_of
from swinkit.export.spelling import spell
from swinkit.export.turns import Turns, plan_turns
from swinkit.model import PatchMerging, SwinBlock, SwinTransformer, window_attention
from swinkit.variants import get_config


def images(batch, size, seed=0, dtype=torch.float32):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_model_on_any_image(data):
    draw = data.draw
    patch = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    config = _config(draw, patch)
    model = randomised(SwinTransformer(config))
    size = draw(st.tuples(st.integers(patch[0], 30), st.integers(patch[1], 30)))
    x = images(draw(st.integers(1, 3)), size)
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(spell(model)(x), wanted)
        assert torch.equal(spell(model, size, turns=Turns(len(x)))(x), wanted)


def _config(draw, patch):
    depths, version, qkv_bias = draw(st.sampled_from([(2,), (2, 1), (1, 3)])), draw(st.sampled_from([1, 2])), draw(st.booleans())
    return SwinConfig(
        version=version,
        size_policy=draw(st.sampled_from(SIZE_POLICIES)),
        img_size=draw(st.tuples(st.integers(3, 24), st.integers(3, 24))),
        patch_size=patch,
        num_classes=draw(st.sampled_from([0, 5])),
        embed_dim=8,
        depths=depths,
        num_heads=(2, 4)[: len(depths)],
        window_size=draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        qkv_bias=qkv_bias,
        ape=draw(st.booleans()),
        # Without a norm before it, a V2 block's first product gets the convolution's output, channels outermost in memory, and what PyTorch
        # does with such depends on the number of axes. No published V2 is without.
        patch_norm=draw(st.booleans()) or version == 2,
    )


@VERSIONS
@POLICIES
def test_backbones(version, policy):
    config = SwinConfig(**SMALL | {"version": version, "size_policy": policy, "ape": True, "num_classes": 0})
    model = randomised(SwinBackbone(config, (0, 1)))
    for size in ((32, 32), (13, 27)):
        with torch.no_grad():
            x = images(2, size)
            for net in (spell(model), spell(model, size)):
                got, wanted = net(x), model(x)
                assert [m.shape for m in got] == [m.shape for m in wanted]
                assert all(torch.equal(one, right) for one, right in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", ["swin_pico_patch2_window7_28", "swinv2_pico_patch2_window4_32", "swin_tiny_patch4_window7_224"])
def test_named_models(name):
    model = randomised(SwinTransformer(get_config(name)))
    size = pair(model.config.img_size)
    with torch.no_grad():
        x = images(1, size)
        assert torch.equal(spell(model)(x), model(x))
        assert torch.equal(spell(model, size, turns=Turns(1))(x), model(x))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_wide_layers_on_padded_maps(name):
    """A sum of hundreds of products and a bias: PyTorch itself rounds it in another order where the map was cut out of a larger one."""
    model = randomised(SwinTransformer(get_config(name))).double()
    with torch.no_grad():
        for size in ((56, 76), (13, 70)):
            x = images(1, size, dtype=torch.float64)
            for net in (spell(model), spell(model, size)):
                torch.testing.assert_close(net(x), model(x), rtol=1e-11, atol=1e-11)


@VERSIONS
@pytest.mark.parametrize("form", [Form(separate=True), Form(separate=True, operator=True)], ids=["separate", "operator"])
def test_other_forms_of_attention_round_otherwise_and_no_more(version, form):
    """In float64, where rounding cannot hide anything; one image, whose shifted windows are the table's, and two."""
    model = randomised(small(version)).double()
    for size in ((32, 32), (13, 27)):
        for count in (1, 2):
            with torch.no_grad():
                x = images(count, size, dtype=torch.float64)
                torch.testing.assert_close(spell(model, size, form=form, turns=Turns(count))(x), model(x), rtol=1e-11, atol=1e-11)


@VERSIONS
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("at_a_time", [1, 2])
def test_images_that_go_in_turns_get_their_own_results(version, stages, at_a_time):
    """In float64, with maps kept before, where and after turns end; the last turn is a smaller one."""
    model = randomised(SwinBackbone(SwinConfig(**SMALL | {"version": version, "num_classes": 0}), (0, 1))).double()
    assert len(model.layers) == 2
    for size in ((32, 32), (13, 27)):
        with torch.no_grad():
            x = images(3, size, dtype=torch.float64)
            got = spell(model, size, form=Form(separate=True), turns=Turns(3, stages, at_a_time))(x)
            torch.testing.assert_close(got, tuple(model(x)), rtol=1e-11, atol=1e-11)


def test_turns_are_for_maps_that_leave_the_cache():
    tiny = get_config("swin_tiny_patch4_window7_224")  # 4.8, 2.4 and 1.2 MB of hidden layer for an image; 3136, 784 and 196 tokens
    assert [plan_turns(tiny, (224, 224), count).stages for count in (None, 1, 2, 8, 64)] == [0, 0, 2, 2, 2]
    assert [plan_turns(tiny, (112, 112), count).stages for count in (2, 4, 8, 64)] == [0, 1, 2, 2]
    assert plan_turns(tiny, (2048, 2048), 4).stages == 4, "no more than there are"
    assert [plan_turns(tiny, (224, 224), count).at_a_time for count in (8, 16, 17, 64)] == [1, 1, 2, 4]
    assert [plan_turns(tiny, (224, 224), 3).one_image(stage) for stage in range(4)] == [True, True, False, False]
    small_one = small(1, embed_dim=64, img_size=128, patch_size=2)
    facts = make_facts(small_one, False, None, 2, False, "float32")
    stages = [build(small_one, facts, *given).trunk.turns.stages for given in (("onnx",), ("openvino",), ("onnx", True), ("torch-export",))]
    assert stages == [1, 1, 0, 0], "not in 8 bits, and where a compiler fuses"


def test_the_model_is_left_alone():
    model = small(1)
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    make = make_facts(model, True, None, None, False, "float16")
    build(model, make, "onnx")
    assert model.patch_embed.proj.weight.dtype == torch.float32
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 17), st.integers(1, 17)), st.tuples(st.integers(1, 6), st.integers(1, 6)), st.sampled_from(SIZE_POLICIES))
def test_the_shift_follows_the_policy(grid, window, policy):
    config = SwinConfig(img_size=64, patch_size=1, window_size=window, size_policy=policy, depths=(2,), num_heads=(1,), embed_dim=8)
    block = SwinBlock(config, 0, 1, 0.0, window_attention)
    assert shift_of(grid, block.window, block.half_window, policy) == block.shift(grid)


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 13), st.integers(1, 13)), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.data())
def test_places_are_padding_rolling_and_cutting(grid, window, data):
    """Token by token, with Python's own arithmetic."""
    shift = tuple(data.draw(st.integers(0, side - 1)) for side in window)
    rows, columns = (-(-length // side) * side for length, side in zip(grid, window, strict=True))
    wanted, at = [], {}
    for top in range(0, rows, window[0]):
        for left in range(0, columns, window[1]):
            for y in range(top, top + window[0]):
                for x in range(left, left + window[1]):
                    source = ((y + shift[0]) % rows, (x + shift[1]) % columns)
                    if source[0] < grid[0] and source[1] < grid[1]:
                        at[source] = len(wanted)
                    wanted.append(source)
    where, sides = places(grid, window, shift)
    real = [y < grid[0] and x < grid[1] for y, x in wanted]
    assert where.real[:, 0].tolist() == real
    got = where.index.tolist()
    assert [index for index, true in zip(got, real, strict=True) if true] == [
        y * grid[1] + x for (y, x), true in zip(wanted, real, strict=True) if true
    ]
    assert all(0 <= index < grid[0] * grid[1] for index in got)
    assert where.back.tolist() == [at[y, x] for y in range(grid[0]) for x in range(grid[1])]
    assert sides.flatten().tolist() == [2 * (y < shift[0]) + (x < shift[1]) for y, x in wanted]


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_merging_collects_the_originals_neighbours(grid):
    module = PatchMerging(2, 1)
    module.norm, module.reduction = torch.nn.Identity(), torch.nn.Identity()
    x = torch.randn(1, *grid, 2)
    index, real = merging(grid)
    got = torch.where(real, x.flatten(1, 2)[:, index], 0.0).reshape(module(x).shape)
    assert torch.equal(got, module(x))


@pytest.mark.parametrize("count", [None, 1])
def test_attention_is_one_operator_where_onnx_has_it(count):
    """In float32, in a file for one size, where images share a table."""
    model = small(1)
    facts = make_facts(model, False, None, count, False, "float32")
    found = {}
    for to in ("onnx", "openvino"):
        nodes = capture(build(model, facts, to), facts).graph.nodes
        found[to] = sum(str(node.target).startswith("onnx.Attention") for node in nodes)
    blocks, shifted = sum(model.config.depths), len(model.config.depths)
    assert found == {"onnx": blocks if count else blocks - shifted, "openvino": 0}


@pytest.fixture(scope="module")
def program():
    """V2 shifts, pads, normalises and merges."""
    model = small(2, depths=(2, 1), ape=True)
    facts = make_facts(model, True, None, None, False, "float32")
    return model, capture(build(model, facts, "torch-export"), facts)


def test_a_program_has_at_most_five_axes_and_no_roll(program):
    _, captured = program
    names = {str(node.target) for node in captured.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "roll" in name]
    values = [node.meta["val"] for node in captured.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    assert len(values) > 100
    assert max(value.ndim for value in values) <= 5


def test_a_program_leaves_sizes_open(program):
    model, captured = program
    run = captured.module()
    for batch, size in ((1, (32, 32)), (3, (5, 41)), (1, (2, 2)), (2, (1, 1)), (2, (64, 9))):
        x = images(batch, size)
        with torch.no_grad():
            assert torch.equal(run(x), model(x))


def test_a_program_does_not_say_where_it_was_made(program):
    _, captured = program
    assert captured.example_inputs is None
    assert all(set(node.meta) <= {"val"} for node in captured.graph.nodes)
