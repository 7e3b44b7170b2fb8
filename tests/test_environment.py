"""environment.json: what is recorded, when, and what is not."""

import json
import platform

import pytest
import torch
from rich.console import Console

import swinkit
from conftest import TINY
from swinkit.environment import describe_environment, package_version, read_environment, record_environment, record_seconds, total_seconds
from swinkit.train.loop import Interrupted, Trainer


def test_the_environment_holds_what_numbers_depend_on(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SWINKIT_CACHE", "here")
    found = json.loads(json.dumps(describe_environment()))
    assert set(found) == {"versions", "platform", "cpu", "gpus", "threads", "processes", "variables"}
    assert set(found["versions"]) == {"swinkit", "python", "torch", "torchvision", "numpy", "pillow"}
    assert found["versions"]["python"] == platform.python_version()
    assert "missing" not in found["versions"].values()
    assert (found["threads"], found["processes"]) == (torch.get_num_threads(), 1)
    assert found["variables"] == found["variables"] | {"OMP_NUM_THREADS": "1", "SWINKIT_CACHE": "here"}


def test_nothing_private_is_recorded(monkeypatch):
    for name in ("SWINKIT_API_KEY", "PYTORCH_TOKEN", "SWINKIT_PASSWORD", "HOME", "MY_SWINKIT_X"):
        monkeypatch.setenv(name, "private-value")
    told = json.dumps(describe_environment())
    assert "private-value" not in told
    assert platform.node() not in told


def test_a_package_that_is_not_there():
    assert package_version("no-such-package-at-all") == "missing"


def test_sessions_are_appended_and_timed_however_they_end(tmp_path):
    record_environment(tmp_path, "first")
    with pytest.raises(KeyboardInterrupt), record_environment(tmp_path, "second", step=7):
        raise KeyboardInterrupt
    first, second = read_environment(tmp_path)
    assert (first["command"], first["step"], "seconds" in first) == ("first", 0, False)
    assert (second["command"], second["step"]) == ("second", 7)
    assert 0 <= second["seconds"] < 60
    assert [path.name for path in tmp_path.iterdir()] == ["environment.json"]
    assert total_seconds([first, second]) == (second["seconds"], False)
    assert total_seconds([]) == (0.0, False)


@pytest.mark.parametrize("content", ["", "{", "{}", "3", '[1, {"command": "kept"}]'])
def test_a_broken_file_is_read_as_far_as_it_goes(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    assert [session["command"] for session in read_environment(tmp_path)] == (["kept"] if "kept" in content else [])
    record_seconds(tmp_path, 1.0)


def test_training_records_each_of_its_sessions(pictures, tmp_path, monkeypatch):
    step = Trainer._step

    def stop_at(self, batches):
        step(self, batches)
        if self.step == 3:
            self.stop.set()

    console = Console(quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop_at)
        with pytest.raises(Interrupted):
            swinkit.train(pictures, output=tmp_path / "run", console=console, command="swinkit train --mine", **(TINY | {"epochs": 1}))
    swinkit.train(resume=tmp_path / "run", console=console)
    sessions = read_environment(tmp_path / "run")
    assert [session["step"] for session in sessions] == [0, 3]
    assert sessions[0]["command"] == "swinkit train --mine"
    assert "--resume" in sessions[1]["command"]
    assert total_seconds(sessions)[1]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "swinkit train --mine" in page
    assert "Resumed at step 3" in page
