"""What cannot be exported or opened: a sentence each, and nothing is left behind."""

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch

import swinkit
from small_models import small
from swinkit.config import SwinConfig
from swinkit.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from swinkit.export import checks, options
from swinkit.runtimes.facts import Facts
from swinkit.runtimes.pt2_check import _is_size


def model_of():
    return small(1, embed_dim=8, num_heads=(2,), depths=(1,), img_size=8)


def test_differences_see_shapes_and_nan():
    one = torch.tensor([1.0, -2.0])
    assert checks.largest_difference([one], [torch.tensor([1.0, -2.002])]) == pytest.approx(0.001, rel=0.01)
    assert checks.largest_difference([one], [one[:1]]) == float("inf")
    assert checks.largest_difference([one], []) == float("inf")
    assert checks.largest_difference([torch.tensor([1.0, float("nan")])], [one]) == float("inf")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"to": "onyx"}, UnknownNameError, "Did you mean onnx"),
        ({"out": "m.xml"}, ConfigError, "ending in .onnx"),
        ({"dtype": "bfloat16"}, ConfigError, "onnx can be float32, float16"),
        ({"img_size": 20}, ConfigError, "--fixed"),
        ({"batch_size": 0}, ConfigError, "at least 1"),
        ({"with_preprocessing": True}, ConfigError, "does not say how to prepare images"),
    ],
)
def test_options_that_cannot_be(changes, error, says, tmp_path):
    model = model_of()
    model.preprocess = {}
    with pytest.raises(error, match=says):
        swinkit.export(model, **{"to": "onnx", "out": tmp_path / "m.onnx"} | changes)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be(tmp_path):
    for model, says in (
        (torch.nn.Linear(1, 1), "Got a Linear"),
        (model_of().requires_grad_(False).to("meta"), "has no weights"),
    ):
        with pytest.raises(InputError, match=says):
            swinkit.export(model, to="onnx", out=tmp_path / "m.onnx")
    model = model_of()
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    with pytest.raises(InputError, match=r"head\.bias holds numbers that are not finite"):
        swinkit.export(model, to="onnx", out=tmp_path / "m.onnx")
    model = model_of()
    model.layers[0].blocks[0].mlp.fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="has a hook"):
        swinkit.export(model, to="onnx", out=tmp_path / "m.onnx")


@pytest.mark.parametrize("to", ["onnx", "openvino", "executorch"])
def test_a_missing_package_is_a_sentence(to, tmp_path, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"install with: pip install 'swinkit\[{to}\]'"):
        swinkit.export(model_of(), to=to, out=tmp_path / f"m{options.FORMATS[to].suffix}")


def test_opening_without_the_runtime_is_a_sentence(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    code = f"import sys; sys.modules['onnxruntime'] = None; import swinkit; swinkit.Predictor({str(tmp_path / 'm.onnx')!r})"
    says = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.splitlines()[-1]
    assert says.startswith("swinkit.errors.ConfigError: m.onnx needs the package onnxruntime")
    assert says.endswith("install it with: pip install 'swinkit[onnx]'")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_broken_files_are_a_sentence(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    with pytest.raises(CheckpointError, match="There is no"):
        swinkit.Predictor(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"m\."):
        swinkit.Predictor(path)
    if suffix == ".xml":
        path.with_suffix(".bin").write_bytes(b"")
        with pytest.raises(CheckpointError, match="cannot be opened by OpenVINO"):
            swinkit.Predictor(path)


def test_files_of_others_are_a_sentence():
    for text in (None, "", "{}", "[1]", "nonsense"):
        with pytest.raises(CheckpointError, match="does not say that swinkit wrote it"):
            Facts.from_json(text, "m.onnx")
    good = json.loads(Facts(SwinConfig()).to_json())
    for change in ({"format_version": 2}, {"config": {"depths": [1]}}, {"config": 3}, {"labels": 3}):
        with pytest.raises(CheckpointError):
            Facts.from_json(json.dumps(good | change), "m.onnx")
    assert Facts.from_json(json.dumps(good), "m.onnx") == Facts(SwinConfig())


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The members of a good archive, by name."""
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    swinkit.export(model_of(), to="torch-export", out=path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class Evil:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (os.mkdir, (str(self.trace),))


def pickled(trace):
    buffer = io.BytesIO()
    torch.save(Evil(trace), buffer)
    return buffer.getvalue()


def test_a_good_archive_holds_no_pickle_and_is_opened(program, tmp_path):
    assert not program["m/data/sample_inputs/model.pt"]
    assert not [name for name, content in program.items() if content[:2] == b"PK" or content[:2] == b"\x80\x02"]
    assert swinkit.runtimes.artefacts.open_artefact(write(tmp_path / "m.pt2", program)).facts.config.embed_dim == 8


def edited(program, **changes):
    """The archive with text of its program replaced."""
    text = program["m/models/model.json"].decode()
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return program | {"m/models/model.json": text.encode()}


def test_what_torch_would_unpickle_is_refused(program, tmp_path):
    trace = tmp_path / "trace"
    weights = json.loads(program["m/data/weights/model_weights_config.json"])
    first = next(iter(weights["config"].values()))
    first["use_pickle"] = True
    prepared = {
        "example inputs": program | {"m/data/sample_inputs/model.pt": pickled(trace)},
        "pickled values": program
        | {
            "m/data/weights/model_weights_config.json": json.dumps(weights).encode(),
            f"m/data/weights/{first['path_name']}": pickled(trace),
        },
        "a member data/weights/model.pt": program | {"m/data/weights/model.pt": pickled(trace)},
        "a member data/constants/opaque_obj_0": program | {"m/data/constants/opaque_obj_0": pickled(trace)},
        "a member data/constants/custom_obj_0": program | {"m/data/constants/custom_obj_0": pickled(trace)},
        "a member serialized_state_dict.pt": program | {"m/serialized_state_dict.pt": pickled(trace)},
        "a member models/other.json": program | {"m/models/other.json": b"{}"},
    }
    for says, members in prepared.items():
        with pytest.raises(CheckpointError, match=f"holds {says}"):
            swinkit.Predictor(write(tmp_path / "m.pt2", members))
    assert not trace.exists()


def test_torch_alone_would_have_unpickled_it(program, tmp_path):
    """The danger is real: without the check the trace is left."""
    trace = tmp_path / "trace"
    path = write(tmp_path / "m.pt2", program | {"m/data/sample_inputs/model.pt": pickled(trace)})
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.export.load(path)
    assert trace.exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("torch.ops.aten.gelu.default", "torch.load", "target 'torch.load'"),
        ("torch.ops.aten.gelu.default", "_operator.methodcaller", "target"),
        ('"guards_code": []', '"guards_code": ["print(1)"]', "guards_code 'print"),
        ('"name": "images"', '"name": "images=print(1)"', "name 'images=print"),
        ("FloorDiv(Add(", "__import__('os').system(Add(", "expr_str"),
        ('"metadata": {}', '"metadata": {"stack_trace": "x"}', "stack_trace"),
        ("builtins.tuple", "collections.namedtuple", "in_spec"),
    ],
)
def test_what_torch_would_execute_is_refused(program, old, new, says, tmp_path):
    with pytest.raises(CheckpointError, match=f"holds {says}"):
        swinkit.Predictor(write(tmp_path / "m.pt2", edited(program, change=(old, new))))


def test_sizes_as_torch_writes_them():
    for good in ("Symbol('s14', positive=True, integer=True)", "Add(Mul(Integer(4), FloorDiv(s14, 2)), Integer(-1))", "s34", "12", ""):
        assert _is_size(good), good
    for bad in ("__import__('os')", "s14.real", "print(1)", "lambda: 1", "[1]", "Symbol('a')", "().__class__", "eval('1')", "A" * 10_000):
        assert not _is_size(bad), bad


def test_a_compiled_program_comes_alone(program, tmp_path):
    members = program | {"m/data/aotinductor/model/x.so": b"no library"}
    with pytest.raises(CheckpointError, match="beside its compiled program"):
        swinkit.Predictor(write(tmp_path / "m.pt2", members))
