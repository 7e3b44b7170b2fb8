"""Files of weights that are broken, malicious or something else: one sentence each, and nothing happens."""

import builtins
import collections
import functools
import gzip
import io
import json
import operator
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest
import safetensors.torch
import torch

from swinkit.checkpoints.opening import open_weights, unpickling
from swinkit.errors import CheckpointError


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        open_weights(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 900
    return message


def written(folder, data, name="w.pth"):
    (folder / name).write_bytes(data)
    return folder / name


def torch_bytes(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tar_bytes():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return file.getvalue()


def zip_bytes(*names, how=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name in names:
            archive.writestr(name, b"x" * 100)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 113\n"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty: the download"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page: the download failed or needs a login"),
        (b"\xef\xbb\xbf\r\n <HTML><body>404", "is a web page"),
        (LFS, "git-lfs pointer.*git lfs pull"),
        (b'{"architectures": ["Swin"]}', "is JSON, not weights"),
        (b"[1, 2]", "is JSON, not weights"),
        (b'{"weight_map": ', "begins like JSON and cannot be parsed"),
        (b"[" * 100_000, "begins like JSON and cannot be parsed"),
        (b"Once upon a time\n", "is a text file"),
        (("模型权重" * 30).encode(), "is a text file"),
        (zip_bytes("a.txt"), "zip archive that torch.save did not write"),
        (zip_bytes("archive/data.pkl", "archive/constants.pkl"), "TorchScript"),
        (zip_bytes("archive/data.pkl", how=zipfile.ZIP_DEFLATED), "packed again with compression"),
        (tar_bytes(), "is a tar archive"),
        (gzip.compress(b"abc", mtime=0), "compressed with gzip"),
        (b"\x93NUMPY\x01\x00v\x00", "a NumPy array"),
        (b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0", "ONNX"),
        (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (pickle.dumps({"a": 1}), "pickle that torch.save did not write"),
        (b"\x00\x01\x02\x03\x04", "of no format known here"),
    ],
)
def test_other_files(tmp_path, data, match):
    refused(written(tmp_path, data), match)


def test_paths_that_lead_to_no_file(tmp_path):
    refused(tmp_path / "none.pth", "There is no file")
    refused("x" * 5000, "There is no file")
    refused(tmp_path, "has no weights; expected model.safetensors")
    refused("/dev/zero" if os.path.exists("/dev/zero") else tmp_path, "is not a regular file|has no weights")
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone.pth")
    refused(tmp_path / "link.pth", "There is no file")


def a_float(**changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    "data",
    [
        safetensors_bytes(a_float(), bytes(7)),
        safetensors_bytes(a_float(), bytes(9)),
        safetensors_bytes(a_float(), bytes(8))[:30],
        safetensors_bytes(a_float(shape=[10**10], data_offsets=[0, 4 * 10**10]), bytes(8)),
        safetensors_bytes(a_float(shape=[2**62, 8])),
        safetensors_bytes(a_float(data_offsets=[8, 0]), bytes(8)),
        safetensors_bytes(a_float(data_offsets=[2**64 - 8, 2**64]), bytes(8)),
        safetensors_bytes(a_float(data_offsets=[-8, 0]), bytes(8)),
        safetensors_bytes({**a_float(), "b": a_float(data_offsets=[4, 12])["a"]}, bytes(12)),
        safetensors_bytes({**a_float(), "b": a_float()["a"]}, bytes(8)),
        safetensors_bytes({**a_float(), "b": a_float(data_offsets=[9, 17])["a"]}, bytes(17)),
        safetensors_bytes(a_float(dtype="F31"), bytes(8)),
        safetensors_bytes(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]', bytes(8)),
        safetensors_bytes(b'{"\xff\xfe": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
        safetensors_bytes(b'{"a": ' * 5000),
        struct.pack("<Q", 2**60) + b'{"a": {}}',
        struct.pack("<Q", 40 * 10**9) + b'{"a": {}}',
        struct.pack("<Q", 2**64 - 1) + b'{"a": {}}',
        struct.pack("<Q", 10**8 + 1) + b"{",
        b"\x10\x00\x00",
    ],
)
def test_broken_safetensors(tmp_path, data):
    refused(written(tmp_path, data, "w.safetensors"), "broken or cut off")


def test_every_truncation_of_a_safetensors_file(tmp_path):
    data = safetensors.torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)})
    for length in range(len(data)):
        refused(written(tmp_path, data[:length], "w.safetensors"), "broken or cut off|is empty")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncations_of_torch_files(tmp_path, zipped):
    data = torch_bytes({"model": {"a": torch.ones(30), "b": torch.zeros(2, 2)}}, _use_new_zipfile_serialization=zipped)
    for length in [*range(0, 20), *range(20, len(data) - 1, 97), len(data) - 1]:
        refused(written(tmp_path, data[:length]), "cut off|is empty|not write|text file|no format")


def test_claims_of_memory_take_none(tmp_path):
    gib = torch.ones(1).expand(2**28, 1, 1)
    refused(written(tmp_path, torch_bytes({"a": gib})), "'a' claims 268435456x1x1 numbers in a file of")
    refused(written(tmp_path, torch_bytes({"a": gib}, _use_new_zipfile_serialization=False)), "'a' claims 268435456x1x1 numbers")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (
        torch_bytes({"a": torch.ones(4)}, _use_new_zipfile_serialization=False).replace(b"K\x04", b"J\x00\x00\x00\x7f"),
        torch_bytes({"a": torch.ones(4)}).replace(b"K\x04", b"K\xff"),
    ):
        refused(written(tmp_path, data), "broken|claims")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def attacks(mark):
    command = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w')"
    opening = Call(builtins.open, str(mark), "w")
    yield "os.system", Call(os.system, command), "system"
    yield "eval", Call(builtins.eval, code), "eval"
    yield "exec", Call(builtins.exec, code), "exec"
    yield "open", opening, "open"
    yield "import", Call(builtins.__import__, "this"), "__import__"
    yield "subprocess", Call(subprocess.check_output, ["touch", str(mark)]), "(subprocess|commands).check_output"
    yield "popen", Call(subprocess.Popen, ["touch", str(mark)]), "(subprocess|commands).Popen"
    yield "torch.load", Call(torch.load, str(mark)), "torch.serialization.load"
    yield "pickle in a pickle", Call(pickle.loads, pickle.dumps(Call(os.system, command))), "loads"
    yield "partial", Call(functools.partial, os.system, command), "functools.partial"
    yield "map", [Call(map, builtins.eval, [code])], "map"
    yield "methodcaller", Call(operator.methodcaller, "system", command), "operator.methodcaller"
    yield "state", Call(torch.nn.Linear, 1, 1, state={"forward": Call(os.system, command)}), "Linear|system"
    yield "runstring", Call(sys.modules["torch"].hub.load, "owner/name", "model"), "torch.hub.load"


ATTACKS = [name for name, _, _ in attacks("")]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("attack", ATTACKS)
def test_malicious_pickles_execute_nothing(tmp_path, attack, zipped):
    mark = tmp_path / "executed"
    payload, named = next((payload, named) for name, payload, named in attacks(mark) if name == attack)
    for content in (payload, {"model": {"a": torch.ones(2)}, "extra": [{"deep": payload}]}, {"state_dict": {"a": payload}}):
        data = torch_bytes(content, _use_new_zipfile_serialization=zipped)
        refused(written(tmp_path, data), rf"asks for [\w.]*({named}).*nothing in it was executed")
    assert not mark.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_torch_would_refuse_them_too(tmp_path, attack, monkeypatch):
    monkeypatch.setattr(unpickling, "check_pickles", lambda *_: None)
    payload = next(payload for name, payload, _ in attacks(tmp_path / "executed") if name == attack)
    refused(written(tmp_path, torch_bytes({"model": {"a": torch.ones(2)}, "extra": payload})), "Nothing in it was executed")
    assert not (tmp_path / "executed").exists()


def test_stand_ins_do_nothing(tmp_path):
    mark = tmp_path / "executed"
    code = f"open({str(mark)!r}, 'w')".encode()
    text = b"X" + struct.pack("<I", len(code)) + code
    builtin = b"cbuiltins\ngetattr\n(cbuiltins\nstr\nX\x09\x00\x00\x00__class__tR"  # getattr(str, "__class__")
    for program in (builtin, b"cbuiltins\ndict\n" + text + b"\x85R", b"cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00a" + text + b"sb"):
        refused(written(tmp_path, with_pickle(b"\x80\x02" + program + b".")), "holds one LeftOut;")
    for stand_in, _ in unpickling.STAND_INS:
        made = stand_in(code, print, 3)
        assert type(made) in (unpickling.LeftOut, collections.OrderedDict)
        assert not vars(made)
        assert not callable(made)
    assert not mark.exists()


def test_a_plain_malicious_pickle_is_not_read_at_all(tmp_path):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = written(tmp_path, pickle.dumps(Call(os.system, f"touch {tmp_path / 'executed'}"), protocol))
        refused(path, "pickle|text file|no format")
    assert not (tmp_path / "executed").exists()


def with_pickle(program):
    """A file of torch.save whose pickle is replaced by these opcodes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_bytes({"a": torch.ones(2)}))) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for record in old.infolist():
            new.writestr(record.filename, program if record.filename.endswith("data.pkl") else old.read(record))
    return out.getvalue()


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (b"cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "asks for os.system"),
        (b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "asks for posix.system"),
        (b"(X\x04\x00\x00\x00trueios\nsystem\n.", "Unsupported operand"),  # INST
        (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93X\x04\x00\x00\x00true\x85R.", "Unsupported operand"),  # STACK_GLOBAL
        (b"\x82\x01.", "Unsupported operand"),  # EXT1
        (b"cbuiltins\ngetattr\n(cbuiltins\ndict\nX\x05\x00\x00\x00clearetR.", "."),
        (b"cargparse\nNamespace\n)\x81cos\nsystem\nb.", "asks for os.system"),
        (b"ctorch\nFloatTensor\n\x8a\x05\x00\x00\x00\x00\x10\x85R.", "asks for torch.FloatTensor"),
        (b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.", "asks for torch.Tensor"),
        (b"ctorch\nFloatStorage\nJ\xff\xff\xff\x7f\x85R.", "not callable|Trying to call reduce"),
        (b"cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "asks for builtins.bytearray"),
        (b"ccollections\nOrderedDict\n)R}X\x0b\x00\x00\x00__setstate__cos\nsystem\nsb.", "asks for os.system|broken"),
        (b"cevil\x1b[31m\nname\n.", r"asks for evil\?\[31m.name"),
        (b"}" * 10 + b".", "holds an empty dictionary"),
        (b"}X\x01\x00\x00\x00a" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 60)) + b"Ns.", "tuples within tuples without end"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.", "asks for _codecs.encode with hex"),
        (b"(" * 10_000 + b".", "more is taken from the stack"),
        (b"]" + b"\x85" * 10_000 + b".", "holds one tuple"),
        (b"N.", "holds one NoneType"),
        (b"", "broken or cut off"),
    ],
)
def test_pickles_written_by_hand(tmp_path, program, match):
    refused(written(tmp_path, with_pickle(b"\x80\x02" + program)), match)


def test_a_shape_below_nothing(tmp_path):
    """torch makes a tensor of shape (0, -1), which raises only where its numbers are asked for."""
    with zipfile.ZipFile(io.BytesIO(torch_bytes({"a": torch.ones(0, 3)}))) as file:
        program = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    negative = program.replace(b"K\x00K\x03\x86", b"K\x00J\xff\xff\xff\xff\x86", 1)
    assert negative != program
    refused(written(tmp_path, with_pickle(negative)), "impossible shape .0, -1.")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "holds an empty dictionary"),
        ({"model": {}}, "holds no tensors, only 'model'"),
        ({"epoch": 3, "arch": "swin"}, "holds no tensors, only 'epoch', 'arch'"),
        (torch.ones(3), "holds one Tensor"),
        ([torch.ones(3)], "holds one list"),
        ({"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "state of an optimizer and no weights"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "state of an optimizer and no weights"),
        ({"student": {"a": torch.ones(1)}, "teacher": {"a": torch.ones(1)}}, "Several dictionaries of tensors.*'student', 'teacher'"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' has numbers of type torch.complex64"),
        ({"a": torch.eye(2).to_sparse()}, "sparse, quantized, nested, meta or otherwise special tensor .*_rebuild_sparse_tensor"),
        ({"a": torch.ones(2, device="meta")}, "sparse, quantized, nested, meta or otherwise special tensor .*_rebuild_meta"),
        ({3: torch.ones(1)}, "3 is no name of a tensor"),
        ({"a\n\x1b[31m": torch.ones(1)}, r"'a\\n\\x1b\[31m' is no name of a tensor"),
        ({"x" * 10_000: torch.ones(1)}, "xxx...' is no name of a tensor"),
        ({"": torch.ones(1)}, "'' is no name of a tensor"),
        (torch.nn.Linear(1, 1), "asks for torch.nn.modules.linear.Linear"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_contents_that_are_no_weights(tmp_path, content, match):
    refused(written(tmp_path, torch_bytes(content)), match)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch deprecates quantized tensors
def test_quantized_tensors(tmp_path):
    content = {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}
    refused(written(tmp_path, torch_bytes(content)), "sparse, quantized, nested, meta or otherwise special tensor .*_rebuild_qtensor")


REPEATED = (  # one number, 2^31 - 1 times
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85\x89ccollections\nOrderedDict\n)RtR"
)


@pytest.mark.parametrize(
    "program",
    [
        b"ctorch\nSize\n" + REPEATED + b"\x85R.",
        b"ctorch\nSize\n" + REPEATED + b"R.",
        b"cargparse\nNamespace\n" + REPEATED + b"R.",
        b"cargparse\nNamespace\n" + REPEATED + b"\x81.",
        b"ccollections\nOrderedDict\n](" + REPEATED + b"e\x85R.",
        b"ccollections\nOrderedDict\n]q\x01\x85q\x020h\x01" + REPEATED + b"a0ccollections\nOrderedDict\nh\x02R.",
        b"ccollections\nOrderedDict\n)R" + REPEATED + b"b.",
        REPEATED + REPEATED + b"b.",
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + REPEATED + b"tQ.",
        b"cbuiltins\nset\n" + REPEATED + b"\x85R.",
        b"ccollections\nCounter\n" + REPEATED + b"\x85R.",
    ],
)
def test_a_repeated_tensor_is_never_looped_over(tmp_path, program):
    refused(written(tmp_path, with_pickle(b"\x80\x02" + program)), "a tensor|no tuple|Unsupported")


def sharded(folder, weight_map, **shards):
    for name, tensors in shards.items():
        safetensors.torch.save_file({key: torch.ones(2) for key in tensors}, folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder / "model.safetensors.index.json"


@pytest.mark.parametrize(
    "place",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/one.safetensors",
        "..\\one",
        "C:one",
        "a\0b",
        "a\nb",
        "model.safetensors.index.json",
    ],
)
def test_shards_outside_the_folder(tmp_path, place):
    refused(sharded(tmp_path, {"a": place}), "as a shard; expected the name of a file in the same folder")


def test_sharded_files_that_do_not_fit(tmp_path):
    refused(sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one="a"), "needs 'two.safetensors', which is missing")
    refused(
        sharded(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"}, one="a"), "promises 'b' in 'one.safetensors', where it is not"
    )
    both = sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}, one="a", two="ab")
    refused(both, "'a' is in 'one.safetensors' and in 'two.safetensors'")
    refused(sharded(tmp_path, {"a": "x" * 5000}), "which is missing")
    (tmp_path / "second.json").write_text('{"weight_map": {"a": "second.json"}}')
    refused(sharded(tmp_path, {"a": "second.json"}), "is an index itself")
    (tmp_path / "three.safetensors").write_bytes(torch_bytes([1]))
    refused(sharded(tmp_path, {"a": "three.safetensors"}), "holds one list")


@pytest.mark.parametrize("weight_map", [{}, [], None, 3, {"a": 1}, {"a": None}])
def test_an_index_without_a_map(tmp_path, weight_map):
    refused(sharded(tmp_path, weight_map), "no usable weight_map")


def test_an_unreadable_file(tmp_path):
    path = written(tmp_path, torch_bytes({"a": torch.ones(1)}))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    refused(path, "cannot be read: Permission denied")
