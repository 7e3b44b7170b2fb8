"""The scaling benchmark: its attention, its arithmetic and its files. It measures nothing here."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

import swinkit
from swinkit.model import window_attention

FILE = Path(__file__).parents[1] / "benchmarks" / "scaling.py"
TINY = "swin_pico_patch2_window4_32"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("variant", ["global_attention", "global_scores"])
def test_global_attention_is_one_window_over_the_whole_map(scaling, variant):
    qkv = torch.randn(2, 5, 6, 3, 2, 8)
    got = getattr(scaling, variant)(qkv, None, scale=0.3, window=(2, 2), shift=(1, 1), cosine=False, pad=None, dropout_p=0.0)
    one_window = window_attention(qkv, torch.zeros(2, 30, 30), window=(5, 6), shift=(0, 0), scale=0.3)
    torch.testing.assert_close(got, one_window)


def test_every_variant_has_the_same_weights_and_other_outputs(scaling):
    models = {variant: scaling.build(variant, TINY) for variant in scaling.VARIANTS}
    outputs = {variant: model(torch.ones(1, 3, 40, 40).mul(torch.linspace(-1, 1, 40))) for variant, model in models.items()}
    torch.testing.assert_close(outputs["swin"], outputs["prepared"], rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs["global"], outputs["scores"], rtol=0, atol=1e-5)
    assert (outputs["global"] - outputs["swin"]).abs().max() > 1e-4
    assert all(torch.equal(a, b) for a, b in zip(models["swin"].parameters(), models["global"].parameters(), strict=True))


def test_operations_are_those_of_the_paper(scaling):
    """Equations 1 and 2 for Swin-T at 224 px, whose first stage has 56 x 56 tokens of 96 channels."""
    config = swinkit.create_model("swin_tiny_patch4_window7_224").config
    windows, everywhere = (scaling.operations(config, 224, kind) for kind in (True, False))
    first = [4 * 3136 * 96**2 + 2 * partners * 3136 * 96 for partners in (49, 3136)]
    rest = [(28**2, 192, 2), (14**2, 384, 6), (7**2, 768, 2)]
    assert windows["attention"] == 2 * first[0] + sum(n * (4 * hw * c**2 + 2 * 49 * hw * c) for hw, c, n in rest)
    assert everywhere["attention"] == 2 * first[1] + sum(n * (4 * hw * c**2 + 2 * hw * hw * c) for hw, c, n in rest)
    assert windows["mlp"] == everywhere["mlp"] == sum(n * 8 * hw * c**2 for hw, c, n in [(3136, 96, 2), *rest])
    doubled = scaling.operations(config, 448, True)
    assert doubled == {name: 4 * count for name, count in windows.items()}


def test_exponent(scaling):
    pixels = [224**2, 448**2, 900**2]
    assert scaling.exponent(pixels, [3 * p**1.7 for p in pixels]) == pytest.approx(1.7)
    assert math.isnan(scaling.exponent(pixels[:1], [1.0]))


def fake(variant, name, size, threads, seconds):
    grows = 2 if variant in ("global", "scores") else 1
    return {"wall": (size / 32) ** (2 * grows), "processor": (size / 32) ** (2 * grows), "memory": 1000 * size**2, "runs": 1, "engine": ""}


def test_what_would_take_too_much_is_skipped_with_the_reason(scaling):
    found = scaling.collect(TINY, [64, 32, 512, 128], scaling.VARIANTS, seconds=260.0, gigabytes=0.1, run=fake)
    sizes = {variant: [row["size"] for row in data["rows"]] for variant, data in found.items()}
    assert sizes == {"swin": [32, 64, 128, 512], "prepared": [32, 64, 128, 512], "global": [32, 64, 128], "scores": [32, 64]}
    assert [row["size"] for row in found["global"]["skipped"]] == [512]
    assert "s expected" in found["global"]["skipped"][0]["why"]
    assert "GiB of scores" in found["scores"]["skipped"][0]["why"]


def test_files(scaling, tmp_path):
    found = scaling.collect(TINY, [32, 64, 128], scaling.VARIANTS, gigabytes=0.1, run=fake)
    text = scaling.write(found, TINY, 2, tmp_path / "results", tmp_path / "images" / "scaling.png")
    assert (tmp_path / "results" / "scaling.md").read_text() == text
    assert "| Swin, plain model | 1.00 | 1.00 | 1.00 | 1.00 |" in text
    assert "| global attention, tiled (SDPA) | 2.00 | 2.00 | 1.00 | 1.00 |" in text
    assert "Skipped, global attention, all scores in memory: 128 px" in text
    numbers = json.loads((tmp_path / "results" / "scaling.json").read_text())
    assert numbers["clock"] == "wall"
    assert [row["size"] for row in numbers["variants"]["swin"]["rows"]] == [32, 64, 128]
    assert (tmp_path / "images" / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_a_measurement_in_a_process_of_its_own(scaling):
    row = scaling.in_a_process("scores", TINY, 64, 1, 0.0)
    assert row["runs"] == 1
    assert row["wall"] > 0
    heads = swinkit.create_model(TINY).config.num_heads[0]
    assert row["memory"] >= 4 * heads * 32**4, "the matrix of scores of the first stage"


def test_failures_say_what_failed(scaling):
    with pytest.raises(RuntimeError, match="swin at 64 px failed"):
        scaling.in_a_process("swin", "no_such_model", 64, 1, 0.0)
