"""Are the maps of `swinkit explain` faithful? Deletion and insertion curves on Fashion-MNIST against a random and a centre-first order.

    swinkit train --output RUN
    python benchmarks/faithfulness.py RUN [--pictures 200] [--out benchmarks/results]

For each test picture, patches of 2 x 2 pixels are taken away (or added to an empty picture) in the order of a map, most important first;
the curve is the mean probability of the class that the model names. A faithful map has a small area under deletion and a large one under
insertion. Writes faithfulness.json, faithfulness.md and the curves as faithfulness-*.svg.
"""

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import swinkit
from swinkit.checkpoints.files import write_atomic
from swinkit.data import open_split
from swinkit.explain import class_maps, drawing, faithfulness
from swinkit.explain.figures import render
from swinkit.explain.mapping import attention_map, rollout
from swinkit.explain.recording import record
from swinkit.explain.subject import open_subject, subject
from swinkit.runtimes.device import cpu_name

SIDE = 2
STEPS = 14


TEXT = """# Are the maps faithful?

`python benchmarks/faithfulness.py RUN` on {pictures} test pictures of the Fashion-MNIST sample; the model ({model}, `swinkit train`
as it comes) is right on {percent:.1f} % of them. Patches of {patch} x {patch} pixels are taken away (deletion) or added to an empty picture
(insertion) in the order of a map, in {steps} steps; a patch that is gone has the mean colour of the data. The area is under the mean
probability of the class that the model names on the whole picture. Faithful is a small area under deletion and a large one under insertion;
the table is sorted by their difference.

| order | deletion | insertion | a map |
| --- | --- | --- | --- |
{rows}

One model, and one seed for the random order. Measured with {threads} thread of {cpu}, with other work on the machine, so that the times
are no more than orders of magnitude; Python {python}, torch {torch}, captum {captum}, swinkit {swinkit}.
"""


def middle_attention(model, x, target):
    """Attention from the middle pixel in the last block."""
    return attention_map(record(model, x), (x.shape[2] // 2, x.shape[3] // 2)).values


METHODS = {
    "Grad-CAM, last norm": class_maps.grad_cam,
    "Grad-CAM, stage 0": lambda model, x, target: class_maps.grad_cam(model, x, target, 0),
    "Integrated Gradients": lambda model, x, target: class_maps.integrated_gradients(model, x, target)[0],
    "Integrated Gradients, size": lambda model, x, target: np.abs(class_maps.integrated_gradients(model, x, target)[0]),
    "occlusion, 4 x 4": lambda model, x, target: class_maps.occlusion(model, x, target, 4),
    "attention rollout": lambda model, x, target: rollout(record(model, x)).values,
    "attention of the middle": middle_attention,
}
BASELINES = {
    "random order": lambda x, random: random.permutation((x.shape[2] // SIDE) * (x.shape[3] // SIDE)),
    "centre first": lambda x, random: faithfulness.centre_order((x.shape[2], x.shape[3]), SIDE),
    "bright pixels first": lambda x, random: faithfulness.order_of(x[0, 0].double().numpy(), SIDE),
}


def measure(run, count):
    """(facts, {order: Curves}) on the first `count` test pictures."""
    images, random = open_split("fashion-mnist-sample", "test"), np.random.RandomState(0)
    model = open_subject(run, images.image(0, "L"), device="cpu").model
    looked = [subject(model, images.image(index, "L")) for index in range(count)]
    targets = [one.target() for one in looked]
    pixels = torch.cat([one.x for one in looked])
    right = np.mean(np.array(targets) == images.labels[:count])
    found, seconds = {}, {}
    for name, method in METHODS.items():
        start = time.perf_counter()
        maps = [method(model, one.x, target) for one, target in zip(looked, targets, strict=True)]
        seconds[name] = (time.perf_counter() - start) / count
        orders = np.stack([faithfulness.order_of(values, SIDE) for values in maps])
        found[name] = faithfulness.curves(model, pixels, targets, orders, STEPS, SIDE)
        print(f"{name}: deletion {found[name].deletion_area:.3f}, insertion {found[name].insertion_area:.3f}", flush=True)
    for name, order in BASELINES.items():
        orders = np.stack([order(one.x, random) for one in looked])
        found[name] = faithfulness.curves(model, pixels, targets, orders, STEPS, SIDE)
        print(f"{name}: deletion {found[name].deletion_area:.3f}, insertion {found[name].insertion_area:.3f}", flush=True)
    facts = {
        "pictures": count, "patch": SIDE, "steps": STEPS, "model": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
        "accuracy": float(right), "cpu": cpu_name(), "threads": torch.get_num_threads(), "python": platform.python_version(),
        "torch": torch.__version__, "captum": version("captum"), "swinkit": swinkit.__version__, "seconds_per_map": seconds,
    }  # fmt: skip
    return facts, found


def table(facts, found):
    """The results in words."""
    seconds = facts["seconds_per_map"]
    rows = [
        f"| {name} | {one.deletion_area:.3f} | {one.insertion_area:.3f} | {f'{1000 * seconds[name]:.0f} ms' if name in seconds else ''} |"
        for name, one in sorted(found.items(), key=lambda item: item[1].deletion_area - item[1].insertion_area)
    ]
    return TEXT.format(**facts, percent=100 * facts["accuracy"], rows="\n".join(rows))


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    facts, found = measure(options.run, options.pictures)
    numbers = {name: {"deletion": one.deletion.tolist(), "insertion": one.insertion.tolist()} for name, one in found.items()}
    areas = {name: {"deletion": one.deletion_area, "insertion": one.insertion_area} for name, one in found.items()}
    write_atomic(options.out / "faithfulness.json", json.dumps(facts | {"areas": areas, "curves": numbers}, indent=1) + "\n")
    write_atomic(options.out / "faithfulness.md", table(facts, found))
    for kind in ("deletion", "insertion"):
        lines = {name: getattr(one, kind) for name, one in found.items()}
        figure = drawing.curves(lines, kind.capitalize(), "probability of the class")
        write_atomic(options.out / f"faithfulness-{kind}.svg", render(figure, "svg", kind))
    print(table(facts, found))


if __name__ == "__main__":
    main()
