"""What is plugged in beside metrics.jsonl gets every record once, also over an interruption, and cannot end a run."""

import json
import sys

import pytest
from rich.console import Console

import swinkit
from conftest import TINY
from swinkit.errors import ConfigError
from swinkit.train.loop import Trainer
from swinkit.train.stopping import Interrupted

QUIET = Console(quiet=True)
KEPT = []
"""What the loggers of this module were told: ("start" | "log" | "flush" | "close", ...)"""


class Keeper:
    """Keeps what it is told."""

    def __init__(self, folder, config, resumed_at):
        KEPT.append(("start", folder.name, config["epochs"], resumed_at))

    def log(self, record):
        KEPT.append(("log", record["kind"], record["step"], record["loss"]))

    def flush(self):
        KEPT.append(("flush",))

    def close(self):
        KEPT.append(("close",))


class Breaker(Keeper):
    """Its network is gone."""

    def log(self, record):
        raise ConnectionError("no route to the tracker")


@pytest.fixture(autouse=True)
def _forget():
    KEPT.clear()


def logged():
    return [entry[1:] for entry in KEPT if entry[0] == "log"]


def test_a_logger_gets_every_record_also_over_an_interruption(pictures, tmp_path, monkeypatch):
    original = Trainer._step

    def stop_at(self, micros):
        original(self, micros)
        if self.step == 5:
            self.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop_at)
        with pytest.raises(Interrupted):
            swinkit.train(pictures, output=tmp_path / "run", console=QUIET, loggers=[Keeper], **(TINY | {"epochs": 2}))
    assert KEPT[0] == ("start", "run", 2, 0)
    assert KEPT[-2:] == [("flush",), ("close",)]
    swinkit.train(resume=tmp_path / "run", console=QUIET, loggers=["test_loggers:Keeper"])
    assert ("start", "run", 2, 5) in KEPT
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged() == [(line["kind"], line["step"], line["loss"]) for line in lines]


def test_a_logger_that_fails_is_left_out_and_said_once(pictures, tmp_path, capfd):
    swinkit.train(pictures, output=tmp_path / "run", console=QUIET, loggers=[Breaker, Keeper], **(TINY | {"epochs": 1}))
    assert capfd.readouterr().err.count("Breaker failed and gets no more records (no route to the tracker)") == 1
    assert len(logged()) == 8


def unmade(*arguments):
    raise ConnectionError("no key")


def test_a_logger_that_cannot_be_made_is_left_out(pictures, tmp_path, capfd):
    swinkit.train(pictures, output=tmp_path / "run", console=QUIET, loggers=[unmade, Keeper], **(TINY | {"epochs": 1}))
    assert "unmade cannot be made and gets no records (no key)" in capfd.readouterr().err
    assert len(logged()) == 8


def test_a_logger_in_the_current_folder_is_found(pictures, tmp_path, monkeypatch):
    (tmp_path / "my_trackers.py").write_text("from test_loggers import Keeper\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    swinkit.train(pictures, output=tmp_path / "run", console=QUIET, loggers=["my_trackers:Keeper"], **(TINY | {"epochs": 1}))
    assert len(logged()) == 8


@pytest.mark.parametrize("name", ["wandb", "test_loggers:Nobody", "no_such_package:make"])
def test_a_logger_that_is_not_there(name, pictures, tmp_path):
    with pytest.raises(ConfigError, match=r'expected "package.module:function"'):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, loggers=[name], **TINY)
    assert not (tmp_path / "run").exists()
