"""Training: the run folder, reproducing it, resuming it, and stopping with a sentence."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import swinkit
from conftest import TINY
from small_models import small
from swinkit.errors import ConfigError, DataError, TrainingError, UnknownNameError
from swinkit.train.loop import Trainer
from swinkit.train.optim import Average, make_optimizer, make_schedule
from swinkit.train.recipe import Recipe, list_recipes, load_recipe
from swinkit.train.stopping import Interrupted

QUIET = Console(quiet=True)


def losses(run):
    return [(r["step"], r["loss"]) for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if r["kind"] == "train"]


def test_run_folder_is_complete(trained, pictures):
    run = trained.run
    assert trained.scored_on == "test"
    assert trained.scores.count == 18
    assert trained.scores.top1 > 0.8, "three colours are easy"
    for name in ("config.yaml", "metrics.jsonl", "report.html", "scores-test.json", "tensorboard"):
        assert (run / name).exists(), name
    for pointer in ("last", "best"):
        assert {path.name for path in (run / pointer).iterdir()} == {"README.md", "config.json", "model.safetensors", "training"}
        assert {path.name for path in (run / pointer / "training").iterdir()} == {"state.json", "state.safetensors"}
    assert len(list((run / "checkpoints").iterdir())) <= 2
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("val") == TINY["epochs"]
    assert list((run / "tensorboard").iterdir())
    assert str(pictures) in (run / "config.yaml").read_text()


def test_report_needs_nothing_from_outside(trained):
    page = trained.report.read_text()
    assert not re.findall(r"(?:src|href)=[\"']?https?://", page)
    assert "blue" in page


def test_best_was_chosen_on_validation_images(trained):
    records = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    top1 = {r["step"]: r["top1"] for r in records if r["kind"] == "val"}
    best = int((trained.run / "best").resolve().name.removeprefix("step-"))
    assert top1[best] == max(top1.values())
    assert best == min(step for step, value in top1.items() if value == max(top1.values())), "the first of equals"


def test_config_yaml_reproduces_the_run(trained, tmp_path):
    again = swinkit.train(recipe=trained.run / "config.yaml", output=tmp_path / "again", console=QUIET)
    assert losses(again.run) == losses(trained.run)
    first, second = (load_file(run / "last" / "model.safetensors") for run in (trained.run, again.run))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("at", [3, 7, 11])
def test_resume_continues_bit_for_bit(trained, tmp_path, monkeypatch, at):
    step = Trainer._step

    def stop_at(self, batches):
        step(self, batches)
        if self.step == at:
            self.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop_at)
        with pytest.raises(Interrupted, match="--resume"):
            swinkit.train(recipe=trained.run / "config.yaml", output=tmp_path / "run", console=QUIET)
    assert int((tmp_path / "run" / "last").resolve().name.removeprefix("step-")) == at
    swinkit.train(resume=tmp_path / "run", console=QUIET)
    assert losses(tmp_path / "run") == losses(trained.run)
    first, second = (load_file(run / "last" / "model.safetensors") for run in (trained.run, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_averaged_weights_are_saved_and_raw_ones_kept(trained):
    state = load_file(trained.run / "last" / "training" / "state.safetensors")
    saved = load_file(trained.run / "last" / "model.safetensors")
    assert state["average.head.weight"].equal(saved["head.weight"])
    assert not state["model.head.weight"].equal(saved["head.weight"])


def test_loss_that_is_not_finite_stops_with_a_sentence(pictures, tmp_path):
    with pytest.raises(TrainingError, match=r"not finite|loss is nan.* at step \d+ .*no checkpoint yet.*lower --lr"):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **(TINY | {"lr": 1e30, "warmup_epochs": 0, "clip_grad": 0}))


def test_mixing_accumulation_and_float16(pictures, tmp_path):
    options = TINY | {
        "epochs": 1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "grad_accum_steps": 3,
        "amp": True,
        "amp_dtype": "float16",
        "reprob": 0.25,
        "aa": "rand-m9-n2",
    }
    run = swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **options).run
    assert [step for step, _ in losses(run)] == [1, 2], "7 batches make 2 steps of 3"


def test_batch_larger_than_the_set_is_cut(pictures, tmp_path):
    run = swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **(TINY | {"epochs": 1, "batch_size": 1000})).run
    assert [step for step, _ in losses(run)] == [1]


def test_one_folder_is_split_and_scored_on_validation(pictures, tmp_path):
    result = swinkit.train(pictures / "train", output=tmp_path / "run", console=QUIET, **(TINY | {"epochs": 1}))
    assert result.scored_on == "val"
    assert result.scores.count == 6


def test_nothing_is_written_when_something_is_wrong(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong, error in (
        ({"data": "fashion-mnits"}, UnknownNameError),
        ({"data": tmp_path / "none"}, DataError),
        ({"data": pictures, "model": "swin_tiny"}, UnknownNameError),
        ({"data": pictures, "recipe": "fast"}, UnknownNameError),
        ({"data": pictures, "epoch": 3}, UnknownNameError),
        ({"data": pictures, "epochs": 0}, ConfigError),
        ({"data": pictures, "lr": float("nan")}, ConfigError),
        ({"data": pictures, "device": "cuda:99"}, ConfigError),
        ({"resume": pictures}, ConfigError),
        ({"resume": tmp_path, "epochs": 3}, ConfigError),
    ):
        with pytest.raises(error):
            swinkit.train(console=QUIET, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_taken_is_left_alone(trained, pictures):
    before = (trained.run / "metrics.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"not empty.*--resume"):
        swinkit.train(pictures, output=trained.run, console=QUIET, **TINY)
    assert (trained.run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", ["renamed", "fewer"])
def test_resume_refuses_other_data(pictures, tmp_path, monkeypatch, change):
    data = tmp_path / "data"
    shutil.copytree(pictures, data)
    step = Trainer._step

    def stop_soon(self, batches):
        step(self, batches)
        self.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop_soon)
        with pytest.raises(Interrupted):
            swinkit.train(data, output=tmp_path / "run", console=QUIET, **TINY)
    if change == "renamed":
        for split in ("train", "val", "test"):
            (data / split / "red").rename(data / split / "azure")
    else:
        for path in sorted((data / "train" / "red").iterdir())[:9]:
            path.unlink()
    with pytest.raises(DataError, match="same data"):
        swinkit.train(resume=tmp_path / "run", console=QUIET)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_with_130(pictures, tmp_path, number):
    """To the whole process group, workers included, as a terminal or a scheduler sends it."""
    options = ["--model", TINY["model"], "--img-size", "16", "--epochs", "500", "--batch-size", "8", "--workers", "1", "--threads", "1"]
    command = [sys.executable, "-m", "swinkit", "train", str(pictures), "--output", str(tmp_path / "run"), *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run" / "last").exists() and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Everything is saved" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / "last" / "training" / "state.safetensors").exists()


def test_schedule_rises_then_follows_a_cosine():
    recipe = Recipe(epochs=10, lr=1.0, min_lr=0.1, warmup_epochs=2)
    optimizer = make_optimizer(small(), recipe)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch=5)
    rates = []
    for _ in range(50):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert rates[30] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 2)))
    assert rates[49] == pytest.approx(0.1, abs=0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_only_matrices_that_are_not_positions_decay():
    model = small(2, ape=True)
    optimizer = make_optimizer(model, Recipe(weight_decay=0.3))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim == 1 or any(word in name for word in ("absolute_pos_embed", "logit_scale", "cpb_mlp"))
        assert decays[id(parameter)] == (0.0 if exempt else 0.3), name


def test_average_forgets_its_beginning_and_then_decays():
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    value = model.weight.item()
    for step in range(200):
        torch.nn.init.constant_(model.weight, float(step))
        average.update(model)
        value = float(step) if step == 0 else value + (1 - min(0.9, (1 + step) / (10 + step))) * (step - value)
        assert average.module.weight.item() == pytest.approx(value, rel=1e-5, abs=1e-5)


def test_accumulated_batches_equal_one_large_batch(pictures, tmp_path):
    """4 batches of 4 make the same step as one of 16 (no chance in the images, dropout off)."""
    plain = TINY | {"epochs": 1, "drop_path": 0.0, "hflip": 0.0, "seed": 1}
    tensors = []
    for name, size, count in (("large", 16, 1), ("small", 4, 4)):
        run = swinkit.train(pictures, output=tmp_path / name, console=QUIET, **plain | {"batch_size": size, "grad_accum_steps": count}).run
        tensors.append(load_file(run / "last" / "model.safetensors"))
    for name in tensors[0]:
        torch.testing.assert_close(tensors[0][name], tensors[1][name], atol=2e-4, rtol=2e-3)


def test_config_says_what_was_left_open(trained):
    recipe = load_recipe(trained.run / "config.yaml")
    assert None not in (recipe.mean, recipe.std, recipe.amp, recipe.drop_path, recipe.ape, recipe.img_size)
    assert recipe.device == "cpu"


def test_no_run_is_written_into_the_data(pictures, tmp_path, monkeypatch):
    data = tmp_path / "photos"
    shutil.copytree(pictures / "train", data)
    monkeypatch.chdir(data)
    result = swinkit.train(".", console=QUIET, **(TINY | {"epochs": 1}))
    assert sorted(path.name for path in data.iterdir()) == ["blue", "green", "red"]
    assert result.run.parent == tmp_path / "runs"


@pytest.mark.parametrize("name", list_recipes())
def test_recipes_load_and_survive_yaml(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "config.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "config.yaml") == recipe


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": "many"}, "epochs is 'many'; expected a whole number"),
        ({"lr": -1}, "lr is -1.0; expected above 0"),
        ({"compile": 1}, "compile is 1; expected true or false"),
        ({"aa": "augmix"}, "rand-m9-n2"),
        ({"scale": 0.5}, "a list of numbers"),
        ({"scale": [0.5]}, "2 numbers"),
        ({"smoothing": 1.0}, "not including, 1"),
        ({"amp_dtype": "half"}, "bfloat16 or float16"),
        ({"amp": "off"}, "true or false"),
    ],
)
def test_recipe_errors_are_sentences(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**wrong)


def test_broken_recipe_files(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: [1, 2")
    with pytest.raises(ConfigError, match="not YAML"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="one `option: value` per line"):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(UnknownNameError, match="Did you mean folder"):
        load_recipe("fodler")
