"""The page is whole, loads nothing, says what the numbers say, and survives whatever a run hands it."""

import base64
import io
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from swinkit.report import MistakePicture, Report, write_report
from swinkit.report.charts import charts
from swinkit.report.classes import confusions, matrix, weakest_first
from swinkit.report.history import line, not_finite
from swinkit.report.page import render
from swinkit.report.reliability import reliability
from swinkit.tasks.classify import Scorer, Scores

TEN = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
VOID = {"meta", "img", "br", "path", "use", "rect", "link", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed out of turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@cache
def scores_of(classes: tuple[str, ...], spread: float = 2.0) -> Scores:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(classes), (20 * len(classes),), generator=generator)
    logits = torch.randn(len(labels), len(classes), generator=generator) * spread
    logits[torch.arange(len(labels)), labels] += 4
    scorer = Scorer(classes)
    scorer.update(logits, labels)
    return scorer.compute()


def history_of(epochs: int, steps: int = 4) -> list[dict[str, Any]]:
    trained = [
        {"kind": "train", "step": step, "epoch": step / steps, "loss": 2 / (1 + step), "accuracy": 0.5, "lr": 1e-3, "images_per_s": 900.0}
        for step in range(epochs * steps + 1)
    ]
    checked = [{"kind": "val", "step": steps * (e + 1), "epoch": e, "loss": 1.0, "top1": 0.9 - 0.1 / (e + 1)} for e in range(epochs)]
    return trained + checked


def pictures(count: int, size: tuple[int, int] = (28, 28), name: str = "a.png") -> list[MistakePicture]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size), dtype=np.uint8)
    return [MistakePicture(Image.fromarray(one), "Shirt", "Coat", 0.97, name) for one in pixels]


def report_of(classes: Sequence[str] = TEN, **changes: Any) -> Report:
    plain = Report("A run", "swinkit train", {"parameters": "1.2 M", "seed": "0"}, scores_of(tuple(classes)), "the test split")
    return Report(**{**vars(plain), **changes})


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "كلب", "狗", "$x_1$")
CASES: dict[str, Report] = {
    "ten": report_of(history=history_of(30), mistakes=pictures(24), config="a: 1", next_steps=["swinkit predict run photo.png"]),
    "two": report_of(("cat", "dog"), history=history_of(2), mistakes=pictures(2, (300, 400))),
    "hundred": report_of([f"species {i}" for i in range(100)]),
    "one point": report_of(history=history_of(1)[:1]),
    "only nan": report_of(history=[{"kind": "val", "step": 1, "epoch": 1, "loss": math.nan, "top1": math.nan}]),
    "odd records": report_of(history=[{"kind": "train", "loss": None}, {"kind": "event"}, {"step": 2}]),
    "hostile": report_of(
        HOSTILE, title=HOSTILE[0], command=HOSTILE[0], test_name=HOSTILE[1], summary={HOSTILE[0]: HOSTILE[1]}, config=HOSTILE[0]
    ),
    "hostile file": report_of(history=history_of(3), mistakes=pictures(1, name=HOSTILE[1]), next_steps=[HOSTILE[0]]),
    "no mistake": report_of(scores=scores_of(TEN, 0.0)),
}


@cache
def html_of(case: str) -> str:
    return render(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_loads_nothing(case: str) -> None:
    html = html_of(case)
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert all(source.startswith("data:image/") for source in page.all("src"))
    assert not page.all("href")
    assert not re.search(r"url\((?!#)|@import", html)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


@pytest.mark.parametrize("case", ["ten", "two"])
def test_ids_are_unique_and_references_lead_somewhere(case: str) -> None:
    html = html_of(case)
    page = Page(html)
    ids = Counter(page.all("id"))
    assert max(ids.values()) == 1
    wanted = (
        {link.removeprefix("#") for link in page.all("xlink:href")}
        | set(re.findall(r"url\(#([^)]*)\)", html))
        | set(page.all("aria-labelledby"))
    )
    assert wanted
    assert wanted <= set(ids)


def test_every_picture_has_words() -> None:
    page = Page(html_of("ten"))
    assert len(page.all("alt")) == page.tags["img"] == 24
    assert set(page.all("alt")) == {"Shirt, taken for Coat"}
    assert "model says Coat, 97\xa0%" in page.text


def test_hostile_names_are_shown_as_text() -> None:
    page = Page(html_of("hostile"))
    assert page.tags["img"] == 0
    assert all(name in page.text for name in HOSTILE)


def test_headlines() -> None:
    scores = CASES["ten"].scores
    text = Page(html_of("ten")).text
    assert f"test accuracy{100 * scores.top1:.1f}\xa0%± {100 * scores.top1_standard_error:.1f} standard error" in text
    assert f"calibration error{100 * scores.ece:.1f}\xa0%" in text
    assert "top-5 accuracy" in text
    assert "parameters1.2 M" in text
    assert "top-5 accuracy" not in Page(html_of("two")).text


def test_a_softmax_is_never_called_certain() -> None:
    picture = MistakePicture(Image.new("L", (8, 8)), "a", "b", 0.9999, "x")
    text = Page(render(report_of(mistakes=[picture]))).text
    assert ">\xa099\xa0%" in text


def test_small_images_keep_every_pixel_and_photographs_are_shrunk() -> None:
    def decoded(case: str) -> Image.Image:
        source = Page(html_of(case)).all("src")[0]
        return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))

    small, large = decoded("ten"), decoded("two")
    assert small.format == "PNG"
    assert small.tobytes() == CASES["ten"].mistakes[0].image.tobytes()
    assert (large.format, large.size) == ("JPEG", (320, 240))
    assert CASES["two"].mistakes[0].image.size == (400, 300)


def test_curves_take_the_colours_of_the_page() -> None:
    drawn = charts(history_of(3))
    assert [chart.title for chart in drawn] == ["Loss", "Accuracy", "Learning rate", "Images per second"]
    assert "var(--one)" in drawn[0].svg
    assert "var(--two)" in drawn[0].svg
    assert not any(re.search(r"#[0-9a-f]{6}\b|font-family|<style|<metadata", chart.svg) for chart in drawn)
    assert drawn[0].words == ("training: 0.154 at the end, lowest 0.154", "validation: 1 at the end, lowest 1")
    assert drawn[1].words[1] == "validation: 86.7\xa0% at the end, best 86.7\xa0%"


def test_a_second_line_differs_by_more_than_colour() -> None:
    drawn = charts(history_of(3))
    assert [chart.svg.count("stroke-dasharray") for chart in drawn] == [1, 1, 0, 0]


def test_gradient_norms_are_drawn_where_there_are_any_and_unknown_keys_are_not() -> None:
    records = [record | {"grad_norm": 1.0, "something": [1]} for record in history_of(3) if record["kind"] == "train"]
    assert [chart.title for chart in charts(records)][-1] == "Gradient norm"
    assert charts(records)[-1].words == ("before clipping: 1 at the end, highest 1",)
    records[5]["grad_norm"] = 1e6
    records[6]["grad_norm"] = math.inf
    assert "highest 1e+06" in charts(records)[-1].words[0]


def test_a_resumed_run_has_a_mark_in_every_curve_and_all_its_commands() -> None:
    first = {"time": "2030-01-02T03:04:05Z", "command": "swinkit train --epochs 3", "step": 0, "seconds": 61, "versions": {"torch": "2.14"}}
    again = first | {"time": "2030-01-03T00:00:00Z", "command": "swinkit train --resume run", "step": 6, "versions": {"torch": "2.15"}}
    del again["seconds"]
    plain, html = (render(report_of(history=history_of(3), sessions=sessions)) for sessions in ([first], [first, again]))
    text = Page(html).text
    assert "Started, 2030-01-02 03:04:05 UTC, ran for 1 min 1 s" in text
    assert "Resumed at step 6, 2030-01-03 00:00:00 UTC" in text
    assert "swinkit train --resume run" in text
    assert "torch: 2.15 instead of 2.14" in text
    assert "resumed" not in Page(plain).text
    assert html.count("stroke-dasharray") == plain.count("stroke-dasharray") + 4


def test_calibration_in_words() -> None:
    scorer = Scorer(("a", "b"))
    sure = torch.tensor([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 2).log()
    scorer.update(sure, torch.tensor([0] * 7 + [1] * 3 + [1, 1]))
    told = reliability(scorer.compute())
    assert told is not None
    assert told.words[0] == "On average it says 85.0\xa0% and is right 75.0\xa0% of the time: 10.0 points too sure."
    assert told.words[1].endswith("where it says about 90\xa0% (10 images), it is right 70\xa0% of the time.")
    assert told.words[2].startswith("The calibration error (ECE) is 23.3\xa0%")
    assert told.rows == (("60\xa0% to 67\xa0%", "2", "60.0\xa0%", "100.0\xa0%"), ("87\xa0% to 93\xa0%", "10", "90.0\xa0%", "70.0\xa0%"))
    assert all(words in Page(render(report_of(scores=scorer.compute()))).text for words in told.words)


def test_scores_without_bins_have_no_diagram() -> None:
    page = Page(render(report_of(scores=replace(scores_of(TEN), calibration=()))))
    assert "confidence be believed" not in page.text


def test_a_report_without_scores_has_curves_and_says_why() -> None:
    page = Page(render(report_of(scores=None, history=history_of(2), notices=["This run is unfinished."])))
    assert "This run is unfinished." in page.text
    assert "validation accuracy85.0\xa0%the best so far" in page.text
    assert page.tags["svg"] == 5
    assert "Classes" not in page.text


def test_a_validation_stands_after_the_steps_it_followed() -> None:
    assert line("validation", history_of(3), "val", "loss").x.tolist() == [1, 2, 3]
    alone = [{"kind": "val", "step": 8, "epoch": 2, "loss": 1.0}]
    assert line("validation", alone, "val", "loss").x.tolist() == [2]


def test_long_histories_are_averaged_without_losing_what_is_finite() -> None:
    records = [{"kind": "train", "step": i, "epoch": i / 100, "loss": math.nan if i % 2 else float(i)} for i in range(900)]
    one = line("training", records, "train", "loss")
    assert (one.records_per_point, len(one.x)) == (3, 300)
    assert one.x[:2].tolist() == pytest.approx([0.01, 0.04])
    assert one.y[:2].tolist() == [1.0, 4.0]


def test_a_loss_that_is_not_finite_is_said_out_loud() -> None:
    records = history_of(2)
    assert not_finite(records) is None
    records[3]["loss"] = math.inf
    assert "training loss was not finite at step 3" in Page(render(report_of(history=records))).text
    assert "not finite" not in Page(html_of("ten")).text


def test_matrix_confusions_and_ranking() -> None:
    scorer = Scorer(("a", "b", "c", "d"))
    predicted = torch.tensor([0, 1, 1, 1, 2, 2, 2, 0])
    scorer.update(torch.eye(4)[predicted] * 9, torch.tensor([0, 0, 0, 1, 2, 2, 2, 2]))
    scores = scorer.compute()
    assert [(one.truth, one.predicted, one.count, one.total) for one in confusions(scores, 9)] == [("a", "b", 2, 3), ("c", "a", 1, 4)]
    assert [score.name for score in weakest_first(scores)] == ["a", "c", "b", "d"]
    name, cells = matrix(scores)[2]
    assert (name, [cell.count for cell in cells], [cell.shade for cell in cells]) == ("c", [1, 0, 3, 0], [50, 0, 75, 0])
    assert cells[0].title == "1 of 4 c called a (25.0 %)"


def test_the_matrix_gives_way_to_a_list_above_forty_classes() -> None:
    assert 'class="matrix' in render(report_of([str(i) for i in range(40)]))
    page = render(report_of([str(i) for i in range(41)]))
    assert 'class="matrix' not in page
    assert 8 < Page(page).tags["li"] <= 40


def test_the_file_is_small_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "report.html"
    write_report(path, CASES["ten"])
    assert path.stat().st_size < 300_000
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_file_name_that_is_not_utf8_does_not_stop_the_report(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report_of(mistakes=pictures(1, name=os.fsdecode(b"caf\xe9.png"))))
    assert "caf?.png" in (tmp_path / "report.html").read_text("utf-8")


def test_a_failed_write_leaves_the_old_report_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(path, CASES["hundred"])
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_report(path, CASES["two"])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
