"""Kill a training run again and again, at random moments and at random touches of the disk, and go on: nothing may be lost.

    python tests/killing.py --kills 100

The finished run must equal, bit for bit, one that nobody killed. Each process is forked from a server that has imported everything.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_file

DISK_EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.link", "os.truncate", "os.chmod")
WRITING = (os.O_WRONLY, os.O_RDWR)


def train_once(data, folder, options, die_at):
    """Train, or go on where the folder has a run; with `die_at`, die by SIGKILL just before the so-manyth change on the disk."""
    import swinkit

    multiprocessing.set_start_method("fork", force=True)  # else this process would start its data workers by a server of its own
    if die_at:
        _die_at_touch(str(folder), die_at)
    quiet = Console(quiet=True)
    if (folder / "config.yaml").exists():
        swinkit.train(resume=folder, console=quiet)
    else:
        swinkit.train(data, output=folder, console=quiet, **options)


def _die_at_touch(folder, count):
    left = [count]

    def hook(event, arguments):
        if event in DISK_EVENTS and str(arguments[0]).startswith(folder) and not _only_reads(event, arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _only_reads(event, arguments):
    return event == "open" and (not isinstance(arguments[2], int) or arguments[2] & os.O_ACCMODE not in WRITING)


def kill_and_resume(data, folder, options, kills, seed=0):
    """Kill the run `kills` times, by the clock and by the disk in turn, then let it finish. Returns how often `last` had moved on."""
    random.seed(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["swinkit.train.session", "torch.utils.tensorboard", "torchmetrics.classification", "jinja2"])
    seconds, moved = _duration(context, data, folder.with_name("timed"), options), 0
    for number in range(kills):
        before = _step(folder)
        by_disk = number % 2
        process = context.Process(target=train_once, args=(data, folder, options, random.randint(1, 100) if by_disk else 0))
        process.start()
        process.join(timeout=60 if by_disk else random.uniform(0, seconds))
        process.kill()
        process.join()
        check_whole(folder)
        moved += _step(folder) > before
    process = context.Process(target=train_once, args=(data, folder, options, 0))
    process.start()
    process.join()
    assert process.exitcode == 0
    return moved


def _duration(context, data, folder, options):
    """Seconds that one epoch takes, start included."""
    started = time.monotonic()
    process = context.Process(target=train_once, args=(data, folder, options | {"epochs": 1}, 0))
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def _step(folder):
    return int((folder / "last").resolve().name.removeprefix("step-")) if (folder / "last").exists() else 0


def check_whole(folder):
    """What can be found in a killed run's folder is complete: pointers lead to models that load, and no record but the last is cut."""
    import swinkit

    for pointer in ("last", "best"):
        if (folder / pointer).is_symlink():
            swinkit.from_pretrained(folder / pointer)
            load_file(folder / pointer / "training" / "state.safetensors")
            json.loads((folder / pointer / "training" / "state.json").read_text())
    if (folder / "metrics.jsonl").exists():
        for line in (folder / "metrics.jsonl").read_text().splitlines()[:-1]:
            json.loads(line)


def check_equal(one, other):
    """Two finished runs have the same curve, chosen checkpoint and weights, bit for bit."""
    curves = []
    for run in (one, other):
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves.append([{name: value for name, value in record.items() if name != "images_per_s"} for record in records])
    assert curves[0] == curves[1]
    for pointer in ("last", "best"):
        assert (one / pointer).resolve().name == (other / pointer).resolve().name
        for name in ("model.safetensors", "training/state.safetensors"):
            first, second = load_file(one / pointer / name), load_file(other / pointer / name)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def main():
    """The script: `--kills` kills of a run on the embedded Fashion-MNIST sample."""
    from conftest import TINY, write_pictures

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        here = Path(name).resolve()
        for seed, (split, count) in enumerate({"train": 20, "val": 6, "test": 6}.items()):
            write_pictures(here / "data" / split, count, seed)
        options = TINY | KILLED | {"epochs": 3 + asked.kills // 2}
        train_once(here / "data", here / "whole", options, 0)
        moved = kill_and_resume(here / "data", here / "killed", options, asked.kills, asked.seed)
        check_equal(here / "whole", here / "killed")
    print(f"{asked.kills} kills, {moved} of them after new progress: the run equals the one that was left alone, bit for bit.")


KILLED = {"checkpoint_steps": 2, "model_ema": True, "mixup": 0.5, "workers": 1}
"""What makes the killed runs a harder test: many checkpoints, an average, mixing, a worker process."""

if __name__ == "__main__":
    main()
