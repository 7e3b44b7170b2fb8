"""How fast Swin is on this CPU: swinkit against timm, torchvision, transformers, OpenVINO and ONNX Runtime, with the same weights.

    pip install 'swinkit[bench]'
    python benchmarks/peers.py
    python benchmarks/peers.py --isa avx2 --peers timm openvino
    python benchmarks/peers.py --models swin_tiny_patch4_window7_224 --dtypes bfloat16 --batches 1 --rounds 4 --seconds 2

Writes benchmarks/results/peers.md and peers.json (peers-avx2.* with --isa), after each model, so that what is measured is not lost.
docs/benchmarks.md says how it measures. The whole of it takes about half an hour on two cores; let nothing else run meanwhile.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import swinkit
from swinkit.bench.models import Interrupted
from swinkit.bench.runtimes import PEERS, chosen
from swinkit.checkpoints.files import write_atomic

MODELS = ["swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"]
RESULTS = Path(__file__).parent / "results"
ISAS = {
    "avx2": {
        "SWINKIT_CPU_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
"""Lesser instruction set -> the environment variables by which each library is held to it."""
UNRESTRICTED = "onnxruntime"
"""Has no such variable, so it is left out then."""


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names, runs or weights")
    parser.add_argument("--dtypes", nargs="+", help="float32, bfloat16; by default both where the CPU has bfloat16, with --isa float32")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--peers", nargs="*", help=f"by default those installed of {', '.join(PEERS)}")
    parser.add_argument("--threads", type=int, help="by default one per processor")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="of computing, per runtime, dtype and batch")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well; takes minutes more")
    parser.add_argument("--isa", choices=ISAS, help="hold every library to a lesser instruction set")
    parser.add_argument("--out", type=Path, help="where the .md and the .json go, without the suffix")
    return parser.parse_args()


def chosen_peers(given, isa):
    """What `swinkit.bench.model` takes. ONNX Runtime cannot be held to an instruction set."""
    if isa is None:
        return "auto" if given is None else given
    installed = chosen("auto", compile=False)[0]
    names = given if given is not None else dict.fromkeys(runtime.peer for runtime in installed if runtime.peer)
    return [name for name in names if name != UNRESTRICTED]


def summary(speeds):
    """Images per second of every model and runtime on one table, so that nobody has to look for them."""
    cells = list(dict.fromkeys(cell for speed in speeds for cell in speed.cells))
    lines = [f"| model | runtime | {' | '.join(f'{dtype}, batch {size}' for dtype, size in cells)} |"]
    lines.append(f"| --- | --- |{' ---: |' * len(cells)}")
    for speed in speeds:
        for runtime in dict.fromkeys(row.runtime for row in speed.rows):
            rates = {(row.dtype, row.batch_size): row for row in speed.rows if row.runtime == runtime}
            lines.append(f"| {speed.model} | {runtime} | {' | '.join(number(rates.get(cell)) for cell in cells)} |")
        limits = " | ".join(f"{speed.limit(dtype):.1f}" if speed.limit(dtype) else "" for dtype, _ in cells)
        lines.append(f"| {speed.model} | matrix products alone | {limits} |")
        lines.append(f"| {speed.model} | **swinkit / best peer** | {' | '.join(ratio(speed, *cell) for cell in cells)} |")
    return "\n".join(lines)


def number(row):
    if row is None:
        return ""
    return "failed" if row.images_per_second is None else f"{row.images_per_second:.1f}"


def ratio(speed, dtype, batch_size):
    """Of the medians."""
    rates = {row.runtime: row.images_per_second for row in speed.at(dtype, batch_size) if row.images_per_second}
    others = [rate for runtime, rate in rates.items() if not runtime.startswith("swinkit")]
    return f"**{rates['swinkit'] / max(others):.2f}**" if others and "swinkit" in rates else ""


def write(speeds, path, isa):
    command = f"`python benchmarks/peers.py{''.join(f' {argument}' for argument in sys.argv[1:])}`"
    held = f" Held to {isa.upper()} as far as the libraries let themselves be; ONNX Runtime does not, and is left out." if isa else ""
    page = [
        "# Swin on a CPU: swinkit and its peers", "",
        f"{command}. Images per second, medians; [how it is measured](../../docs/benchmarks.md).{held}", "",
        summary(speeds), "", *(speed.markdown("##") for speed in speeds),
    ]  # fmt: skip
    write_atomic(path.with_suffix(".md"), "\n".join(page))
    write_atomic(path.with_suffix(".json"), json.dumps([speed.to_dict() for speed in speeds], indent=1) + "\n")


def main():
    given = options()
    os.environ.update(ISAS.get(given.isa, {}))
    path = given.out or RESULTS / ("peers" if given.isa is None else f"peers-{given.isa}")
    dtypes, speeds = given.dtypes or (["float32"] if given.isa else None), []
    for model in given.models:
        try:
            speed = swinkit.bench.model(
                model, batch_size=given.batches, dtype=dtypes, threads=given.threads, peers=chosen_peers(given.peers, given.isa),
                compile=given.compile, rounds=given.rounds, seconds=given.seconds, say=lambda line: print(line, file=sys.stderr),
            )  # fmt: skip
        except Interrupted as stop:
            print(stop.speed.table())
            sys.exit(130)
        speeds.append(speed)
        print(speed.table(), end="\n\n", flush=True)
        write(speeds, path, given.isa)
    print(f"written  {path}.md and .json", file=sys.stderr)


if __name__ == "__main__":
    main()
