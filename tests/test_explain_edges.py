"""`explain` at its edges: hostile names, options that are not there, pictures too large to keep whole, and pages that stay small."""

from html import escape
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from small_models import small
from swinkit.data import Preprocess
from swinkit.errors import InputError
from swinkit.explain import explain, insides, looks, picture, similar
from swinkit.explain.interactive import _compressed, body, packed
from swinkit.explain.recording import record


def model_of(labels=tuple("abcde"), size=(32, 32), **changes):
    model = small(**changes)
    model.labels = labels
    model.preprocess = {"size": list(size), "mean": [0.5] * 3, "std": [0.25] * 3}
    return model


@pytest.fixture
def photo():
    from PIL import Image

    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 52, 3), dtype=np.uint8))


def test_names_of_classes_are_text_and_nothing_else(photo, tmp_path):
    """Neither mathematics nor elements of a page."""
    model = model_of(("$\\frac$", "</script><b>", "\"'", "&amp;", "$a_b$"))
    for number, name in enumerate(model.labels):
        path = tmp_path / f"{number}.html"
        made = explain(model, photo, methods=["evidence", "occlusion"], label=name, html=path)
        assert made.facts["explained"] == name
        assert f"evidence for {escape(name, quote=False)}<" in path.read_text()
        assert "<b>" not in path.read_text()


def test_options_that_are_not_there(photo, tmp_path):
    for options, words in [
        ({"block": 1}, "no block 1; expected STAGE.BLOCK"),
        ({"block": (-1, 0)}, "no block"),
        ({"similar": tmp_path / "missing"}, "missing is no folder"),
        ({"similar": "fashion-mnist-sample"}, "fashion-mnist-sample is no folder"),
    ]:
        with pytest.raises(InputError, match=words):
            explain(model_of(), photo, **options)
    with pytest.raises(InputError, match="has no classifier, so no class can be explained"):
        explain(model_of(num_classes=0, labels=()), photo, label="cat", methods=["rollout"])


def test_of_a_large_picture_only_the_mean_over_heads_is_shown(photo, monkeypatch):
    """Nothing is called a head that is none."""
    drawn = []
    draw = looks.drawing.heat_maps
    monkeypatch.setattr(looks.drawing, "heat_maps", lambda seen, maps, *rest: (drawn.append(list(maps)), draw(seen, maps, *rest))[1])
    explain(model_of(), photo, methods=["attention"])
    assert drawn[0] == ["mean over heads", "head 0", "head 1", "head 2", "head 3"]
    for module in (looks, picture):
        monkeypatch.setattr(module, "MOST_VALUES", 10_000)
    explain(model_of(), photo, methods=["attention"])
    assert drawn[2] == ["mean over heads"]
    with pytest.raises(InputError, match="only the mean over heads is kept; got head 1"):
        explain(model_of(), photo, methods=["attention"], head=1)


def test_a_page_too_large_leaves_blocks_out_and_says_so():
    """Any bound is kept while more than one block is there, and the chosen block stays as long as it fits."""
    recording = record(small(), torch.randn(1, 3, 32, 32))
    whole = str(body(recording, np.zeros((32, 32, 3), np.uint8), (3, 3), (1, 1)))
    assert "To keep this page small" not in whole
    about, _ = packed(recording, 1)
    assert len(about) == 1
    for place, block in recording.blocks.items():
        most = len(_compressed(block.weights.mean(1, keepdim=True))) + 10
        about, data = packed(recording, most, place)
        assert place in [(one["stage"], one["block"]) for one in about]
        assert all(one["averaged"] for one in about)
        assert len(data) <= most
    said = str(body(recording, np.zeros((32, 32, 3), np.uint8), (3, 3), (1, 0), most=1500))
    assert "small, the heads of 1.0, 1.1 are averaged and 0.0, 0.1 are left out (stage.block)" in said


def test_the_receptive_field_is_measured_around_its_token():
    """Of an even map the middle token lies beside the picture's middle; without attention and merging it sees its own pixels alone."""
    x = torch.randn(1, 3, 32, 32)
    alone = insides.receptive_field(small(depths=(1, 1), window_size=1), x)
    assert alone.centre == (18, 18)
    assert alone.side(0.999999) == 4
    cut = insides.receptive_field(small(depths=(1, 1), window_size=1), torch.randn(1, 3, 10, 2))
    assert cut.centre == (6, 1)
    assert cut.side(0.999999) == 4


def test_embedding_for_similar_pictures_stays_on_the_device(monkeypatch, tmp_path):
    """The second of two GPUs is not the first: weights are shared, so moving them would move the caller's model."""
    asked = []

    def embed(_model, _folder, *, device, **_options):
        asked.append(device)
        raise InputError("enough")

    monkeypatch.setattr(similar, "embed", embed)
    model = model_of()
    looked = SimpleNamespace(
        model=model, preprocess=Preprocess.from_dict(model.preprocess), x=SimpleNamespace(device=torch.device("cuda:1"))
    )
    with pytest.raises(InputError, match="enough"):
        similar.similar_pictures(looked, tmp_path)
    assert asked == ["cuda:1"]
