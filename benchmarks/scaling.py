"""Time and peak memory against pixels: Swin's windows, and the same blocks with global attention (paper 3.2, equations 1 and 2).

    python benchmarks/scaling.py [--sizes 224 448 ...] [--threads 1] [--seconds 300] [--gigabytes 6]

Every size of every variant runs in a process of its own; what is expected to take more time or memory than allowed is skipped and listed.
Writes benchmarks/results/scaling.md and scaling.json, and docs/images/scaling.png. Needs Linux and glibc, to know the peak of the memory.
"""

import argparse
import ctypes
import gc
import json
import math
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import swinkit
from swinkit.model import SwinTransformer

ROOT = Path(__file__).parents[1]
SIZES = (224, 320, 448, 640, 896, 1280, 1792, 2048)
VARIANTS = {
    "swin": "Swin, plain model",
    "prepared": "Swin, swinkit.prepare",
    "global": "global attention, tiled (SDPA)",
    "scores": "global attention, all scores in memory",
}
QUADRATIC = ("global", "scores")


def global_attention(qkv, bias, *, scale, **_):
    """Every token attends to the whole map, without position bias: (B, H, W, 3, K, D) -> (B, H, W, K * D). Memory grows with the tokens."""
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).flatten(2).unflatten(1, qkv.shape[1:3])


def global_scores(qkv, bias, *, scale, **_):
    """The same with the whole matrix of scores in memory, as equation 1 counts it and first implementations do."""
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    out = (q * scale @ k.transpose(-2, -1)).softmax(-1) @ v
    return out.transpose(1, 2).flatten(2).unflatten(1, qkv.shape[1:3])


def build(variant, name):
    """The same architecture each time; only what attends differs."""
    torch.manual_seed(0)
    config = swinkit.create_model(name).config
    attend = {"global": global_attention, "scores": global_scores}.get(variant)
    model = (SwinTransformer(config, attend) if attend else SwinTransformer(config)).eval()
    return swinkit.prepare(model, dtype=torch.float32) if variant == "prepared" else model


def stages(config, size):
    """Per stage of an image of `size` x `size` pixels: height, width, channels, window, blocks."""
    for stage, (grid, dim) in enumerate(zip(config.replace(img_size=size, size_policy="dense").grids, config.dims, strict=True)):
        yield *grid, dim, config.windows[stage], config.depths[stage]


def operations(config, size, windows):
    """Multiply-additions of all attention layers by the paper's equation 2 (windows) or 1, and of the MLPs (2 * ratio * h w C^2)."""
    attention = mlp = 0
    for h, w, C, window, blocks in stages(config, size):
        partners = window[0] * window[1] if windows else h * w
        attention += blocks * (4 * h * w * C**2 + 2 * partners * h * w * C)
        mlp += blocks * 2 * int(C * config.mlp_ratio) * h * w * C
    return {"attention": attention, "mlp": mlp}


def memory(key):
    """Bytes that the kernel counts for this process: VmRSS now, VmHWM at most since `forget_peak`."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


def forget_peak():
    """From here on the peak is counted anew; memory that was freed goes back first, so that it cannot be taken again uncounted."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def measure(variant, name, size, threads, seconds):
    """Seconds per image, and bytes at the peak of a call beyond the model and the image."""
    torch.set_num_threads(threads)
    model, image = build(variant, name), torch.randn(1, swinkit.create_model(name).config.in_chans, size, size)
    with torch.inference_mode():
        model(image[..., :64, :64])  # the libraries' own code and buffers come into memory
        forget_peak()
        before = memory("VmRSS")
        times = [timed(model, image)]
        peak = memory("VmHWM") - before
        while sum(wall for wall, _ in times) < seconds and len(times) < 7:
            times.append(timed(model, image))
    best = [min(values) for values in zip(*times, strict=True)]
    return {"wall": best[0], "processor": best[1], "memory": peak, "runs": len(times), "engine": str(getattr(model, "engine", ""))}


def timed(model, image):
    """Seconds on the clock on the wall, and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    model(image)
    return time.perf_counter() - wall, time.process_time() - processor


def in_a_process(variant, name, size, threads, seconds):
    """`measure` in a new one."""
    command = [sys.executable, __file__, "--one", variant, name, str(size), str(threads), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{variant} at {size} px failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def clock_for(threads):
    """The processor's time for one thread, which other work on the machine disturbs less; else the clock on the wall."""
    return "processor" if threads == 1 else "wall"


def predicted(variant, config, size, rows, clock):
    """Seconds and bytes to expect at `size`, from the size measured before: as many times more as there are operations and scores."""
    largest = max(
        blocks and heads * (h * w) ** 2 for (h, w, _, _, blocks), heads in zip(stages(config, size), config.num_heads, strict=True)
    )
    scores = 2 * 4 * largest if variant == "scores" else 0
    if not rows:
        return 0.0, scores
    work = [sum(operations(config, s, variant not in QUADRATIC).values()) for s in (rows[-1]["size"], size)]
    return rows[-1][clock] * work[1] / work[0], scores


def collect(name, sizes, variants, threads=1, seconds=300.0, gigabytes=6.0, run=in_a_process):
    """Measure all; what is expected to take more than `seconds` per image or `gigabytes` of scores is listed as skipped, with why."""
    config = swinkit.create_model(name).config
    found = {}
    for variant in variants:
        rows, skipped = [], []
        for size in sorted(sizes):
            expected, scores = predicted(variant, config, size, rows, clock_for(threads))
            if expected > seconds or scores > gigabytes * 2**30:
                why = f"{expected:,.0f} s expected" if expected > seconds else f"{scores / 2**30:,.1f} GiB of scores"
                skipped.append({"size": size, "why": why})
                continue
            rows.append({"size": size, "pixels": size**2, **run(variant, name, size, threads, min(3.0, seconds))})
            print(f"{variant:9} {size:5} px {rows[-1]['wall']:9.3f} s {rows[-1]['memory'] / 2**20:9,.0f} MiB", file=sys.stderr, flush=True)
        found[variant] = {"rows": rows, "skipped": skipped}
    return found


def exponent(pixels, values):
    """The slope of log(value) over log(pixels) by least squares; NaN for fewer than two sizes."""
    if len(pixels) < 2:
        return math.nan
    x, y = [[math.log(value) for value in series] for series in (pixels, values)]
    centre = sum(x) / len(x)
    return sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum((a - centre) ** 2 for a in x)


def fits(rows, key):
    """The exponent over all sizes, and between the two largest."""
    series = [[row[name] for row in rows] for name in ("pixels", key)]
    return exponent(*series), exponent(*(values[-2:] for values in series))


def draw(found, clock, path):
    """Time and memory over pixels, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axes, key, unit, title in zip(
        figure.subplots(1, 2), (clock, "memory"), (1, 2**20), ("seconds per image", "peak memory of a call, MiB"), strict=True
    ):
        for (variant, data), colour, marker in zip(found.items(), ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), "osv^", strict=False):
            whole, last = fits(data["rows"], key)
            label = f"{VARIANTS[variant]}: {whole:.2f}" + (f", at last {last:.2f}" if variant in QUADRATIC else "")
            pixels = [row["pixels"] for row in data["rows"]]
            axes.loglog(pixels, [row[key] / unit for row in data["rows"]], color=colour, marker=marker, label=label)
        axes.set(xlabel="pixels of the image", title=title)
        axes.grid(which="major", alpha=0.3)
        sizes = sorted({row["size"] for data in found.values() for row in data["rows"]})
        axes.set_xticks([size**2 for size in sizes], [f"{size}²" for size in sizes], fontsize=8, rotation=45)
        axes.minorticks_off()
        axes.legend(
            title="growth with pixels to the power of", fontsize=8, title_fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2)
        )
    figure.savefig(path, dpi=120)


def table(found, clock, config):
    """Markdown: a line per size with the operations of equations 1 and 2, and what was measured."""
    kept = [variant for variant in found if found[variant]["rows"] or found[variant]["skipped"]]
    head = [
        "px",
        "windows, GMAC",
        "global, GMAC",
        *(f"{VARIANTS[variant]}: s" for variant in kept),
        *(f"{variant}: MiB" for variant in kept),
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    sizes = sorted({row["size"] for data in found.values() for row in (*data["rows"], *data["skipped"])})
    for size in sizes:
        cells = [f"{size}", *(f"{sum(operations(config, size, windows).values()) / 1e9:,.1f}" for windows in (True, False))]
        for key, form in ((clock, lambda value: f"{value:.3g}"), ("memory", lambda value: f"{value / 2**20:,.0f}")):
            for variant in kept:
                row = next((row for row in found[variant]["rows"] if row["size"] == size), None)
                cells.append(form(row[key]) if row else "skipped")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(found, clock):
    """Markdown: the exponents, and what was skipped."""
    lines = ["| variant | time, all sizes | time, last two | memory, all sizes | memory, last two |", "| --- | ---: | ---: | ---: | ---: |"]
    for variant, data in found.items():
        lines.append(
            f"| {VARIANTS[variant]} | "
            + " | ".join(f"{value:.2f}" for key in (clock, "memory") for value in fits(data["rows"], key))
            + " |"
        )
    for variant, data in found.items():
        if data["skipped"]:
            lines += [
                "",
                f"Skipped, {VARIANTS[variant]}: " + "; ".join(f"{row['size']} px ({row['why']})" for row in data["skipped"]) + ".",
            ]
    return "\n".join(lines)


def processor_name():
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.machine()


def write(found, name, threads, results, picture):
    """The table, the numbers and the plot."""
    clock = clock_for(threads)
    config = swinkit.create_model(name).config
    where = f"{processor_name()}, {threads} thread(s), Python {platform.python_version()}, torch {torch.__version__}"
    seconds = "seconds of the processor" if clock == "processor" else "seconds on the clock on the wall"
    what = f"{name}, float32, batch 1; {seconds}, the least of up to 7 calls"
    text = f"# Scaling\n\n`python benchmarks/scaling.py`: {what}. {where}.\n\n{table(found, clock, config)}\n\n"
    text += f"Growth with pixels to the power of (least squares on logarithms):\n\n{summary(found, clock)}\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / "scaling.md").write_text(text)
    counted = {str(size): {kind: operations(config, size, kind == "windows") for kind in ("windows", "global")} for size in SIZES}
    numbers = {"model": name, "where": where, "clock": clock, "multiply_additions": counted, "variants": found}
    (results / "scaling.json").write_text(json.dumps(numbers, indent=1) + "\n")
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(found, clock, picture)
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pixels along a side")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="the longest call that is tried")
    parser.add_argument("--gigabytes", type=float, default=6.0, help="the largest matrix of scores that is tried")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of scaling.md and scaling.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "scaling.png")
    given = parser.parse_args(arguments)
    found = collect(given.model, given.sizes, given.variants, given.threads, given.seconds, given.gigabytes)
    print(write(found, given.model, given.threads, given.results, given.picture))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        variant, name, size, threads, seconds = sys.argv[2:]
        print(json.dumps(measure(variant, name, int(size), int(threads), float(seconds))))
    else:
        main()
