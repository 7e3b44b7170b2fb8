"""Our exported files against timm's export of the same weights, in ONNX Runtime and in OpenVINO, one size and number of images.

    pip install 'swinkit[bench]'
    python benchmarks/export.py
    python benchmarks/export.py --models swin_tiny_patch4_window7_224 --batches 1 --rounds 2 --seconds 1

Writes benchmarks/results/export.md after each model. Every runtime and file has a process of its own, they take turns, and only those whose
outputs equal plain swinkit's are timed. Float32; let nothing else run meanwhile.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import swinkit
from swinkit.bench.jobs import NATIVE, Job
from swinkit.bench.loading import processors
from swinkit.bench.results import row
from swinkit.bench.rounds import Cell
from swinkit.bench.runtimes import GEMM
from swinkit.bench.subject import Subject, resolve
from swinkit.checkpoints.files import write_atomic
from swinkit.environment import package_version
from swinkit.runtimes.device import cpu_name

MODELS = ["swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"]
RESULT = Path(__file__).parent / "results" / "export.md"
RUNTIMES = {"onnxruntime": ("onnx", ".onnx", "to_onnx"), "openvino": ("openvino", ".xml", "to_openvino")}
"""runtime -> (our format, its suffix, what writes timm's file)"""
HEADER = """\
# Exported files: swinkit's against timm's

`python benchmarks/export.py{arguments}`. Images per second, medians over {rounds} turns, float32, {threads} threads of {cpu}; files for
exactly this number of images of the model's size. {versions}.
Ratio: of the medians; "difference": the largest from plain swinkit, as a fraction of the largest output.

| model | batch | runtime | swinkit's file | timm's file | ratio | difference | timm's difference |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |
"""


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--threads", type=int, default=processors())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="of computing, per file")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def jobs_of(subject, runtime, batch, threads):
    """Both files' jobs. The reader is the same: what differs is who wrote the file, into a folder of its own."""
    to, suffix, writes = RUNTIMES[runtime]
    common = {"images": str(subject.images), "dtype": "float32", "batch_size": batch, "threads": threads, "imports": (runtime,)}
    build = f"swinkit.bench.graphs:{runtime}"
    theirs = Job(runtime, build, "timm", str(subject.layout("timm")), export=f"swinkit.bench.graphs:{writes}", **common)
    ours = replace(theirs, runtime=f"swinkit-{runtime}", layout=NATIVE, weights="", export="")
    swinkit.export(subject.model, to=to, out=ours.graph / f"model{suffix}", dynamic=False, batch_size=batch)
    return ours, theirs


def measure(subject, runtime, batch, given, say):
    """One line of the table."""
    cell = Cell("float32", batch)
    jobs = jobs_of(subject, runtime, batch, given.threads)
    shapes = {"layout": NATIVE, "weights": "", "export": "", "imports": (), "shapes": subject.shapes(batch)}
    cell.run(subject, jobs, replace(jobs[1], runtime=GEMM.name, build=GEMM.build, **shapes), given.rounds, given.seconds, say)
    rows = [row(e.job.runtime, "float32", batch, e.seconds, 0.0, failed=e.failed, difference=e.difference) for e in cell.entries]
    ours, theirs = (found.images_per_second for found in rows)
    numbers = [found.failed if found.images_per_second is None else f"{found.images_per_second:.1f}" for found in rows]
    ratio = f"**{ours / theirs:.2f}**" if ours and theirs else ""
    differences = ["" if found.difference is None else f"{found.difference:.0e}" for found in rows]
    return f"{batch} | {runtime} | {' | '.join(numbers)} | {ratio} | {' | '.join(differences)} |"


def header(given):
    packages = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "openvino")
    return HEADER.format(
        arguments="".join(f" {argument}" for argument in sys.argv[1:]), rounds=given.rounds, threads=given.threads, cpu=cpu_name(),
        versions=", ".join(f"{name} {package_version(name)}" for name in packages),
    )  # fmt: skip


def main():
    given, lines = options(), []
    for name in given.models:
        model, _, _ = resolve(name, None)
        with tempfile.TemporaryDirectory(prefix="swinkit-export-") as folder:
            subject = Subject(model, Path(folder))
            subject.lay_out(max(given.batches))
            for batch in given.batches:
                for runtime in given.runtimes:
                    lines.append(f"| {name} | {measure(subject, runtime, batch, given, lambda line: print(line, file=sys.stderr))}")
                    print(lines[-1], flush=True)
        write_atomic(given.out, header(given) + "\n".join(lines) + "\n")
    print(f"written  {given.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
