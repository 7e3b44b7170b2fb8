"""Exported files: other sizes than they were made with, what they say about themselves, what is left after a failure, and the runtimes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import swinkit
from small_models import small
from swinkit.backbone import SwinBackbone
from swinkit.bench.subject import randomised
from swinkit.cli import run
from swinkit.config import SwinConfig
from swinkit.data import open_split
from swinkit.errors import CheckpointError, ConfigError, ExportError, InputError
from swinkit.export import checks, options, turns
from swinkit.runtimes.artefacts import open_artefact, pixels
from swinkit.runtimes.facts import Facts

SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
EACH = pytest.mark.parametrize("to", SUFFIX)
PREPROCESS = {"size": [16, 16], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "crop_pct": 1.0}
DIM = {"embed_dim": 16, "num_heads": (2,), "depths": (2,), "img_size": 16}


def model_of(version=1, **changes):
    model = randomised(small(version, **DIM | changes))
    model.labels, model.preprocess = tuple("abcde"), PREPROCESS
    model.origin = {"base_model": "somebody/swin", "license": "apache-2.0"}
    return model


@pytest.fixture(scope="module", params=SUFFIX)
def any_size(request, tmp_path_factory):
    """(a V2 that shifts and pads, its file for any size)"""
    model = model_of(2)
    path = tmp_path_factory.mktemp("any") / f"model{SUFFIX[request.param]}"
    return model, swinkit.export(model, to=request.param, out=path)


def test_any_number_of_images_of_any_size(any_size):
    model, written = any_size
    artefact = open_artefact(written.path)
    for batch, size in ((1, (16, 16)), (5, (7, 23)), (2, (40, 9)), (1, (1, 1)), (3, (33, 33))):
        x = torch.randn(batch, 3, *size)
        with torch.no_grad():
            assert checks.largest_difference(artefact.outputs(x), [model(x)]) < 2e-6


def test_it_was_compared_at_other_sizes_than_it_was_made_with(any_size):
    written = any_size[1]
    shapes = {(check.batch, check.size) for check in written.checks}
    assert len(shapes) == 4
    assert len({size for _, size in shapes}) == 4
    assert {check.images for check in written.checks} == {"random", "real"}
    assert written.difference == max(check.difference for check in written.checks) < 1e-5
    assert written.difference > 0 or written.to == "torch-export"
    assert f"largest difference: {written.difference:.1e}" in written.table()
    assert json.loads(json.dumps(written.to_dict()))["checks"][0]["batch"] == 1


def test_it_says_what_it_is(any_size):
    model, written = any_size
    facts = open_artefact(written.path).facts
    assert (facts.labels, facts.preprocess, facts.origin) == (model.labels, PREPROCESS, model.origin)
    assert (facts.config, facts.batch_size, facts.img_size) == (model.config, None, None)
    assert facts.version == swinkit.__version__


def test_it_does_not_say_where_it_was_made(any_size):
    for file in any_size[1].files:
        content = file.read_bytes()
        assert b"site-packages" not in content
        assert str(file.parent).encode() not in content
        assert b"spelling.py" not in content


@EACH
def test_one_size_and_number_with_preprocessing(to, tmp_path):
    """8-bit pixels in, probabilities out; as a runtime it takes what every runtime takes, and any number, but no other size."""
    model = model_of(1)
    options = {"dynamic": False, "img_size": (18, 16), "batch_size": 2, "with_preprocessing": True}
    artefact = open_artefact(swinkit.export(model, to=to, out=tmp_path / f"m{SUFFIX[to]}", **options).path)
    assert artefact.facts.preprocess["size"] == [18, 16]
    mean, std = torch.tensor(PREPROCESS["mean"]), torch.tensor(PREPROCESS["std"])
    for count in (1, 2, 5):
        raw = torch.randint(256, (count, 18, 16, 3), dtype=torch.uint8)
        prepared = ((raw / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.no_grad():
            wanted = model(prepared).softmax(-1)
        torch.testing.assert_close(artefact.outputs(raw)[0], wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(artefact.run(prepared).softmax(-1), wanted, atol=1e-5, rtol=0)
        assert torch.equal(pixels(prepared, swinkit.Preprocess.from_dict(PREPROCESS)), raw)
    with pytest.raises(InputError, match="18 x 16 pixels alone; got 16 x 16"):
        artefact.run(torch.randn(1, 3, 16, 16))


def test_preprocessing_at_any_size(tmp_path):
    model = model_of(1)
    artefact = open_artefact(swinkit.export(model, to="torch-export", out=tmp_path / "m.pt2", with_preprocessing=True).path)
    raw = torch.randint(256, (1, 9, 21, 3), dtype=torch.uint8)
    prepared = ((raw / 255 - torch.tensor(PREPROCESS["mean"])) / torch.tensor(PREPROCESS["std"])).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(artefact.outputs(raw)[0], model(prepared).softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_signals_are_handled_when_models_are_gone(tmp_path):
    """In the order they came, and in another thread; in a process of its own, which would die."""
    path = swinkit.export(model_of(), to="openvino", out=tmp_path / "model.xml").path
    code = f"""
import os, signal, threading, swinkit
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
models = [swinkit.Predictor({str(path)!r}) for _ in range(3)]
del models[0], models[0]
os.kill(os.getpid(), signal.SIGUSR1)
gone = threading.Thread(target=models.clear)
gone.start()
gone.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["handled"] * 2), done.stderr


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_images_in_turns_share_weights(to, tmp_path, monkeypatch):
    """A file for many images, of which one after the other goes through the first stages, is hardly larger."""
    model = model_of(1, embed_dim=64, depths=(1, 1), num_heads=(2, 4))
    options = {"to": to, "dynamic": False, "batch_size": 2}
    together = swinkit.export(model, out=tmp_path / f"together{SUFFIX[to]}", **options)
    monkeypatch.setattr(turns, "LARGE", 16384)
    in_turns = swinkit.export(model, out=tmp_path / f"turns{SUFFIX[to]}", **options)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for written in (together, in_turns):
            assert checks.largest_difference(open_artefact(written.path).outputs(x), [model(x)]) < 2e-6
    weights = sum(weight.nbytes for weight in model.parameters())
    graphs = [sum(file.stat().st_size for file in written.files) - weights for written in (together, in_turns)]
    assert graphs[0] < graphs[1], "there are more nodes"
    assert graphs[1] - graphs[0] < weights / 4


@pytest.mark.parametrize("to", ["openvino", "torch-export"])
def test_backbones(to, tmp_path):
    config = SwinConfig(img_size=16, patch_size=2, embed_dim=16, depths=(1, 1), num_heads=(2, 4), window_size=3, size_policy="dense")
    model = randomised(SwinBackbone(config, (0, 1)))
    path = tmp_path / f"m{SUFFIX[to]}"
    any_size = to == "torch-export"
    written = swinkit.export(model, to=to, out=path, dynamic=any_size, img_size=None if any_size else (18, 19))
    assert written.difference < 1e-5
    x = torch.randn(2, 3, 18, 19)
    with torch.no_grad():
        got = open_artefact(path).outputs(x)
        assert [m.shape for m in got] == [m.shape for m in model(x)]
    with pytest.raises(CheckpointError, match="is not a classifier"):
        swinkit.Predictor(path)
    with pytest.raises(CheckpointError, match="gives maps"):
        open_artefact(path).run(x)


@pytest.mark.parametrize(("to", "dtype"), [("onnx", "float16"), ("openvino", "float16"), ("torch-export", "bfloat16")])
def test_other_dtypes(to, dtype, tmp_path):
    model = model_of(1)
    written = swinkit.export(model, to=to, out=tmp_path / f"m{SUFFIX[to]}", dynamic=False, dtype=dtype)
    assert 1e-5 < written.difference < checks.TOLERANCE[dtype], "in float32 it is less"


@pytest.mark.parametrize("to", ["openvino", "torch-export"])
def test_a_wrong_file_is_not_kept(to, tmp_path, monkeypatch, capsys):
    """A weight is changed between the model and its file."""
    model = model_of(1)
    swinkit.save_pretrained(model, tmp_path / "model")
    right = options.build

    def wrong(*asked):
        net = right(*asked)
        net.head = torch.nn.Linear(16, 5).eval()
        return net

    monkeypatch.setattr(options, "build", wrong)
    path = tmp_path / f"m{SUFFIX[to]}"
    assert run(["export", str(tmp_path / "model"), "--to", to, "--out", str(path), "--fixed"]) == 1
    out, err = capsys.readouterr()
    assert "differs from PyTorch by" in err
    assert "No file was written" in err
    assert out == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.pt2"
    path.write_text("old")
    with pytest.raises(CheckpointError, match="exists already"):
        swinkit.export(model_of(), to="torch-export", out=path)
    monkeypatch.setattr(checks, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(ExportError):
        swinkit.export(model_of(), to="torch-export", out=path, dynamic=False, overwrite=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@EACH
def test_a_trained_model_predicts_alike_in_every_runtime(to, trained, pictures, tmp_path, capsys):
    path = tmp_path / f"m{SUFFIX[to]}"
    assert run(["export", str(trained.run), "--to", to, "--out", str(path), "--fixed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] < 1e-5
    files = sorted((pictures / "test").rglob("*.png"))
    one, other = swinkit.Predictor(trained.run), swinkit.Predictor(path, batch_size=4)
    assert (other.classes, other.preprocess) == (one.classes, one.preprocess)
    for a, b in zip(one(files), other(files), strict=True):
        assert (a.label, a.source) == (b.label, b.source)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    assert swinkit.evaluate(path, pictures).top1 == swinkit.evaluate(trained.run, pictures).top1
    assert run(["predict", str(path), str(files[0]), "--top-k", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{files[0]}: blue")
    assert "threads" in err
    with pytest.raises(CheckpointError, match="no pooled features"):
        swinkit.embed(path, pictures)
    with pytest.raises(ConfigError, match="run on the CPU"):
        swinkit.Predictor(path, device="cuda")


def test_bench_measures_a_file(tmp_path, capsys):
    path = tmp_path / "m.onnx"
    swinkit.export(model_of(1), to="onnx", out=path, dynamic=False)
    arguments = ["--batch-size", "3", "--dtype", "float32", "--threads", "1", "--rounds", "1", "--seconds", "0.01", "--json"]
    assert run(["bench", "model", str(path), *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["runtime"], row["difference"], row["failed"]) == ("m.onnx", 0.0, "")
    assert row["says"].startswith("onnxruntime")
    assert row["images_per_second"] > 0


def test_real_images_are_clothes():
    facts = Facts(SwinConfig(img_size=20), preprocess=PREPROCESS, with_preprocessing=True)
    raw = checks.real_images(facts, 2, (28, 28))
    wanted = np.asarray(open_split("fashion-mnist-sample", "test").image(37, "RGB"))
    assert np.array_equal(raw[1].numpy(), wanted)
