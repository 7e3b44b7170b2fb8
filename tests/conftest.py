"""What every test shares: one thread per worker, no network, no state left in torch, and one small trained run."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

torch.set_num_threads(1)

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
TINY = {
    "model": "swin_pico_patch2_window4_32",
    "img_size": 16,
    "epochs": 3,
    "batch_size": 8,
    "lr": 2e-3,
    "amp": False,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def looks_folder(tmp_path_factory):
    """Looks at images are remembered here and not in the home of whoever runs the tests."""
    from swinkit.data import looks

    folder = tmp_path_factory.mktemp("looks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "cache_folder", lambda: folder)
        yield folder


def write_pictures(folder, count, seed):
    """`count` noisy 20 x 18 pictures per colour, one folder per class."""
    random = np.random.RandomState(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.array(colour) + random.normal(0, 40, (20, 18, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """An ImageFolder of three colours: train/ (20 a class), val/ and test/ (6 a class)."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (split, count) in enumerate({"train": 20, "val": 6, "test": 6}.items()):
        write_pictures(folder / split, count, seed)
    return folder


@pytest.fixture(scope="session")
def trained(pictures, tmp_path_factory):
    """A finished run on `pictures`."""
    import swinkit

    output = tmp_path_factory.mktemp("runs") / "colours"
    return swinkit.train(pictures, output=output, console=Console(quiet=True), model_ema=True, model_ema_decay=0.9, **TINY)
