"""The report of a run shows what the model looked at, and never costs the run."""

import base64
import io
import json
import shutil

import numpy as np
import torch
from PIL import Image
from rich.console import Console

import swinkit
from swinkit.explain.blending import blend
from swinkit.explain.class_maps import class_activation
from swinkit.explain.subject import open_subject
from swinkit.report import read_run, rebuild
from swinkit.tasks.classify import Scorer


def looks_of(run):
    return json.loads((run / "report.json").read_text())["looks"]


def test_a_finished_run_shows_what_it_looked_at(trained, tmp_path):
    looks = looks_of(trained.run)
    assert 1 <= len(looks) <= 8
    right = [one["picture"]["truth"] == one["picture"]["predicted"] for one in looks]
    assert right == sorted(right, reverse=True)
    hits = [one["picture"]["truth"] for one, is_right in zip(looks, right, strict=True) if is_right]
    assert len(hits) == len(set(hits)) >= 2
    page = (trained.run / "report.html").read_text()
    assert "What it looks at" in page
    assert page.count(looks[0]["evidence"]) == 1
    assert rebuild(read_run(trained.run), tmp_path / "again.html").read_text() == page


def test_the_maps_are_those_of_the_model_and_picture(trained):
    first = looks_of(trained.run)[0]
    looked = open_subject(trained.run, first["picture"]["name"], device="cpu")
    wanted = blend(looked.picture, class_activation(looked.model, looked.x, looked.target(first["picture"]["predicted"])))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first["evidence"].partition(",")[2]))))
    assert np.array_equal(shown, wanted)


def test_a_broken_or_missing_entry_is_left_out(trained, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained.run, copy, symlinks=True)
    facts = json.loads((copy / "report.json").read_text())
    one = facts["looks"][0]
    for looks, says in [
        ([one | {"evidence": "http://elsewhere/x.png"}], "cannot be read"),
        ([{"picture": {}}], "cannot be read"),
        (3, "cannot be read"),
        ([], ""),
    ]:
        (copy / "report.json").write_text(json.dumps(facts | {"looks": looks}))
        page = rebuild(read_run(copy)).read_text()
        assert "What it looks at" not in page
        assert "elsewhere" not in page
        assert says in page


def test_a_run_is_finished_where_nothing_can_be_looked_at(pictures, tmp_path, monkeypatch):
    import swinkit.train.finish as finishing
    from conftest import TINY

    def fail(*_):
        raise RuntimeError("no room\nat all")

    monkeypatch.setattr(finishing, "look", fail)
    out = io.StringIO()
    done = swinkit.train(pictures, output=tmp_path / "run", console=Console(file=out), **TINY | {"epochs": 1})
    assert "without attention pictures: no room" in out.getvalue()
    assert done.report.is_file()
    assert looks_of(done.run) == []


def test_hits_are_the_surest_right_answer_of_each_class():
    scorer = Scorer(["a", "b", "c"])
    sure = torch.tensor([[3.0, 0, 0], [5, 0, 0], [0, 2, 0], [9, 0, 0]])
    scorer.update(sure[:2], torch.tensor([0, 0]), [10, 11])
    scorer.update(sure[2:], torch.tensor([1, 2]), [12, 13])
    assert [(hit.index, hit.truth) for hit in scorer.hits(5)] == [(11, 0), (12, 1)]
    assert [hit.index for hit in scorer.hits(1)] == [11]
