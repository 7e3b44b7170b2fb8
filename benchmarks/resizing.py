"""What a trained model still knows after `swinkit.resize`, before any further training.

    python benchmarks/resizing.py [epochs [model ...]]

Trains models on the Fashion-MNIST sample, resizes each, and scores them on the 1,000 test images, enlarged to the new size.
"""

import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

import swinkit

MODELS = ("swin_pico_patch2_window7_28", "swinv2_pico_patch2_window7_28")
SIZES = {
    "as trained: 28 px, window 7, patch 2": {},
    "42 px": {"img_size": 42},
    "42 px, window 10": {"img_size": 42, "window_size": 10},
    "56 px": {"img_size": 56},
    "56 px, window 14": {"img_size": 56, "window_size": 14},
    "56 px, patch 4": {"img_size": 56, "patch_size": 4},
    "28 px, window 5": {"window_size": 5},
    "28 px, 3 channels": {"in_chans": 3},
}
WINDOW_CHANGES = [name for name, changes in SIZES.items() if "window_size" in changes]


def score(model):
    with tempfile.TemporaryDirectory() as folder:
        swinkit.save_pretrained(model, Path(folder) / "model")
        return swinkit.evaluate(Path(folder) / "model", "fashion-mnist-sample").top1


def without_tables(model):
    """The same model with the position bias of a new one: V1's tables, V2's units."""
    if model.config.version == 2:
        other = swinkit.create_model(model.config.replace(pretrained_window_sizes=())).eval()
        other.load_state_dict(model.state_dict())
        other.labels, other.preprocess = model.labels, model.preprocess
        return other
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.trunc_normal_(parameter, std=0.02)
    return model


def main(epochs, names):
    print(f"{platform.machine()}, torch {torch.__version__}, {epochs} epochs; top-1 on 1,000 images")
    for name in names:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            run = swinkit.train(output=Path(folder) / "run", model=name, epochs=epochs, ape=False, threads=1).run
            model = swinkit.from_pretrained(run)
        print(f"{name}, trained in {time.perf_counter() - started:.0f} s")
        for title, changes in SIZES.items():
            scores = {"": score(swinkit.resize(model, **changes))}
            if title in WINDOW_CHANGES:
                if model.config.version == 1:
                    scores["geometric"] = score(swinkit.resize(model, **changes, bias_method="geometric"))
                scores["new tables" if model.config.version == 1 else "units of the new window"] = score(
                    without_tables(swinkit.resize(model, **changes))
                )
            print(f"  {title:40}", "  ".join(f"{how} {100 * top1:.1f}" for how, top1 in scores.items()), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 6, sys.argv[2:] or MODELS)
