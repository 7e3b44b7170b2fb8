"""What pretraining is worth: five classes of Fashion-MNIST, with 50 images of each, after training on the other five or from nothing.

    python benchmarks/transfer.py WORK_FOLDER [--seeds 3] [--reverse]

Pretrains on the first five classes (29,500 images), draws 50 images of each of the last five for every seed, and trains on these 250, by
one recipe, from random weights, with all but the head frozen, whole, and whole with layer-wise decay. Every model is scored after its last
epoch (no image chooses anything) on the 5,000 test images of the last five classes. With --reverse, first and last change places. What
WORK_FOLDER holds already is not computed again; give each direction a folder of its own.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console

import swinkit
from swinkit.data.fashion import CLASSES, full

HALVES = (range(5), range(5, 10))
PER_CLASS = 50
MODEL = {"model": "swin_mini_patch2_window7_28", "ape": True, "weight_init": "local"}
RECIPE = {"recipe": "fashion-mnist", "opt": "muon", "muon_lr": 0.01, "lr": 4e-3}
PRETRAIN = MODEL | RECIPE | {"epochs": 1, "model_ema_decay": 0.98}
SMALL_SET = RECIPE | {"epochs": 20, "batch_size": 25, "warmup_epochs": 1, "model_ema_decay": 0.95}
TUNE = SMALL_SET | {"pretrained": True, "weight_init": "original", "ape": None}
TREATMENTS = {
    "from random weights": SMALL_SET | MODEL,
    "pretrained, all but the head frozen": TUNE | {"freeze": "all-but-head", "lr": 5e-2},
    "pretrained": TUNE,
    "pretrained, layer decay 0.8": TUNE | {"layer_decay": 0.8},
}
"""One recipe for all of them, apart from what the names say and the higher rate of the head alone. No rate was searched for."""


def write_images(folder, images, indices):
    """The images at `indices`, one folder per class."""
    if folder.exists():
        return
    beside = folder.with_name(folder.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    for index in indices:
        place = beside / CLASSES[images.labels[index]].replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[index]).save(place / f"{index:05}.png", compress_level=1)
    beside.rename(folder)


def draw(images, classes, seed, skip, count):
    """Indices of `count` images of each class (None: of all that are left), after the first `skip` of an order that the seed draws."""
    order = np.random.RandomState(seed).permutation(len(images))
    of_class = [order[images.labels[order] == label] for label in classes]
    return np.concatenate([indices[skip : None if count is None else skip + count] for indices in of_class])


def prepare(work, seeds, before, after):
    """The pretraining set of the classes `before`, a small set of those `after` for each seed, and the test images of those."""
    train, test = full("train"), full("test")
    write_images(work / "before" / "val", train, draw(train, before, 0, 0, 100))
    write_images(work / "before" / "train", train, draw(train, before, 0, 100, None))
    for seed in seeds:
        write_images(work / f"after-{seed}" / "train", train, draw(train, after, seed, 0, PER_CLASS))
        write_images(work / f"after-{seed}" / "val", train, draw(train, after, seed, PER_CLASS, 20))
    write_images(work / "test", test, draw(test, after, 0, 0, None))


def trained(data, output, **options):
    """A finished run in `output`, gone on with where it was interrupted."""
    quiet = Console(quiet=True)
    if (output / "report.html").exists():
        return output
    if (output / "last").exists():
        return swinkit.train(resume=output, console=quiet).run
    shutil.rmtree(output, ignore_errors=True)
    return swinkit.train(data, output=output, console=quiet, threads=1, **options).run


def accuracy(work, name, seed, options):
    """Of the last epoch's weights on the test images, in percent."""
    folder = work / "runs" / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    memo = folder / "test.json"
    if not memo.exists():
        run = trained(work / f"after-{seed}", folder, seed=seed, **options)
        memo.write_text(json.dumps(100 * swinkit.evaluate(run / "last", work / "test", amp=True).top1))
    return json.loads(memo.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reverse", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(given.seeds)
    prepare(given.work, seeds, *(HALVES[::-1] if given.reverse else HALVES))
    source = trained(given.work / "before", given.work / "runs" / "pretrained", **PRETRAIN) / "last"
    scores = {name: [] for name in TREATMENTS}
    for seed in seeds:
        for name, options in TREATMENTS.items():
            start = {"model": str(source)} if options.get("pretrained") else {}
            scores[name].append(accuracy(given.work, name, seed, options | start))
            print(f"seed {seed}, {name}: {scores[name][-1]:.2f} %", file=sys.stderr, flush=True)
    print(f"{platform.processor() or platform.machine()}, swinkit {swinkit.__version__}, torch {torch.__version__}, seeds {list(seeds)}\n")
    print("| training on 250 images | epochs | test accuracy, each seed | mean ± sd |\n| --- | --- | --- | --- |")
    for name, values in scores.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = ", ".join(f"{value:.1f}" for value in values)
        print(f"| {name} | {TREATMENTS[name]['epochs']} | {each} | {statistics.mean(values):.1f} ± {spread:.1f} % |")


if __name__ == "__main__":
    main()
