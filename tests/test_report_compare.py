"""`swinkit report`: a page built again from its folder, and several runs compared, whatever state the folders are in."""

import json
import math
import shutil

import pytest
import torch
import yaml

import swinkit
from swinkit.cli import run
from swinkit.errors import DataError
from swinkit.report import read_run
from swinkit.report.compare import letter
from swinkit.report.drawing import stroke
from swinkit.report.summary import names
from swinkit.tasks.classify import Scorer
from test_report import Page

CLASSES = ("cat", "dog", "owl")


def scores(right, count=100, images="test of animals"):
    scorer = Scorer(CLASSES)
    labels = torch.arange(count) % 3
    guesses = torch.where(torch.arange(count) < right, labels, (labels + 1) % 3)
    scorer.update(torch.eye(3)[guesses] * 3, labels)
    return scorer.compute().to_dict() | {"images": images}


def make_run(folder, right=80, epochs=3, planned=3, lr=1e-3, scored=True, history=None, **config):
    """A run folder without checkpoints: what `report` reads, in a hundredth of the time."""
    folder.mkdir(parents=True)
    settings = {
        "data": "animals",
        "model": "swin_pico_patch2_window4_32",
        "epochs": planned,
        "lr": lr,
        "seed": 0,
        "window_size": None,
    } | config
    (folder / "config.yaml").write_text("# swinkit train\n" + yaml.safe_dump(settings, sort_keys=False))
    trained = [
        {"kind": "train", "step": s, "epoch": s / 4, "loss": 2 / s, "accuracy": 0.5, "lr": lr, "images_per_s": 90.0 + s}
        for s in range(1, 4 * epochs + 1)
    ]
    checked = [{"kind": "val", "step": 4 * e, "epoch": e, "loss": 1.0, "top1": right / 100 - 0.1 / e} for e in range(1, epochs + 1)]
    records = history if history is not None else trained + checked
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    session = {"time": "2030-01-01T00:00:00Z", "command": "swinkit train", "step": 0, "versions": {"torch": "2.14"}, "seconds": 61.0}
    (folder / "environment.json").write_text(json.dumps([session]))
    if scored:
        (folder / "scores-test.json").write_text(json.dumps(scores(right)))
    return folder


@pytest.fixture
def two(tmp_path):
    return [make_run(tmp_path / "one"), make_run(tmp_path / "two", right=90, epochs=2, planned=2, lr=2e-3, smoothing=0.1)]


def test_a_report_is_built_again_to_the_same_bytes(trained, tmp_path):
    made = swinkit.report(trained.run, out=tmp_path / "again.html")
    assert made.page.read_bytes() == trained.report.read_bytes()
    assert made.problems == made.warnings == ()
    (row,) = made.runs
    assert (row.test_top1, row.epochs_done, row.epochs_planned) == (trained.scores.top1, 3, 3)
    assert row.parameters == sum(p.numel() for p in swinkit.from_pretrained(trained.run).parameters())


def test_a_report_shows_mistakes_without_the_data(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.run, copy, symlinks=True)
    facts = json.loads((copy / "report.json").read_text())
    picture = {
        "data": "data:image/png;base64,AAAA",
        "width": 9,
        "height": 9,
        "truth": "red",
        "predicted": "blue",
        "confidence": 0.9,
        "name": "n",
    }
    (copy / "report.json").write_text(json.dumps(facts | {"mistakes": [picture]}))
    assert 'src="data:image/png;base64,AAAA"' in swinkit.report(copy).page.read_text()
    (copy / "report.json").write_text(json.dumps(facts | {"mistakes": [picture | {"data": "http://elsewhere/x.png"}]}))
    page = swinkit.report(copy).page.read_text()
    assert "elsewhere" not in page
    assert "The pictures in report.json cannot be read" in page


def test_a_checkpoint_leads_to_its_run(trained, tmp_path):
    assert swinkit.report(trained.run / "best", out=tmp_path / "x.html").runs[0].name == trained.run.name


def test_two_runs_side_by_side(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = swinkit.report(*two)
    assert made.page.resolve() == tmp_path / "compare.html"
    assert [line.split()[0] for line in made.table().splitlines()] == ["run", "one", "two"]
    assert "80.0 % ± 4.0" in made.table()
    assert made.differences == {"epochs": ["3", "2"], "lr": ["0.001", "0.002"], "smoothing": ["not set", "0.1"]}
    assert made.warnings == made.problems == ()
    html = made.page.read_text()
    page = Page(html)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags["figure"] == 6
    assert "B is best on the test images: 90.0 %, 10.0 points before A." in page.text
    assert "at most about 5.0 points, so it is more than chance" in page.text or "could be chance" in page.text
    assert html.count("stroke-dasharray: none") == 1, "the legend's second line has dashes"


def test_small_leads_are_called_chance(tmp_path):
    runs = [make_run(tmp_path / "a", right=80), make_run(tmp_path / "b", right=82)]
    assert "so it could be chance" in swinkit.report(*runs, out=tmp_path / "c.html").page.read_text()


@pytest.mark.parametrize(
    "changes", [{"images": "test of other"}, {"count": 99}, {"config": {"data": "/elsewhere/animals"}}, {"classes": ("cat", "dog", "fox")}]
)
def test_other_test_images_are_warned_about(two, tmp_path, changes):
    content = scores(90, changes.get("count", 100), changes.get("images", "test of animals"))
    if "classes" in changes:
        content["classes"] = list(changes["classes"])
        content["per_class"][2]["name"] = "fox"
    (two[1] / "scores-test.json").write_text(json.dumps(content))
    if "config" in changes:
        (two[1] / "config.yaml").write_text(yaml.safe_dump(read_run(two[1]).config | changes["config"]))
    made = swinkit.report(*two, out=tmp_path / "c.html")
    assert "not scored on the same images" in made.warnings[0]
    page = Page(made.page.read_text())
    assert "not scored on the same images" in page.text
    assert "is best" not in page.text


def test_other_validation_images_are_warned_about(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)]
    (warning,) = swinkit.report(*runs, out=tmp_path / "c.html").warnings
    assert "seeds" in warning


def test_an_unfinished_run_gets_a_page_with_curves(tmp_path):
    folder = make_run(tmp_path / "run", epochs=1, scored=False)
    made = swinkit.report(folder)
    page = Page(made.page.read_text())
    assert "1 of 3 epochs are done" in page.text
    assert "It has no checkpoint yet" in page.text
    assert page.tags["figure"] == 4
    assert not made.runs[0].finished


def test_a_trained_but_unscored_run_says_how_to_score(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained.run, copy, symlinks=True)
    (copy / "scores-test.json").unlink()
    assert f"not scored yet. To score it: swinkit train --resume {copy}" in swinkit.report(copy).page.read_text()


def test_a_run_that_has_recorded_nothing(tmp_path):
    made = swinkit.report(make_run(tmp_path / "run", scored=False, history=[]))
    assert "holds no finite value yet" in made.page.read_text()
    swinkit.report(made.runs[0].folder, make_run(tmp_path / "b", scored=False, history=[]), out=tmp_path / "c.html")


def test_nan_and_infinity_reach_no_json(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(
            '{"kind": "val", "step": 20, "epoch": 5, "loss": NaN, "top1": NaN}\n{"kind": "train", "step": Infinity, "images_per_s": NaN}\n'
        )
    assert run(["report", str(folder), str(make_run(tmp_path / "b")), "--out", str(tmp_path / "c.html"), "--json"]) == 0
    out = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert [row["val_top1"] for row in out["runs"]] == pytest.approx([0.8 - 0.1 / 3] * 2)
    assert "A: Its loss was not finite." in Page((tmp_path / "c.html").read_text()).text


def test_a_run_that_is_nothing_but_nan(tmp_path):
    nothing = [{"kind": kind, "step": 1, "epoch": 1, "loss": math.nan, "top1": math.nan} for kind in ("train", "val")]
    (row,) = swinkit.report(make_run(tmp_path / "run", history=nothing, scored=False)).runs
    assert (row.val_top1, row.images_per_s, row.epochs_done) == (None, None, 1)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("scores-test.json", "{", "without scores"),
        ("scores-test.json", "[]", "without scores"),
        ("scores-test.json", '{"count": 3}', "without scores"),
        ("report.json", "{", "report.json cannot be read"),
        ("metrics.jsonl", '{"kind": "tr\n[1]\n{"kind": "val", "step": 1}\n', "2 lines that cannot be read"),
    ],
)
def test_broken_files_are_named_and_the_rest_is_shown(tmp_path, capsys, file, content, says):
    folder = make_run(tmp_path / "run")
    (folder / file).write_text(content)
    assert run(["report", str(folder)]) == 1
    assert says in capsys.readouterr().err
    assert says in Page((folder / "report.html").read_text()).text


def test_a_last_line_that_was_cut_off_is_no_problem(tmp_path):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    assert swinkit.report(folder).problems == ()


@pytest.mark.parametrize("content", ["[1", "just text", "data: x", "", "\x00"])
def test_what_is_no_configuration_of_a_run(tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(DataError, match="expected the recipe that"):
        swinkit.report(tmp_path / "run")


def test_broken_runs_are_left_out_of_a_comparison(two, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "new" / "c.html"
    assert run(["report", *map(str, two), str(tmp_path / "empty"), str(tmp_path / "none"), "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "empty is not a run folder" in printed.err
    assert "There is no run folder" in printed.err
    assert "There is no run folder" in Page(out.read_text()).text


def test_wrong_usage(two, tmp_path, capsys):
    assert run(["report"]) == 2
    assert run(["report", str(tmp_path / "none")]) == 1
    assert run(["report", *map(str, two), "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "There is no run folder" in err
    assert "is a folder; expected the name of the page" in err
    with pytest.raises(DataError, match="No run was given"):
        swinkit.report()


def test_the_same_run_twice_counts_once(two, tmp_path):
    made = swinkit.report(two[0], two[0] / ".." / "one", two[1], out=tmp_path / "c.html")
    assert [row.name for row in made.runs] == ["one", "two"]


def test_names_are_as_long_as_it_takes_to_tell_them_apart(tmp_path):
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run", tmp_path / "other"]
    assert names(folders) == ["x/run", "y/run", "other"]


def test_letters_and_looks_do_not_run_out():
    assert [letter(place) for place in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
    looks = [(stroke(place).colour, stroke(place).dashes) for place in range(16)]
    assert len(set(looks)) == 16


def test_many_runs_with_long_and_hostile_names(tmp_path):
    folders = ["<script>alert(1)<", "x" * 200, "{{ 7 * 7 }}", "狗", *(f"run {number}" for number in range(8))]
    runs = [make_run(tmp_path / name, right=60 + place) for place, name in enumerate(folders)]
    made = swinkit.report(*runs, out=tmp_path / "c.html")
    page = Page(made.page.read_text())
    assert not {"script", "img"} & set(page.tags)
    assert all(name in page.text for name in folders)
    assert max(map(len, made.table().splitlines())) < 200
    assert made.page.stat().st_size < 600_000
