"""The table of public weights says what timm's configurations and torchvision's say."""

import json

import pytest
import timm
import torchvision

from swinkit import weights
from swinkit.cli import run
from swinkit.data import Preprocess
from swinkit.errors import CheckpointError, UnknownNameError
from swinkit.variants import PUBLISHED, VARIANTS, get_config, tags_of
from swinkit.weights import WEIGHTS, find_weights, list_weights

ON_HUB = [entry for entry in WEIGHTS.values() if entry.hub_id]
NAMES = {"ids": lambda entry: entry.full_name}


def test_the_table_holds_what_timm_has():
    theirs = [name for name in timm.list_pretrained("swin*") if not name.startswith("swinv2_cr")]
    assert sorted(entry.full_name for entry in ON_HUB) == sorted(theirs)
    assert set(WEIGHTS) == {f"{name}.{tag}" for name in PUBLISHED for tag in tags_of(name)}


@pytest.mark.parametrize("entry", ON_HUB, **NAMES)
def test_entries_are_timms(entry):
    theirs = timm.get_pretrained_cfg(entry.full_name)
    assert entry.hub_id == theirs.hf_hub_id
    assert entry.license == theirs.license
    assert entry.classes == theirs.num_classes
    ours = Preprocess.from_dict(entry.preprocess)
    assert (3, *ours.size) == theirs.input_size
    assert (ours.mean, ours.std, ours.interpolation, ours.crop_pct) == (theirs.mean, theirs.std, theirs.interpolation, theirs.crop_pct)
    if "s3" not in entry.name:
        assert entry.release == theirs.url


@pytest.mark.parametrize("name", sorted({entry.name for entry in ON_HUB}))
def test_the_default_tag_is_timms(name):
    assert find_weights(name).tag == timm.get_pretrained_cfg(name).tag


@pytest.mark.parametrize("entry", WEIGHTS.values(), **NAMES)
def test_scores_are_published_for_1k_classes_alone(entry):
    assert (entry.top1 is None) == (entry.top5 is None) == (entry.classes != 1000)
    if entry.top1 is not None:
        assert 80 < entry.top1 < 90 < entry.top5 < 100
    json.dumps(entry.to_dict())


def test_other_weights_of_the_same_names_exist():
    for name, weight in weights.TORCHVISION.items():
        kind, _, member = weight.partition(".")
        found = getattr(torchvision.models, kind)[member]
        assert found.transforms().crop_size == [get_config(name).img_size]
        assert name in VARIANTS
    assert set(weights.TRANSFORMERS) <= set(VARIANTS)


def test_names_lead_to_weights():
    assert find_weights("swin_base_patch4_window7_224_in22k") is WEIGHTS["swin_base_patch4_window7_224.ms_in22k"]
    assert find_weights("swin_base_patch4_window7_224.ms_in1k").top1 == 83.5
    assert [entry.tag for entry in list_weights("swin_base_patch4_window7_224")] == ["ms_in22k_ft_in1k", "ms_in1k", "ms_in22k"]
    with pytest.raises(CheckpointError, match="it is a preset of swinkit"):
        find_weights("swin_mini_patch2_window7_28")
    with pytest.raises(UnknownNameError):
        find_weights("swin_base_patch4_window7_224_in22k.ms_in1k")


def test_models_command_lists_them(capsys):
    assert run(["models", "swin_base*224*", "--pretrained"]) == 0
    shown = capsys.readouterr()
    assert "* swin_base_patch4_window7_224.ms_in22k_ft_in1k" in shown.out
    assert "85.2  mit      timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k" in shown.out
    assert "* the default" in shown.err
    assert run(["models", "*.ms_in22k", "--pretrained", "--json"]) == 0
    assert {entry["classes"] for entry in json.loads(capsys.readouterr().out)} == {21841}
    assert run(["models", "swin_pico*", "--pretrained"]) == 1
    assert "There is no model with public weights" in capsys.readouterr().err
