"""Any published Swin Transformer from a file or folder, whoever saved it, without being told who."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swinkit.checkpoints import native
from swinkit.checkpoints.dialects.about import CONFIG, About, from_name, read_about
from swinkit.checkpoints.dialects.findings import Findings
from swinkit.checkpoints.dialects.infer import Inferred, infer_config
from swinkit.checkpoints.dialects.layout import Shapes, expected_shapes
from swinkit.checkpoints.dialects.strangers import stranger
from swinkit.checkpoints.dialects.tables import BY_NAME
from swinkit.checkpoints.dialects.translate import OUTSIDE, Translation, candidates
from swinkit.checkpoints.dialects.usual import usual_preprocess
from swinkit.checkpoints.fitting import adoptable
from swinkit.checkpoints.hub import local
from swinkit.checkpoints.native import SavedModel
from swinkit.checkpoints.opening import HUB_NAMES, Opened, find_weights, open_weights
from swinkit.checkpoints.opening.checking import check_finite
from swinkit.errors import CheckpointError
from swinkit.model import relative_position_index

CONSTANTS = ("attn.relative_position_index", "attn.relative_coords_table", "attn_mask")


def read(source: str | Path, *, strict: bool = True, **known: Any) -> SavedModel:
    """Read a model of ours, microsoft's, timm's, torchvision's, transformers' or mm*'s: a run, a folder in a hub's layout, a file.

    known: fields of SwinConfig that a file without configuration cannot tell, such as a V2 model's window_size.
    strict=False: what is missing or of another shape stays out of the result, what is unexpected is ignored; a warning lists it all.
    Errors: CheckpointError with what is broken, missing or unexpected.
    """
    saved, findings = examine(source, strict=strict, **known)
    for doubt in findings.doubts if findings.complete else (*findings.doubts, f"does not fit its model: {findings.problems()}."):
        warnings.warn(f"{source}: {doubt}", stacklevel=3)
    return saved


def examine(source: str | Path, *, strict: bool = True, **known: Any) -> tuple[SavedModel, Findings]:
    """The same, and the report on every tensor."""
    folder = native.find(source)
    if folder is not None:
        return _ours(folder, strict)
    path = local(source)
    if not path.exists():
        raise CheckpointError(native.not_found(path))
    folder = path if path.is_dir() else path.parent if path.name in (CONFIG, *HUB_NAMES) else None
    about = read_about(folder) if folder else About()
    weights = find_weights(path if path.is_dir() else path.parent) if path.is_dir() or path.name == CONFIG else path
    if weights is None:
        raise CheckpointError(native.not_found(path))
    given = {name: value for name, value in known.items() if value is not None}
    about = about if about.peer else About("", from_name(path.name))
    return _examined(open_weights(weights), about, given, strict)


def _ours(folder: Path, strict: bool) -> tuple[SavedModel, Findings]:
    """A model in our own format, compared with its configuration like anybody else's."""
    saved = native.read(folder)
    wanted = expected_shapes(saved.config, saved.out_indices)
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.tensors.items()}
    findings = Findings(
        str(folder), "native", saved.config, {name: (name,) for name in shapes if name in wanted}, {},
        tuple(sorted(wanted.keys() - shapes.keys())), tuple(sorted(shapes.keys() - wanted.keys())), _wrong(shapes, wanted),
        out_indices=saved.out_indices,
    )  # fmt: skip
    if strict and not findings.complete:
        raise CheckpointError(f"The weights in {folder} do not fit its {CONFIG}: {findings.problems()}. Copy or save the folder again.")
    return replace(saved, tensors=_usable(saved.tensors, wanted, folder)), findings


def _examined(opened: Opened, about: About, given: Mapping[str, Any], strict: bool) -> tuple[SavedModel, Findings]:
    best = _best(opened, about, given)
    title, unknown = best.translation.dialect.title, best.translation.unknown
    if best.error:
        others = f" Names that {title} does not have: {_some(unknown)}." if unknown else ""
        raise CheckpointError(f"{opened.source}, read as {title}'s: {stranger(opened.tensors) or best.error.rstrip('.')}.{others}")
    findings = best.findings
    if strict and not findings.complete:
        why = stranger(opened.tensors) or "; ".join(best.inferred.contradictions) or findings.problems()
        raise CheckpointError(
            f"{opened.source} is closest to {title} (Swin V{findings.config.version}), but does not fit it: {why}. "
            "`swinkit convert --inspect` lists everything; strict=False loads what fits."
        )
    return best.saved(), findings


def _best(opened: Opened, about: About, given: Mapping[str, Any]) -> _Attempt:
    """The dialect that fits best: the first that fits whole and has nothing against it, if there is such."""
    attempts: list[tuple[int, int, int, _Attempt]] = []
    for translation in candidates(list(opened.tensors)):
        attempt = _Attempt(translation, opened, about, given)
        attempts.append((attempt.distance, attempt.unlikely(given.get("size_policy")), len(attempts), attempt))
        if attempts[-1][:2] == (0, 0):
            return attempt
    if not attempts:
        raise CheckpointError(
            f"{opened.source} is not a Swin Transformer: there is no patch embedding under any name that swinkit knows among "
            f"{_some(opened.tensors)}."
        )
    return min(attempts)[-1]


class _Attempt:
    """A file read as one dialect."""

    def __init__(self, translation: Translation, opened: Opened, about: About, given: Mapping[str, Any]) -> None:
        self.translation, self.opened, self.about = translation, opened, about
        self.error = ""
        try:
            self.shapes: Shapes = translation.shapes(opened.tensors)
            self.buffers = _constants(translation, opened.tensors)
            self.out_indices = _maps(self.shapes, about)
            self.inferred = self._infer(given)
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

    def unlikely(self, policy: str | None) -> int:
        """Where two dialects fit alike, how much speaks against this one: a lone last norm is mmpretrain's and mmdetection's."""
        dialect = self.translation.dialect
        other_parts = any(reason.startswith(OUTSIDE) for reason in self.translation.dropped.values())
        return (
            2 * (self.about.peer in BY_NAME and dialect.name != self.about.peer)
            + (policy is not None and policy != dialect.policy)
            + (dialect.name == "mmpretrain" and other_parts)
        )

    def _infer(self, given: Mapping[str, Any]) -> Inferred:
        dense = any(re.match(r"norm\d", name) for name in self.shapes)
        policy = "dense" if dense else self.translation.dialect.policy
        # What a configuration says, the model is; what is given beside it is what the model shall become.
        known = dict(given) | self.about.fields if self.about.peer else self.about.fields | dict(given)
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
        notes = (*self.opened.notes, *self.inferred.notes, *self.inferred.contradictions, *self._about_labels())
        return Findings(
            str(self.opened.source), found.dialect.name, config, used, dropped, tuple(sorted(wanted.keys() - self.shapes.keys())),
            tuple(sorted(unexpected)), _wrong(self.shapes, wanted), notes, self.inferred.doubts, self.out_indices,
        )  # fmt: skip

    def _about_labels(self) -> tuple[str, ...]:
        given, outputs = len(self.about.labels), self.inferred.config.num_classes
        return () if given in (0, outputs) else (f"Left out the names of {given} classes: the classifier has {outputs} outputs.",)

    def _left_out(self, name: str) -> str:
        """Why a tensor of a classifier is not part of a backbone; "" where it should be."""
        if self.out_indices is None:
            return ""
        if name.startswith("norm."):
            return "the final norm of a classifier, which a backbone does not have"
        later = re.match(r"layers\.(\d+)\.", name)
        return "after the last stage whose map is returned" if later and int(later[1]) >= max(self.out_indices) else ""

    def saved(self) -> SavedModel:
        """The model, with its tensors."""
        wanted = expected_shapes(self.inferred.config, self.out_indices)
        tensors = _usable(self.translation.read(self.opened.tensors), wanted, self.opened.source)
        config = self.inferred.config
        labels = self.about.labels if len(self.about.labels) == config.num_classes else ()
        own = adoptable(tensors, self.opened.tensors.values() if self.opened.mapped else ())
        return SavedModel(
            config,
            tensors,
            labels,
            self.about.preprocess or usual_preprocess(config, self.translation.dialect.name),
            self.out_indices,
            own=own,
        )


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


def _wrong(shapes: Shapes, wanted: Shapes) -> tuple[str, ...]:
    both = sorted(wanted.keys() & shapes.keys())
    return tuple(f"{name} {shapes[name]} instead of {wanted[name]}" for name in both if shapes[name] != wanted[name])


def _usable(tensors: Mapping[str, Tensor], wanted: Shapes, source: object) -> dict[str, Tensor]:
    """The tensors that are part of the model and have its shapes. Errors: CheckpointError for whole or not finite numbers."""
    usable = {name: tensor for name, tensor in tensors.items() if tuple(tensor.shape) == wanted.get(name)}
    whole = [name for name, tensor in usable.items() if not tensor.is_floating_point()]
    if whole:
        raise CheckpointError(f"{source}: {_some(whole)} hold whole numbers ({usable[whole[0]].dtype}); expected floating point.")
    check_finite(usable, source)
    return usable


def _maps(shapes: Shapes, about: About) -> tuple[int, ...] | None:
    """The stages whose maps a backbone returns; None for a classifier."""
    normed = tuple(sorted({int(found[1]) for name in shapes if (found := re.match(r"norm(\d+)\.weight", name))}))
    if normed:
        return normed
    if "norm.weight" in shapes:
        return None
    stages = {int(name.split(".")[1]) for name in shapes if name.startswith("layers.")}
    return about.out_indices or tuple(sorted(stages))


def _some(names: Collection[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more tensors" if len(listed) > 3 else "")
