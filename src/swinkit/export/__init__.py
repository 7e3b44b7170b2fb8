"""Models as files of other runtimes, each compared with PyTorch before it gets its name."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinkit._verbs import callable_module
from swinkit.export.int8.settings import Int8 as Int8

if TYPE_CHECKING:
    from torch import nn

    from swinkit.export.checks import Check
    from swinkit.export.int8.images import Pictures
    from swinkit.export.int8.report import Int8Report
    from swinkit.fields import SizeLike
    from swinkit.runtimes.facts import Facts


@dataclass(frozen=True)
class Exported:
    """A file that was written, and what it was compared with."""

    path: Path
    to: str
    """The format."""
    runtime: str
    """What it was run with, in words."""
    takes: str
    """Which images it takes, in words."""
    files: tuple[Path, ...]
    """All that belongs to it."""
    checks: tuple[Check, ...]
    int8: Int8Report | None = None
    """What 8 bits do to it, where they were asked for."""

    @property
    def difference(self) -> float:
        """The largest of any output of any comparison, as a fraction of the largest output."""
        return max(check.difference for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        own = {"path": str(self.path), "files": [str(file) for file in self.files], "difference": self.difference}
        return asdict(self) | own | {"int8": self.int8.to_dict() if self.int8 else None}

    def table(self) -> str:
        """For a terminal: a line per comparison, and the largest difference."""
        megabytes = sum(file.stat().st_size for file in self.files) / 1e6
        lines = [f"{self.to}, {megabytes:.1f} MB; takes {self.takes}", f"compared in {self.runtime} with PyTorch:"]
        for check in self.checks:
            size = f"{check.size[0]} x {check.size[1]}"
            lines.append(f"  {check.images:6}  {check.batch:2} images of {size:>11}  {check.difference:.1e}")
        lines.append(f"largest difference: {self.difference:.1e} of the largest output")
        return "\n".join([*lines, *(self.int8.lines() if self.int8 else [])])


def export(
    model_or_path: nn.Module | str | Path,
    *,
    to: str,
    out: str | Path,
    dynamic: bool = True,
    img_size: SizeLike | None = None,
    batch_size: int | None = None,
    with_preprocessing: bool = False,
    dtype: str = "float32",
    int8: Int8 | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Exported:
    """Write a model as a file of another runtime, run that file there, and keep it only if it computes what PyTorch does.

    model_or_path: a SwinTransformer or SwinBackbone, or what `from_pretrained` opens. to: "onnx", "openvino", "torch-export", "aoti" or
    "executorch". out: the file, ending in .onnx, .xml, .pt2 or .pte. dynamic: any height and width; False: images of `img_size` alone (by
    default the model's), which is faster. batch_size: exactly so many images at a time; None: any number. ExecuTorch's files are always
    fixed, by default to one image.
    overwrite: replace the file; say: called with a sentence before each step.
    with_preprocessing: the file takes (B, height, width, channels) uint8 and gives probabilities. dtype: "float32", or "float16" and
    "bfloat16" where the format has them.
    int8: linear layers in 8 bits, of onnx and openvino: which images set the ranges, and how much may change (docs/export.md).
    Class names, mean and std, sizes, licence and origin go into the file; `Predictor` reads them there.
    Errors: ExportError where the file computes something else, or the format cannot hold the model; nothing is left then. CheckpointError
    for a model that cannot be read, and for a file that exists unless `overwrite`; ConfigError for options that cannot be, and for packages
    that are missing; DataError for images that are not there.
    """
    from swinkit.export.int8.settings import check_int8
    from swinkit.export.options import check_out, choose, describe

    file, say = Path(out).expanduser(), say or _silent
    form = choose(to, dtype, dynamic)
    check_out(file, form, to, overwrite)
    batch_size = batch_size if form.dynamic else batch_size or 1
    if int8 is not None:
        check_int8(to, dtype, int8)
    model, facts = _model(model_or_path, form.dynamic and dynamic, img_size, batch_size, with_preprocessing, dtype)
    pictures = None if int8 is None else _pictures(int8, model, facts, to, say)
    file.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{file.name}.", suffix=".writing", dir=file.parent))
    try:
        say(f"writing {to}: {describe(facts)}")
        runtime, checks = _write(model, facts, to, place / file.name, int8 is not None, say)
        report = None
        if int8 is not None and pictures is not None:
            runtime, checks, report = _in_8_bits(model, facts, to, place / file.name, (int8, pictures), say)
        files = _take_names(place, file)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Exported(file, to, runtime, f"{describe(facts)}{', linear layers int8' if report else ''}", files, checks, report)


def _model(
    source: nn.Module | str | Path, dynamic: bool, img_size: SizeLike | None, batch_size: int | None, with_preprocessing: bool, dtype: str
) -> tuple[nn.Module, Facts]:
    """A copy of the model in float32, and what the file will say."""
    from swinkit.export.options import as_defined, check_model, make_facts

    model = check_model(source)
    facts = make_facts(model, dynamic, img_size, batch_size, with_preprocessing, dtype)
    return as_defined(model), facts


def _write(model: Any, facts: Facts, to: str, file: Path, int8: bool, say: Callable[[str], None]) -> tuple[str, tuple[Check, ...]]:
    """Write a file where nobody looks, in float32 even where 8 bits will come of it, and compare it."""
    from swinkit.export.formats import FORMATS
    from swinkit.export.options import build

    module, _, function = FORMATS[to].write.partition(":")
    getattr(importlib.import_module(module), function)(build(model, facts, to, int8), facts, file)
    return _compared(file, model, say)


def _compared(file: Path, model: Any, say: Callable[[str], None]) -> tuple[str, tuple[Check, ...]]:
    from swinkit.export.checks import compare
    from swinkit.runtimes.artefacts import open_artefact

    artefact, checks = open_artefact(file), []
    for check in compare(artefact, model):
        say(f"{check.batch} {check.images} images of {check.size[0]} x {check.size[1]}: {check.difference:.1e}")
        checks.append(check)
    return artefact.about, tuple(checks)


def _in_8_bits(
    model: Any, facts: Facts, to: str, file: Path, asked: tuple[Int8, Pictures], say: Callable[[str], None]
) -> tuple[str, tuple[Check, ...], Int8Report]:
    """Replace a float32 file, which was compared, by one in 8 bits, and compare that."""
    from swinkit.export.int8.quantise import quantise, with_accuracy

    settings, pictures = asked
    exact = file.parent / "float32" / file.name
    exact.parent.mkdir()
    for beside in [path for path in file.parent.iterdir() if path.is_file()]:
        os.replace(beside, exact.parent / beside.name)
    report = quantise(exact, file, model, facts, to, settings, pictures, say)
    runtime, checks = _compared(file, model, say)
    if settings.evaluate is not None:
        say(f"scoring the images of {settings.evaluate}")
        report = with_accuracy(report, model, exact, file, settings.evaluate)
    shutil.rmtree(exact.parent)
    return runtime, checks, report


def _pictures(settings: Int8, model: Any, facts: Facts, to: str, say: Callable[[str], None]) -> Pictures:
    """Whatever 8 bits need, checked and drawn before anything is computed."""
    from swinkit.export.int8.images import collect
    from swinkit.export.int8.quantise import check_wishes

    check_wishes(model, facts, to, settings)
    return collect(settings, facts, say)


def _take_names(place: Path, file: Path) -> tuple[Path, ...]:
    """Move the files to where they were asked for, flushed to disk; the one that is opened comes last."""
    from swinkit.checkpoints.files import flush, umask

    taken = []
    for beside in sorted(place.iterdir(), key=lambda path: path.name == file.name):
        flush(beside)
        beside.chmod(0o666 & ~umask())
        os.replace(beside, file.with_name(beside.name))
        taken.append(file.with_name(beside.name))
    flush(file.parent)
    return tuple(taken)


def _silent(_line: str) -> None:
    pass


callable_module(__name__)
