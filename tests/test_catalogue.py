"""`swinkit models` and `swinkit doctor`: what they print is so."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from swinkit.catalogue import count, models
from swinkit.cli import run
from swinkit.doctor import doctor
from swinkit.kernels.cpu import library
from swinkit.model import SwinTransformer, window_attention
from swinkit.variants import VARIANTS, get_config

PAPERS = {
    "swin_tiny_patch4_window7_224": 4.5, "swin_small_patch4_window7_224": 8.7, "swin_base_patch4_window7_224": 15.4,
    "swin_base_patch4_window12_384": 47.1, "swin_large_patch4_window7_224": 34.5, "swinv2_tiny_window8_256": 5.9,
}  # fmt: skip


def test_the_table_holds_every_model():
    assert [entry.name for entry in models()] == sorted(VARIANTS)


@pytest.mark.parametrize("entry", models(), ids=lambda entry: entry.name)
def test_the_table_is_what_is_counted(entry):
    assert (entry.parameters, entry.gflops) == count(entry.name)


def test_counting_one_block_per_stage_equals_counting_all():
    name = "swinv2_pico_patch2_window4_32"
    with torch.device("meta"):
        model, image = SwinTransformer(get_config(name)).eval(), torch.empty(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert count(name)[1] == round(counter.get_total_flops() / 2e9, 4)


@pytest.mark.parametrize(("name", "gflops"), PAPERS.items())
def test_gflops_are_the_papers(name, gflops):
    assert models(name)[0].gflops == pytest.approx(gflops, rel=0.01)


def test_models_command(capsys):
    assert run(["models", "swin_tiny_patch4*224"]) == 0
    assert "28.29 M" in capsys.readouterr().out
    assert run(["models", "swinv2_*", "--json"]) == 0
    assert {entry["classes"] for entry in json.loads(capsys.readouterr().out)} == {1000, 21841}


def test_doctor(capsys):
    findings = doctor()
    assert findings["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert findings["problems"] == []
    assert findings["kernels"]["cpu"]["name"] == ("fused" if library.find() else "definition")
    assert SwinTransformer(get_config("swin_pico_patch2_window7_28")).layers[0].blocks[0].attn.attend is window_attention
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "attention cpu" in out
    assert "cpu" in out
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == findings


def test_doctor_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("swinkit.doctor.EXTRAS", {"dev": ("pytest", "no-such-package")})
    monkeypatch.setattr("swinkit.doctor._required", lambda: ["torch", "no-such-requirement"])
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing no-such-package; install with: pip install 'swinkit[dev]'" in out
    assert "required packages are missing: no-such-requirement" in out
