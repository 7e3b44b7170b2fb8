"""A training step on this CPU, forward and backward: swinkit in full and in lean memory, timm and torchvision, with the same weights.

    python benchmarks/training.py
    python benchmarks/training.py --models swin_tiny_patch4_window7_224 --dtypes bfloat16 --rounds 4

Each runtime has a process of its own, and they take turns. Losses and gradient norms of all are compared first. Writes
benchmarks/results/training.md and training.json. Needs Linux, to know the peak of the memory, and timm for its rows.
"""

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import swinkit
from swinkit.environment import package_version
from swinkit.kernels.cpu import library

RESULTS = Path(__file__).parent / "results"
MODELS = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"]
RUNTIMES = {
    "swinkit": "as `swinkit train` computes a step",
    "swinkit lean": "the same with --memory lean",
    "swinkit definition": "plain PyTorch operations, as the model is written",
    "timm": "timm's model",
    "torchvision": "torchvision's model",
}
ALIKE = {"float32": 2e-3, "bfloat16": 6e-2}
"""Largest relative difference of a loss or a gradient norm to the definition's in float32."""


def resident(key):
    """MiB of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def config_of(folder):
    """The architecture, without a second set of weights in memory."""
    return swinkit.SwinConfig.from_dict(json.loads(Path(folder, "native", "config.json").read_text())["config"])


def build(runtime, folder):
    """The model in training mode, without dropout of any kind, and the context of its forward pass."""
    if runtime == "timm":
        import timm

        return timm.create_model(f"local-dir:{folder}/timm", pretrained=True, drop_path_rate=0.0).train(), contextlib.nullcontext
    if runtime == "torchvision":
        return torchvision_model(folder).train(), contextlib.nullcontext
    from swinkit.kernels.cpu.heap import keep_freed_memory
    from swinkit.kernels.training import training

    model = swinkit.from_pretrained(f"{folder}/native", drop_path_rate=0.0).train()
    if runtime == "swinkit definition":
        for module in model.modules():
            if hasattr(module, "attend"):
                module.attend = swinkit.model.window_attention
        return model, contextlib.nullcontext
    keep_freed_memory()
    return model, lambda: training(model, "lean" if "lean" in runtime else "full")


def torchvision_model(folder):
    """torchvision's of the same sizes."""
    from torchvision.models import swin_transformer as theirs

    config = config_of(folder)
    block, merge = (
        (theirs.SwinTransformerBlock, theirs.PatchMerging)
        if config.version == 1
        else (theirs.SwinTransformerBlockV2, theirs.PatchMergingV2)
    )
    model = theirs.SwinTransformer(
        [4, 4], config.embed_dim, list(config.depths), list(config.num_heads), list(config.windows[0]), stochastic_depth_prob=0.0,
        num_classes=config.num_classes, block=block, downsample_layer=merge,
    )  # fmt: skip
    model.load_state_dict(torch.load(f"{folder}/torchvision.pth", weights_only=True))
    return model


def work(runtime, folder, dtype, batch, threads):
    """A runtime's process: answers every line on stdin with the seconds of one step."""
    torch.set_num_threads(threads)
    for module in ("timm", "torchvision.models", "swinkit.kernels.training"):
        if find_spec(module.split(".")[0]):
            import_module(module)
    base = resident("VmRSS")
    model, context = build(runtime, folder)
    size = config_of(folder).img_size
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))

    def step():
        with context(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        return loss.item()

    Path("/proc/self/clear_refs").write_text("5")
    loss = step()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm().item()
    model.zero_grad()
    step()
    print(json.dumps({"loss": loss, "gradient": norm}), flush=True)
    for line in sys.stdin:
        model.zero_grad()
        started = time.perf_counter()
        step()
        answer = {"seconds": time.perf_counter() - started} if line.strip() else {"peak": resident("VmHWM") - base}
        print(json.dumps(answer), flush=True)


class Runtime:
    """A process that computes steps when asked."""

    def __init__(self, name, *arguments):
        command = [sys.executable, __file__, "--worker", name, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first, self.seconds, self.peak = self.answer(), [], 0.0

    def answer(self):
        """What the process says next."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit("A runtime ended; see its message above.")
        return json.loads(line)

    def ask(self, what):
        """One step, or at its end the peak of the memory."""
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.answer()


def write_weights(name, folder):
    """One model in every layout."""
    torch.manual_seed(0)
    swinkit.save_pretrained(swinkit.create_model(name), f"{folder}/native")
    found = ["swinkit", "swinkit lean", "swinkit definition"]
    for peer, out in (("timm", "timm"), ("torchvision", "torchvision.pth")):
        if find_spec(peer):
            swinkit.convert(f"{folder}/native", f"{folder}/{out}", to=peer)
            found.append(peer)
    return found


def measure(name, dtype, options):
    """Rows of one table."""
    with tempfile.TemporaryDirectory() as folder:
        found = write_weights(name, folder)
        reference = Runtime("swinkit definition", folder, "float32", options.batch_size, options.threads)
        reference.process.kill()
        runtimes = {}
        for runtime in found:
            runtimes[runtime] = Runtime(runtime, folder, dtype, options.batch_size, options.threads)
            check(runtime, runtimes[runtime].first, reference.first, ALIKE[dtype])
        for number in range(options.rounds):
            print(f"{name}, {dtype}: round {number + 1} of {options.rounds}", file=sys.stderr)
            for runtime in runtimes.values():
                runtime.seconds += [runtime.ask("step")["seconds"] for _ in range(options.steps)]
        for runtime in runtimes.values():
            runtime.peak = runtime.ask("")["peak"]
            runtime.process.kill()
    limit = images_at_most(name, dtype, options.threads)
    return [row(name, dtype, runtime, it, options.batch_size) | {"limit": limit} for runtime, it in runtimes.items()]


def images_at_most(name, dtype, threads):
    """Images per second of a step that is nothing but its matrix products: three times those of the forward pass."""
    kind = {"float32": library.FLOAT32, "bfloat16": library.BFLOAT16}[dtype]
    rate = max(library.gemm_rate(library.chosen_isa(), kind, threads=threads) for _ in range(5))
    model = swinkit.create_model(name)
    size = model.config.img_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for module in model.modules():
            if hasattr(module, "attend"):
                module.attend = swinkit.model.window_attention
        model.eval()(torch.zeros(1, 3, size, size))
    return rate / (3e-9 * counter.get_total_flops())


def check(runtime, got, wanted, bound):
    """A timing counts only behind equal numbers."""
    for key, value in wanted.items():
        if not abs(got[key] - value) <= bound * abs(value):
            sys.exit(f"{runtime} computes another {key}: {got[key]:.6g} instead of {value:.6g}.")


def row(name, dtype, runtime, measured, batch):
    """What is written about a runtime."""
    quartiles = statistics.quantiles(measured.seconds, n=4)
    return {
        "model": name, "dtype": dtype, "runtime": runtime, "images_per_s": batch / quartiles[1], "ms": 1e3 * quartiles[1],
        "ms_quartiles": [1e3 * quartiles[0], 1e3 * quartiles[2]], "ms_fastest": 1e3 * min(measured.seconds), "peak_mib": measured.peak,
        **measured.first,
    }  # fmt: skip


def table(rows):
    """Markdown; ratios to timm where it is there, and the share of what the matrix products alone would allow."""
    heads = ("model", "dtype", "runtime", "images/s", "of timm", "ms (quartiles)", "of GEMM", "peak MiB", "of timm")
    lines = [f"| {' | '.join(heads)} |", "| --- | --- | --- |" + " ---: |" * 6]
    for entry in rows:
        timm = next((o for o in rows if (o["model"], o["dtype"], o["runtime"]) == (entry["model"], entry["dtype"], "timm")), entry)
        low, high = entry["ms_quartiles"]
        speed, peak = entry["images_per_s"], entry["peak_mib"]
        cells = [entry["model"], entry["dtype"], entry["runtime"], f"{speed:.2f}", f"{speed / timm['images_per_s']:.2f}"]
        cells += [
            f"{entry['ms']:.0f} ({low:.0f} to {high:.0f})",
            f"{speed / entry['limit']:.0%}",
            f"{peak:,.0f}",
            f"{peak / timm['peak_mib']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(rows, options):
    """The whole page."""
    processor = next((line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    versions = ", ".join(f"{name} {package_version(name)}" for name in ("swinkit", "torch", "timm", "torchvision"))
    how = (
        f"`python benchmarks/training.py`: forward and backward, batch {options.batch_size}, {options.threads} threads, "
        f"{options.rounds} rounds of {options.steps} steps, one process per runtime, alternated; bfloat16 is autocast. "
        "Of GEMM: of what this machine's fastest rate of matrix products allows. Peak: memory beyond what the libraries take."
    )
    kinds = "\n".join(f"- {name}: {what}" for name, what in RUNTIMES.items())
    return f"# A training step on a CPU\n\n{how}\n\n{processor}, {platform.system()}; {versions}.\n\n{table(rows)}\n\n{kinds}\n"


def main():
    """Measure everything, writing after each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--dtypes", nargs="+", default=list(ALIKE), choices=list(ALIKE))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=2, help="per round")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        runtime, folder, dtype, batch, threads = options.worker
        return work(runtime, folder, dtype, int(batch), int(threads))
    rows = []
    for name in options.models:
        for dtype in options.dtypes:
            rows += measure(name, dtype, options)
            (RESULTS / "training.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
            (RESULTS / "training.md").write_text(report(rows, options))
    print(table(rows))
    return None


if __name__ == "__main__":
    main()
