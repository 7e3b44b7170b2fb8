"""A model in every runtime that is here: built, compared, and timed in turns."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import swinkit
from swinkit.bench.artefacts import FileSubject, runtime_of
from swinkit.bench.jobs import NATIVE, Job
from swinkit.bench.loading import processors
from swinkit.bench.results import TOLERANCE, ModelSpeed, Row, row
from swinkit.bench.rounds import Cell, Entry, Say
from swinkit.bench.runtimes import GEMM, RUNTIMES, Runtime, chosen, missing
from swinkit.bench.subject import Subject, resolve
from swinkit.config import SwinConfig, pair
from swinkit.environment import package_version, variables
from swinkit.errors import CheckpointError, ConfigError, UnknownNameError
from swinkit.fields import SizeLike, positive, whole
from swinkit.runtimes.artefacts import is_artefact
from swinkit.runtimes.device import cpu_name, has_fast_bfloat16

PACKAGES = ("torch", "timm", "torchvision", "transformers", "openvino", "onnxruntime")


BUSY = 0.5
"""Load per processor from which a warning is due."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a benchmark; `.speed` holds what was measured so far."""

    def __init__(self, speed: ModelSpeed) -> None:
        super().__init__("What was measured so far is above." if speed.rows else "Nothing was measured yet.")
        self.speed = speed


@dataclass(frozen=True)
class Plan:
    """What is measured, checked."""

    batch_sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    threads: int
    runtimes: tuple[Runtime, ...]
    rounds: int
    seconds: float
    left_out: dict[str, str]
    warnings: tuple[str, ...]


def make_plan(
    batch_size: int | Sequence[int], dtype: str | Sequence[str] | None, threads: int | None, compile: bool,
    peers: str | Sequence[str], rounds: int, seconds: float,
) -> Plan:  # fmt: skip
    """Errors: ConfigError, UnknownNameError."""
    sizes = [batch_size] if isinstance(batch_size, int) else list(batch_size)
    if not sizes:
        raise ConfigError("batch_size is empty; expected numbers of images, such as 1 8.")
    count = processors() if threads is None else whole("threads", threads, 1)
    runtimes, left_out = chosen(peers, compile)
    return Plan(
        batch_sizes=tuple(dict.fromkeys(whole("batch_size", size, 1) for size in sizes)),
        dtypes=_dtypes(dtype),
        threads=count,
        runtimes=tuple(runtimes),
        rounds=whole("rounds", rounds, 1),
        seconds=positive("seconds", seconds),
        left_out=left_out,
        warnings=(*_too_many(count), *_busy()),
    )


def _dtypes(given: str | Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        return ("float32", "bfloat16") if has_fast_bfloat16(torch.device("cpu")) else ("float32",)
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise ConfigError("dtype is empty; expected float32, bfloat16 or both.")
    for name in names:
        if name not in TOLERANCE:
            raise UnknownNameError("dtype", str(name), TOLERANCE)
    return tuple(dict.fromkeys(names))


def _too_many(threads: int) -> list[str]:
    if threads <= processors():
        return []
    return [f"{threads} threads share {processors()} processors, so they wait for each other and the times say little; give fewer threads"]


def _busy() -> list[str]:
    """Whether others compute here, by the load of the last minute."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load < BUSY * processors():
        return []
    return [f"the machine was busy at the start (load {load:.1f} of the last minute), so the times say little"]


def measure_model(model: str | Path | SwinConfig | nn.Module, img_size: SizeLike | None, plan: Plan, say: Say) -> ModelSpeed:
    """What `swinkit.bench.model` does."""
    for warning in plan.warnings:
        say(warning)
    with tempfile.TemporaryDirectory(prefix="swinkit-bench-") as folder:
        subject, name, weights = _subject(model, img_size, Path(folder))
        say(f"{name}: writing weights, computing what all must get")
        subject.lay_out(max(plan.batch_sizes))
        cells: list[Cell] = []
        speed = _empty(subject, name, weights, plan)
        try:
            jobs, left_out = _jobs(subject, plan)
            speed = replace(speed, left_out=plan.left_out | left_out)
            for dtype in plan.dtypes:
                for size in plan.batch_sizes:
                    cells.append(Cell(dtype, size))
                    _measure(cells[-1], subject, jobs, plan, say)
        except KeyboardInterrupt:
            raise Interrupted(replace(_filled(speed, cells), interrupted=True)) from None
        return _filled(speed, cells)


def _subject(model: str | Path | SwinConfig | nn.Module, img_size: SizeLike | None, folder: Path) -> tuple[Subject, str, str]:
    """(what is measured, its name, whose weights it has)"""
    if isinstance(model, str | Path) and is_artefact(model):
        return FileSubject(Path(model).expanduser(), img_size, folder), str(model), "exported"
    net, name, weights = resolve(model, img_size)
    return Subject(net, folder), name, weights


def _jobs(subject: Subject, plan: Plan) -> tuple[list[tuple[Runtime, Job]], dict[str, str]]:
    """A job per runtime, still without dtype and batch size; and peers that cannot be this model, with the reason."""
    if isinstance(subject, FileSubject):
        return [runtime_of(subject, plan.threads)], {}
    jobs, left_out = [], {}
    for runtime in plan.runtimes:
        try:
            layout, path = _weights(subject, runtime)
        except CheckpointError as error:
            left_out[runtime.peer or runtime.name] = str(error)
            continue
        how: dict[str, Any] = {"threads": plan.threads, "compile": runtime.compiles, "export": runtime.export}
        how |= {"images": str(subject.images), "imports": runtime.imports}
        jobs.append((runtime, Job(runtime.name, runtime.build, layout, str(path), dtype="", batch_size=0, **how)))
    return jobs, left_out


def _weights(subject: Subject, runtime: Runtime) -> tuple[str, Path]:
    """The first layout that can be had. Errors: CheckpointError with why the last cannot."""
    *first, last = runtime.layouts
    for layout in first:
        if layout == NATIVE or not missing(_peer(layout)):
            try:
                return layout, subject.layout(layout)
            except CheckpointError:
                pass
    return last, subject.layout(last)


def _peer(name: str) -> Runtime:
    return next(runtime for runtime in RUNTIMES if runtime.peer == name)


def _measure(cell: Cell, subject: Subject, jobs: Sequence[tuple[Runtime, Job]], plan: Plan, say: Say) -> None:
    here: dict[str, Any] = {"dtype": cell.dtype, "batch_size": cell.batch_size}
    able = [replace(job, **here) for runtime, job in jobs if cell.dtype in runtime.dtypes]
    gemm = Job(GEMM.name, GEMM.build, NATIVE, "", str(subject.images), threads=plan.threads, shapes=subject.shapes(cell.batch_size), **here)
    cell.run(subject, able, gemm, plan.rounds, plan.seconds, say)


def _empty(subject: Subject, name: str, weights: str, plan: Plan) -> ModelSpeed:
    config = subject.model.config
    return ModelSpeed(
        model=name,
        weights=weights,
        input=(config.in_chans, *pair(config.img_size)),
        parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        gflop=subject.gflop(),
        threads=plan.threads,
        processors=processors(),
        rounds=plan.rounds,
        cpu=cpu_name(),
        versions={"swinkit": swinkit.__version__}
        | {name: package_version(name) for name in PACKAGES if package_version(name) != "missing"},
        variables=variables(),
        rows=(),
        gemm={},
        warnings=plan.warnings,
    )


def _filled(speed: ModelSpeed, cells: Sequence[Cell]) -> ModelSpeed:
    gemm: dict[str, dict[str, float]] = {}
    for cell in cells:
        for name, rate in (cell.gemm.rates if cell.gemm else {}).items():
            rates = gemm.setdefault(cell.dtype, {})
            rates[name] = max(rate, rates.get(name, 0.0))
    lost = tuple(
        f"matrix products in {cell.dtype} were not measured: {cell.gemm.failed}" for cell in cells if cell.gemm and cell.gemm.failed
    )
    rows = [_row(cell, entry, speed.gflop) for cell in cells for entry in cell.entries if entry.seconds or entry.failed]
    return replace(speed, gemm=gemm, warnings=(*speed.warnings, *lost), rows=tuple(_shared(found, gemm) for found in rows))


def _row(cell: Cell, entry: Entry, gflop: float) -> Row:
    says = entry.worker.says if entry.worker else ""
    facts = {"says": says, "failed": entry.failed, "difference": entry.difference, "peak_memory": entry.peak or None}
    return row(entry.job.runtime, cell.dtype, cell.batch_size, entry.seconds, gflop, **facts)


def _shared(found: Row, gemm: dict[str, dict[str, float]]) -> Row:
    rates = gemm.get(found.dtype)
    return found if not rates or found.gflops is None else replace(found, share=found.gflops / max(rates.values()))
