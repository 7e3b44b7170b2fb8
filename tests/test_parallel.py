"""Two processes train like one with the same batch: replicated, sharded, interrupted, and in another number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

import swinkit
from conftest import TINY
from swinkit.errors import ConfigError, DataError, TrainingError
from swinkit.train.parallel import BlockDropPath
from swinkit.train.recipe import load_recipe
from swinkit.train.run import Run
from swinkit.train.session import same_steps
from swinkit.train.world import World

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

TWO = TINY | {"model_ema": True, "model_ema_decay": 0.9, "mixup": 0.8, "cutmix": 1.0, "drop_path": 0.3, "grad_accum_steps": 2}
"""Everything that draws: mixing with neighbours, stochastic depth, augmentation; and what is averaged."""
TWO["val_fraction"] = 0.15  # 9 of the 60 training pictures, which two processes cannot share evenly
ONE_BATCH, HALF_BATCH = {"batch_size": 8}, {"batch_size": 4}


@pytest.fixture(scope="module")
def alone(pictures, tmp_path_factory):
    """The run in one process that the others are compared with."""
    output = tmp_path_factory.mktemp("alone") / "run"
    return swinkit.train(pictures / "train", output=output, console=Console(quiet=True), **(TWO | ONE_BATCH)).run


def curve(run):
    """(step, kind) -> loss, and accuracy"""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {(r["step"], r["kind"]): (r["loss"], r.get("accuracy", r.get("top1"))) for r in records}


def assert_same_curve(one, other):
    ours, theirs = curve(one), curve(other)
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        assert values == pytest.approx(theirs[key], abs=1e-5), key


def flags(options):
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "swinkit", "train"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def test_two_processes_equal_one(alone, pictures, tmp_path):
    """And return what one returns."""
    console = Console(quiet=True)
    result = swinkit.train(pictures / "train", output=tmp_path / "run", nproc=2, console=console, **(TWO | HALF_BATCH))
    assert_same_curve(alone, result.run)
    assert result.scores.count == 9
    assert {path.name for path in result.run.iterdir()} == {path.name for path in alone.iterdir()}
    with pytest.raises(DataError, match="not empty"):
        swinkit.train(pictures / "train", output=tmp_path / "run", nproc=2, console=console, **(TWO | HALF_BATCH))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_sharded_then_killed_then_alone(alone, pictures, tmp_path):
    """Two processes hold half of the weights each; after SIGKILL one process goes on from their checkpoint."""
    run = tmp_path / "run"
    options = TWO | HALF_BATCH | {"shard": True, "grad_checkpointing": True, "checkpoint_steps": 1, "epochs": TWO["epochs"]}
    command = [sys.executable, "-m", "swinkit", "train", str(pictures / "train"), "--nproc", "2", "--output", str(run), *flags(options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (run / "last").exists() and process.poll() is None:
        time.sleep(0.02)
    # The processes that train are in sessions of their own, so that they are found as the children of the one that started them.
    for pid in [*map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert len(list((run / "last" / "training").glob("*.safetensors"))) == 2, "a part from each process"
    assert swinkit.from_pretrained(run).num_classes == 3
    swinkit.train(resume=run, console=Console(quiet=True))
    assert_same_curve(alone, run)


def test_torchrun_sharded_equals_one(alone, pictures, tmp_path):
    """In lean memory, which makes again what the weights that come and go were for."""
    done = torchrun(pictures / "train", "--output", tmp_path / "run", *flags(TWO | HALF_BATCH | {"shard": True, "memory": "lean"}))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("validation accuracy") == 1, "one process talks"
    assert_same_curve(alone, tmp_path / "run")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_saves_once_and_exits_with_130(pictures, tmp_path):
    run = tmp_path / "run"
    options = TINY | {"epochs": 500, "batch_size": 4}
    command = [sys.executable, "-m", "swinkit", "train", str(pictures), "--nproc", "2", "--output", str(run), *flags(options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
    while not (run / "last").exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.count("Everything is saved") == 1, said
    assert "Traceback" not in said
    assert (run / "last" / "training" / "state.safetensors").exists()
    with pytest.raises(ConfigError, match="8 images in a step, which 3 processes cannot share"):
        same_steps(load_recipe(run / "config.yaml"), Run(run), World(size=3))


def test_an_error_is_raised_as_it_is_and_once(pictures, tmp_path):
    broken = tmp_path / "data"
    shutil.copytree(pictures, broken)
    (broken / "train" / "red" / "003.png").write_bytes(b"no picture")
    with pytest.raises((DataError, ValueError), match=r"003\.png"):
        swinkit.train(broken, output=tmp_path / "run", nproc=2, console=Console(quiet=True), **TINY)
    with pytest.raises(TrainingError, match=r"diverges|not finite|loss is"):
        swinkit.train(pictures, output=tmp_path / "run2", nproc=2, console=Console(quiet=True), **(TINY | {"lr": 1e20, "clip_grad": 0.0}))


def many_classes(folder, count):
    for number in range(count):
        for split in ("train", "val"):
            (folder / split / f"class-{number:03}").mkdir(parents=True)
            Image.new("RGB", (16, 16), (2 * number, 90, 200 - number)).save(folder / split / f"class-{number:03}" / f"{split}.png")


def test_a_large_result_comes_back(tmp_path):
    """120 classes: their confusion matrix does not fit into a pipe at once."""
    many_classes(tmp_path / "data", 120)
    options = TINY | {"epochs": 1, "batch_size": 30}
    result = swinkit.train(tmp_path / "data", output=tmp_path / "run", nproc=2, console=Console(quiet=True), **options)
    assert result.scores.confusion.shape == (120, 120)


@pytest.mark.parametrize(("nproc", "says"), [(0, "at least 1"), (-1, "at least 1")])
def test_numbers_of_processes_that_cannot_be(nproc, says):
    with pytest.raises(ConfigError, match=says):
        swinkit.train(nproc=nproc)


def test_torchrun_and_nproc_exclude_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"):
        swinkit.train(nproc=2)
    with pytest.raises(ConfigError, match="RANK"):
        swinkit.train(console=Console(quiet=True))


def test_stochastic_depth_of_a_part_is_that_of_the_whole():
    whole = BlockDropPath(0.5, World()).train()
    parts = [BlockDropPath(0.5, World(rank, 3)).train() for rank in range(3)]
    branch = torch.ones(12, 2, 2, 4)
    drawn = []
    for module, rows in ((whole, branch), *((part, branch[:4]) for part in parts)):
        torch.manual_seed(7)
        drawn.append(module(rows))
    assert torch.equal(drawn[0], torch.cat(drawn[1:]))
    assert 0 < int((drawn[0] == 0).sum()) < drawn[0].numel()
