"""Window attention and MLPs on a GPU: are they right there, and how fast is Swin with them, against timm, torch.compile and FlexAttention?

    python benchmarks/gpu.py                       everything that 7.5 minutes hold, the most telling first
    python benchmarks/gpu.py --models swinv2_tiny_window16_256 --without flex --continue     more, added to what is there
    python benchmarks/gpu.py --dry-run             every path on a CPU in Triton's interpreter, with tiny models and without times

Every contender compiles in a process of its own, as many at a time as there are cores; then they take turns at the clock, the ones that are
compared right after one another, with nothing else running. Writes benchmarks/results/gpu.json and gpu.md after each comparison, so that a
cut loses nothing; what was left out is listed there. Inference is in bfloat16 weights, timm's eager peer under autocast; training is
forward, backward and a step of AdamW under autocast to bfloat16. At batch 1 compiled models run as CUDA graphs.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import torch
from gpu_worker import Contender, work

from swinkit.checkpoints.files import write_atomic
from swinkit.environment import describe_environment, package_version
from swinkit.kernels import gpu

MODELS = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window16_256", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256"]
BATCHES = [256, 32, 1]
RESULTS = Path(__file__).parent / "results" / "gpu"
OURS, TIMM, FLEX, LEAN = (Contender(*which) for which in (("ours", True), ("timm", True), ("flex", True), ("ours", True, "lean")))
PROCESSES = {
    False: [(OURS, Contender("ours", False)), (TIMM, Contender("timm", False)), (FLEX,)],
    True: [(OURS, Contender("ours", False)), (TIMM, Contender("timm", False)), (LEAN,), (FLEX,)],
}
"""Which contenders share a process, in inference and in training."""


class Found:
    """What was found, and where it is written."""

    def __init__(self, options):
        versions = {name: package_version(name) for name in ("triton", "timm")} | {"cuda": torch.version.cuda}
        self.out = options.out
        environment = describe_environment() | {"gpu_versions": versions, "command": " ".join(sys.argv), "dry_run": options.dry_run}
        self.all = {"environment": environment, "checks": {}, "timings": {}, "left_out": []}
        kept = options.out.with_suffix(".json")
        if options.resume and kept.exists():
            before = json.loads(kept.read_text())
            for what in ("gpus", "versions", "gpu_versions"):
                if before["environment"][what] != environment[what]:
                    sys.exit(f"{kept} is of {before['environment'][what]}, and this is {environment[what]}; choose another --out.")
            self.all |= {name: before[name] for name in ("checks", "timings")}

    def write(self):
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out.with_suffix(".json"), json.dumps(self.all, indent=1) + "\n")
        write_atomic(self.out.with_suffix(".md"), markdown(self.all))


def markdown(found):
    environment = found["environment"]
    head = f"{', '.join(environment['gpus']) or 'no GPU'}; {environment['versions'] | environment['gpu_versions']}"
    lines = ["# Swin on a GPU", "", head, "", "| check | result |", "| --- | --- |"]
    lines += [f"| {name} | {in_words(result)} |" for name, result in found["checks"].items()]
    for mode, groups in found["timings"].items():
        lines += ["", f"## {mode}", "", "| model, batch | by | images/s | of timm compiled | slowest to fastest | peak MiB | of timm |"]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [row for group, results in groups.items() for row in rows(group, results)]
    left_out = [f"- {what}" for what in found["left_out"]] or ["nothing"]
    return "\n".join([*lines, "", "Left out:", "", *left_out, *(["", *found["notes"]] if found.get("notes") else [])]) + "\n"


def in_words(result):
    return ", ".join(f"{name} {value}" for name, value in result.items())


def rows(group, results):
    peer = results.get(str(TIMM), {})
    for contender, result in results.items():
        if "rates" not in result:
            yield f"| {group} | {contender} | {result['failed']} | | | | |"
            continue
        rates = result["rates"] or [float("nan")]
        parts = [f"{statistics.median(rates):.0f}", ratio(statistics.median(rates), peer.get("rates") and statistics.median(peer["rates"]))]
        parts += [f"{min(rates):.0f} to {max(rates):.0f}", f"{result['peak_mib']:.0f}", ratio(result["peak_mib"], peer.get("peak_mib"))]
        yield f"| {group} | {contender} | " + " | ".join(parts) + " |"


def ratio(mine, theirs):
    return f"{mine / theirs:.2f}" if theirs else ""


class Worker:
    """A process with one model of some contenders: what it is ready for, and what went wrong."""

    def __init__(self, context, places, name, training, contenders, batches, dry):
        self.name, self.training, self.contenders, self.places = name, training, contenders, places
        self.waiting, self.failed = [(contender, batch) for batch in batches for contender in contenders], {}
        self.pipe, other = context.Pipe()
        arguments = (other, places, name, training, contenders, batches, dry)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def listen(self):
        try:
            while self.waiting and self.pipe.poll():
                contender, batch, problem = self.pipe.recv()
                self.waiting.remove((contender, batch))
                self.failed |= {(contender, batch): problem} if problem else {}
        except EOFError:
            self.failed |= dict.fromkeys(self.waiting, "the process ended")
            self.waiting = []

    def clock(self, *asked):
        """What was measured, or what went wrong, in words."""
        try:
            self.pipe.send(asked)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            return "the process ended"

    def stop(self):
        if self.process.is_alive():
            self.pipe.send(None)
            self.process.join(10)


def start(options):
    """The processes, those first that are compared first."""
    context = multiprocessing.get_context("spawn")
    places = context.BoundedSemaphore(max(1, (os.cpu_count() or 1) - 1))
    batches = {True: options.training_batches, False: options.batches}
    workers = []
    for name in options.models:
        for training in (True, False):
            for contenders in PROCESSES[training]:
                kind = "lean" if contenders[0].memory == "lean" else contenders[0].whose
                if kind not in options.without and (kind != "timm" or find_spec("timm")):
                    workers.append(Worker(context, places, name, training, contenders, batches[training], options.dry_run))
    return workers


def check(options):
    """The process that checks the kernels, meanwhile."""
    script = Path(__file__).with_name("gpu_checks.py")
    return subprocess.Popen([sys.executable, script, *(["--dry-run"] if options.dry_run else [])], stdout=subprocess.PIPE, text=True)


def wait(found, workers, checks, seconds):
    """Until everything is compiled and checked or the time is up, after which nothing may disturb the clock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (any(worker.waiting for worker in workers) or checks.poll() is None):
        for worker in workers:
            worker.listen()
        time.sleep(0.1)
    for worker in workers:
        if worker.waiting:
            worker.process.kill()
    if checks.poll() is None:
        checks.kill()
        found.all["left_out"].append("checks: no time for those that are not listed")
    for line in checks.communicate()[0].splitlines():
        found.all["checks"] |= json.loads(line) if line.startswith("{") else {}


def compare(found, workers, name, training, batch, options):
    """One after the other, twice around."""
    mode, results = "training" if training else "inference", {}
    turns = [
        (worker, contender) for worker in workers if (worker.name, worker.training) == (name, training) for contender in worker.contenders
    ]
    for worker, contender in turns:
        if worker.waiting:
            found.all["left_out"].append(f"{mode}, {name}, {batch}, {contender}: no time to compile")
        else:
            problem = worker.failed.get((contender, batch))
            results[str(contender)] = {"failed": problem} if problem else {"rates": [], "peak_mib": 0.0}
    for worker, contender in 2 * turns:
        result = results.get(str(contender), {})
        if "rates" in result:
            told = worker.clock(contender, batch, options.stretch)
            if isinstance(told, str):
                results[str(contender)] = {"failed": told}
                continue
            result["rates"] += told[0]
            result["peak_mib"] = max(result["peak_mib"], told[1])
    if results:
        results = found.all["timings"].setdefault(mode, {}).setdefault(f"{name}, {batch}", {}) | results
        found.all["timings"][mode][f"{name}, {batch}"] = results
        print("\n".join(rows(f"{mode}, {name}, {batch}", results)), flush=True)
    found.write()


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--training-batches", nargs="+", type=int, default=BATCHES[:2])
    parser.add_argument("--without", nargs="*", default=[], choices=("ours", "timm", "flex", "lean"))
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--stretch", type=float, default=0.4, help="seconds of one turn at the clock")
    parser.add_argument("--out", type=Path, default=RESULTS, help="without the suffix")
    parser.add_argument("--continue", dest="resume", action="store_true", help="add to what --out holds")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    missing = gpu.missing()
    if missing:
        parser.error(f"{missing}; --dry-run goes through everything without a GPU.")
    return options


def main():
    options = parsed()
    began, found, workers = time.monotonic(), Found(options), start(options)
    batches = ((True, options.training_batches), (False, options.batches))
    groups = [
        (name, training, batch) for at in range(9) for training, sizes in batches for batch in sizes[at : at + 1] for name in options.models
    ]
    turns = sum(2 * (options.stretch + 0.5) * len(worker.waiting) for worker in workers)
    wait(found, workers, check(options), options.seconds - turns)
    print(f"{time.monotonic() - began:.0f} s of compiling", flush=True)
    for name, training, batch in groups:
        if time.monotonic() - began < options.seconds - 5:
            compare(found, workers, name, training, batch, options)
        else:
            found.all["left_out"].append(f"{'training' if training else 'inference'}, {name}, {batch}: no time")
    found.write()
    for worker in workers:
        worker.stop()


if __name__ == "__main__":
    main()
