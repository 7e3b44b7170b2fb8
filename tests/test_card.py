"""The model card: what it says, that the hub's own library reads it, and that nothing is claimed that nobody said."""

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import swinkit
from small_models import small
from swinkit.build import at_rest
from swinkit.checkpoints.card import Result, Story, front_matter, make_card
from swinkit.errors import CheckpointError
from swinkit.train.card import _on_hub, _without_places


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def test_every_saved_model_has_a_card(tmp_path):
    model = small()
    swinkit.save_pretrained(model, tmp_path / "mine", labels=["a|b", "*c*", "d", "e", "f"], license="apache-2.0")
    card = card_of(tmp_path / "mine")
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "swinkit",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "vision", "swin", "swinkit"],
    }
    assert "# mine" in card.text
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M" in card.text
    assert r"a\|b, \*c\*" in card.text


def test_no_licence_is_claimed_that_nobody_gave(tmp_path):
    swinkit.save_pretrained(small(), tmp_path / "mine")
    card = card_of(tmp_path / "mine")
    assert card.data.license is None
    assert "No licence was stated" in card.text


def test_where_weights_come_from_stays_with_them(tmp_path):
    model = small()
    model.origin = {"base_model": "timm/swin_tiny_patch4_window7_224.ms_in1k", "license": "mit"}
    model.reset_classifier(2)
    swinkit.save_pretrained(model, tmp_path / "one")
    again = swinkit.from_pretrained(tmp_path / "one")
    assert again.origin == model.origin
    swinkit.save_pretrained(again, tmp_path / "two", license="cc-by-4.0")
    data = card_of(tmp_path / "two").data
    assert (data.base_model, data.license) == ("timm/swin_tiny_patch4_window7_224.ms_in1k", "cc-by-4.0")


def test_a_licence_that_the_hub_cannot_know_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no identifier of the hub; give one such as mit"):
        swinkit.save_pretrained(small(), tmp_path / "mine", license="My licence")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("changed", [True, False])
def test_a_card_that_was_changed_is_kept(tmp_path, changed):
    model, path = small(), tmp_path / "mine" / "README.md"
    swinkit.save_pretrained(model, path.parent)
    path.write_text("---\nlicense: mit\n---\n# Mine" if changed else path.read_text())
    swinkit.save_pretrained(model, path.parent, license="cc0-1.0", overwrite=True)
    assert ("license: cc0-1.0" in path.read_text()) is not changed


@pytest.mark.parametrize("labels", [["yes: no", "---", "# a", "\n", "<script>"], ["日本", "é", "🙂", "'", '"']])
def test_odd_names_do_not_break_it(labels, tmp_path):
    swinkit.save_pretrained(small(), tmp_path / "a: [b]", labels=labels)
    text = (tmp_path / "a: [b]" / "README.md").read_text()
    assert front_matter(text)["library_name"] == "swinkit"
    assert ModelCard(text).data.library_name == "swinkit"
    assert "<script>" not in text.replace("\\<", "")
    rows = [line for line in text.splitlines() if line.startswith("| classes |")]
    assert rows[0].endswith(" |")


def test_results_are_what_the_hub_reads():
    results = [Result("clothes", "test", {"accuracy": ("Accuracy", 0.875)}, "zalando-datasets/fashion_mnist")]
    data = ModelCard(make_card(at_rest(small()), Story("mine", results))).data
    (read,) = data.eval_results
    assert (read.metric_type, read.metric_value, read.dataset_name, read.dataset_split) == ("accuracy", 0.875, "clothes", "test")
    assert (read.dataset_type, data.datasets, data.metrics) == (
        "zalando-datasets/fashion_mnist",
        ["zalando-datasets/fashion_mnist"],
        ["accuracy"],
    )


def test_a_backbone_is_no_classifier():
    with torch.device("meta"):
        backbone = swinkit.create_model("swinv2_pico_patch2_window4_32", features_only=True)
    card = ModelCard(make_card(at_rest(backbone)))
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "swinv2" in card.data.tags
    assert "| classes" not in card.text


def test_the_card_of_a_run(trained, pictures):
    card = card_of(trained.run / "best")
    (result,) = card.data.eval_results
    assert result.metric_value == pytest.approx(trained.scores.top1, abs=1e-6)
    assert (result.dataset_split, result.dataset_type) == ("test", "imagefolder")
    assert card.data.license is None
    assert f"{100 * trained.scores.top1:.1f} % ±" in card.text
    assert "60 to train, 18 to validate, 18 to test; 3 classes" in card.text
    recipe = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert (recipe["epochs"], recipe["seed"], recipe["model"], recipe["data"]) == (3, 0, "swin_pico_patch2_window4_32", pictures.name)
    assert f"torch {torch.__version__.split('+')[0]}" in card.text
    assert str(pictures.parent) not in card.text, "nothing of where it lies here"
    assert str(trained.run.parent) not in card.text


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("swinkit train --data /home/somebody/cats --epochs 3", "swinkit train --data cats --epochs 3"),
        ("swinkit train --data=/home/somebody/cats -o ~/runs/x", "swinkit train --data=cats -o x"),
        ("swinkit train --data hf:/home/somebody/cats#label", "swinkit train --data 'hf:cats#label'"),
        ("swinkit train --data hf:owner/cats --lr 1e-3", "swinkit train --data hf:owner/cats --lr 1e-3"),
    ],
)
def test_commands_are_shown_without_places(typed, shown):
    assert _without_places(typed) == shown


@pytest.mark.parametrize(
    ("data", "name"),
    [("hf:owner/cats", "owner/cats"), ("hf:owner/cats/config@v1#label", "owner/cats"), ("/data/cats", None), ("hf:/data/cats", None),
     ("fashion-mnist", "zalando-datasets/fashion_mnist")],
)  # fmt: skip
def test_data_on_the_hub_is_named(data, name):
    assert _on_hub(data) == name


def test_front_matter_that_is_none():
    assert front_matter("# no front matter\n---\na: 1\n---\n") == {}
    with pytest.raises(CheckpointError, match="is not YAML"):
        front_matter("---\na: [\n---\n")
    with pytest.raises(CheckpointError, match="holds list"):
        front_matter("---\n- a\n---\n")
