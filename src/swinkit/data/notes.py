"""Findings in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swinkit.data.findings import Findings
from swinkit.data.sources import Splits

FEW = 12
"""Classes that are listed one by one."""
RARE = 100
"""How many times as many images the largest class may have as the smallest before that is mentioned."""


def report(findings: Findings, splits: Splits) -> list[str]:
    """Lines for a person: classes with their images, sizes, what is left out, and what is odd. Each begins with a word in 8 columns."""
    lines = [_classes(findings, splits.classes)]
    if findings.sizes:
        smallest, median, largest = (f"{height} x {width}" for height, width in findings.sizes)
        modes = ", ".join(f"{count:,} {mode}" for mode, count in findings.modes.items())
        sizes = f"{smallest} to {largest} pixels, median {median}" if smallest != largest else f"{median} pixels"
        lines.append(f"sizes   {sizes}{f'; {modes}' if modes else ''}")
    lines += [f"skipped {line}" for line in _left_out(findings)]
    return lines + [f"note    {note}" for note in (*_class_notes(findings, splits.classes), *_overlap_notes(findings))]


def _classes(findings: Findings, classes: Sequence[str]) -> str:
    counts = list(findings.counts.values())
    images = {name: "/".join(f"{part[label]:,}" for part in counts) for label, name in enumerate(classes)}
    parts = f"images in {'/'.join(findings.counts)}"
    if len(classes) <= FEW:
        return f"classes {', '.join(f'{name} {count}' for name, count in images.items())} ({parts})"
    train = findings.counts["train"]
    order = sorted(range(len(classes)), key=lambda label: -train[label])
    most, least = (", ".join(f"{classes[label]} {images[classes[label]]}" for label in some) for some in (order[:3], order[-3:]))
    return f"classes {len(classes):,}; most: {most}; least: {least} ({parts})"


def _left_out(findings: Findings) -> Iterator[str]:
    for part in findings.counts:
        if unusable := findings.unusable(part):
            named = _some([image.name for image in unusable])
            share = f"{len(unusable):,} of {sum(findings.counts[part]):,} {part} images"
            yield f"{share}, which are broken or too small (--skip-broken): {named}"


def _class_notes(findings: Findings, classes: Sequence[str]) -> Iterator[str]:
    train = dict(zip(classes, findings.counts["train"], strict=True))
    if absent := [name for name, count in train.items() if not count]:
        yield f"{_some(absent)} {_have(absent)} no training images and cannot be learnt"
    present = {name: count for name, count in train.items() if count}
    if present and max(present.values()) >= RARE * min(present.values()):
        rare, common = min(present, key=lambda name: present[name]), max(present, key=lambda name: present[name])
        yield (
            f"{common} has {present[common]:,} training images and {rare} {present[rare]:,}: "
            f"a model may do well without ever saying {rare}; look at the accuracy of each class"
        )
    for part, counts in findings.counts.items():
        unseen = [name for name, count in zip(classes, counts, strict=True) if not count and train[name]]
        if part != "train" and unseen:
            them = "it" if len(unseen) == 1 else "them"
            yield f"{_some(unseen)} {_have(unseen)} no images in {part}, whose scores say nothing about {them}"


def _overlap_notes(findings: Findings) -> Iterator[str]:
    overlaps = findings.overlaps
    if overlaps.several_labels:
        one, other = overlaps.label_pairs[0]
        yield f"{overlaps.several_labels:,} images are the same and in different classes, such as {one} and {other}; keep one of each"
    for part, count, (one, other) in overlaps.leaks:
        yield f"{count:,} of {sum(findings.counts[part]):,} {part} images are in train as well, which flatters the scores: {other} is {one}"


def _some(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown:,} more" if len(names) > shown else "")


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
