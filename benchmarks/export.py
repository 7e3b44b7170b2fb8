"""Our exported files against timm's export of the same weights, in ONNX Runtime and in OpenVINO, one size and number of images.

    pip install 'swinkit[bench]'
    python benchmarks/export.py
    python benchmarks/export.py --models swin_tiny_patch4_window7_224 --batches 1 --rounds 2 --seconds 1

Writes benchmarks/results/export.md after each model. Every runtime and file has a process of its own, they take turns, and only those whose
outputs equal plain swinkit's are timed. Float32; let nothing else run meanwhile.

    python benchmarks/export.py --int8 --models swin_tiny_patch4_window7_224

Our files in 8 bits against our files in float32 instead, into benchmarks/results/export-int8.md; ranges are set by random images of the
clothes that come with swinkit, which says nothing of accuracy.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import swinkit
from swinkit.bench.jobs import NATIVE, Job
from swinkit.bench.loading import processors
from swinkit.bench.results import row
from swinkit.bench.rounds import Cell
from swinkit.bench.runtimes import GEMM
from swinkit.bench.subject import Subject, resolve
from swinkit.checkpoints.files import write_atomic
from swinkit.environment import package_version
from swinkit.export import Int8
from swinkit.runtimes.artefacts import open_artefact
from swinkit.runtimes.device import cpu_name

MODELS = ["swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"]
RESULTS = Path(__file__).parent / "results"
CALIBRATION_IMAGES = 16
RUNTIMES = {"onnxruntime": ("onnx", ".onnx", "to_onnx"), "openvino": ("openvino", ".xml", "to_openvino")}
"""runtime -> (our format, its suffix, what writes timm's file)"""
HEADER = """\
# Exported files: swinkit's against timm's

`python benchmarks/export.py{arguments}`. Images per second, medians over {rounds} turns, float32, {threads} threads of {cpu}; files for
exactly this number of images of the model's size. {versions}.
Ratio: the median over neighbouring turns, with its quartiles; "difference": the largest from plain swinkit, as a fraction of the largest
output.

| model | batch | runtime | swinkit's file | timm's file | ratio | difference | timm's difference |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |
"""
INT8_HEADER = """\
# Exported files in 8 bits against float32

`python benchmarks/export.py{arguments}`. Images per second, medians; both files in turns in one process, random weights, the head in
float32, {threads} threads of {cpu}; files for exactly this number of images of the model's size. {versions}.
Ratio: the median over neighbouring runs, with its quartiles. "Error": of the outputs, by the norm.

| model | batch | runtime | float32 | int8 | ratio | MB | MB, int8 | error |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--threads", type=int, default=processors())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="of computing, per file")
    parser.add_argument("--int8", action="store_true", help="our files in 8 bits against ours in float32")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.out = given.out or RESULTS / ("export-int8.md" if given.int8 else "export.md")
    return given


def jobs_of(subject, runtime, batch, threads):
    """Both files' jobs. The reader is the same: what differs is who wrote the file, into a folder of its own."""
    to, suffix, writes = RUNTIMES[runtime]
    common = {"images": str(subject.images), "dtype": "float32", "batch_size": batch, "threads": threads, "imports": (runtime,)}
    build = f"swinkit.bench.graphs:{runtime}"
    theirs = Job(runtime, build, "timm", str(subject.layout("timm")), export=f"swinkit.bench.graphs:{writes}", **common)
    ours = replace(theirs, runtime=f"swinkit-{runtime}", layout=NATIVE, weights="", export="")
    swinkit.export(subject.model, to=to, out=ours.graph / f"model{suffix}", dynamic=False, batch_size=batch)
    return ours, theirs


def narrow_speed(subject, runtime, batch, given):
    """One line of the table of 8 bits: both files in this process, in turns."""
    to, suffix, _ = RUNTIMES[runtime]
    torch.set_num_threads(given.threads)
    common = {"to": to, "dynamic": False, "batch_size": batch, "say": lambda line: print(line, file=sys.stderr)}
    settings = Int8("fashion-mnist-sample", calibration_images=CALIBRATION_IMAGES, keep_float=["head"])
    written = [
        swinkit.export(subject.model, out=subject.folder / f"{name}{batch}{suffix}", int8=asked, **common)
        for name, asked in (("float32", None), ("int8", settings))
    ]
    x = torch.randn(batch, 3, *swinkit.config.pair(subject.model.config.img_size))
    files, times = [open_artefact(file.path) for file in written], ([], [])
    end = time.monotonic() + 2 * given.seconds
    while time.monotonic() < end or len(times[0]) < 5:
        for number in (0, 1) if len(times[0]) % 2 else (1, 0):
            start = time.perf_counter()
            files[number].outputs(x)
            times[number].append(time.perf_counter() - start)
    ratios = [before / after for before, after in zip(*times, strict=True)][1:]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    rates = " | ".join(f"{batch / statistics.median(each[1:]):.1f}" for each in times)
    sizes = " | ".join(f"{sum(part.stat().st_size for part in file.files) / 1e6:.0f}" for file in written)
    return f"{batch} | {runtime} | {rates} | **{ratio:.2f}** ({low:.2f} - {high:.2f}) | {sizes} | {written[1].int8.effect.error:.0e} |"


def measure(subject, runtime, batch, given, say):
    """One line of the table."""
    cell = Cell("float32", batch)
    jobs = jobs_of(subject, runtime, batch, given.threads)
    shapes = {"layout": NATIVE, "weights": "", "export": "", "imports": (), "shapes": subject.shapes(batch)}
    cell.run(subject, jobs, replace(jobs[1], runtime=GEMM.name, build=GEMM.build, **shapes), given.rounds, given.seconds, say)
    rows = [row(e.job.runtime, "float32", batch, e.seconds, 0.0, failed=e.failed, difference=e.difference) for e in cell.entries]
    numbers = [found.failed if found.images_per_second is None else f"{found.images_per_second:.1f}" for found in rows]
    ratio = "" if any(found.failed for found in rows) else faster(*cell.entries)
    differences = ["" if found.difference is None else f"{found.difference:.0e}" for found in rows]
    return f"{batch} | {runtime} | {' | '.join(numbers)} | {ratio} | {' | '.join(differences)} |"


def faster(ours, theirs):
    """How many times as fast as theirs ours is, turn by turn."""
    medians = [np.median(np.reshape(entry.seconds, (-1, entry.repetitions)), axis=1) for entry in (ours, theirs)]
    low, ratio, high = np.quantile(medians[1] / medians[0], (0.25, 0.5, 0.75))
    return f"**{ratio:.2f}** ({low:.2f} - {high:.2f})"


def line(subject, runtime, batch, given):
    if given.int8:
        return narrow_speed(subject, runtime, batch, given)
    return measure(subject, runtime, batch, given, lambda line: print(line, file=sys.stderr))


def header(given):
    packages = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", *(["nncf"] if given.int8 else []))
    return (INT8_HEADER if given.int8 else HEADER).format(
        arguments="".join(f" {argument}" for argument in sys.argv[1:]), rounds=given.rounds, threads=given.threads, cpu=cpu_name(),
        versions=", ".join(f"{name} {package_version(name)}" for name in packages),
    )  # fmt: skip


def main():
    given, lines = options(), []
    for name in given.models:
        model, _, _ = resolve(name, None)
        with tempfile.TemporaryDirectory(prefix="swinkit-export-") as folder:
            subject = Subject(model, Path(folder))
            model.preprocess = model.preprocess or {
                "size": model.config.img_size,
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            }
            subject.lay_out(max(given.batches))
            for batch in given.batches:
                for runtime in given.runtimes:
                    lines.append(f"| {name} | {line(subject, runtime, batch, given)}")
                    print(lines[-1], flush=True)
        write_atomic(given.out, header(given) + "\n".join(lines) + "\n")
    print(f"written  {given.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
