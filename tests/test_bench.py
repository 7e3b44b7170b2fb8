"""Measuring says what was measured, and its advice follows from the numbers."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

import swinkit
from conftest import TINY
from swinkit.bench import timing
from swinkit.bench.step import Step
from swinkit.bench.timing import rate
from swinkit.bench.verdict import expected, verdict
from swinkit.cli import run
from swinkit.data import open_data
from swinkit.errors import ConfigError, InputError, UnknownNameError
from swinkit.train.plan import plan_model
from swinkit.train.recipe import Recipe

SMALL = {"model": TINY["model"], "img_size": 16, "batch_size": 8}


def test_a_rate_is_the_median_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    images = iter([1, 9, 5, 3, 7, 2, 8])
    measured = rate(lambda: next(images), 0.5)
    assert (measured.median, measured.low, measured.high) == (5, 2, 8)


def test_a_round_lasts_as_long_as_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    done: list[int] = []
    assert rate(lambda: done.append(1) or 10, 4 * timing.ROUNDS).median == 10
    assert len(done) == 4 * timing.ROUNDS


@pytest.mark.parametrize(
    ("loading", "training", "asked", "on_cpu", "said"),
    [
        (
            {0: 180, 1: 170, 2: 340, 4: 700},
            420,
            0,
            False,
            "slower side is the data: 180 images/s with --workers 0.*use --workers 4 .about 420",
        ),
        ({0: 180, 1: 170, 2: 500, 4: 900}, 420, 0, False, r"use --workers 2 \(about 420 images/s together, instead of 126\)"),
        ({0: 180, 1: 170, 2: 340}, 900, 2, False, "slower side is the data.*do not help: store the images"),
        ({0: 9000, 2: 9000}, 420, 0, False, "slower side is the model: 420 images/s, against 9,000 .*the data keeps up"),
        ({0: 180, 2: 360}, 420, 0, True, r"use --workers 2 \(about 194 images/s together, instead of 126\)"),
        ({0: 9000, 2: 18000}, 420, 2, True, "slower side is the model.*keeps up"),
    ],
)
def test_verdicts(loading: dict[int, float], training: float, asked: int, on_cpu: bool, said: str) -> None:
    assert re.search(said, verdict(loading, training, asked, on_cpu)), verdict(loading, training, asked, on_cpu)


def test_what_the_two_sides_reach_together() -> None:
    assert expected({0: 100, 2: 300}, 100, 0, on_cpu=False) == pytest.approx(50)
    assert expected({0: 100, 2: 300}, 100, 2, on_cpu=False) == 100
    assert expected({0: 100, 2: 300}, 100, 2, on_cpu=True) == pytest.approx(75)


def test_a_step_trains_as_the_recipe_says(pictures: Path) -> None:
    recipe = Recipe(**(TINY | {"mixup": 0.8, "lr": 1e-2}))
    config = plan_model(recipe, open_data(pictures))
    step = Step(recipe, config, 8, torch.device("cpu"))
    before = step.model.head.weight.clone()
    assert step.images.shape == (8, 3, 16, 16)
    assert step() == 8
    assert not torch.equal(before, step.model.head.weight)
    assert step.model.training


def test_from_python(pictures: Path) -> None:
    said: list[str] = []
    speed = swinkit.bench.data(pictures, workers=[0], seconds=0.05, say=said.append, **SMALL)
    assert (speed.source, speed.batch, list(speed.loading)) == (str(pictures), (8, 3, 16, 16), [0])
    assert 0 < speed.loading[0].low <= speed.loading[0].median <= speed.loading[0].high
    assert speed.training.median > 0
    assert "images/s" in speed.verdict
    assert len(said) == 2
    assert "Pillow" in " ".join(speed.versions).title()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_on_the_command_line(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--workers", "0", "1", "--seconds", "0.05", "--batch-size", "1000", "--img-size", "16", "--model", TINY["model"]]
    assert run(["bench", "data", str(pictures), *options, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["batch"] == [60, 3, 16, 16]
    assert set(found["loading"]) == {"0", "1"}
    assert "measuring: loading with 1 worker\n" in err
    assert run(["bench", "data", str(pictures), "--workers", "0", *options[3:]]) == 0
    out, _ = capsys.readouterr()
    assert "data,   0 workers" in out
    assert "The slower side is" in out.splitlines()[-1]


def test_mistakes_are_sentences(pictures: Path, tmp_path: Path) -> None:
    for wrong, error in (({"seconds": 0}, ConfigError), ({"workers": [-1]}, ConfigError), ({"workers": []}, ConfigError)):
        with pytest.raises(error):
            swinkit.bench.data(pictures, **wrong)
    with pytest.raises(UnknownNameError):
        swinkit.bench.data("fashion")
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((pictures / "val/red/000.png").read_bytes()[: 300 if name == "b/2.png" else None])
    with pytest.raises(InputError, match=r"b/2\.png"):
        swinkit.bench.data(tmp_path, workers=[0], seconds=0.05, **(SMALL | {"batch_size": 2}), recipe=None)
