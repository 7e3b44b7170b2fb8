"""Building from a file: nothing is drawn or initialised, nothing heavy is imported, and the model and the file stay apart."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import swinkit
from small_models import small
from swinkit.build import from_saved
from swinkit.checkpoints.dialects.examine import read
from swinkit.checkpoints.dialects.writing import write
from swinkit.checkpoints.native import SavedModel
from swinkit.errors import CheckpointError

FILES = {
    "x.safetensors": "timm",
    "original.pth": "original",
    "split.safetensors": "transformers",
    "split.pth": "transformers",
    "mm.pth": "mmpretrain",
    "native": "native",
    "legacy.bin": "",
}


def write_file(folder, name):
    model = small()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    saved = SavedModel(model.config, dict(model.state_dict()))
    if not FILES[name]:
        torch.save(saved.tensors, folder / name, _use_new_zipfile_serialization=False)
    else:
        write(saved, folder / name, FILES[name])
    weights = folder / name / "model.safetensors" if name == "native" else folder / name
    return weights, saved.tensors


def same(model, tensors):
    state = model.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_drawn_or_initialised(name, tmp_path, monkeypatch):
    path, tensors = write_file(tmp_path, name)
    for method in ("uniform_", "normal_", "fill_", "zero_", "erfinv_"):
        plain = getattr(torch.Tensor, method)

        def on_meta_only(tensor, *args, plain=plain, **kwargs):
            assert tensor.is_meta, "a tensor with memory is initialised"
            return plain(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, method, on_meta_only)
    before = torch.get_rng_state()
    assert same(swinkit.from_pretrained(path), tensors)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", FILES)
def test_the_model_and_the_file_stay_apart(name, tmp_path):
    path, tensors = write_file(tmp_path, name)
    content = path.read_bytes()
    model = swinkit.from_pretrained(path)
    with path.open("r+b") as file:  # in place: the same inode that was mapped
        file.write(bytes(len(content)))
    assert same(model, tensors)
    path.write_bytes(content)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == content
    memory = [parameter.untyped_storage().data_ptr() for parameter in model.parameters()]
    assert len(set(memory)) == len(memory)
    assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "own"),
    [("x.safetensors", ""), ("original.pth", ""), ("split.safetensors", ".qkv."), ("mm.pth", ".downsample."), ("legacy.bin", ".")],
)
def test_what_reading_made_is_not_copied_again(name, own, tmp_path):
    path, tensors = write_file(tmp_path, name)
    saved = read(path)
    assert saved.own == {name for name in tensors if own and own in name}
    model = from_saved(saved)
    state = model.state_dict()
    assert {n for n, tensor in saved.tensors.items() if state[n].data_ptr() == tensor.data_ptr()} == saved.own


def test_tensors_of_a_file_that_share_memory_are_copied(tmp_path):
    _, tensors = write_file(tmp_path, "legacy.bin")
    shared = torch.randn(2, 8)
    tensors |= {"norm.weight": tensors["norm.weight"], "patch_embed.norm.weight": shared[0], "patch_embed.norm.bias": shared[1]}
    torch.save(tensors, tmp_path / "shared.bin", _use_new_zipfile_serialization=False)
    assert tensors.keys() - read(tmp_path / "shared.bin").own == {"patch_embed.norm.weight", "patch_embed.norm.bias"}


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="torch 2.11 imports sympy on the way")
def test_reading_imports_no_compiler(tmp_path):
    paths = [str(write_file(tmp_path, name)[0]) for name in ("split.safetensors", "mm.pth")]
    build = "swinkit.create_model('swin_pico_patch2_window4_32')"  # what some versions of torch import for that is theirs
    read_all = f"[swinkit.from_pretrained(path) for path in {paths}]"
    code = f"import sys, swinkit\n{build}\nbefore = 'sympy' in sys.modules\n{read_all}\nprint('sympy' in sys.modules and not before)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "tensor", "shape"),
    [("split.pth", "swin.encoder.layers.0.blocks.0.attention.self.key.weight", (8, 7)), ("mm.pth", "norm", (33,))],
)
def test_shapes_that_cannot_be_joined_are_one_sentence(name, tensor, shape, tmp_path):
    path, _ = write_file(tmp_path, name)
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    state["backbone.stages.0.downsample.norm.weight" if tensor == "norm" else tensor] = torch.zeros(shape)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"go together|four tokens"):
        swinkit.from_pretrained(path)
