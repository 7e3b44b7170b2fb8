"""Weights of the installed peers, in their own code: theirs read here, ours written for them, and from one peer to another.

All models are random and computed in float64, where two correct programs agree to about 1e-12 of the largest output.
"""

import warnings

import pytest
import timm
import torch
import torchvision.models.swin_transformer as tv
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer as TimmV1
from timm.models.swin_transformer_v2 import SwinTransformerV2 as TimmV2

import swinkit
from swinkit.variants import get_config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SMALL = {"embed_dim": 8, "depths": (2, 3), "num_heads": (2, 4)}


pytestmark = pytest.mark.filterwarnings("ignore:.*V2's weights do not tell")


def shaken(model, seed=0):
    """Every parameter random, so that a forgotten, swapped or transposed one shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.ndim > 1 else 0.3))
            if name.endswith("logit_scale"):
                parameter.add_(2.3)
    return model.eval()


def images(side, channels=3):
    height, width = (side, side) if isinstance(side, int) else side
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def logits(model, x):
    with torch.no_grad():
        out = model.double()(x)
    return getattr(out, "logits", out)


def same(got, wanted):
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, atol=1e-6 * wanted.abs().max().item(), rtol=0)


def timm_v1(size=32, window=4, **changes):
    return TimmV1(**SMALL | {"img_size": size, "patch_size": 2, "window_size": window, "num_classes": 5} | changes)


def timm_v2(size=32, window=4, **changes):
    return TimmV2(**SMALL | {"img_size": size, "patch_size": 2, "window_size": window, "num_classes": 5} | changes)


def torchvision_model(version, window=4, patch=2, **changes):
    parts = (tv.SwinTransformerBlock, tv.PatchMerging) if version == 1 else (tv.SwinTransformerBlockV2, tv.PatchMergingV2)
    shape = {name: list(value) if isinstance(value, tuple) else value for name, value in (SMALL | changes).items()}
    return tv.SwinTransformer(
        [patch, patch], window_size=[window, window], num_classes=5, block=parts[0], downsample_layer=parts[1], **shape
    )


def transformers_model(version, size=32, window=4, **changes):
    shape = SMALL | {"image_size": size, "patch_size": 2, "window_size": window, "num_labels": 5} | changes
    shape = {name: list(value) if isinstance(value, tuple) else value for name, value in shape.items()}
    if version == 1:
        return transformers.SwinForImageClassification(transformers.SwinConfig(**shape))
    return transformers.Swinv2ForImageClassification(transformers.Swinv2Config(**shape))


PEERS = {
    "timm V1": timm_v1,
    "timm V2": timm_v2,
    "torchvision V1": lambda: torchvision_model(1),
    "torchvision V2": lambda: torchvision_model(2),
    "transformers V1": lambda: transformers_model(1),
    "transformers V2": lambda: transformers_model(2),
}
KNOWN = {"img_size": 32, "window_size": 4}
"""What a file of weights of the small models does not tell."""


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("peer", PEERS)
def test_a_file_of_theirs_gives_their_logits(peer, suffix, tmp_path):
    model, path = shaken(PEERS[peer]()), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    same(logits(swinkit.from_pretrained(path, **KNOWN), images(32)), logits(model, images(32)))
    assert swinkit.inspect(path, **KNOWN).dialect == peer.split()[0]


@pytest.mark.parametrize("version", [1, 2])
def test_folders_of_transformers(version, tmp_path):
    model = shaken(transformers_model(version, pretrained_window_sizes=(3, 3)) if version == 2 else transformers_model(version))
    model.config.id2label = dict(enumerate("abcde"))
    model.save_pretrained(tmp_path)
    read = swinkit.from_pretrained(tmp_path)
    same(logits(read, images(32)), logits(model, images(32)))
    assert read.labels == tuple("abcde")
    assert read.config.img_size == 32
    assert read.config.window_size == 4
    model.save_pretrained(tmp_path / "five", save_original_format=False)
    same(logits(swinkit.from_pretrained(tmp_path / "five"), images(32)), logits(model, images(32)))


@pytest.mark.parametrize("factory", [timm_v1, timm_v2])
@pytest.mark.parametrize(
    ("size", "window"),
    [((32, 48), 4), ((16, 32), (4, 8)), ((16, 64), 8), (32, [(8, 4), (4, 8)])],
    ids=["oblong map", "oblong window", "shrunk along one axis", "one window per stage"],
)
def test_timm_windows_along_each_axis(factory, size, window, tmp_path):
    model = shaken(factory(size, window))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    windows = [tuple(stage.blocks[0].window_size) for stage in model.layers]
    read = swinkit.from_pretrained(tmp_path / "weights.pth", img_size=size, window_size=windows, size_policy="per_axis")
    same(logits(read, images(size)), logits(model, images(size)))


@pytest.mark.parametrize("factory", [timm_v1, timm_v2])
def test_a_timm_folder_tells_its_windows(factory, tmp_path):
    model = shaken(factory((16, 64), 8))
    config = swinkit.SwinConfig(
        version=1 if factory is timm_v1 else 2, img_size=(16, 64), patch_size=2, num_classes=5, size_policy="per_axis",
        window_size=[tuple(stage.blocks[0].window_size) for stage in model.layers], **SMALL,
    )  # fmt: skip
    ours = shaken(swinkit.SwinTransformer(config))
    swinkit.save_pretrained(ours, tmp_path / "ours", preprocess={"size": [16, 64], "mean": [0.1] * 3, "std": [0.2] * 3})
    swinkit.convert(tmp_path / "ours", tmp_path / "theirs", to="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True).eval()
    assert theirs.pretrained_cfg["mean"] == [0.1] * 3
    same(logits(theirs, images((16, 64))), logits(ours, images((16, 64))))
    again = swinkit.from_pretrained(tmp_path / "theirs")
    assert again.config.windows == config.windows
    same(logits(again, images((16, 64))), logits(ours, images((16, 64))))


def in_their_code(folder_or_file, dialect, version):
    """Weights that we wrote, loaded by the peer with its own strict loading."""
    if dialect == "timm":
        return timm.create_model(f"local-dir:{folder_or_file}", pretrained=True).eval()
    if dialect == "transformers":
        kind = transformers.SwinForImageClassification if version == 1 else transformers.Swinv2ForImageClassification
        model, report = kind.from_pretrained(folder_or_file, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert not report["mismatched_keys"]
        return model.eval()
    model = torchvision_model(version)
    model.load_state_dict(torch.load(folder_or_file, weights_only=True))
    return model.eval()


@pytest.mark.parametrize("dialect", ["timm", "torchvision", "transformers"])
@pytest.mark.parametrize("version", [1, 2])
def test_ours_gives_our_logits_in_their_code(version, dialect, tmp_path):
    config = swinkit.SwinConfig(version=version, img_size=32, patch_size=2, window_size=4, num_classes=5, **SMALL)
    ours = shaken(swinkit.SwinTransformer(config))
    swinkit.save_pretrained(ours, tmp_path / "ours")
    out = tmp_path / ("theirs.pth" if dialect == "torchvision" else "theirs")
    swinkit.convert(tmp_path / "ours", out, to=dialect)
    same(logits(in_their_code(out, dialect, version), images(32)), logits(ours, images(32)))
    known = KNOWN if dialect == "torchvision" else {}
    again = swinkit.from_pretrained(out, **known)
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in swinkit.from_pretrained(tmp_path / "ours").state_dict().items()
    )


@pytest.mark.parametrize("target", ["timm", "torchvision", "transformers"])
@pytest.mark.parametrize("source", PEERS)
def test_from_one_peer_to_another(source, target, tmp_path):
    theirs, version = shaken(PEERS[source]()), 1 if source.endswith("V1") else 2
    torch.save(theirs.state_dict(), tmp_path / "source.pth")
    out = tmp_path / ("target.pth" if target == "torchvision" else "target")
    swinkit.convert(tmp_path / "source.pth", out, to=target, **KNOWN)
    same(logits(in_their_code(out, target, version), images(32)), logits(theirs, images(32)))


@pytest.mark.parametrize(("name", "peer"), [("swin_tiny_patch4_window7_224", "swin_t"), ("swinv2_tiny_window8_256", "swin_v2_t")])
def test_the_published_tiny_model_through_all_three(name, peer, tmp_path):
    theirs = shaken(getattr(tv, peer)())
    size = 224 if peer == "swin_t" else 256
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    swinkit.convert(tmp_path / "torchvision.pth", tmp_path / "timm", to="timm")
    swinkit.convert(tmp_path / "timm", tmp_path / "transformers", to="transformers")
    swinkit.convert(tmp_path / "transformers", tmp_path / "again.pth", to="torchvision")
    back = torch.load(tmp_path / "again.pth", weights_only=True)
    wanted = theirs.state_dict()
    assert back.keys() == wanted.keys()
    for key, tensor in wanted.items():
        tensor = tensor.clone()
        if peer == "swin_v2_t" and key.endswith("qkv.bias"):  # torchvision overwrites the bias of the keys at each forward
            tensor[len(tensor) // 3 : 2 * len(tensor) // 3] = 0
        assert back[key].dtype == tensor.dtype
        torch.testing.assert_close(back[key], tensor, rtol=0, atol=0)
    ours = swinkit.from_pretrained(tmp_path / "timm")
    config = get_config(name)
    assert ours.config == config.replace(drop_path_rate=ours.config.drop_path_rate)
    others = (
        timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True),
        in_their_code(tmp_path / "transformers", "transformers", config.version),
    )
    x = images(size)[:1].float()
    with torch.no_grad():
        wanted = theirs(x)
        for model in (ours, *others):
            got = model.eval()(x)
            torch.testing.assert_close(getattr(got, "logits", got), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)


@pytest.mark.parametrize("version", [1, 2])
def test_transformers_backbones(version, tmp_path):
    shape = {"image_size": 64, "patch_size": 2, "window_size": 4, "out_features": ["stage1", "stage2"]} | {
        k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()
    }
    if version == 1:
        model = shaken(transformers.SwinBackbone(transformers.SwinConfig(**shape)))
    else:
        model = shaken(transformers.Swinv2Backbone(transformers.Swinv2Config(**shape)))
    model.save_pretrained(tmp_path / "theirs")
    read = swinkit.from_pretrained(tmp_path / "theirs")
    x = images(64)
    with torch.no_grad():
        wanted, got = model.double()(x).feature_maps, read.double()(x)
    assert len(got) == len(wanted) == 2
    for ours, theirs in zip(got, wanted, strict=True):
        same(ours, theirs)
    swinkit.convert(tmp_path / "theirs", tmp_path / "again", to="transformers")
    kept, before = load_file(tmp_path / "again/model.safetensors"), load_file(tmp_path / "theirs/model.safetensors")
    assert kept.keys() == before.keys() or version == 1
    again = type(model).from_pretrained(tmp_path / "again").eval().double()
    with torch.no_grad():
        for ours, theirs in zip(again(x).feature_maps, wanted, strict=True):
            same(ours, theirs)


@pytest.mark.parametrize("version", [1, 2])
def test_masked_pretraining_of_transformers_gives_its_encoder(version, tmp_path):
    shape = {"image_size": 32, "patch_size": 2, "window_size": 4} | {k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()}
    kind = transformers.SwinForMaskedImageModeling if version == 1 else transformers.Swinv2ForMaskedImageModeling
    config = transformers.SwinConfig(**shape) if version == 1 else transformers.Swinv2Config(**shape)
    model = shaken(kind(config))
    model.save_pretrained(tmp_path)
    found = swinkit.inspect(tmp_path)
    assert set(found.dropped.values()) == {"belongs to masked pretraining", "belongs to masked pretraining: its reconstruction head"}
    read = swinkit.from_pretrained(tmp_path)
    trunk = model.swin if version == 1 else model.swinv2
    with torch.no_grad():
        same(logits(read, images(32)), trunk.double()(images(32)).last_hidden_state.mean(dim=1))
