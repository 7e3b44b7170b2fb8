"""Exports in 8 bits: really 8 bits and nearly the same, which layers stay in float, what is refused, and what the files say."""

import json
import shutil
from importlib import import_module

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

import swinkit
from small_models import small
from swinkit.backbone import SwinBackbone
from swinkit.bench.subject import randomised
from swinkit.cli import run
from swinkit.config import SwinConfig
from swinkit.errors import ConfigError, DataError, ExportError
from swinkit.export import Int8
from swinkit.export.int8 import groups, images, quantise, search
from swinkit.export.int8.settings import GRAPHS
from swinkit.runtimes.artefacts import open_artefact
from swinkit.runtimes.facts import Facts

SUFFIX = {"onnx": ".onnx", "openvino": ".xml"}
PREPROCESS = {"size": [16, 16], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "crop_pct": 1.0}
FC2 = "layers.0.blocks.0.mlp.fc2"


def model_of(version=1, **changes):
    model = randomised(small(version, **{"embed_dim": 16, "num_heads": (2,), "depths": (1,), "img_size": 16} | changes))
    model.labels, model.preprocess = tuple("abcde"), PREPROCESS
    return model


def in_8_bits(path):
    """Layers with 8-bit weights, counted in the file by its format's own library."""
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        narrow = {value.name for value in graph.initializer if value.data_type == onnx.TensorProto.INT8 and len(value.dims) == 2}
        made_of = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
        from_ranges = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
        return sum(made_of.get(node.input[1]) in narrow and made_of.get(node.input[0]) in from_ranges for node in products)
    ops = openvino.Core().read_model(path).get_ordered_ops()
    return sum(op.get_type_name() == "Constant" and op.get_element_type() == openvino.Type.i8 and len(op.shape) in (2, 4) for op in ops)


@pytest.fixture(scope="module", params=[("onnx", False), ("openvino", True)], ids=lambda it: it[0])
def exported(request, pictures, tmp_path_factory):
    """(model, what was written) of a V1 that pads and shifts for any size, or a V2 for one size with preparation inside.

    The float32 file in between stays, in the folder "float32".
    """
    to, fixed = request.param
    model = model_of(2 if fixed else 1, depths=(2,))
    path = tmp_path_factory.mktemp("int8") / f"m{SUFFIX[to]}"
    settings = Int8(pictures, calibration_images=20, keep_float=())
    right = quantise.quantise

    def keeping(exact, *rest):
        shutil.copytree(exact.parent, path.parent / "float32")
        return right(exact, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "quantise", keeping)
        return model, swinkit.export(model, to=to, out=path, dynamic=not fixed, with_preprocessing=fixed, int8=settings)


def test_it_is_in_8_bits_and_nearly_the_same(exported):
    model, written = exported
    artefact = open_artefact(written.path)
    separate = 1 if artefact.facts.img_size is None else 3
    assert in_8_bits(written.path) == 2 * (separate + 3) + 1 + (written.to == "openvino"), "patch embedding is in float in ONNX"
    x = torch.randint(256, (7, 16, 16, 3), dtype=torch.uint8).float()
    prepared = ((x / 255 - torch.tensor(PREPROCESS["mean"])) / torch.tensor(PREPROCESS["std"])).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        wanted = model(prepared).softmax(-1)
    got = artefact.run(prepared).softmax(-1)
    assert 1e-5 < (got - wanted).abs().max() < 0.05
    assert "int8" in artefact.about
    assert written.runtime == artefact.about


def test_any_number_and_size_as_before(exported):
    model, written = exported
    artefact = open_artefact(written.path)
    if artefact.facts.img_size is not None:
        pytest.skip("a file for one size")
    assert len({check.size for check in written.checks}) == 4
    for batch, size in ((1, (16, 16)), (3, (7, 23)), (2, (33, 9))):
        x = torch.randn(batch, 3, *size)
        with torch.no_grad():
            wanted = model(x)
        assert 1e-6 < (artefact.outputs(x)[0] - wanted).norm() / wanted.norm() < 0.2


def test_it_says_what_was_done(exported, pictures):
    _, written = exported
    says, report = open_artefact(written.path).facts.int8, written.int8
    assert (says["calibration"], says["images"], says["kept_float"]) == (f"train of {pictures}", 20, [])
    assert says["sensitivity"] == {layer.name: layer.alone.error for layer in report.layers}
    assert (says["error"], says["agreement"]) == (report.effect.error, report.effect.agreement)
    assert json.loads(json.dumps(written.to_dict()))["int8"]["layers"][0]["alone"]["error"] > 0
    assert "int8" in written.takes
    assert f"error {report.effect.error:.1e}" in written.table()
    content = b"".join(file.read_bytes() for file in written.files)
    assert str(written.path.parent).encode() not in content


def test_files_in_float_still_open():
    """Those that were written before there were 8 bits say nothing about them."""
    old = json.loads(Facts(SwinConfig()).to_json())
    assert old.pop("int8") == {}
    assert Facts.from_json(json.dumps(old), "m.onnx") == Facts(SwinConfig())


def hostile():
    """A model in which the second layer of an MLP has an input a thousand times as large as the others, and weights to match."""
    model = model_of(1)
    mlp = model.layers[0].blocks[0].mlp
    with torch.no_grad():
        mlp.fc1.weight[0] = 0
        mlp.fc1.bias[0] = 3000.0
        mlp.fc2.weight[:, 0] = 1e-4
    return model


def test_the_layer_that_cannot_stays_in_float(pictures, tmp_path):
    """One input of fc2 is so large that all others fall into one step; it is measured as the worst, and it alone stays in float."""
    settings = Int8(pictures, calibration_images=20, max_error=0.05)
    written = swinkit.export(hostile(), to="onnx", out=tmp_path / "m.onnx", dynamic=False, int8=settings)
    alone = {layer.name: layer.alone.error for layer in written.int8.layers}
    assert max(alone, key=alone.get) == FC2
    assert alone[FC2] > 0.1 > 2 * sorted(alone.values())[-2]
    assert written.int8.kept == (FC2,)
    assert written.int8.effect.error < 0.05
    assert in_8_bits(written.path) == len([name for name in alone if name != FC2]) + 2
    (line,) = [line for line in written.table().splitlines() if line.endswith("stays in float")]
    assert line.split()[:2] == [FC2, "error"]


class Additive:
    """Stands for files whose squared errors add up."""

    def __init__(self, errors):
        self.errors, self.tried = errors, 0

    def effect(self, kept):
        self.tried += 1
        return search.Effect(sum(error**2 for name, error in self.errors.items() if name not in kept) ** 0.5, 1.0)


@pytest.mark.parametrize("allowed", [0.03, 0.1, 0.2, 2.0])
def test_no_fewer_layers_would_do(allowed):
    errors = {f"layer{number}": 0.9**number / 8 for number in range(60)}
    trial = Additive(errors)
    kept = search.fewest(trial, {name: search.Effect(error, 1.0) for name, error in errors.items()}, allowed)
    assert trial.tried <= 7
    assert trial.effect(kept).error <= allowed
    assert not kept or trial.effect(kept - {min(kept, key=errors.get)}).error > allowed
    with pytest.raises(ExportError, match=r"Not even layer59 alone can be in 8 bits"):
        search.fewest(trial, {name: search.Effect(error, 1.0) for name, error in errors.items()}, 1e-9)


def test_a_layer_in_float_is_what_it_was(exported, tmp_path):
    """With every layer kept in float the file gives what the float32 file gives, to rounding; with one in 8 bits it is that one."""
    model, written = exported
    exact = open_artefact(written.path.parent / "float32" / written.path.name)
    graphs = import_module(GRAPHS[written.to]).Graphs(exact.path, groups.layers_of(model, exact.facts))
    x = torch.randint(256, (4, 16, 16, 3), dtype=torch.uint8) if exact.facts.with_preprocessing else torch.randn(4, 3, 16, 16)
    graphs.calibrate([x.numpy()], narrow=True)
    file = tmp_path / f"n{written.path.suffix}"
    graphs.write(file, set(graphs.layers), exact.facts)
    torch.testing.assert_close(open_artefact(file).outputs(x)[0], exact.outputs(x)[0], atol=1e-6, rtol=0)
    assert in_8_bits(file) == 0
    graphs.write(file, set(graphs.layers) - {FC2}, exact.facts)
    assert in_8_bits(file) == 1
    assert (open_artefact(file).outputs(x)[0] - exact.outputs(x)[0]).abs().max() > 1e-5


def backbone():
    config = SwinConfig(img_size=16, patch_size=2, embed_dim=16, depths=(1, 1), num_heads=(2, 4), window_size=4, size_policy="dense")
    model = randomised(SwinBackbone(config, (0, 1)))
    model.preprocess = PREPROCESS
    return model


def test_backbones(pictures, tmp_path):
    written = swinkit.export(backbone(), to="onnx", out=tmp_path / "m.onnx", dynamic=False, int8=Int8(pictures, calibration_images=8))
    assert written.int8.effect.agreement is None
    assert 0 < written.int8.effect.error < 0.04
    assert [layer.name for layer in written.int8.layers if "downsample" in layer.name] == ["layers.0.downsample.reduction"]


def test_accuracy_before_and_after(trained, pictures, tmp_path, capsys):
    """With patterns, and all sizes fixed, where ONNX Runtime would make float32 products of layers and their biases."""
    path = tmp_path / "m.onnx"
    arguments = ["--to", "onnx", "--out", str(path), "--fixed", "--batch-size", "2", "--int8", "--calibration", str(pictures)]
    assert run(["export", str(trained.run), *arguments, "--keep-float", "*.attn.*", "head", "--evaluate", str(pictures), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)["int8"]
    plain, before, after = report["accuracy"]
    assert "only 40 images set the ranges" in err
    assert plain["top1"] == before["top1"] == pytest.approx(swinkit.evaluate(trained.run, pictures).top1)
    assert after["top1"] == pytest.approx(swinkit.evaluate(path, pictures).top1)
    assert abs(after["loss"] - before["loss"]) > 1e-9, "another file"
    assert min(row["images_per_second"] for row in (plain, before, after)) > 0
    assert after["megabytes"] < 0.7 * before["megabytes"]
    names = [layer["name"] for layer in report["layers"]]
    assert report["kept"] == [name for name in names if ".attn." in name or name == "head"]
    chosen = onnxruntime.SessionOptions()
    chosen.optimized_model_filepath, chosen.log_severity_level = str(tmp_path / "chosen.onnx"), 3
    onnxruntime.InferenceSession(path, chosen, providers=["CPUExecutionProvider"])
    operations = [node.op_type for node in onnx.load(tmp_path / "chosen.onnx").graph.node]
    assert operations.count("MatMulIntegerToFloat") == in_8_bits(path) == len(names) - len(report["kept"])
    assert "DequantizeLinear" not in operations
    assert run(["predict", str(path), str(pictures / "test" / "red" / "000.png")]) == 0
    assert "red" in capsys.readouterr().out


@pytest.mark.parametrize("exported", [("onnx", False)], ids=["onnx"], indirect=True)
def test_the_same_file_again_and_none_that_changes_too_much(exported, pictures, tmp_path, monkeypatch):
    """From the same float32 file."""
    model, written = exported

    def again(_model, _facts, _to, file, *_others):
        shutil.copytree(written.path.parent / "float32", file.parent, dirs_exist_ok=True)
        return "", ()

    def export():
        settings = Int8(pictures, calibration_images=20, keep_float=())
        return swinkit.export(model, to="onnx", out=tmp_path / "m.onnx", int8=settings)

    monkeypatch.setattr(swinkit.export, "_write", again)
    with monkeypatch.context() as patch:
        patch.setattr(quantise, "AGREEMENT", 1.1)
        with pytest.raises(ExportError, match=r"first class stays the same for .* No file was written"):
            export()
    assert list(tmp_path.iterdir()) == []
    export()
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == written.path.read_bytes()


@pytest.mark.parametrize("to", ["torch-export", "aoti"])
def test_formats_without_8_bits(to, tmp_path, pictures):
    with pytest.raises(ConfigError, match=f"{to} has no 8 bits here; give --to onnx or --to openvino"):
        swinkit.export(model_of(), to=to, out=tmp_path / "m.pt2", int8=Int8(pictures))


def test_what_cannot_be_asked(tmp_path, pictures, capsys, monkeypatch):
    """And nothing is written or computed for it."""
    monkeypatch.setattr(swinkit.export, "_write", lambda *_: pytest.fail("a file is written before all is checked"))
    path = tmp_path / "m.onnx"
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "one" / "a.png")
    for settings, error, says in (
        (Int8(tmp_path / "missing"), DataError, "missing"),
        (Int8(tmp_path / "empty"), DataError, "empty"),
        (Int8(tmp_path / "one"), DataError, "holds 1 images; 8 bits need at least 3"),
        (Int8(pictures, keep_float=["*.fc3"]), ConfigError, "no layer in 8 bits matches"),
        (Int8(pictures, keep_float=["patch_embed.proj"]), ConfigError, "no layer in 8 bits matches"),
        (Int8(pictures, evaluate=tmp_path / "one"), DataError, "one"),
        (Int8(pictures, evaluate=pictures), DataError, "3 classes that the model does not know"),
        (True, ConfigError, "give swinkit.export.Int8"),
    ):
        with pytest.raises(error, match=says):
            swinkit.export(model_of(), to="onnx", out=path, dynamic=False, int8=settings)
    grey = model_of(in_chans=1)
    for model, settings, says in (
        (grey, Int8(pictures), "takes 1 channels, and its `preprocess` makes images of 3"),
        (model_of(num_classes=0), Int8(pictures, evaluate=pictures), "has no classes"),
        (backbone(), Int8(pictures, evaluate=pictures), "has no classes"),
    ):
        with pytest.raises(ConfigError, match=says):
            swinkit.export(model, to="onnx", out=path, dynamic=False, int8=settings)
    with monkeypatch.context() as patch:
        patch.setattr(quantise, "LIMIT", 1000)
        with pytest.raises(ConfigError, match="which one ONNX file cannot hold"):
            swinkit.export(model_of(), to="onnx", out=path, int8=Int8(pictures))
    with pytest.raises(ConfigError, match="leave --dtype out"):
        swinkit.export(model_of(), to="onnx", out=path, dtype="float16", int8=Int8(pictures))
    for values in ({"calibration_images": 0}, {"max_error": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            Int8(pictures, **values)
    swinkit.save_pretrained(model_of(), tmp_path / "model", preprocess=PREPROCESS)
    assert run(["export", str(tmp_path / "model"), "--to", "onnx", "--out", str(path), "--int8"]) == 1
    assert "--int8 and --calibration DATA belong together" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "model"), "--to", "onnx", "--out", str(path), "--evaluate", str(pictures)]) == 1
    assert "belong to --int8, which is not given" in capsys.readouterr().err
    assert not path.exists()


def test_ranges_are_set_by_training_images_and_nothing_else(pictures):
    """Of data with splits; no image both sets ranges and measures."""
    found, called = images.open_calibration(pictures)
    assert (len(found), called) == (60, f"train of {pictures}")
    files = sorted((pictures / "test").rglob("*.png"))
    found, called = images.open_calibration(files)
    assert (len(found), called) == (18, "18 files")
    facts = Facts(SwinConfig(img_size=16), preprocess=PREPROCESS)
    drawn = images.collect(Int8(pictures, calibration_images=1000), facts, lambda _: None)
    parts = [drawn.ranges, drawn.choosing, drawn.proof]
    assert [len(part) for part in parts] == [40, 5, 15]
    assert len({image.numpy().tobytes() for part in parts for image in part}) == 60
    assert [len(batch) for batch in images.batches(drawn.choosing, 2)] == [2, 2, 2]
    assert np.array_equal(images.batches(drawn.choosing, 2)[2][0], drawn.choosing[4].numpy())


def test_no_image_has_two_tasks_however_few_there_are(pictures):
    facts = Facts(SwinConfig(img_size=16), preprocess=PREPROCESS)
    files = sorted(pictures.rglob("*.png"))
    for count, wanted in ((1, 1), (2, 1), (9, 1), (9, 9), (64, 9)):
        few = files[: 3 if wanted == 1 else 12]
        drawn = images.collect(Int8(few, calibration_images=count), facts, lambda _: None)
        parts = [drawn.ranges, drawn.choosing, drawn.proof]
        assert all(len(part) for part in parts)
        assert len({image.numpy().tobytes() for part in parts for image in part}) == sum(map(len, parts)) <= len(few)


def test_many_images_are_computed_a_few_at_a_time():
    class Counting:
        facts, sizes = Facts(SwinConfig(num_classes=2)), []

        def outputs(self, x):
            self.sizes.append(len(x))
            return [x]

    x = torch.randn(50, 2)
    (got,) = search.comparable(Counting(), x)
    torch.testing.assert_close(got, x - x.mean(1, keepdim=True))
    assert Counting.sizes == [16, 16, 16, 2]


def test_effects_against_numbers_by_hand():
    got, wanted = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    effect = search.compare([got], [wanted])
    assert effect.error == pytest.approx(4 / 3)
    assert effect.agreement == 0.5
    assert search.compare([got * float("nan")], [wanted]).error == float("inf")
