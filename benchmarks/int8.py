"""Prepared inference in int8 against bfloat16 and float32: the accuracy of a trained run, and the speed of the published sizes.

    python benchmarks/int8.py RUN [--data DATA] [--threads 1] [--seconds 20] > benchmarks/results/int8.md

RUN: the folder of a classifier trained by `swinkit train`; every image of its test set is scored. Speed: the two dtypes take turns in one
process, and what is reported is the median of the ratios of neighbouring runs, so that a busy machine slows both. Times are CPU time of
one thread; with more threads they are wall time.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import swinkit
from swinkit.data import eval_transform, make_loader
from swinkit.evaluate import match_classes, which_images
from swinkit.predict import Predictor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
MODELS = ("swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224", "swinv2_tiny_window8_256")
BATCHES = (1, 8)

HEADER = """\
# int8 on the CPU

`python benchmarks/int8.py RUN > benchmarks/results/int8.md`, on {where}.
torch {torch}; engine: {engine}

## Accuracy

`{model}`, {parameters:.2f} M parameters, {images}. "Differs": predictions other than float32's. "Logits": norm of the difference
to float32's, of the norm of float32's.

| dtype | top-1 | differs | logits |
| --- | --- | --- | --- |"""

SPEED = """
## Speed

{threads} thread(s), random weights, images per second as the median; ratio: the median over pairs of neighbouring runs, with its quartiles.

| model | batch | bfloat16 | int8 | ratio | weights, MB |
| --- | --- | --- | --- | --- | --- |"""


def logits_of(model, dtype, images, preprocess):
    """(N, classes) logits and (N,) labels of a whole set."""
    fast = swinkit.prepare(model, dtype=dtype, engine="fused")
    loader = make_loader(images, eval_transform(preprocess), preprocess.mode, batch_size=100, train=False, seed=0, workers=0)
    parts = [(fast(pixels), classes) for pixels, classes, _ in loader]
    return torch.cat([logits for logits, _ in parts]), torch.cat([classes for _, classes in parts])


def accuracy(run, data):
    """The heading and one row per dtype."""
    predictor, model = Predictor(run), swinkit.from_pretrained(run)
    name, images = which_images(Path(run), data, "auto")
    labels = torch.from_numpy(np.asarray(match_classes(images.classes, predictor.classes)))
    where = f"{cpu()}, {torch.get_num_threads()} thread(s)"
    engine = swinkit.prepare(model, dtype=torch.int8).engine.reason
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    title = f"{model.config.embed_dim} channels, {model.config.depths} blocks"
    about = f"{len(images):,} images, {name}"
    print(HEADER.format(where=where, torch=torch.__version__, engine=engine, model=title, parameters=count, images=about))
    exact = None
    for dtype_name, dtype in DTYPES.items():
        logits, classes = logits_of(model, dtype, images, predictor.preprocess)
        exact = logits if exact is None else exact
        right = (logits.argmax(1) == labels[classes]).float().mean().item()
        differs = int((logits.argmax(1) != exact.argmax(1)).sum())
        print(f"| {dtype_name} | {right:.2%} | {differs} | {(logits - exact).norm() / exact.norm():.1e} |", flush=True)


def cpu():
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    )
    return names[0] if names else platform.processor()


def seconds_of(model, x, clock):
    """Of one run."""
    start = clock()
    model(x)
    return clock() - start


def speed(name, batch, seconds, clock):
    """One row: two dtypes in turn."""
    model = swinkit.create_model(name).eval()
    x = torch.randn(batch, 3, *swinkit.config.pair(model.config.img_size))
    fast = [swinkit.prepare(model, dtype=dtype, engine="fused", batch_size=batch) for dtype in (torch.bfloat16, torch.int8)]
    pairs, end = [], time.monotonic() + seconds
    for engine in fast:
        engine(x)
    while time.monotonic() < end or len(pairs) < 5:
        turn = (0, 1) if len(pairs) % 2 else (1, 0)
        times = {index: seconds_of(fast[index], x, clock) for index in turn}
        pairs.append((times[0], times[1]))
    low, ratio, high = statistics.quantiles([half / small for half, small in pairs], n=4)
    rates = [batch / statistics.median(column) for column in zip(*pairs, strict=True)]
    sizes = " -> ".join(f"{engine.engine.weight_bytes / 1e6:.0f}" for engine in fast)
    print(f"| {name} | {batch} | {rates[0]:.1f} | {rates[1]:.1f} | {ratio:.2f} ({low:.2f} - {high:.2f}) | {sizes} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20, help="for each row of speeds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    accuracy(arguments.run, arguments.data)
    print(SPEED.format(threads=arguments.threads))
    for name in MODELS:
        for batch in BATCHES:
            speed(name, batch, arguments.seconds, time.thread_time if arguments.threads == 1 else time.perf_counter)


if __name__ == "__main__":
    main()
