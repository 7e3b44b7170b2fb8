"""Before training: look at every image once, say what is there, and refuse what cannot be trained on.

findings = look(splits, patch=(4, 4))
splits = apply(splits, findings, skip_broken=False)
print("\\n".join(report(findings, splits)))
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from swinkit.data.findings import Broken, Findings, Size
from swinkit.data.looks import Look, Progress, look_at_all
from swinkit.data.notes import report
from swinkit.data.overlaps import find_overlaps
from swinkit.data.sets import ImageSet, Subset
from swinkit.data.sources import Splits
from swinkit.errors import DataError

__all__ = ["Broken", "Findings", "apply", "look", "report"]

LISTED = 20
"""Broken files that an error lists."""
STRAY = 0.01
"""Up to this part of the images, equal images in different classes are taken for slips and not for several labels."""


def look(splits: Splits, *, patch: Size, workers: int = 8, progress: Progress | None = None) -> Findings:
    """Decode every image of train, val and test once, in threads. Files that did not change since an earlier look are only found again.

    patch: (height, width) in pixels of the model's patches. progress: called with (images done, images in all).
    """
    parts = parts_of(splits)
    root = Path(splits.name)
    looks = look_at_all(parts, "L" if splits.in_chans == 1 else "RGB", root if root.is_dir() else None, workers, progress)
    good = [seen for part in looks.values() for seen in part if not seen.reason]
    return Findings(
        counts={part: tuple(np.bincount(images.labels, minlength=len(splits.classes)).tolist()) for part, images in parts.items()},
        broken={part: tuple(_broken(images, looks.get(part, ()))) for part, images in parts.items()},
        small={part: tuple(_small(images, looks.get(part, ()), patch)) for part, images in parts.items()},
        sizes=_sizes(good),
        modes=dict(Counter(seen.mode for seen in good if seen.mode).most_common()),
        overlaps=find_overlaps(parts, looks),
    )


def parts_of(splits: Splits) -> dict[str, ImageSet]:
    """The parts that are there, by name."""
    return {"train": splits.train, "val": splits.val} | ({"test": splits.test} if splits.test is not None else {})


def _broken(images: ImageSet, looks: Sequence[Look]) -> Iterator[Broken]:
    return (Broken(index, images.name(index), seen.reason) for index, seen in enumerate(looks) if seen.reason)


def _small(images: ImageSet, looks: Sequence[Look], patch: Size) -> Iterator[Broken]:
    for index, seen in enumerate(looks):
        if not seen.reason and (seen.height < patch[0] or seen.width < patch[1]):
            name, size = images.name(index), f"{seen.height} x {seen.width} pixels"
            yield Broken(index, name, f"{name} has {size}, less than one patch of {patch[0]} x {patch[1]}; replace it, or remove it.")


def _sizes(looks: Sequence[Look]) -> tuple[Size, ...]:
    sizes = sorted(((seen.height, seen.width) for seen in looks), key=lambda size: (size[0] * size[1], size))
    return (sizes[0], sizes[(len(sizes) - 1) // 2], sizes[-1]) if sizes else ()


def apply(splits: Splits, findings: Findings, skip_broken: bool) -> Splits:
    """The splits without what cannot be used.

    Raises DataError for broken files unless skip_broken, for a class or a part of which nothing is left, for images of one class only,
    and for images with several labels.
    """
    _check_labels(splits, findings)
    unusable = {part: findings.unusable(part) for part in findings.counts}
    if not skip_broken:
        _refuse_broken(splits, findings, [image for images in unusable.values() for image in images])
    kept = {part: _without(images, unusable[part]) for part, images in parts_of(splits).items()}
    for part, images in kept.items():
        if unusable[part] and not len(images):
            raise DataError(
                f"None of the {len(unusable[part]):,} images of {part} in {splits.name} can be used. {unusable[part][0].reason}"
            )
    _check_classes(splits, findings, kept["train"])
    return dataclasses.replace(splits, train=kept["train"], val=kept["val"], test=kept.get("test"))


def _refuse_broken(splits: Splits, findings: Findings, broken: Sequence[Broken]) -> None:
    if not broken:
        return
    total = sum(map(sum, findings.counts.values()))
    lines = [image.reason for image in broken[:LISTED]]
    if len(broken) > LISTED:
        lines.append(f"... and {len(broken) - LISTED:,} more.")
    raise DataError(
        f"{len(broken):,} of {total:,} images in {splits.name} cannot be used. Repair or remove them, or start without them: --skip-broken "
        "(skip_broken=True):\n  " + "\n  ".join(lines)
    )


def _without(images: ImageSet, unusable: Sequence[Broken]) -> ImageSet:
    if not unusable:
        return images
    return Subset(images, np.delete(np.arange(len(images)), [image.index for image in unusable]))


def _check_classes(splits: Splits, findings: Findings, train: ImageSet) -> None:
    left = np.bincount(train.labels, minlength=len(splits.classes))
    for name, before, after in zip(splits.classes, findings.counts["train"], left, strict=True):
        if before and not after:
            raise DataError(f"None of the {before:,} training images of class {name} can be used. Replace them, or remove the class.")
    if np.count_nonzero(left) == 1:
        only = splits.classes[int(left.argmax())]
        raise DataError(
            f"All {len(train):,} training images of {splits.name} are of class {only}; a classifier needs at least two classes."
        )


def _check_labels(splits: Splits, findings: Findings) -> None:
    overlaps, total = findings.overlaps, sum(map(sum, findings.counts.values()))
    if not overlaps.on_purpose and overlaps.several_labels <= STRAY * total:
        return
    one, other = overlaps.label_pairs[0]
    raise DataError(
        f"{overlaps.several_labels:,} of {total:,} images in {splits.name} are in more than one class, such as {one} and {other}, which "
        "are the same image. An image with several labels cannot be trained: expected is each image in the folder of its one class. "
        "Keep it in one class and remove it from the others."
    )
