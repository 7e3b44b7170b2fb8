"""Any published Swin Transformer from a file or folder, whoever saved it, without being told who."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.checkpoints import native
from swinkit.checkpoints.about import About, from_name, read_about
from swinkit.checkpoints.checking import check_finite
from swinkit.checkpoints.findings import Findings
from swinkit.checkpoints.fitting import adoptable
from swinkit.checkpoints.hub import local
from swinkit.checkpoints.infer import Inferred, infer_config
from swinkit.checkpoints.layout import Shapes, expected_shapes
from swinkit.checkpoints.native import SavedModel
from swinkit.checkpoints.opening import Opened, find_weights, open_weights
from swinkit.checkpoints.translate import Translation, candidates
from swinkit.config import SwinConfig, pair
from swinkit.errors import CheckpointError
from swinkit.model import relative_position_index

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONSTANTS = ("attn.relative_position_index", "attn.relative_coords_table", "attn_mask")


def read(source: str | Path, *, strict: bool = True, **known: Any) -> SavedModel:
    """Read a model of ours, microsoft's, timm's, torchvision's, transformers' or mm*'s: a run, a folder in a hub's layout, a file.

    known: fields of SwinConfig that a file without configuration cannot tell, such as a V2 model's window_size.
    strict=False: what is missing stays out of the result, what is unexpected is ignored; `inspect` lists both.
    Errors: CheckpointError with what is broken, missing or unexpected.
    """
    saved, findings = examine(source, strict=strict, **known)
    for doubt in findings.doubts:
        warnings.warn(f"{source}: {doubt}", stacklevel=3)
    return saved


def examine(source: str | Path, *, strict: bool = True, **known: Any) -> tuple[SavedModel, Findings]:
    """The same, and the report on every tensor."""
    folder = native.find(source)
    if folder is not None:
        saved = native.read(folder)
        names: dict[str, tuple[str, ...]] = {name: (name,) for name in saved.tensors}
        return saved, Findings(str(folder), "native", saved.config, names, {}, out_indices=saved.out_indices)
    path = local(source)
    if not path.exists():
        raise CheckpointError(native.not_found(path))
    about = read_about(path if path.is_dir() else path.parent) if path.is_dir() or path.name == "config.json" else About()
    weights = find_weights(path if path.is_dir() else path.parent) if about.peer or path.is_dir() else path
    if weights is None:
        raise CheckpointError(native.not_found(path))
    given = {name: value for name, value in known.items() if value is not None}
    about = about if about.peer else About("", from_name(path.name))
    return _examined(open_weights(weights), about, given, strict)


def _examined(opened: Opened, about: About, given: Mapping[str, Any], strict: bool) -> tuple[SavedModel, Findings]:
    best = _best(opened, about, given)
    if best.error:
        raise CheckpointError(f"{opened.source}, read as {best.translation.dialect.title}'s: {best.error}")
    findings = best.findings
    if strict and not findings.complete:
        raise CheckpointError(
            f"{opened.source} is closest to {best.translation.dialect.title} (Swin V{findings.config.version}), but does not fit it: "
            f"{findings.problems()}. `swinkit convert --inspect` lists everything; strict=False loads what fits."
        )
    return best.saved(about), findings


def _best(opened: Opened, about: About, given: Mapping[str, Any]) -> _Attempt:
    """The first dialect that fits, else the one that fits best."""
    translations = []
    for translation in candidates(list(opened.tensors)):
        translations.append(translation)
        if not translation.unknown and not (attempt := _Attempt(translation, opened, about, given)).distance:
            return attempt
    if not translations:
        raise CheckpointError(
            f"{opened.source} is not a Swin Transformer: there is no patch embedding under any name that swinkit knows among "
            f"{_some(opened.tensors)}."
        )
    return min((_Attempt(translation, opened, about, given) for translation in translations), key=lambda attempt: attempt.distance)


class _Attempt:
    """A file read as one dialect."""

    def __init__(self, translation: Translation, opened: Opened, about: About, given: Mapping[str, Any]) -> None:
        self.translation, self.opened = translation, opened
        self.error = ""
        try:
            self.shapes: Shapes = translation.shapes(opened.tensors)
            self.buffers = _constants(translation, opened.tensors)
            self.out_indices = _maps(self.shapes, about)
            self.inferred = self._infer(about, given)
            self.findings = self._compare()
            check_constants(self.buffers, self.inferred)
        except CheckpointError as error:
            self.error = str(error)

    @property
    def distance(self) -> int:
        """How much of the file does not fit; the dialect that fits is the one with 0."""
        if self.error:
            return 10**9 + len(self.translation.unknown)
        return len(self.findings.missing) + len(self.findings.unexpected) + len(self.findings.wrong_shape)

    def _infer(self, about: About, given: Mapping[str, Any]) -> Inferred:
        dense = any(re.match(r"norm\d", name) for name in self.shapes)
        policy = "dense" if dense else self.translation.dialect.policy
        # What a configuration says, the model is; what is given beside it is what the model shall become.
        known = dict(given) | about.fields if about.peer else about.fields | dict(given)
        if dense:
            known["size_policy"] = "dense"
        return infer_config(self.shapes, self.buffers, known, policy)

    def _compare(self) -> Findings:
        config, found = self.inferred.config, self.translation
        wanted = expected_shapes(config, self.out_indices)
        dropped = dict(found.dropped)
        unexpected = [*found.unknown]
        used: dict[str, tuple[str, ...]] = {}
        for entry in found.entries:
            reason = "" if set(entry.ours) <= wanted.keys() else self._left_out(entry.ours[0])
            for name in entry.theirs:
                if set(entry.ours) <= wanted.keys():
                    used[name] = (*used.get(name, ()), *entry.ours)
                elif reason:
                    dropped[name] = reason
                else:
                    unexpected.append(name)
        wrong = [
            f"{n} {self.shapes[n]} instead of {wanted[n]}"
            for n in sorted(wanted.keys() & self.shapes.keys())
            if self.shapes[n] != wanted[n]
        ]
        missing = sorted(wanted.keys() - self.shapes.keys())
        return Findings(
            str(self.opened.source), found.dialect.name, config, used, dropped, tuple(missing), tuple(sorted(unexpected)), tuple(wrong),
            (*self.opened.notes, *self.inferred.notes), self.inferred.doubts, self.out_indices,
        )  # fmt: skip

    def _left_out(self, name: str) -> str:
        """Why a tensor of a classifier is not part of a backbone; "" where it should be."""
        if self.out_indices is None:
            return ""
        if name.startswith("norm."):
            return "the final norm of a classifier, which a backbone does not have"
        later = re.match(r"layers\.(\d+)\.", name)
        return "after the last stage whose map is returned" if later and int(later[1]) >= max(self.out_indices) else ""

    def saved(self, about: About) -> SavedModel:
        """The model, with its tensors."""
        wanted = expected_shapes(self.inferred.config, self.out_indices)
        tensors = {name: tensor for name, tensor in self.translation.read(self.opened.tensors).items() if name in wanted}
        check_finite(tensors, self.opened.source)
        config = self.inferred.config
        labels = about.labels if len(about.labels) == config.num_classes else ()
        own = adoptable(tensors, self.opened.tensors.values() if self.opened.mapped else ())
        return SavedModel(config, tensors, labels, about.preprocess or _as_the_originals(config), self.out_indices, own=own)


def _constants(translation: Translation, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored indices, coordinates and masks under our names, found through the table of the block that they lie in."""
    blocks = {}
    for entry in translation.entries:
        if entry.ours[0].endswith(".norm1.weight"):
            blocks[entry.theirs[0].rpartition(".")[0].rpartition(".")[0]] = entry.ours[0].removesuffix("norm1.weight")
    found = {}
    for name in translation.dropped:
        block = next((start for start in blocks if name.startswith(f"{start}.")), None)
        constant = next((c for c in CONSTANTS if name.endswith(c.rpartition(".")[2])), None)
        if block and constant:
            found[blocks[block] + constant] = tensors[name]
    return found


def check_constants(buffers: Mapping[str, Tensor], inferred: Inferred) -> None:
    """Stored indices must be those that we compute. Errors: CheckpointError for a table that is ordered in another way."""
    for name, stored in buffers.items():
        if name.endswith("relative_position_index"):
            stage = int(name.split(".")[1])
            ours = relative_position_index(inferred.config.windows[stage])
            if stored.numel() == ours.numel() and not torch.equal(stored.reshape(ours.shape).long(), ours):
                raise CheckpointError(f"{name} orders the offsets of a window in another way than any published Swin Transformer.")


def _as_the_originals(config: SwinConfig) -> dict[str, Any]:
    """How the originals prepare images, for files that do not say; nothing for images that are not RGB."""
    size = pair(config.img_size)
    crop = {"interpolation": "bicubic", "crop_pct": 0.9 if max(size) < 384 else 1.0}
    return {"size": list(size), "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)} | crop if config.in_chans == 3 else {}


def _maps(shapes: Shapes, about: About) -> tuple[int, ...] | None:
    """The stages whose maps a backbone returns; None for a classifier."""
    normed = tuple(sorted({int(found[1]) for name in shapes if (found := re.match(r"norm(\d+)\.weight", name))}))
    if normed:
        return normed
    if "norm.weight" in shapes:
        return None
    stages = {int(name.split(".")[1]) for name in shapes if name.startswith("layers.")}
    return about.out_indices or tuple(sorted(stages))


def _some(names: Mapping[str, Any]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more tensors" if len(listed) > 3 else "")
