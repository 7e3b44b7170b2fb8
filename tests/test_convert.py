"""`swinkit convert`: what is written, what is refused, exit codes, and that nothing is left behind where it fails."""

import json

import pytest
import torch
from safetensors.torch import save_file

import swinkit
from small_models import small
from swinkit.cli import run
from swinkit.errors import CheckpointError, UnknownNameError


@pytest.fixture
def source(tmp_path):
    model = small()
    swinkit.save_pretrained(model, tmp_path / "in/ours")
    swinkit.convert(tmp_path / "in/ours", tmp_path / "in/timm.safetensors", to="timm")
    return tmp_path / "in/timm.safetensors"


def state(path):
    return swinkit.from_pretrained(path).state_dict()


def test_from_the_command_line(source, tmp_path, capsys):
    assert run(["convert", str(source), str(tmp_path / "out.pth"), "--to", "microsoft", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["dialect"] == "timm"
    assert "written" in told.err
    assert all(torch.equal(tensor, state(tmp_path / "out.pth")[name]) for name, tensor in state(source).items())
    assert run(["convert", "--inspect", str(tmp_path / "out.pth")]) == 0
    assert "original" in capsys.readouterr().out


WRONG = [
    ([], 2, "give OUT and --to, or --inspect alone"),
    (["OUT.pth"], 2, "give OUT and --to"),
    (["--to", "timm"], 2, "give OUT and --to"),
    (["OUT.pth", "--to", "timm", "--inspect"], 2, "--inspect alone"),
    (["OUT.pth", "--to", "tim"], 1, "Did you mean timm"),
    (["OUT", "--to", "torchvision"], 1, "give a file name that ends in .pth"),
    (["OUT.pth", "--to", "native"], 1, "leave out .pth"),
    (["OUT.pth", "--to", "mmdet"], 1, "cannot be this model"),
    (["OUT.pth", "--to", "timm", "--window-size", "x"], 2, "window-size"),
]


@pytest.mark.parametrize(("arguments", "code", "why"), WRONG)
def test_wrong_uses(source, arguments, code, why, tmp_path, capsys):
    arguments = [argument.replace("OUT", str(tmp_path / "new/out")) for argument in arguments]
    assert run(["convert", str(source), *arguments]) == code
    told = capsys.readouterr()
    assert why in " ".join(told.err.split())
    assert "Traceback" not in told.err
    assert not told.out
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("to", ["timm", "torchvision", "native"])
def test_what_exists_is_replaced_with_force_only(source, to, tmp_path, capsys):
    out = tmp_path / ("out.pth" if to == "torchvision" else "out")
    arguments = ["convert", str(source), str(out), "--to", to]
    assert run(arguments) == 0
    assert run(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert run([*arguments, "--force"]) == 0
    assert state(out).keys() == state(source).keys()


def test_what_is_not_there_or_no_weights(tmp_path, capsys):
    assert run(["convert", "--inspect", str(tmp_path / "nothing.pth")]) == 1
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    assert run(["convert", str(tmp_path / "page.pth"), str(tmp_path / "out.pth"), "--to", "timm"]) == 1
    told = capsys.readouterr()
    assert "There is no" in told.err
    assert "web page" in told.err
    assert not told.out
    assert not (tmp_path / "out.pth").exists()


def test_a_run_is_converted(trained, tmp_path):
    swinkit.convert(trained.run, tmp_path / "out", to="native")
    assert swinkit.from_pretrained(tmp_path / "out").labels == swinkit.from_pretrained(trained.run).labels


def test_unexpected_names_are_left_out_when_asked_for(source, tmp_path, capsys):
    odd, out = tmp_path / "odd.safetensors", tmp_path / "out.pth"
    tensors = swinkit.checkpoints.opening.open_weights(source).tensors
    save_file(tensors | {"layers.0.gate": torch.ones(1)}, odd)
    assert run(["convert", "--inspect", str(odd)]) == 1
    assert run(["convert", str(odd), str(out), "--to", "timm"]) == 1
    assert not out.exists()
    capsys.readouterr()
    assert run(["convert", str(odd), str(out), "--to", "timm", "--no-strict"]) == 0
    assert "layers.0.gate" in capsys.readouterr().err
    assert swinkit.inspect(out).complete


def test_a_file_holds_no_more_than_the_model(source, tmp_path):
    tensors = swinkit.checkpoints.opening.open_weights(source).tensors
    larger = {f"backbone.{name}": tensor for name, tensor in tensors.items()} | {"neck.weight": torch.ones(10**6)}
    save_file(larger, tmp_path / "detector.safetensors")
    swinkit.convert(tmp_path / "detector.safetensors", tmp_path / "out.pth", to="timm")
    swinkit.convert(source, tmp_path / "small.pth", to="timm")
    assert (tmp_path / "out.pth").stat().st_size == pytest.approx((tmp_path / "small.pth").stat().st_size, rel=0.1)


def test_unknown_dialects_and_folders_in_the_way(source, tmp_path):
    with pytest.raises(UnknownNameError, match="transformers"):
        swinkit.convert(source, tmp_path / "out.pth", to="transformer")
    (tmp_path / "out.pth").mkdir()
    with pytest.raises(CheckpointError, match="is a folder; give the name of a file"):
        swinkit.convert(source, tmp_path / "out.pth", to="timm", force=True)
