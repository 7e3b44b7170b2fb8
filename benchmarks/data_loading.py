"""How fast one worker loads training images: swinkit against torchvision's ImageFolder and v2 transforms, written by hand.

    python benchmarks/data_loading.py [rounds]

Both read the same 500 x 375 JPEGs, crop them at random to 224 pixels, mirror half of them and normalise them, in batches of 32, in one
worker process of a DataLoader. They take turns in one process; each round is one pass over the images after a first one that does not
count. The ratio is taken within each round, so that other work on the machine meets both.
"""

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from swinkit.data import Augment, Preprocess, make_loader, open_data, train_transform
from swinkit.runtimes.device import describe

IMAGES, BATCH, SIZE = 256, 32, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_photos(folder, count=IMAGES):
    """Smooth noise at several scales, which compresses about as photographs do: some 45 KB each at quality 90."""
    random = np.random.default_rng(0)
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC), float
            )
            for height, width in ((6, 8), (24, 32), (94, 125))
        ]
        path = folder / "train" / f"class{number % 4}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.average(layers, 0, weights=(4, 2, 1)).astype(np.uint8)).save(path, quality=90)


def ours(folder, interpolation="bilinear"):
    preprocess = Preprocess((SIZE, SIZE), MEAN, STD, interpolation)
    transform = train_transform(preprocess, Augment(scale=(0.08, 1.0)))
    images = open_data(folder / "train", val_fraction=0.01).train.parent
    loader = make_loader(images, transform, "RGB", batch_size=BATCH, train=True, seed=0, workers=1)
    epoch = 0

    def batches():
        nonlocal epoch
        epoch += 1
        loader.set_epoch(epoch)
        return loader

    return batches


def by_hand(folder, interpolation="bilinear"):
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.08, 1.0), interpolation=v2.InterpolationMode(interpolation), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder / "train", transform), batch_size=BATCH, shuffle=True, num_workers=1, persistent_workers=True
    )  # fmt: skip
    return lambda: loader


def one_pass(batches):
    started = time.perf_counter()
    images = sum(len(batch[0]) for batch in batches())
    return images / (time.perf_counter() - started)


def main(rounds):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder)
        sides = {"swinkit": ours(folder), "torchvision by hand": by_hand(folder)}
        rates = {side: [] for side in sides}
        for number in range(rounds + 1):
            # Who goes first changes, so that neither always has the other's cold caches.
            for side in list(sides)[:: 1 if number % 2 else -1]:
                rate = one_pass(sides[side])
                if number:
                    rates[side].append(rate)
    report(rates, rounds)


def report(rates, rounds):
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"
    )
    print(f"{describe(torch.device('cpu'))}; {versions}; {rounds} rounds of {IMAGES} images")
    for side, values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f"{side:20} {middle:7.1f} images/s  ({low:.1f} to {high:.1f})")
    low, middle, high = statistics.quantiles([a / b for a, b in zip(*rates.values(), strict=True)], n=4)
    print(f"{'ratio':20} {middle:7.3f}           ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
