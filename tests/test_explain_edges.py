"""`explain` at its edges: hostile names, options that are not there, pictures too large to keep whole, and pages that stay small."""

from html import escape

import numpy as np
import pytest
import torch

from small_models import small
from swinkit.errors import InputError
from swinkit.explain import explain, insides, picture
from swinkit.explain.interactive import body, packed
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
