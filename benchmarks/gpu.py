"""Window attention on a GPU: is it right there, and how fast is Swin with it, against timm, torch.compile and FlexAttention?

    python benchmarks/gpu.py                       everything that 7.5 minutes hold, the most telling first
    python benchmarks/gpu.py --models swinv2_tiny_window16_256 --continue     more, added to what is there
    python benchmarks/gpu.py --dry-run             every path on a CPU in Triton's interpreter, with tiny models and without times

Writes benchmarks/results/gpu.json and gpu.md after each step, so that a cut loses nothing; what was left out is listed there. Inference is
in bfloat16 weights, timm's eager peer under autocast; training is forward, backward and a step of AdamW under autocast to bfloat16.
A compilation takes up to a minute, so the whole table takes several calls.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from importlib.util import find_spec
from pathlib import Path

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import torch
import torch.nn.functional as F
from gpu_checks import TINY, check_kernels, check_operations, flex_attend, images, packaged

from swinkit.checkpoints.files import write_atomic
from swinkit.environment import describe_environment, package_version
from swinkit.kernels import gpu
from swinkit.model import SwinTransformer
from swinkit.variants import get_config

MODELS = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window16_256", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"]
BATCHES = [256, 32, 1]
RESULTS = Path(__file__).parent / "results" / "gpu"

COMPILATION = 75
"""Seconds that must be left for something to be compiled."""


class Bench:
    """Time left, what was found, and where it is written."""

    def __init__(self, options):
        self.options, self.dry, self.end = options, options.dry_run, time.monotonic() + options.seconds
        self.device = "cpu" if self.dry else "cuda"
        self.found = {"environment": describe_environment() | self.gpu(), "checks": {}, "timings": {}, "left_out": []}
        kept = options.out.with_suffix(".json")
        if options.resume and kept.exists():
            self.found |= {name: json.loads(kept.read_text())[name] for name in ("checks", "timings")}

    def gpu(self):
        versions = {name: package_version(name) for name in ("triton", "timm")} | {"cuda": torch.version.cuda}
        return {"gpu_versions": versions, "command": " ".join(sys.argv), "dry_run": self.dry}

    def left(self):
        return self.end - time.monotonic()

    def step(self, kind, name, needs, work):
        """Does one thing if time is left, keeps what it returns or how it failed, and writes everything."""
        if name in self.found[kind]:
            return
        if self.left() < needs:
            self.found["left_out"].append(f"{name}: no time")
        else:
            try:
                self.found[kind][name] = work()
            except Exception as problem:
                self.found[kind][name] = {
                    "failed": f"{type(problem).__name__}: {str(problem).splitlines()[0][:300] if str(problem) else ''}"
                }
            print(f"{name}: {self.found[kind].get(name)}", flush=True)
        torch._dynamo.reset()
        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()
        self.write()

    def write(self):
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.options.out.with_suffix(".json"), json.dumps(self.found, indent=1) + "\n")
        write_atomic(self.options.out.with_suffix(".md"), markdown(self.found))


def markdown(found):
    environment = found["environment"]
    head = f"{', '.join(environment['gpus']) or 'no GPU'}; {environment['versions'] | environment['gpu_versions']}"
    lines = ["# Window attention on a GPU", "", head, "", "| check | result |", "| --- | --- |"]
    lines += [f"| {name} | {found_in_words(result)} |" for name, result in found["checks"].items()]
    lines += ["", "| model, mode, batch, by | images/s | slowest to fastest | peak MiB |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {timing(result)} |" for name, result in found["timings"].items()]
    left_out = [f"- {what}" for what in found["left_out"]] or ["nothing"]
    return "\n".join([*lines, "", "Left out:", "", *left_out]) + "\n"


def found_in_words(result):
    return ", ".join(f"{name} {value}" for name, value in result.items())


def timing(result):
    if "failed" in result:
        return f"{result['failed']} | | "
    if result["images_per_second"] is None:
        return "not timed | | "
    return f"{result['images_per_second']:.0f} | {result['slowest']:.0f} to {result['fastest']:.0f} | {result['peak_mib']:.0f}"


CONTENDERS = {
    # name: (whose model, attention, compiled and how, whether inference is under autocast)
    "ours compiled": ("ours", gpu.attend, {}, False),
    "timm compiled": ("timm", None, {}, False),
    "ours eager": ("ours", gpu.attend, None, False),
    "timm eager AMP": ("timm", None, None, True),
    "ours compiled, CUDA graphs": ("ours", gpu.attend, {"mode": "reduce-overhead"}, False),
    "timm compiled, CUDA graphs": ("timm", None, {"mode": "reduce-overhead"}, False),
    "FlexAttention compiled": ("ours", flex_attend, {}, False),
}


def build(bench, name, whose, attend):
    changes = TINY if bench.dry else {}
    if whose == "ours":
        return SwinTransformer(get_config(name).replace(**changes), attend=attend).to(bench.device)
    import timm

    return timm.create_model(name, **changes).to(bench.device)


def measure(bench, name, training, batch, whose, attend, compiled, amp):
    """Images per second: the median of ten stretches of a fifth of a second, and the peak of memory."""
    model = build(bench, name, whose, attend).train(training)
    if not (training or amp):
        model = model.bfloat16()
    x = images(bench, model, batch).to(next(model.parameters()).dtype)
    labels = torch.zeros(batch, dtype=torch.int64, device=bench.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=not bench.dry) if training else None
    backend = {"backend": "aot_eager"} if bench.dry else compiled
    run = model if compiled is None else torch.compile(model, dynamic=False, **backend)

    def step():
        with torch.autocast(bench.device, torch.bfloat16, enabled=training or amp), torch.set_grad_enabled(training):
            out = run(x)
        if optimizer:
            F.cross_entropy(out.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(1 if bench.dry else 4):
        step()
    return {"images_per_second": None} if bench.dry else clocked(step, batch)


def clocked(step, batch):
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    count = max(1, round(0.2 / (time.perf_counter() - start)))
    rates = []
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        rates.append(batch * count / (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {"images_per_second": statistics.median(rates), "slowest": min(rates), "fastest": max(rates), "peak_mib": peak}


def time_models(bench):
    options = bench.options
    for name in options.models:
        for batch in options.batches:
            for training in (False, True) if batch > 1 else (False,):
                for contender, (whose, attend, compiled, amp) in CONTENDERS.items():
                    key = f"{name}, {'training' if training else 'inference'}, {batch}, {contender}"
                    if whose == "timm" and find_spec("timm") is None:
                        bench.found["left_out"].append(f"{key}: timm is not installed")
                    elif ("CUDA graphs" in contender) == (batch == 1) or compiled is None:
                        needs = 8 if compiled is None else COMPILATION
                        work = lambda *given: lambda: measure(bench, *given)  # noqa: E731
                        bench.step("timings", key, needs, work(name, training, batch, whose, attend, compiled, amp))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--out", type=Path, default=RESULTS, help="without the suffix")
    parser.add_argument("--continue", dest="resume", action="store_true", help="add to what --out holds")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    missing = gpu.missing()
    if missing:
        parser.error(f"{missing}; --dry-run goes through everything without a GPU.")
    bench = Bench(options)
    check_kernels(bench)
    check_operations(bench)
    time_models(bench)
    bench.step("checks", "AOTInductor", 1e9 if bench.dry else 90, lambda: packaged(bench))


if __name__ == "__main__":
    main()
