"""Fine-tuning: what is loaded, what of it is kept, how fast each layer learns, what stays frozen, and going on without the source."""

import copy
import json
import shutil
from itertools import pairwise

import pytest
import timm.optim
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import swinkit
from conftest import COLOURS, TINY, write_pictures
from small_models import VERSIONS, small
from swinkit.cli import run as command_line
from swinkit.data import open_data
from swinkit.errors import CheckpointError, ConfigError, UnknownNameError
from swinkit.train.checks import adjustments
from swinkit.train.layers import freeze_layers, layer_name, layer_of
from swinkit.train.loop import Trainer
from swinkit.train.optim import Average, go_to, make_optimizers, make_schedule
from swinkit.train.parallel import replicate, shard, whole
from swinkit.train.plan import plan_start
from swinkit.train.recipe import Recipe, load_recipe, recipe_for
from swinkit.train.stopping import Interrupted
from swinkit.train.weights import local_source

QUIET = Console(quiet=True)
STATISTICS = {"size": [16, 16], "mean": [0.3, 0.4, 0.5], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "crop_pct": 0.8}
TUNE = {name: value for name, value in TINY.items() if name not in ("model", "img_size")} | {"recipe": "finetune", "scale": (0.8, 1.0)}


@pytest.fixture
def source(tmp_path):
    """A folder of `save_pretrained` with five classes of its own and its own way of preparing images."""
    model = small(img_size=16)
    swinkit.save_pretrained(model, tmp_path / "source", labels=list("abcde"), preprocess=STATISTICS)
    return tmp_path / "source"


def curve(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return [(record["step"], record["kind"], record["loss"]) for record in curve(run)]


def rates(model, **recipe):
    """Parameter name -> (learning rate, weight decay)"""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [group for optimizer in make_optimizers(model, Recipe(**recipe)) for group in optimizer.param_groups]
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def simmim_layer(name, depths):
    """From the description in the SimMIM fine-tuning code: blocks counted through, merging with the block before, the rest last."""
    order = ["patch_embed", *(f"layers.{stage}.blocks.{block}." for stage, depth in enumerate(depths) for block in range(depth))]
    for stage in range(len(depths)):
        name = name.replace(f"layers.{stage}.downsample", f"layers.{stage}.blocks.{depths[stage] - 1}.downsample")
    return next((layer for layer, prefix in enumerate(order) if name.startswith(prefix)), len(order))


@VERSIONS
def test_layers_are_those_of_simmim(version):
    depths = (2, 3, 1)
    model = small(version, depths=depths, num_heads=(2, 2, 2))
    scaled = rates(model, layer_decay=0.7, lr=0.5, weight_decay=0.3)
    for name, parameter in model.named_parameters():
        layer = simmim_layer(name, depths)
        assert layer_of(name, depths) == layer, name
        assert scaled[name][0] == pytest.approx(0.5 * 0.7 ** (7 - layer)), name
        exempt = parameter.ndim == 1 or any(word in name for word in ("bias_table", "logit_scale", "cpb_mlp"))
        assert scaled[name][1] == (0.0 if exempt else 0.3), name
    assert layer_of("absolute_pos_embed", depths) == 0
    assert [layer_name(layer, depths) for layer in (0, 2, 3, 6, 7)] == [
        "the patch embedding", "block 2 of stage 1", "block 1 of stage 2", "block 1 of stage 3", "the head",
    ]  # fmt: skip


def test_rates_are_timms_but_for_the_merging_and_the_last_norm():
    """timm counts merging to the stage after it and the last norm to the last block: one layer off, and nothing else differs."""
    size = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    peer = timm.models.swin_transformer.SwinTransformer(**size, num_classes=5)
    groups = timm.optim.param_groups_layer_decay(peer, layer_decay=0.7)
    names = {parameter: name for name, parameter in peer.named_parameters()}
    theirs = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    theirs = {name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): s for name, s in theirs.items()}
    ours = {name: rate for name, (rate, _) in rates(small(), layer_decay=0.7, lr=1.0).items()}
    assert ours.keys() == theirs.keys()
    for name, rate in ours.items():
        off = 1 / 0.7 if "downsample" in name else 0.7 if name.startswith("norm.") else 1.0
        assert rate * off == pytest.approx(theirs[name]), name


def test_muon_has_the_same_decay():
    model = small()
    scaled = rates(model, layer_decay=0.7, lr=1.0, opt="muon", muon_lr=10.0)
    assert scaled["layers.0.blocks.1.mlp.fc1.weight"][0] == pytest.approx(10 * 0.7**3)
    assert scaled["layers.0.blocks.1.mlp.fc1.bias"][0] == pytest.approx(0.7**3)
    assert scaled["head.weight"][0] == 1.0
    assert len(scaled) == len(list(model.parameters()))


def test_every_rate_goes_through_the_same_schedule():
    recipe = Recipe(epochs=4, lr=1.0, min_lr=0.25, warmup_epochs=1, layer_decay=0.5, opt="muon", muon_lr=2.0)
    optimizers = make_optimizers(small(), recipe)
    for optimizer in optimizers:
        before = [group["lr"] for group in optimizer.param_groups]
        schedule, seen = make_schedule(optimizer, recipe, 5), []
        for _ in range(20):
            seen.append([group["lr"] / base for group, base in zip(optimizer.param_groups, before, strict=True)])
            optimizer.step()
            schedule.step()
        assert all(parts == pytest.approx([parts[0]] * len(parts)) for parts in seen)
        assert [parts[0] for parts in seen[:6]] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
        assert [group["lr"] / base for group, base in zip(optimizer.param_groups, before, strict=True)] == pytest.approx(
            [0.25] * len(before)
        )
        assert all(later[0] <= earlier[0] for earlier, later in pairwise(seen[5:]))


def test_a_schedule_goes_on_where_it_was():
    recipe = Recipe(epochs=4, warmup_epochs=1, layer_decay=0.5)
    first, second = (make_optimizers(small(), recipe)[0] for _ in range(2))
    whole, resumed = (make_schedule(optimizer, recipe, 5) for optimizer in (first, second))
    for _ in range(7):
        first.step()
        whole.step()
    for ours, theirs in zip(second.param_groups, first.param_groups, strict=True):
        ours["lr"] = theirs["lr"]
    go_to(resumed, 7)
    for _ in range(5):
        assert resumed.get_last_lr() == whole.get_last_lr()
        for optimizer, schedule in ((first, whole), (second, resumed)):
            optimizer.step()
            schedule.step()


@pytest.mark.parametrize("opt", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("freeze", "fronts"),
    [
        ("0", ("patch_embed", "absolute_pos_embed")),
        ("1", ("patch_embed", "absolute_pos_embed", "layers.0")),
        ("2", ("patch_embed", "absolute_pos_embed", "layers.0", "layers.1")),
        ("all-but-head", ("patch_embed", "absolute_pos_embed", "layers", "norm")),
    ],
)
def test_frozen_parameters_are_left_alone(freeze, fronts, opt):
    model = small(ape=True, drop_path_rate=0.5, drop_rate=0.3)
    model.set_grad_checkpointing()
    frozen = freeze_layers(model, freeze)
    average = Average(model, 0.9)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizers = make_optimizers(model, Recipe(opt=opt, pretrained=True, freeze=freeze, weight_decay=0.5, lr=0.1))
    kept = {name for name in before if name.startswith(fronts)}
    assert {id(p) for o in optimizers for g in o.param_groups for p in g["params"]} == {
        id(parameter) for name, parameter in model.named_parameters() if name not in kept
    }
    for _ in range(2):
        model.train()
        for module in frozen:
            module.eval()
        model(torch.randn(4, 3, 32, 32)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        average.update(model)
    averaged = dict(average.module.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in kept), name
        assert torch.equal(averaged[name], before[name]) == (name in kept), name
        assert (parameter.grad is None) == (name in kept), name


def test_a_frozen_front_has_no_backward_and_nothing_random():
    model = small(drop_path_rate=0.5, drop_rate=0.3).train()
    for module in freeze_layers(model, "1"):
        module.eval()
    images = torch.randn(4, 3, 32, 32)
    fronts = [model.layers[0](model.embed(images)) for _ in range(2)]
    assert torch.equal(*fronts)
    assert not fronts[0].requires_grad
    assert not torch.equal(model(images), model(images)), "the rest is as random as ever"


def test_fine_tuning_end_to_end(source, pictures, tmp_path, capsys):
    """On the command line; the run remembers everything, predicts, and goes through the folder's classes."""
    options = ["--pretrained", "--epochs", "2", "--batch-size", "8", "--threads", "1", "--freeze", "1", "--no-amp", "--device", "cpu"]
    run = tmp_path / "run"
    assert command_line(["train", str(pictures), "--model", str(source), "--output", str(run), *options]) == 0
    model = swinkit.from_pretrained(run)
    said = " ".join(capsys.readouterr().err.split())
    assert f"weights of {source}; the head is new: 3 classes instead of 5" in said
    trained = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(("patch_embed", "layers.0")))
    total = sum(p.numel() for p in model.parameters())
    assert f"the patch embedding and 1 stage: {trained:,} of {total:,} parameters are trained" in said
    assert "rates 0.00014 in block 1 of stage 2 to 0.0002 in the head, x 0.85 a layer" in said
    recipe = load_recipe(run / "config.yaml")
    assert (recipe.pretrained, recipe.model, recipe.freeze, recipe.layer_decay, recipe.img_size) == (True, str(source), "1", 0.85, 16)
    assert (recipe.mean, recipe.std) == ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    assert (recipe.interpolation, recipe.crop_pct) == ("bilinear", 0.8)
    assert (model.labels, model.num_classes) == (("blue", "green", "red"), 3)
    assert model.preprocess == STATISTICS
    before, after = load_file(source / "model.safetensors"), load_file(run / "last" / "model.safetensors")
    for name, tensor in after.items():
        if not name.startswith("head"):
            assert torch.equal(tensor, before[name]) == name.startswith(("patch_embed", "layers.0")), name
    assert swinkit.Predictor(run)(pictures / "test" / "red" / "000.png").label in COLOURS


@pytest.mark.parametrize("opt", ["adamw", "muon"])
def test_resume_needs_the_source_no_more(source, pictures, tmp_path, monkeypatch, opt):
    options = TUNE | {"pretrained": True, "freeze": 1, "opt": opt, "epochs": 2, "model": str(source)}
    whole = swinkit.train(pictures, output=tmp_path / "whole", console=QUIET, **options).run
    step = Trainer._step

    def stop_at(self, batches):
        step(self, batches)
        if self.step == 9:
            self.stop.set()

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop_at)
        with pytest.raises(Interrupted):
            swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **options)
    shutil.rmtree(source)
    swinkit.train(resume=tmp_path / "run", console=QUIET)
    assert losses(tmp_path / "run") == losses(whole)
    first, second = (load_file(run / "last" / "model.safetensors") for run in (whole, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def start(data, model, **options):
    """What a run would start from."""
    return plan_start(load_recipe("finetune", model=str(model), **options), open_data(str(data)))


def test_the_head_is_kept_for_the_same_classes_in_the_same_order(pictures, tmp_path):
    model = small(img_size=16, num_classes=3)
    for name, labels, says in (
        ("same", ("blue", "green", "red"), "kept: the same 3 classes"),
        ("turned", ("red", "green", "blue"), "new: 3 classes instead of 3 others"),
        ("nameless", (), "new: 3 classes instead of 3 without names"),
    ):
        swinkit.save_pretrained(model, tmp_path / name, labels=labels)
        loaded = start(pictures, tmp_path / name).loaded
        assert says in loaded.head
        assert torch.equal(loaded.model.head.weight, model.head.weight) == (name == "same")
        assert loaded.model.labels == ("blue", "green", "red")
        assert torch.equal(loaded.model.norm.weight, model.norm.weight)


def test_a_new_head_is_drawn_from_the_seed(source, pictures):
    heads = [start(pictures, source, seed=seed).loaded.model.head.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_images_are_prepared_as_the_weights_want_unless_the_recipe_says_otherwise(source, pictures, tmp_path):
    assert start(pictures, source).preprocess.to_dict() == STATISTICS
    other = start(pictures, source, mean=[0.1, 0.1, 0.1], interpolation="bicubic", crop_pct=1.0, img_size=24).preprocess
    assert other.to_dict() == STATISTICS | {"size": [24, 24], "mean": [0.1] * 3, "interpolation": "bicubic", "crop_pct": 1.0}
    swinkit.save_pretrained(small(img_size=16), tmp_path / "silent")
    assert start(pictures, tmp_path / "silent").preprocess.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("version", [1, 2])
def test_another_size_on_the_way(pictures, tmp_path, version):
    model = small(version)
    swinkit.save_pretrained(model, tmp_path / "source")
    changes = {"img_size": 64, "window_size": 8} if version == 2 else {"img_size": 64}
    config = start(pictures, tmp_path / "source", drop_path=0.4, **changes).config
    assert (config.img_size, config.drop_path_rate) == (64, 0.4)
    assert config.windows == ((8, 8), (8, 8)) if version == 2 else ((4, 4), (4, 4))
    assert config.pretrained_windows == model.config.pretrained_windows


def test_the_weights_decide_the_channels(source, pictures, tmp_path):
    """Grey images are read as RGB for weights that want RGB, and the other way round."""
    grey = tmp_path / "grey"
    write_pictures(grey, 4, 0)
    for path in grey.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    swinkit.save_pretrained(small(img_size=16, in_chans=1), tmp_path / "one")
    for data, model, mode, note in ((grey, source, "RGB", "grey and are read as RGB"), (pictures, tmp_path / "one", "L", "read as grey")):
        recipe = load_recipe("finetune", **(TINY | {"model": str(model), "img_size": 16}))
        made = Trainer(recipe, open_data(str(data)), run=None)
        assert made.preprocess.mode == mode
        assert any(note in line for line in adjustments(made))
        images, _, _ = next(iter(made.loader))
        assert images.shape[1:] == (3 if mode == "RGB" else 1, 16, 16)


def test_weights_are_copied_to_float32(pictures, tmp_path):
    """The file may be mapped into memory, and in half precision."""
    swinkit.save_pretrained(small(img_size=16).bfloat16(), tmp_path / "half")
    before = (tmp_path / "half" / "model.safetensors").read_bytes()
    model = start(pictures, tmp_path / "half").loaded.model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "half" / "model.safetensors").read_bytes() == before


def test_a_path_is_made_absolute_and_a_name_is_none(source, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    best = (trained.run / "best").resolve()
    assert local_source(str(trained.run)) == local_source(str(trained.run / "best")) == str(best)
    assert best.parent.name == "checkpoints"
    (tmp_path / "swin_tiny_patch4_window7_224").mkdir()
    assert local_source("source") == str(source)
    for name in ("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224.ms_in1k", "hf-hub:timm/swin", "missing", ""):
        assert local_source(name) == name


def test_finetune_is_the_recipe_of_pretrained(source, pictures):
    assert recipe_for("folder/of/mine", pretrained=True) == "finetune"
    assert recipe_for("fashion-mnist-sample") == "fashion-mnist-sample"
    with pytest.raises(ConfigError, match="pretrained is set without a model"):
        swinkit.train(pictures, pretrained=True, console=QUIET)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"model": "no/such/folder"}, CheckpointError, "There is no no/such/folder; expected a run folder"),
        ({"model": "swin_tinny_patch4_window7_224"}, UnknownNameError, "Did you mean swin_tiny_patch4_window7_224.*hf-hub:OWNER/NAME"),
        ({"freeze": "3"}, ConfigError, "freeze is 3, and the model has 2 stages; expected 0 to 2, or all-but-head"),
        ({"freeze": "head"}, ConfigError, "freeze is 'head'; expected a number of stages, all-but-head, or nothing"),
        ({"freeze": "1", "pretrained": False}, ConfigError, "freeze is '1', which keeps weights as they were loaded; add pretrained"),
        ({"pretrained": False}, ConfigError, "which is no name but weights; add pretrained"),
        ({"layer_decay": 0.0}, ConfigError, "layer_decay is 0.0; expected above 0 and at most 1"),
        ({"layer_decay": 1.5}, ConfigError, "layer_decay is 1.5; expected above 0 and at most 1"),
        ({"weight_init": "wide"}, ConfigError, "weight_init is 'wide', which would overwrite pretrained weights; leave it out"),
        ({"ape": True}, ConfigError, "ape is True, but the weights have no absolute position embedding; leave it out"),
        ({"mean": [0.5], "std": [0.5]}, ConfigError, "mean has 1 values for images with 3 channels"),
        ({"crop_pct": 0.0}, ConfigError, "crop_pct is 0.0; expected above 0 and at most 1"),
        ({"interpolation": "nearest"}, ConfigError, "interpolation is 'nearest'; expected bicubic or bilinear"),
    ],
)
def test_errors_are_sentences_and_nothing_is_written(source, pictures, tmp_path, wrong, error, says):
    options = TUNE | {"pretrained": True, "model": str(source)} | wrong
    with pytest.raises(error, match=says):
        swinkit.train(pictures, output=tmp_path / "run", console=QUIET, **options)
    assert not (tmp_path / "run").exists()


def test_weights_that_make_no_classifier_here(pictures, tmp_path):
    config = small(img_size=16).config
    swinkit.save_pretrained(swinkit.create_model(config, features_only=True), tmp_path / "backbone")
    swinkit.save_pretrained(swinkit.create_model(config.replace(in_chans=4)), tmp_path / "four")
    with pytest.raises(ConfigError, match="is a backbone; fine-tuning a classifier starts from a whole model"):
        start(pictures, tmp_path / "backbone")
    with pytest.raises(ConfigError, match="take 4 channels; images are read as grey"):
        start(pictures, tmp_path / "four")


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, in which DDP and FSDP2 do all that they do."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", ["replicated", "sharded"])
@pytest.mark.parametrize("freeze", ["1", "all-but-head"])
def test_a_frozen_front_in_several_processes(one_process, how, freeze):
    """Two steps of DDP and of FSDP2 are those of one process, with layer decay, recomputed activations and an average."""
    recipe = Recipe(pretrained=True, freeze=freeze, layer_decay=0.5, lr=0.01)
    alone, together = (made := small(img_size=16)), copy.deepcopy(made)
    device, images, results = torch.device("cpu"), torch.randn(4, 3, 16, 16), []
    for model, several in ((alone, False), (together, True)):
        model.set_grad_checkpointing()
        frozen, forward = freeze_layers(model, freeze), model
        average = Average(model, 0.5)
        if several and how == "sharded":
            shard(model, device)
            shard(average.module, device)
        elif several:
            forward = replicate(model, model, device)
        optimizers = make_optimizers(model, recipe)
        for step in range(2):
            torch.manual_seed(step)
            model.train()
            for module in frozen:
                module.eval()
            forward(images).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update(model)
        results.append([whole(p.detach()) for m in (model, average.module) for p in m.parameters()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours)
