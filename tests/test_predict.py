"""Predictor, predict and evaluate, from Python and from the command line."""

import csv
import io
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import swinkit
from conftest import COLOURS, TINY
from swinkit.cli import run
from swinkit.config import SwinConfig
from swinkit.data import open_data, open_split
from swinkit.errors import CheckpointError, ConfigError, DataError, InputError
from swinkit.evaluate import which_images
from swinkit.predict import Failure


@pytest.fixture
def mixed(tmp_path, pictures):
    """Two good pictures and a broken one between them."""
    for name, source in (("1.png", "red"), ("3.png", "blue")):
        Image.open(pictures / "test" / source / "000.png").save(tmp_path / name)
    (tmp_path / "2.png").write_bytes(b"no picture")
    return tmp_path


def test_predictor_takes_paths_bytes_images_arrays_and_lists(trained, pictures):
    predictor = swinkit.Predictor(trained.run)
    path = pictures / "test" / "red" / "000.png"
    image = Image.open(path)
    first = predictor(path)
    assert first.label == "red"
    assert first.source == str(path)
    assert sum(first.scores) == pytest.approx(1.0)
    assert len(first.labels) == 3
    for other in (str(path), path.read_bytes(), image, np.asarray(image), io.BytesIO(path.read_bytes())):
        assert predictor(other).scores == pytest.approx(first.scores)
    assert [p.label for p in predictor([path] * 3, top_k=1)] == ["red"] * 3
    assert [p.label for p in swinkit.predict(trained.run, path)] == ["red"]
    with pytest.raises(InputError, match=r"none\.png"):
        predictor("none.png")


def test_results_do_not_depend_on_the_batch(trained, pictures):
    files = sorted((pictures / "test").rglob("*.png"))
    one, many = ([p.scores for p in swinkit.predict(trained.run, [pictures / "test"], batch_size=size)] for size in (1, 7))
    assert len(one) == len(files)
    for a, b in zip(one, many, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize("place", ["", "best", "last", "best/model.safetensors"])
def test_a_run_or_a_checkpoint_in_it_is_a_model(trained, place):
    assert swinkit.Predictor(trained.run / place).classes == tuple(COLOURS)
    assert swinkit.from_pretrained(trained.run / place).num_classes == 3


def test_evaluate_agrees_with_the_run_and_with_predict(trained, pictures):
    scores = swinkit.evaluate(trained.run, pictures)
    assert scores.to_dict() == trained.scores.to_dict()
    images = open_split(pictures, "test")
    predictor = swinkit.Predictor(trained.run)
    right = [predictor(images.image(i, "RGB")).label == images.classes[images.labels[i]] for i in range(len(images))]
    assert np.mean(right) == scores.top1
    assert swinkit.evaluate(trained.run).to_dict() == scores.to_dict(), "without data: what the run was trained on"


def test_a_runs_own_split_is_scored(pictures, tmp_path):
    """A folder without val/ was split by the run's seed: evaluation must find the same images again, and never the training ones."""
    options = TINY | {"epochs": 1, "seed": 3}
    run = swinkit.train(pictures / "train", output=tmp_path / "run", console=Console(quiet=True), **options).run
    name, images = which_images(run, None, "auto")
    splits = open_data(pictures / "train", seed=3)
    assert name.startswith("val of ")
    assert [images.name(i) for i in range(len(images))] == [splits.val.name(i) for i in range(len(splits.val))]
    assert len(which_images(run, pictures / "train", "train")[1]) == len(splits.train)
    assert len(which_images(run / "best", pictures / "val", "auto")[1]) == 18, "other data: every image"
    with pytest.raises(DataError, match="no test images"):
        which_images(run, None, "test")


def test_labels_and_preparation_travel_with_the_model(trained, tmp_path):
    model = swinkit.from_pretrained(trained.run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns about its own imports
        swinkit.save_pretrained(torch.compile(model), tmp_path / "again")
    assert swinkit.Predictor(tmp_path / "again").classes == tuple(COLOURS)


def test_a_classifier_becomes_a_dense_backbone(trained):
    x = torch.randn(1, 3, 30, 21)
    model = swinkit.from_pretrained(trained.run)
    dense = swinkit.from_pretrained(trained.run, features_only=True, size_policy="dense", out_indices=(0, 1))
    assert [tuple(m.shape) for m in dense(x)] == [(1, 32, 15, 11), (1, 64, 8, 6)]
    assert torch.equal(dense.layers[0].blocks[0].attn.qkv.weight, model.layers[0].blocks[0].attn.qkv.weight)
    assert dense.norm0.weight.unique().tolist() == [1.0]
    with pytest.raises(ConfigError, match="features_only=True"):
        swinkit.from_pretrained(trained.run, out_indices=(0,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_backbones_load_in_the_dtype_and_policy_asked_for(tmp_path, dtype):
    config = SwinConfig(img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4, ape=True)
    swinkit.save_pretrained(swinkit.create_model(config).to(dtype), tmp_path / "m")
    dense = swinkit.from_pretrained(tmp_path / "m", features_only=True, size_policy="dense")
    assert {parameter.dtype for parameter in dense.parameters()} == {dtype}
    swinkit.save_pretrained(dense, tmp_path / "d")
    official = swinkit.from_pretrained(tmp_path / "d", size_policy="official")
    wanted = swinkit.from_pretrained(tmp_path / "m").absolute_pos_embed
    assert torch.equal(official.absolute_pos_embed, wanted)


def test_v2_keeps_its_position_units_in_other_windows(tmp_path):
    swinkit.save_pretrained(swinkit.create_model("swinv2_pico_patch2_window4_32", num_classes=2), tmp_path / "m")
    wider = swinkit.from_pretrained(tmp_path / "m", window_size=8)
    assert wider.config.windows == ((8, 8), (8, 8), (4, 4))
    assert [stage.blocks[0].attn.trained_window for stage in wider.layers] == [(4, 4)] * 3


def test_progress_does_not_swallow_redirected_results(trained, mixed, tmp_path):
    """stderr on a terminal, stdout in a file: every line must be in the file."""
    import pty

    ours, theirs = pty.openpty()
    with (tmp_path / "out.jsonl").open("w") as out:
        command = [sys.executable, "-m", "swinkit", "predict", str(trained.run), str(mixed), "--json"]
        code = subprocess.run(command, stdout=out, stderr=theirs, check=False).returncode
    os.close(theirs)
    os.close(ours)
    assert code == 1
    assert [json.loads(line)["source"].rpartition("/")[2] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "1.png", "2.png", "3.png",
    ]  # fmt: skip


def test_weights_of_others_are_a_sentence(tmp_path):
    for name, content, says in (("x.pth", b"\x80\x02\xff", "is a pickle that torch"), ("y.txt", b"a" * 5000, "is a text file")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{says}.*expected .safetensors"):
            swinkit.from_pretrained(tmp_path / name)


def test_classes_are_matched_by_name(trained, pictures, tmp_path):
    """A folder with some of the classes, whose own numbering differs."""
    for name in ("green", "red"):
        (tmp_path / name).symlink_to(pictures / "test" / name)
    scores = swinkit.evaluate(trained.run, tmp_path)
    assert scores.count == 12
    assert scores.confusion[0].sum() == 0
    (tmp_path / "purple").symlink_to(pictures / "test" / "red")
    with pytest.raises(DataError, match=r"does not know \(purple\).*blue, green, red"):
        swinkit.evaluate(trained.run, tmp_path)


def test_a_broken_picture_does_not_stop_the_rest(trained, mixed):
    results = list(swinkit.predict(trained.run, [mixed], top_k=1))
    assert [type(result) is Failure for result in results] == [False, True, False]
    assert [results[0].label, results[2].label] == ["red", "blue"]
    assert "2.png" in results[1].error


def test_predict_command(trained, mixed, capsys):
    assert run(["predict", str(trained.run), str(mixed / "1.png"), "--top-k", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{mixed / '1.png'}: red ")
    assert err.endswith("engine, float32, 1 threads\n")
    assert err.count("\n") == 1, "what runs, and nothing else"

    assert run(["predict", str(trained.run), str(mixed), "--json"]) == 1
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line.get("label") for line in lines] == ["red", None, "blue"]
    assert "2.png" in lines[1]["error"]
    assert "1 image could not be read" in err

    assert run(["predict", str(trained.run), str(mixed / "*.png"), "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["label"] for row in rows if row["rank"] in ("", "1")] == ["red", "", "blue"]
    assert len(rows) == 3 + 1 + 3, "three guesses each, and one line for the failure"
    assert run(["predict", str(trained.run), str(mixed), "--csv", "--json"]) == 2


def test_predict_reads_standard_input(trained, mixed, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((mixed / "3.png").read_bytes())))
    assert run(["predict", str(trained.run), "-", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["source"], line["label"]) == ("stdin", "blue")


def test_evaluate_command(trained, pictures, capsys):
    assert run(["evaluate", str(trained.run), "--data", str(pictures), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == trained.scores.to_dict()
    assert run(["evaluate", str(trained.run), str(pictures), "--split", "val"]) == 0
    assert "top-1 accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "nowhere", "x.png"], 1, "There is no nowhere"),
        (["predict", "{run}", "nothing.png"], 1, "nothing.png"),
        (["train", "--data", "fashion-mnist-sample", "--output", "/dev/null/x"], 1, "/dev/null"),
        (["predict", "{run}"], 2, "requires an argument"),
        (["evaluate", "{run}", "nothing"], 1, "nothing"),
        (["evaluate", "{run}", "--split", "tset"], 1, "Did you mean test"),
        (["evaluate", "{run}", "--bach-size", "3"], 2, "Unknown option"),
        (["train", "--epochs", "few"], 2, "unable to convert"),
        (["models", "swim_*"], 1, "There is no model"),
        (["trian"], 2, 'Did you mean "train"'),
    ],
)
def test_exit_codes_and_sentences(trained, arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run([argument.format(run=trained.run) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_interruption_is_130(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("swinkit.train.session.start_run", interrupted)
    assert run(["train"]) == 130


def test_save_and_load_keep_every_bit(tmp_path):
    model = swinkit.create_model("swinv2_pico_patch2_window4_32", num_classes=3)
    swinkit.save_pretrained(model, tmp_path / "m", labels=["a", "b", "c"])
    again = swinkit.from_pretrained(tmp_path / "m")
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert not again.training
    backbone = swinkit.create_model("swin_pico_patch2_window4_32", features_only=True, out_indices=(0, 2), size_policy="dense")
    swinkit.save_pretrained(backbone, tmp_path / "b")
    x = torch.randn(1, 3, 33, 31)
    for a, b in zip(backbone.eval()(x), swinkit.from_pretrained(tmp_path / "b")(x), strict=True):
        assert torch.equal(a, b)


def test_loading_with_changes(tmp_path):
    model = swinkit.create_model("swin_pico_patch2_window4_32", num_classes=3)
    swinkit.save_pretrained(model, tmp_path / "m")
    assert swinkit.from_pretrained(tmp_path / "m", num_classes=7).head.weight.shape == (7, 128)
    features = swinkit.from_pretrained(tmp_path / "m", features_only=True)
    assert [m.shape[1] for m in features(torch.randn(1, 3, 32, 32))] == [32, 64, 128]
    config = (tmp_path / "m" / "config.json").read_text()
    (tmp_path / "m" / "config.json").write_text(config.replace('"window_size": 4', '"window_size": 8'))
    with pytest.raises(CheckpointError, match=r"of another shape: layers\.0\.blocks\.0\.attn.*\(49, 4\) instead of \(225, 4\)"):
        swinkit.from_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"\(49, 4\) instead of \(225, 4\)"):
        swinkit.from_pretrained(tmp_path / "m", window_size=6)


def test_saving_never_overwrites_in_silence(tmp_path):
    model = swinkit.create_model("swin_pico_patch2_window4_32", num_classes=2)
    swinkit.save_pretrained(model, tmp_path / "m")
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    other = swinkit.create_model("swin_pico_patch2_window4_32", num_classes=2)
    with pytest.raises(CheckpointError, match="overwrite=True"):
        swinkit.save_pretrained(other, tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before
    swinkit.save_pretrained(other, tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "model.safetensors").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"], "nothing is left beside it"
    with pytest.raises(CheckpointError, match="3 labels for a classifier with 2 outputs"):
        swinkit.save_pretrained(model, tmp_path / "n", labels=["a", "b", "c"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"\xff\xfe", "cannot be read as JSON"),
        ("config.json", b'{"license": "mit"}', "neither swinkit's nor timm's nor transformers'"),
        ("config.json", b'{"format": "swinkit", "format_version": 2, "config": {}}', "format_version 2"),
        ("config.json", b'{"format": "swinkit", "format_version": 1, "config": {"depth": 2}}', "depth"),
        ("model.safetensors", None, "model.safetensors is missing"),
        ("model.safetensors", b"<html>", "is a web page"),
        ("model.safetensors", b"\xff" * 100, "expected .safetensors"),
    ],
)
def test_broken_checkpoints_are_sentences(tmp_path, file, content, message):
    folder = tmp_path / "m"
    swinkit.save_pretrained(swinkit.create_model("swin_pico_patch2_window4_32", num_classes=2), folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        swinkit.from_pretrained(folder)


def test_a_folder_without_its_config_is_read_by_its_tensors(tmp_path):
    model = swinkit.create_model("swin_pico_patch2_window4_32", num_classes=2).eval()
    swinkit.save_pretrained(model, tmp_path)
    (tmp_path / "config.json").unlink()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(swinkit.from_pretrained(tmp_path)(x), model(x))


def test_a_cut_off_safetensors_is_a_sentence(tmp_path):
    folder = tmp_path / "m"
    swinkit.save_pretrained(swinkit.create_model("swin_pico_patch2_window4_32", num_classes=2), folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="broken or cut off"):
        swinkit.from_pretrained(folder)


def test_a_backbone_or_a_model_without_preparation_is_no_predictor(tmp_path):
    swinkit.save_pretrained(swinkit.create_model("swin_pico_patch2_window4_32", features_only=True), tmp_path / "b")
    with pytest.raises(CheckpointError, match="not a classifier"):
        swinkit.Predictor(tmp_path / "b")
    swinkit.save_pretrained(swinkit.create_model("swin_pico_patch2_window4_32", num_classes=2), tmp_path / "m")
    with pytest.raises(CheckpointError, match="how to prepare images"):
        swinkit.Predictor(tmp_path / "m")
