"""The model card: README.md beside the weights, with the front matter that the Hugging Face hub reads.

Nothing is claimed that nobody said: no licence without one given or one that came with the weights, no data, no scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from swinkit.errors import CheckpointError

if TYPE_CHECKING:
    from swinkit.checkpoints.native import SavedModel

CARD = "README.md"
MARK = "<!-- Written by swinkit; it is written again with the model. Remove this line to keep what you change. -->"
PAPERS = {1: "[Swin Transformer](https://arxiv.org/abs/2103.14030)", 2: "[Swin Transformer V2](https://arxiv.org/abs/2111.09883)"}


@dataclass(frozen=True)
class Result:
    """Scores on one set of images."""

    dataset: str
    """What the data is called."""
    split: str
    """Such as "test"."""
    metrics: Mapping[str, tuple[str, float]]
    """The hub's name of a metric, such as "accuracy" -> (name for people, value)."""
    hub_dataset: str | None = None
    """Its OWNER/NAME on the hub, if it is there."""


@dataclass(frozen=True)
class Story:
    """What a card can say beyond the model itself."""

    name: str = ""
    """The model's name; empty: that of the architecture."""
    results: Sequence[Result] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    """Further headings -> Markdown."""


def make_card(saved: SavedModel, story: Story | None = None) -> str:
    """The text of README.md for a model."""
    story = story or Story()
    front = yaml.safe_dump(_front_matter(saved, story), sort_keys=False, allow_unicode=True, width=1000)
    family = "Swin Transformer" if saved.config.version == 1 else "Swin Transformer V2"
    title = story.name or family
    sections = {"Model": _model_table(saved), "Use": _use(saved), **story.sections, "Licence": _licence(saved)}
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
    made_from = saved.origin.get("base_model")
    made = f" It was made from `{made_from}`." if made_from else ""
    what = "An image classifier" if saved.config.num_classes and saved.out_indices is None else "An image backbone"
    return (
        f"---\n{front}---\n\n# {_plain(title)}\n\n{MARK}\n\n{what}: a {PAPERS[saved.config.version]} made with swinkit.{made}\n\n{body}\n"
    )


def _front_matter(saved: SavedModel, story: Story) -> dict[str, Any]:
    classifier = bool(saved.config.num_classes) and saved.out_indices is None
    task = "image-classification" if classifier else "image-feature-extraction"
    tags = [task, "vision", "swin" if saved.config.version == 1 else "swinv2", "swinkit"]
    front = {
        "license": saved.origin.get("license"),
        "library_name": "swinkit",
        "pipeline_tag": task,
        "tags": tags,
        "datasets": list(dict.fromkeys(result.hub_dataset for result in story.results if result.hub_dataset)),
        "metrics": list(dict.fromkeys(metric for result in story.results for metric in result.metrics)),
        "base_model": made_from if _is_hub_id(made_from := saved.origin.get("base_model", "")) else None,
        "model-index": [{"name": story.name or tags[2], "results": [_entry(result) for result in story.results]}]
        if story.results
        else None,
    }
    return {key: value for key, value in front.items() if value}


def _entry(result: Result) -> dict[str, Any]:
    dataset = {"name": result.dataset, "type": result.hub_dataset or "imagefolder", "split": result.split}
    metrics = [{"type": kind, "value": round(value, 6), "name": name} for kind, (name, value) in result.metrics.items()]
    return {"task": {"type": "image-classification", "name": "Image classification"}, "dataset": dataset, "metrics": metrics}


def _model_table(saved: SavedModel) -> str:
    config, parameters = saved.config, sum(math.prod(tensor.shape) for tensor in saved.tensors.values())
    rows = {
        "version": str(config.version),
        "parameters": f"{parameters / 1e6:,.2f} M",
        "input": f"{config.in_chans} x {config.img_size} pixels",
        "patch, windows": f"{config.patch_size}, {config.window_size}",
        "channels, depths, heads": f"{config.embed_dim}, {list(config.depths)}, {list(config.num_heads)}",
        "classes": _classes(saved),
        "images are prepared with": ", ".join(f"{key} {_plain(str(value))}" for key, value in saved.preprocess.items()),
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items() if value)]
    return "\n".join(lines)


def _classes(saved: SavedModel) -> str:
    if saved.out_indices is not None or not saved.config.num_classes:
        return ""
    shown = ", ".join(_plain(label) for label in saved.labels[:20])
    return f"{saved.config.num_classes:,}" + (f": {shown}{', ...' if len(saved.labels) > 20 else ''}" if shown else "")


def _use(saved: SavedModel) -> str:
    load = 'swinkit.from_pretrained("FOLDER")  # or "hf-hub:OWNER/NAME"'
    predict = 'print(swinkit.Predictor("FOLDER")("photo.jpg"))\n' if saved.preprocess and saved.out_indices is None else ""
    return f"```python\nimport swinkit\n\nmodel = {load}\n{predict}```"


def _licence(saved: SavedModel) -> str:
    given, made_from = saved.origin.get("license"), saved.origin.get("base_model")
    if not given:
        return "No licence was stated when this model was saved; ask who published it."
    return f"`{given}`." + (f" The page of `{made_from}` states that of the weights this was made from." if made_from else "")


def check_license(license: str) -> str:
    """The same, if it can be an identifier of the hub, such as mit or cc-by-4.0. Errors: CheckpointError."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise CheckpointError(f"license={license!r} is no identifier of the hub; give one such as mit, apache-2.0, cc-by-4.0 or other.")
    return license


def is_generated(text: str) -> bool:
    """Whether swinkit wrote this card and nobody asked to keep it."""
    return MARK in text


def front_matter(text: str) -> dict[str, Any]:
    """What stands between the first two lines of ---; empty without. Errors: CheckpointError if it is not YAML with names and values."""
    found = re.match(r"\A---\r?\n(.*?)^---\s*$", text, flags=re.DOTALL | re.MULTILINE)
    if not found:
        return {}
    try:
        content = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError) as error:
        raise CheckpointError(f"The front matter of {CARD} is not YAML ({str(error).splitlines()[0]}); correct it.") from None
    if content is not None and not isinstance(content, dict):
        raise CheckpointError(f"The front matter of {CARD} holds {type(content).__name__}; expected `name: value` per line.")
    return content or {}


def stated_license(folder: Path) -> str:
    """The licence on the card in a folder; empty where there is no card, or none on it."""
    try:
        license = front_matter((folder / CARD).read_text(encoding="utf-8")).get("license")
    except (OSError, UnicodeDecodeError, CheckpointError):
        return ""
    return license if isinstance(license, str) else ""


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def _plain(text: str) -> str:
    """Text that stays text inside Markdown and a table cell."""
    return re.sub(r"([\\`*_<>|\[\]#])", r"\\\1", " ".join(text.split()))
