"""What can be looked at of a model on a picture: one function per method, from a `Look` to figures, words and facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from swinkit.config import Size
from swinkit.data.images import read_image
from swinkit.explain import class_maps, drawing, insides
from swinkit.explain.evidence import evidence
from swinkit.explain.mapping import PixelMap, attention_map, rollout
from swinkit.explain.recording import MOST_VALUES, Place, Recording, attention_values, record
from swinkit.explain.similar import similar_pictures
from swinkit.explain.subject import Say, Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SMALL = 128
"""The longer side of a picture among others, in pixels."""


@dataclass(frozen=True)
class Figured:
    """What a method found: figures by file name with (title, alternative text), paragraphs, and JSON-able facts."""

    title: str
    text: tuple[str, ...]
    figures: Mapping[str, tuple[Figure, str]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Look:
    """A subject, and what to look at."""

    subject: Subject
    place: Place
    head: int | None
    query: Size
    label: str | int | None
    similar: str | Path | None
    say: Say

    @cached_property
    def recording(self) -> Recording:
        """One forward pass; of very large pictures, the mean over heads."""
        model, x = self.subject.model, self.subject.x
        if attention_values(model, (x.shape[2], x.shape[3])) <= MOST_VALUES:
            return record(model, x)
        self.say("The picture is large: of each block, the mean over its heads is kept.")
        return record(model, x, keep=lambda weights: weights.mean(1, keepdim=True))

    @cached_property
    def target(self) -> int:
        """The class to explain."""
        return self.subject.target(self.label)

    @property
    def picture(self) -> NDArray[np.uint8]:
        """(height, width, 3)."""
        return self.subject.picture

    @property
    def class_name(self) -> str:
        """Of the class to explain."""
        return self.subject.classes[self.target]


def attention(look: Look) -> Figured:
    """The chosen block's heads, and all blocks, from one query pixel."""
    recording, block = look.recording, look.recording.block(look.place)
    heads: list[int | None] = [look.head] if look.head is not None else [None]
    if look.head is None and block.heads == look.subject.model.config.num_heads[look.place[0]]:  # else their mean alone is kept
        heads += range(min(block.heads, 15))
    maps = {_head(head): attention_map(recording, look.query, look.place, head) for head in heads}
    blocks = {f"block {s}.{b}": attention_map(recording, look.query, (s, b)).values for s, b in recording.blocks}
    chosen = maps[_head(heads[0])]
    at = f"the pixel y {look.query[0]}, x {look.query[1]}"
    mh, mw = block.window
    text = (
        f"What the token at {at} attends to in block {_name(look.place)}, mapped back through the window ({mh} x {mw} tokens), its shift "
        f"{block.shift} and padding. Each map is as bright as its largest value.",
    )
    one = drawing.heat_maps(look.picture, {name: found.values for name, found in maps.items()}, look.query)
    many = drawing.heat_maps(look.picture, blocks, look.query)
    return Figured(
        "Attention from one pixel",
        text,
        {
            "attention": (one, f"Attention of the heads of block {_name(look.place)} from {at}"),
            "attention-blocks": (many, f"Attention of every block, mean over heads, from {at}"),
        },
        {"block": _name(look.place), "head": look.head, "query": list(look.query), **chosen.to_dict()},
    )


def _head(head: int | None) -> str:
    return "mean over heads" if head is None else f"head {head}"


def _name(place: Place) -> str:
    return f"{place[0]}.{place[1]}"


def rolled_out(look: Look) -> Figured:
    """Attention rollout over the whole model."""
    everywhere, from_query = rollout(look.recording), rollout(look.recording, look.query)
    figure = drawing.heat_maps(
        look.picture, {"from the whole last map": _above(everywhere), "from the marked token": _above(from_query)}, look.query
    )
    text = (
        "Attention rollout (Abnar and Zuidema 2020): the attention of all blocks multiplied through windows, shifts and mergings, half of "
        "each block being the residual path. It says from which pixels the output is fed, for no class in particular. Colours start at the "
        "smallest value.",
    )
    alt = "Attention rollout from the whole last map and from one of its tokens"
    return Figured("Attention rollout", text, {"rollout": (figure, alt)}, {**everywhere.to_dict(), "residual": 0.5})


def _above(found: PixelMap) -> NDArray[np.float64]:
    """Differences from the smallest value: every pixel has some."""
    return found.values - found.values.min()  # type: ignore[no-any-return]


def grad_cam(look: Look) -> Figured:
    """Grad-CAM at every stage and after the last norm."""
    model, x = look.subject.model, look.subject.x
    maps = {f"stage {stage}": class_maps.grad_cam(model, x, look.target, stage) for stage in range(len(model.layers))}
    maps["after the last norm"] = class_maps.grad_cam(model, x, look.target)
    text = (
        f"Grad-CAM for {look.class_name}: where the map of a stage speaks for the class, by its gradients. On the small model that "
        "swinkit was measured with, it found what the model needs no better than chance; Evidence and Occlusion did.",
    )
    figure = drawing.heat_maps(look.picture, maps)
    return Figured("Grad-CAM", text, {"gradcam": (figure, f"Grad-CAM for {look.class_name} at every stage")}, {"class": look.class_name})


def integrated_gradients(look: Look) -> Figured:
    """Signed evidence per pixel."""
    values, remainder = class_maps.integrated_gradients(look.subject.model, look.subject.x, look.target)
    text = (
        f"Integrated Gradients for {look.class_name}, from the mean colour of the data to the picture: orange pixels raise its logit, blue "
        "ones lower it, and all of them add up to the difference that the picture makes.",
    )
    figure = drawing.signed_map(look.picture, values, f"evidence for {look.class_name}")
    facts = {"class": look.class_name, "sum": float(values.sum()), "remainder": remainder}
    return Figured("Integrated Gradients", text, {"integrated-gradients": (figure, f"Evidence for {look.class_name} per pixel")}, facts)


def spoken(look: Look) -> Figured:
    """What overlays and reports show."""
    values = evidence(look.subject.model, look.subject.x, look.target)
    title = f"evidence for {look.class_name}"
    text = (
        f"What each patch adds to the logit of {look.class_name}, by Integrated Gradients in four steps, averaged over the patch; patches "
        "that speak against it are left out. Overlays of the server and reports of training show this.",
    )
    figure = drawing.heat_maps(look.picture, {title: values.clip(0)})
    return Figured("Evidence", text, {"evidence": (figure, title.capitalize())}, {"class": look.class_name, "sum": float(values.sum())})


def occlusion(look: Look) -> Figured:
    """What hiding a rectangle costs."""
    values = class_maps.occlusion(look.subject.model, look.subject.x, look.target)
    text = (f"How much the probability of {look.class_name} falls where a rectangle hides the picture: orange, it falls; blue, it rises.",)
    figure = drawing.signed_map(look.picture, values, f"fall of the probability of {look.class_name}")
    facts = {"class": look.class_name, "largest_fall": float(values.max())}
    return Figured("Occlusion", text, {"occlusion": (figure, f"How hiding parts lowers the probability of {look.class_name}")}, facts)


def position_bias(look: Look) -> Figured:
    """The learned bias of the chosen block."""
    model, window = look.subject.model, look.subject.model.config.windows[look.place[0]]
    name = f"block {_name(look.place)}, window {window[0]} x {window[1]}"
    figures = {"bias": (drawing.bias_maps(insides.position_bias(model, look.place), name), f"Relative position bias of each head, {name}")}
    if model.config.version == 2:
        larger = (2 * window[0], 2 * window[1])
        name = f"the same function over a window of {larger[0]} x {larger[1]}"
        maps = insides.position_bias(model, look.place, larger)
        figures["bias-larger"] = (drawing.bias_maps(maps, name), f"Relative position bias of each head, {name}")
    text = (
        "What each head adds to a score by where the key lies from its query, the middle: learned, and the same for every picture. "
        + (
            "V1 reads it from a table." if model.config.version == 1 else "V2 computes it from the offset, so it has values for any window."
        ),
    )
    return Figured("Relative position bias", text, figures, {"block": _name(look.place)})


def features(look: Look) -> Figured:
    """Every stage's map as colours."""
    maps = {f"stage {stage}: {m.shape[0]} x {m.shape[1]}": insides.as_colours(m) for stage, m in enumerate(look.recording.maps)}
    text = ("The three strongest principal components of each stage's map as red, green and blue: like colours are like features.",)
    figure = drawing.panels({"picture": look.picture, **maps}, columns=5)
    return Figured("Feature maps", text, {"features": (figure, "Feature maps of every stage as colours")})


def receptive_field(look: Look) -> Figured:
    """Trained beside random."""
    x = insides.variations(look.subject.x)
    own = insides.receptive_field(look.subject.model, x)
    new = insides.receptive_field(insides.randomly_initialised(look.subject.model), x)
    fields = {"this model": (own.values, own.side()), "random weights": (new.values, new.side())}
    text = (
        "The effective receptive field: how strongly the middle token of the last map depends on each pixel, averaged over eight mirrored "
        "and moved versions of the picture, on a scale of square roots. The dashed square around that token holds half of it."
        + (" A new V2 model starts with blocks that do nothing, so that only patch merging widens its view." * (own_version(look) == 2)),
    )
    alt = "Effective receptive field of this model beside one with random weights"
    facts = {"half_within": own.side(), "half_within_random": new.side()}
    return Figured("Effective receptive field", text, {"receptive-field": (drawing.receptive_fields(fields, own.centre), alt)}, facts)


def own_version(look: Look) -> int:
    """1 or 2."""
    return look.subject.model.config.version


def similar(look: Look) -> Figured:
    """The nearest pictures of a folder."""
    assert look.similar is not None
    found = similar_pictures(look.subject, look.similar, say=look.say)
    shape = [max(1, round(length * SMALL / max(look.picture.shape[:2]))) for length in look.picture.shape[:2]]
    shown = {"picture": look.picture}
    for number, one in enumerate(found):
        picture = ImageOps.fit(read_image(Path(one.source)), (shape[1], shape[0]))
        shown[f"{number + 1}: {one.cosine:.3f}"] = np.asarray(picture)
    text = ("The pictures of the folder whose pooled features point in the most similar direction, with the cosine of the angle.",)
    figure = drawing.panels(shown, columns=5)
    return Figured(
        "Most similar pictures", text, {"similar": (figure, "The most similar pictures")}, {"similar": [s.to_dict() for s in found]}
    )


METHODS: Mapping[str, Callable[[Look], Figured]] = {
    "attention": attention,
    "rollout": rolled_out,
    "evidence": spoken,
    "gradcam": grad_cam,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
    "bias": position_bias,
    "features": features,
    "receptive-field": receptive_field,
    "similar": similar,
}
OF_A_CLASS = ("evidence", "gradcam", "integrated-gradients", "occlusion")
OF_CAPTUM = ("gradcam", "integrated-gradients")
