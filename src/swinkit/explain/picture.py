"""A model on a picture: which methods run, and what becomes of their figures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swinkit.checkpoints.files import write_atomic
from swinkit.config import Size
from swinkit.errors import ConfigError, InputError, UnknownNameError
from swinkit.explain import figures, interactive
from swinkit.explain.looks import METHODS, OF_A_CLASS, OF_CAPTUM, Figured, Look
from swinkit.explain.page import Section, Shown, page
from swinkit.explain.recording import MOST_VALUES, Place, attention_values
from swinkit.explain.result import Explanation
from swinkit.explain.subject import Subject, index_of, open_subject


def explain_picture(
    model: Any,
    picture: Any,
    *,
    out: str | Path | None = None,
    html: str | Path | None = None,
    formats: Sequence[str] = ("png",),
    methods: Sequence[str] | None = None,
    block: str | Place | None = None,
    head: int | None = None,
    query: Size | None = None,
    label: str | int | None = None,
    similar: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Explanation:
    """See `swinkit.explain.explain`."""
    say = say or (lambda _: None)
    _check_methods(methods, similar)
    figures.check_formats(formats)
    paths = figures.figure_paths(out, list(FILES), formats) if out is not None else []
    figures.check_free([*paths, *([Path(html)] if html is not None else [])], overwrite)
    subject = open_subject(model, picture, device=device, say=say)
    look = _look(subject, block, head, query, label, similar, say)
    found = {}
    for name in _wanted(methods, subject, similar, say):
        say(f"{name} ...")
        found[name] = METHODS[name](look)
    files = _write_figures(out, found, formats, overwrite)
    if html is not None:
        write_atomic(Path(html), _page(look, found))
        files.append(Path(html))
    return Explanation(tuple(files), _facts(look, found))


FILES = (
    *("attention", "attention-blocks", "rollout", "evidence", "gradcam", "integrated-gradients", "occlusion"),
    *("bias", "bias-larger", "features", "receptive-field", "similar"),
)
"""Every file name that a method may use."""


def _check_methods(methods: Sequence[str] | None, similar: str | Path | None) -> None:
    for name in methods or ():
        if name not in METHODS:
            raise UnknownNameError("method", name, METHODS)
    if methods is not None and "similar" in methods and similar is None:
        raise InputError("The method similar needs a folder of pictures; add --similar FOLDER (similar=).")
    if similar is not None and not Path(similar).is_dir():
        raise InputError(f"{similar} is no folder; --similar (similar=) takes a folder of pictures.")


def _wanted(methods: Sequence[str] | None, subject: Subject, similar: str | Path | None, say: Callable[[str], None]) -> list[str]:
    """The methods to run; where none is named, all that can run here."""
    missing = importlib.util.find_spec("captum") is None
    if methods is not None:
        if missing and set(methods) & set(OF_CAPTUM):
            raise ConfigError(f"{' and '.join(OF_CAPTUM)} need captum, which is missing: pip install 'swinkit[explain]'.")
        return list(dict.fromkeys(methods))
    left_out = {} if subject.model.num_classes else dict.fromkeys(OF_A_CLASS, "the model has no classifier")
    left_out |= dict.fromkeys(OF_CAPTUM, "captum is missing: pip install 'swinkit[explain]'") if missing else {}
    for why in dict.fromkeys(left_out.values()):
        say(f"{', '.join(name for name, reason in left_out.items() if reason == why)} left out: {why}.")
    return [name for name in METHODS if name not in left_out and (name != "similar" or similar is not None)]


def _look(
    subject: Subject,
    block: str | Place | None,
    head: int | None,
    query: Size | None,
    label: str | int | None,
    similar: str | Path | None,
    say: Callable[[str], None],
) -> Look:
    """What to look at, checked before anything is computed."""
    config = subject.model.config
    place = (len(config.depths) - 1, config.depths[-1] - 1) if block is None else parse_block(block, config.depths)
    heads = config.num_heads[place[0]]
    if head is not None and not 0 <= head < heads:
        raise InputError(f"Block {place[0]}.{place[1]} has heads 0 to {heads - 1}; got head {head}.")
    if head is not None and attention_values(subject.model, (subject.x.shape[2], subject.x.shape[3])) > MOST_VALUES:
        raise InputError(f"The picture is so large that only the mean over heads is kept; got head {head}. Leave it out.")
    height, width = subject.picture.shape[:2]
    chosen = (height // 2, width // 2) if query is None else (int(query[0]), int(query[1]))
    if not (0 <= chosen[0] < height and 0 <= chosen[1] < width):
        raise InputError(f"The query is y {chosen[0]}, x {chosen[1]}; the picture, as the model sees it, has {height} x {width} pixels.")
    if label is not None:
        subject.check_classifier()
        index_of(label, subject.classes)
    return Look(subject, place, head, chosen, label, similar, say)


def parse_block(block: str | Place, depths: Sequence[int]) -> Place:
    """ "STAGE.BLOCK" or (stage, block), both from 0. Errors: InputError for one that is not there."""
    parts = [str(part) for part in block] if isinstance(block, tuple | list) else str(block).split(".")
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        stage, index = int(parts[0]), int(parts[1])
        if stage < len(depths) and index < depths[stage]:
            return stage, index
    last = ", ".join(f"{stage}.{depth - 1}" for stage, depth in enumerate(depths))
    raise InputError(f"There is no block {block!r}; expected STAGE.BLOCK from 0.0, the last of each stage being {last}.")


def _write_figures(out: str | Path | None, found: Mapping[str, Figured], formats: Sequence[str], overwrite: bool) -> list[Path]:
    drawn = {name: figure for one in found.values() for name, (figure, _) in one.figures.items()}
    return figures.write(out, drawn, formats, overwrite) if out is not None else []


def _page(look: Look, found: Mapping[str, Figured]) -> str:
    scripts, styles, sections = [], [], []
    for name, one in found.items():
        shown = [Shown(figure, alt, wide=figure.get_figwidth() > 7) for figure, alt in one.figures.values()]
        if name == "attention":  # what its figures show can be chosen by hand on the page
            sections.append(
                Section(one.title, interactive.TEXT, body=interactive.body(look.recording, look.picture, look.query, look.place))
            )
            scripts, styles = [interactive.script()], [interactive.style()]
            continue
        sections.append(Section(one.title, one.text, shown))
    return page("What a Swin Transformer looks at", sections, lead=_lead(look), scripts=scripts, styles=styles)


def _lead(look: Look) -> str:
    config, (height, width) = look.subject.model.config, look.picture.shape[:2]
    lead = f"Swin Transformer V{config.version}, {sum(config.depths)} blocks, on one picture of {height} x {width} pixels."
    if look.subject.random:
        return f"{lead} Its weights are random: it has learned nothing yet."
    if not config.num_classes:
        return lead
    probabilities = look.subject.probabilities()
    best = int(probabilities.argmax())
    return f"{lead} It says {look.subject.classes[best]} ({100 * float(probabilities[best]):.1f} %)."


def _facts(look: Look, found: Mapping[str, Figured]) -> dict[str, Any]:
    subject, facts = look.subject, dict[str, Any]()
    facts["size"] = list(look.picture.shape[:2])
    facts["random_weights"] = subject.random
    if subject.model.num_classes:
        probabilities = subject.probabilities()
        best = int(probabilities.argmax())
        facts |= {"label": subject.classes[best], "score": float(probabilities[best]), "explained": look.class_name}
    return facts | {name: dict(one.facts) for name, one in found.items() if one.facts}
