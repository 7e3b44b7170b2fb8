"""Opening files of weights: formats, containers, prefixes, memory of the tensors. What is refused: test_opening_refused.py."""

import collections
import copy
import hashlib
import json
import struct
import sys
import types

import pytest
import safetensors.torch
import torch

from swinkit.checkpoints.opening import find_weights, open_weights
from swinkit.checkpoints.opening.checking import check_finite, check_sha256, not_finite
from swinkit.errors import CheckpointError


def weights(seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "patch_embed.proj.weight": torch.randn(4, 3, 2, 2, generator=random),
        "layers.0.norm.weight": torch.randn(4, generator=random).half(),
        "layers.0.index": torch.arange(6).reshape(2, 3),
        "head.bias": torch.randn(3, generator=random).bfloat16(),
    }


def assert_same(tensors, expected):
    assert list(tensors) == list(expected)
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def in_order(tensors):
    return dict(sorted(tensors.items()))


def test_safetensors(tmp_path):
    safetensors.torch.save_file(weights(), tmp_path / "w.safetensors")
    opened = open_weights(tmp_path / "w.safetensors")
    assert_same(in_order(opened.tensors), in_order(weights()))
    assert (opened.format, opened.container, opened.prefix, opened.notes) == ("safetensors", "", "", ())
    assert opened.source == tmp_path / "w.safetensors"


@pytest.mark.parametrize(("zipped", "kind"), [(True, "torch zip"), (False, "torch legacy")])
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors", ""])
def test_torch_files_whatever_their_name(tmp_path, zipped, kind, suffix):
    torch.save(weights(), tmp_path / f"w{suffix}", _use_new_zipfile_serialization=zipped)
    opened = open_weights(tmp_path / f"w{suffix}")
    assert_same(opened.tensors, weights())
    assert (opened.format, opened.container, opened.mapped) == (kind, "", zipped)


def test_safetensors_whatever_its_name(tmp_path):
    safetensors.torch.save_file(weights(), tmp_path / "w.pth")
    assert open_weights(tmp_path / "w.pth").format == "safetensors"


def test_a_path_as_text_and_from_home(tmp_path, monkeypatch):
    torch.save(weights(), tmp_path / "w.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_weights("~/w.pth").source == tmp_path / "w.pth"


CONTAINERS = ["model", "state_dict", "model_state_dict", "net", "module", "state_dict_ema", "model_ema", "ema"]


@pytest.mark.parametrize("container", [*CONTAINERS, "teacher"])
def test_containers(tmp_path, container):
    torch.save({"epoch": 3, container: weights(), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, weights())
    assert opened.container == container
    assert opened.notes[-1] == f"Left out what stands beside '{container}': 'epoch', 'optimizer'."


def test_containers_inside_containers(tmp_path):
    torch.save({"state_dict": {"model": prefixed("module.", weights())}}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert (opened.container, opened.prefix) == ("state_dict.model", "module.")
    assert_same(opened.tensors, weights())


def test_a_container_that_contains_itself_ends(tmp_path):
    endless = {"model": None}
    endless["model"] = endless
    torch.save(endless, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no tensors, only 'model'"):
        open_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(("raw", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema")])
def test_averaged_weights_are_taken_and_said_to_be(tmp_path, raw, averaged):
    torch.save({raw: weights(0), averaged: weights(1)}, tmp_path / "w.pth")
    opened, plain = open_weights(tmp_path / "w.pth"), open_weights(tmp_path / "w.pth", ema=False)
    assert_same(opened.tensors, weights(1))
    assert_same(plain.tensors, weights(0))
    assert (opened.container, plain.container) == (averaged, raw)
    assert f"averaged (EMA) weights under '{averaged}'" in opened.notes[0]
    assert f"raw weights, not the averaged (EMA) ones, under '{raw}'" in plain.notes[0]


def test_averaged_weights_that_hold_none_are_passed_over(tmp_path):
    torch.save({"model": weights(), "ema": {"decay": 0.9}, "model_ema": None}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert (opened.container, opened.notes) == ("model", ("Left out what stands beside 'model': 'ema', 'model_ema'.",))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "_orig_mod.module.model.backbone."]
)
def test_wrapper_prefixes(tmp_path, prefix):
    torch.save({"state_dict": prefixed(prefix, weights())}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, weights())
    assert opened.prefix == prefix
    assert repr(prefix) in opened.notes[-1]


@pytest.mark.parametrize("prefix", ["encoder.", "swin.", "swinv2.", "student."])
def test_prefixes_that_mean_something_stay(tmp_path, prefix):
    torch.save(prefixed(prefix, weights()), tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert opened.prefix == ""
    assert_same(opened.tensors, prefixed(prefix, weights()))


def test_a_prefix_of_some_names_stays(tmp_path):
    mixed = {**prefixed("backbone.", weights()), "decode_head.bias": torch.ones(2)}
    torch.save({"state_dict": mixed}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, mixed)
    assert opened.prefix == ""


def test_an_averaged_model_of_torch(tmp_path):
    model = torch.nn.Linear(2, 2)
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, model.state_dict())
    assert "n_averaged" in opened.notes[0]


def test_entries_that_are_no_tensors_are_named(tmp_path):
    torch.save({"version": 3, **weights(), "who": "me"}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, weights())
    assert opened.notes == ("Left out 'version', 'who': no tensors.",)


def test_shards_of_both_formats(tmp_path):
    parts = {"a.safetensors": dict(list(weights().items())[:2]), "b.safetensors": dict(list(weights().items())[2:])}
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for file, part in parts.items():
        safetensors.torch.save_file(prefixed("", part), tmp_path / file)
    opened = open_weights(tmp_path)
    assert opened.source == tmp_path / "model.safetensors.index.json"
    assert opened.format == "sharded safetensors"
    assert_same(opened.tensors, weights())
    for file, part in parts.items():
        torch.save(part, tmp_path / file)
    assert open_weights(tmp_path).format == "sharded torch zip"
    assert_same(open_weights(tmp_path).tensors, weights())


def test_a_tensor_that_no_index_lists_is_left_out_and_said_so(tmp_path):
    (tmp_path / "w.index.json").write_text(json.dumps({"weight_map": {"head.bias": "a"}}))
    torch.save(weights(), tmp_path / "a")
    opened = open_weights(tmp_path / "w.index.json")
    assert list(opened.tensors) == ["head.bias"]
    assert "3 tensors that the index does not list" in opened.notes[0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"], "model.safetensors.index.json"),
        (["pytorch_model.bin", "training_args.bin"], "pytorch_model.bin"),
        (["pytorch_model.bin.index.json", "pytorch_model-1.bin"], "pytorch_model.bin.index.json"),
        (["swin.pth", "README.md", "optimizer.pt", "training_args.bin"], "swin.pth"),
        (["open_clip_model.safetensors", "config.json"], None),
        ([], None),
    ],
)
def test_find_weights(tmp_path, files, expected):
    for name in files:
        (tmp_path / name).touch()
    assert find_weights(tmp_path) == (tmp_path / expected if expected else None)


def test_find_weights_does_not_choose_among_several(tmp_path):
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"several files of weights \(a.pth, b.pth\)"):
        find_weights(tmp_path)


def foreign(monkeypatch, module, name, base=object):
    """A class of a library that is not installed, importable while the file is written only."""
    made = type(name, (base,), {"__module__": module})
    for end in range(1, module.count(".") + 2):
        path = ".".join(module.split(".")[:end])
        monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    setattr(sys.modules[module], name, made)
    return made


@pytest.mark.parametrize("zipped", [True, False])
def test_the_original_authors_checkpoint_with_its_yacs_config(tmp_path, monkeypatch, zipped):
    with monkeypatch.context() as patch:
        node = foreign(patch, "yacs.config", "CfgNode", dict)
        config = node(MODEL=node(TYPE="swin", DEPTHS=[2, 2]))
        config.__dict__["__immutable__"] = True
        content = {"model": weights(), "config": config, "epoch": 299}
        torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert "yacs" not in sys.modules
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, weights())
    assert opened.container == "model"
    assert "yacs" not in sys.modules


def beside_weights():
    import argparse
    import datetime
    import pathlib

    import numpy as np

    counts = collections.defaultdict(list)
    counts["a"].append(1)
    yield from (argparse.Namespace(lr=0.1, out=pathlib.Path("a/b")), counts, datetime.datetime(2026, 1, 2), types.SimpleNamespace(a=1))
    yield from (np.float64(1.5), np.int64(3), np.arange(4.0), np.random.RandomState(0).get_state(), torch.__version__, {"a", 2})


@pytest.mark.parametrize("other", list(beside_weights()), ids=lambda other: type(other).__name__)
def test_what_training_scripts_store_beside_weights(tmp_path, other):
    torch.save({"state_dict": weights(), "other": other}, tmp_path / "w.pth")
    assert_same(open_weights(tmp_path / "w.pth").tensors, weights())


def test_the_history_of_mmengine_with_its_methods(tmp_path, monkeypatch):
    import numpy as np

    with monkeypatch.context() as patch:
        buffer = foreign(patch, "mmengine.logging.history_buffer", "HistoryBuffer")

        def mean(self):
            """Pickled by protocol 2 as getattr(HistoryBuffer, 'mean')."""

        mean.__module__, mean.__qualname__ = buffer.__module__, "HistoryBuffer.mean"
        buffer.mean = mean
        history = buffer()
        history.statistics, history.log = {"mean": buffer.mean}, np.arange(3.0)
        torch.save({"state_dict": weights(), "message_hub": {"loss": history}}, tmp_path / "w.pth")
    assert b"getattr" in (tmp_path / "w.pth").read_bytes()
    assert_same(open_weights(tmp_path / "w.pth").tensors, weights())


def test_torch_is_left_as_it_was(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"model": weights(), "args": types.SimpleNamespace()}, tmp_path / "w.pth")
    open_weights(tmp_path / "w.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_writing_to_the_tensors_does_not_reach_the_file(tmp_path, kind):
    path = tmp_path / "w"
    if kind == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
    before = path.read_bytes()
    for tensor in open_weights(path).tensors.values():
        tensor.zero_()
    assert path.read_bytes() == before
    assert_same(in_order(open_weights(path).tensors), in_order(weights()))


@pytest.mark.parametrize("save", [safetensors.torch.save_file, torch.save])
def test_tensors_outlive_their_file_when_it_is_replaced_by_renaming(tmp_path, save):
    save(weights(0), tmp_path / "w")
    opened = open_weights(tmp_path / "w")
    save(weights(1), tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / "w")
    assert_same(in_order(opened.tensors), in_order(weights(0)))


def test_big_tensors_are_mapped_not_copied(tmp_path):
    big = {"a": torch.ones(2**20), "b": torch.zeros(2**20)}
    for name, save in (("s", safetensors.torch.save_file), ("z", torch.save)):
        save(big, tmp_path / name)
        tensors = open_weights(tmp_path / name).tensors
        if sys.platform == "linux":
            with open("/proc/self/maps") as file:
                ranges = [line.split()[0].split("-") for line in file if line.rstrip().endswith(str(tmp_path / name))]
            starts = [range(int(first, 16), int(last, 16)) for first, last in ranges]
            assert all(any(tensor.data_ptr() in inside for inside in starts) for tensor in tensors.values())


def test_numbers_that_begin_at_odd_bytes(tmp_path):
    header = json.dumps(
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}
    )
    data = b"\x05" + struct.pack("<2f", 1.5, -2.0)
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
    tensors = open_weights(tmp_path / "w.safetensors").tensors
    assert tensors["b"].tolist() == [1.5, -2.0]
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in tensors.values())


@pytest.mark.parametrize("zipped", [True, False])
def test_shared_strided_empty_and_learned_tensors(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    odd = {
        "shared": base,
        "again": base,
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "channels_last": torch.arange(16.0).reshape(1, 2, 2, 4).to(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(odd, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    opened = open_weights(tmp_path / "w.pth")
    assert_same(opened.tensors, odd)
    assert not any(tensor.requires_grad for tensor in opened.tensors.values())
    assert all(type(tensor) is torch.Tensor for tensor in opened.tensors.values())
    assert opened.tensors["shared"].data_ptr() == opened.tensors["again"].data_ptr()


def test_attributes_on_a_tensor_do_not_answer_for_it(tmp_path):
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.detach = "mine"
    torch.save({"a": tensor}, tmp_path / "w.pth")
    opened = open_weights(tmp_path / "w.pth")
    assert opened.tensors["a"].tolist() == [1, 1]
    assert not vars(opened.tensors["a"])


class Masked(collections.OrderedDict):
    """Pickles as an OrderedDict with attributes in the place of its methods."""

    def __reduce__(self):
        return collections.OrderedDict, (), dict.fromkeys(("items", "get", "keys", "values"), dict), None, iter(self.items())


def test_attributes_on_a_dictionary_do_not_answer_for_it(tmp_path):
    torch.save(Masked(model=Masked(weights())), tmp_path / "w.pth")
    assert_same(open_weights(tmp_path / "w.pth").tensors, weights())


def test_check_finite_names_the_tensors():
    good = {**weights(), "empty": torch.empty(0), "big": torch.tensor([3e38, -3e38])}
    check_finite(good)
    bad = copy.deepcopy(good)
    bad["head.bias"][1] = float("nan")
    bad["patch_embed.proj.weight"][0, 1, 1, 0] = float("-inf")
    bad["layers.0.norm.weight"][3] = float("inf")
    assert not_finite(bad) == ["patch_embed.proj.weight", "layers.0.norm.weight", "head.bias"]
    with pytest.raises(CheckpointError, match=r"w.pth: 3 of 6 tensors hold NaN .*'patch_embed.proj.weight', 'layers.0.norm.weight'"):
        check_finite(bad, "w.pth")


def test_check_sha256(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for good in (digest, digest.upper(), digest[:8]):
        check_sha256(path, good)
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {digest}, expected {'0' * 64}"):
        check_sha256(path, "0" * 64)
    with pytest.raises(CheckpointError, match="no SHA-256"):
        check_sha256(path, digest[:7])
