"""A run that cannot go on says at which step, why, and what is kept; and nothing that was kept is touched."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import swinkit
from conftest import TINY
from swinkit.errors import ConfigError, DataError, TrainingError
from swinkit.train import snapshot
from swinkit.train.loop import Trainer
from swinkit.train.stopping import Interrupted

QUIET = Console(quiet=True)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def at_step(monkeypatch, step, act):
    """Do something to the trainer right after a step."""
    original = Trainer._update

    def update(self):
        original(self)
        if self.step == step:
            act(self)

    monkeypatch.setattr(Trainer, "_update", update)


def interrupt(pictures, run, options, step, monkeypatch):
    """Train until Ctrl-C after a step."""
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda trainer: trainer.stop.set())
        with pytest.raises(Interrupted):
            swinkit.train(pictures, output=run, console=QUIET, **options)


def spoil(trainer):
    torch.nn.init.constant_(trainer.model.head.bias, float("nan"))


def test_nan_names_the_step_and_the_last_good_checkpoint(pictures, tmp_path, monkeypatch):
    at_step(monkeypatch, 9, spoil)
    with pytest.raises(TrainingError, match=r"loss is nan at step 10 .*last good checkpoint is .*step-8\."):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **(TINY | {"checkpoint_steps": 4}))
    assert all(torch.isfinite(p).all() for p in swinkit.from_pretrained(tmp_path / "run" / "last").parameters())
    assert max(record["step"] for record in records(tmp_path / "run")) <= 9


def test_weights_that_broke_are_not_saved(pictures, tmp_path, monkeypatch):
    at_step(monkeypatch, 8, spoil)
    with pytest.raises(TrainingError, match=r"A weight is not finite at step 8 .*step-7\."):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **(TINY | {"checkpoint_steps": 4}))
    assert (tmp_path / "run" / "last").resolve().name == "step-7"


def test_a_diverging_rate_is_caught_in_the_first_steps(pictures, tmp_path):
    options = TINY | {"lr": 30.0, "warmup_epochs": 0.0, "clip_grad": 0.0}
    with pytest.raises(TrainingError, match=r"where guessing gives 1.1: it diverges, at step \d .*no checkpoint yet.*lower --lr"):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **options)


def test_saving_by_steps_and_by_minutes(pictures, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("swinkit.train.loop.save", lambda trainer: (saved.append(trainer.step), snapshot.save(trainer)))
    for options in ({"checkpoint_steps": 3}, {"checkpoint_minutes": 1e-9}, {"checkpoint_minutes": 0.0}):
        saved.append(sorted(options.items()))
        swinkit.train(pictures, output=tmp_path / str(len(saved)), console=QUIET, **(TINY | {"epochs": 2} | options))
    assert saved == [
        [("checkpoint_steps", 3)], 3, 6, 7, 9, 12, 14,
        [("checkpoint_minutes", 1e-9)], *range(1, 15),
        [("checkpoint_minutes", 0.0)], 7, 14,
    ]  # fmt: skip


def test_a_run_without_a_checkpoint_starts_again(trained, tmp_path):
    """Whatever it logged before it was killed is forgotten."""
    run = tmp_path / "run"
    code = f"""
import os, swinkit, swinkit.train.loop
swinkit.train.loop.save = lambda trainer: os._exit(9)
swinkit.train(recipe={str(trained.run / "config.yaml")!r}, output={str(run)!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == 9, killed.stderr
    assert records(run)
    assert not (run / "last").exists()
    swinkit.train(resume=run, console=QUIET)
    assert [(r["step"], r["loss"]) for r in records(run)] == [(r["step"], r["loss"]) for r in records(trained.run)]


def test_muon_resumes_bit_for_bit(pictures, tmp_path, monkeypatch):
    options = TINY | {"opt": "muon", "weight_init": "local", "model_ema": True}
    whole = swinkit.train(pictures, output=tmp_path / "whole", console=QUIET, **options).run
    interrupt(pictures, tmp_path / "run", options, 10, monkeypatch)
    swinkit.train(resume=tmp_path / "run", console=QUIET)
    assert [(r["step"], r["loss"]) for r in records(tmp_path / "run")] == [(r["step"], r["loss"]) for r in records(whole)]
    with pytest.raises(ConfigError, match="whole matrices"):
        swinkit.train(pictures, output=tmp_path / "no", console=QUIET, shard=True, opt="muon")


def test_clamped_accumulation_resumes_with_the_same_steps(pictures, tmp_path, monkeypatch):
    """60 images make 3 batches of 20 where 8 are asked for."""
    options = TINY | {"batch_size": 20, "grad_accum_steps": 8, "epochs": 6}
    whole = swinkit.train(pictures, output=tmp_path / "whole", console=QUIET, **options).run
    interrupt(pictures, tmp_path / "run", options, 2, monkeypatch)
    swinkit.train(resume=tmp_path / "run", console=QUIET)
    assert [(r["step"], r["loss"]) for r in records(tmp_path / "run")] == [(r["step"], r["loss"]) for r in records(whole)]


def test_a_copy_without_links_goes_on(pictures, tmp_path, monkeypatch):
    """`cp -rL` and object stores put folders where links were."""
    interrupt(pictures, tmp_path / "run", TINY, 10, monkeypatch)
    shutil.copytree(tmp_path / "run", tmp_path / "copy", symlinks=False)
    for run in ("run", "copy"):
        swinkit.train(resume=tmp_path / run, console=QUIET)
    assert (tmp_path / "copy" / "last").is_symlink()
    assert [(r["step"], r["loss"]) for r in records(tmp_path / "copy")] == [(r["step"], r["loss"]) for r in records(tmp_path / "run")]


@pytest.mark.skipif(os.name == "nt", reason="record locks")
def test_a_run_is_trained_by_one_process_at_a_time(trained):
    code = (
        f"import fcntl\nfile = open({str(trained.run / '.lock')!r}, 'a')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint('locked', flush=True)\n"
    )
    code += "input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(DataError, match="trained by another process"):
        swinkit.train(resume=trained.run, console=QUIET)
    other.communicate("go\n")
    assert swinkit.train(resume=trained.run, console=QUIET).scores.count == trained.scores.count


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_twice_still_saves(pictures, tmp_path, monkeypatch):
    """A scheduler's, to the process and to its group."""

    def twice(trainer):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    at_step(monkeypatch, 3, twice)
    with pytest.raises(Interrupted):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **TINY)
    assert (tmp_path / "run" / "last").resolve().name == "step-3"


FULL = """
import resource, signal, sys, swinkit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from swinkit.train.loop import Trainer
original = Trainer._update
def update(self):
    original(self)
    if self.step == 9:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
Trainer._update = update
from swinkit.cli import run
sys.exit(run(sys.argv[1:]))
"""


def check_interrupted_by_the_disk(code, arguments, run):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "go on with: swinkit train --resume" in done.stderr
    last = (run / "last").resolve()
    assert last.name in done.stderr
    assert swinkit.from_pretrained(last).num_classes == 3
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")] == []


def arguments_for(pictures, run, epochs):
    options = ["--model", TINY["model"], "--img-size", "16", "--epochs", str(epochs), "--batch-size", "8", "--threads", "1"]
    return ["train", pictures, "--output", run, "--no-amp", "--lr", "2e-3", "--checkpoint-steps", "2", *options]


@pytest.mark.skipif(os.name == "nt", reason="file size limits")
def test_a_file_that_cannot_grow_leaves_the_last_checkpoint_whole(pictures, tmp_path):
    run = tmp_path / "run"
    check_interrupted_by_the_disk(FULL, arguments_for(pictures, run, 3), run)
    assert (run / "last").resolve().name == "step-8"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    swinkit.train(resume=run, console=QUIET)
    assert (run / "report.html").exists()


FILL = """
from swinkit.train import loop, snapshot
def save(trainer):
    snapshot.save(trainer)
    with open({film!r}, "ab", buffering=0) as film:
        try:
            while True:
                film.write(bytes(1 << 16))
        except OSError:
            pass
loop.save = save
"""


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 40 MB, which needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
def test_a_full_disk_leaves_the_last_checkpoint_whole(pictures, small_disk):
    """Somebody else fills the disk after the first checkpoint; once there is room again, the run goes on to its end."""
    run = small_disk / "run"
    fill = FILL.format(film=str(small_disk / "film"))
    code = f"import sys{fill}from swinkit.cli import run\nsys.exit(run(sys.argv[1:]))"
    check_interrupted_by_the_disk(code, arguments_for(pictures, run, 3), run)
    Path(small_disk / "film").unlink()
    swinkit.train(resume=run, console=QUIET)
    assert (run / "report.html").exists()
