"""From a verified float32 file to one in 8 bits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from swinkit.errors import ConfigError, ExportError
from swinkit.export.int8.groups import layers_of, matching
from swinkit.export.int8.images import Pictures, batches
from swinkit.export.int8.report import Int8Report
from swinkit.export.int8.search import Effect, Layer, Trial, alone, comparable, compare, fewest
from swinkit.export.int8.settings import AGREEMENT, GRAPHS, SLACK, Int8
from swinkit.runtimes.artefacts import open_artefact
from swinkit.runtimes.facts import Facts
from swinkit.runtimes.pytorch import TorchRuntime

LIMIT = 1_900_000_000
"""Bytes of a file with its weights; protobuf ends at 2 GiB."""
Say = Callable[[str], None]


def check_wishes(model: Any, facts: Facts, to: str, settings: Int8) -> None:
    """Before minutes of work: what cannot be had of this model. Errors: ConfigError, DataError."""
    if to == "onnx" and sum(weight.nbytes for weight in model.parameters()) > LIMIT:
        raise ConfigError(f"The model has more than {LIMIT / 1e9:.1f} GB of weights, which one ONNX file cannot hold; leave --int8 out.")
    if settings.keep_float is not None:
        layers = dict.fromkeys(name for name, _ in layers_of(model, facts))
        matching(settings.keep_float, [name for name in layers if to != "onnx" or name != "patch_embed.proj"])
    if settings.evaluate is not None:
        importlib.import_module("swinkit.export.int8.accuracy").labelled(settings.evaluate, facts)


def quantise(exact: Path, file: Path, model: Any, facts: Facts, to: str, settings: Int8, pictures: Pictures, say: Say) -> Int8Report:
    """Write `file`, the float32 file `exact` in 8 bits. Errors: ExportError where that changes too much."""
    graphs = importlib.import_module(GRAPHS[to]).Graphs(exact, layers_of(model, facts))
    chosen = None if settings.keep_float is None else matching(settings.keep_float, graphs.layers)
    say(f"calibrating with {len(pictures.ranges)} images, {pictures.about}")
    graphs.calibrate(batches(pictures.ranges, facts.batch_size), settings.narrow_weights)
    before = open_artefact(exact)
    trial = Trial(file.parent, file.suffix, lambda path, kept: graphs.write(path, kept, facts), before, pictures.choosing)
    say(f"measuring each of {len(graphs.layers)} layers on {len(pictures.choosing)} other images")
    effects = dict(alone(trial, graphs.layers))
    kept = fewest(trial, effects, settings.max_error) if chosen is None else chosen
    layers = tuple(Layer(name, effect, name in kept) for name, effect in effects.items())
    graphs.write(trial.file, kept, facts)
    effect = compare(comparable(open_artefact(trial.file), pictures.proof), comparable(before, pictures.proof))
    _check_effect(effect, SLACK * settings.max_error if chosen is None else 1.0)
    report = Int8Report(pictures.about, len(pictures.ranges), layers, effect, len(pictures.proof))
    graphs.write(file, kept, replace(facts, int8=report.facts()))
    for left in (trial.file, *([trial.file.with_suffix(".bin")] if to == "openvino" else [])):
        left.unlink()
    return report


def _check_effect(effect: Effect, allowed: float) -> None:
    if effect.error > allowed:
        raise ExportError(
            f"In 8 bits the outputs for held-out images differ by {effect.error:.1e} of their norm, and {allowed:g} is allowed. No "
            "file was written. Calibrate with more images that are like those the model will see."
        )
    if effect.agreement is not None and effect.agreement < AGREEMENT:
        raise ExportError(
            f"In 8 bits the first class stays the same for {effect.agreement:.1%} of held-out images, and {AGREEMENT:.0%} is the least. No "
            "file was written. Keep more layers in float (--keep-float, --max-error), or calibrate with more images."
        )


def with_accuracy(report: Int8Report, model: nn.Module, exact: Path, file: Path, data: str | Path) -> Int8Report:
    """The report with accuracy and speed of the model and both files on labelled images."""
    from swinkit.export.int8.accuracy import measure

    before, after = open_artefact(exact), open_artefact(file)
    runtimes: Any = {
        "PyTorch, float32": (_plain(model), sum(weight.nbytes for weight in model.parameters()) / 1e6),
        before.about: (before, megabytes(exact)),
        after.about: (after, megabytes(file)),
    }
    name, rows = measure(runtimes, after.facts, data)
    return replace(report, evaluated=name, accuracy=rows)


def _plain(model: Any) -> TorchRuntime:
    import torch

    return TorchRuntime(model, torch.device("cpu"))


def megabytes(file: Path) -> float:
    """Of a file and, of an IR, its weights."""
    return sum(part.stat().st_size for part in {file, file.with_suffix(".bin")} if part.is_file()) / 1e6
