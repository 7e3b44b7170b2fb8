"""How good a classifier is on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from swinkit._verbs import callable_module
from swinkit.config import pair
from swinkit.data import ImageSet, Preprocess, absolute_source, eval_transform, make_loader, open_data, open_split
from swinkit.data.check import apply, look
from swinkit.errors import DataError
from swinkit.predict import Predictor, Runtime
from swinkit.tasks.classify import Scorer, Scores
from swinkit.variants import get_config

OnBatch = Callable[[int, int], None]
"""Called after each batch with (images done, images in all)."""


def evaluate(
    source: str | Path,
    data: str | Path | None = None,
    *,
    split: str = "auto",
    batch_size: int = 128,
    device: str = "auto",
    amp: bool | None = False,
    workers: int = 0,
    on_batch: OnBatch | None = None,
    say: Callable[[str], None] | None = None,
) -> Scores:
    """Scores of a run or checkpoint folder on a built-in data set or images of your own (docs/data.md); classes are matched by name.

    source, device, amp: as of `Predictor`; batch_size: images computed at a time; workers: processes that load images;
    on_batch: called after each batch with (images done, images in all).
    data: None takes what the run was trained on. split: "train", "val", "test" or "auto" (test; else val; else every image of a folder
    that the run was not trained on). Of a run's own data, train and val are those of the run. say: called with a sentence before the start.
    Errors: CheckpointError, DataError (a class that the model does not know), InputError (a picture that cannot be read).
    """
    predictor = Predictor(source, device=device, amp=amp)
    name, images = which_images(Path(source), data, split)
    if say:
        say(f"{len(images):,} images, {name}; {predictor.runtime.about}")
    labels = match_classes(images.classes, predictor.classes)
    scorer = Scorer(predictor.classes)
    score(scorer, predictor.runtime, images, predictor.preprocess, labels, batch_size=batch_size, workers=workers, on_batch=on_batch)
    return replace(scorer.compute(), images=name)


def which_images(source: Path, data: str | Path | None, split: str) -> tuple[str, ImageSet]:
    """(what they are called, the images) that `evaluate` scores."""
    run = _run_config(source)
    if data is None and not run:
        raise DataError(f"{source} does not say what it was trained on; name the images with --data (data=).")
    own = bool(run) and (data is None or _same(str(data), run["data"]))
    data = run["data"] if data is None else data
    if not own or split not in ("auto", "train", "val", "test"):
        return f"{split if split != 'auto' else 'images'} of {data}", open_split(data, split)
    splits = open_data(data, seed=run["seed"], val_fraction=run["val_fraction"])
    if run["skip_broken"]:
        splits = apply(splits, look(splits, patch=pair(get_config(run["model"]).patch_size)), skip_broken=True)
    chosen = split if split != "auto" else "test" if splits.test is not None else "val"
    images = {"train": splits.train, "val": splits.val, "test": splits.test}[chosen]
    if images is None:
        raise DataError(f"{data} has no test images; choose --split val, or leave the split out.")
    return f"{chosen} of {splits.name}", images


def _run_config(source: Path) -> dict[str, Any]:
    """The config.yaml of the run that a run folder or a checkpoint belongs to; empty where there is none."""
    for folder in (source, *source.resolve().parents[:3]):
        if (folder / "config.yaml").is_file():
            content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            return (
                {"seed": 0, "val_fraction": None, "skip_broken": False} | content if isinstance(content, dict) and "data" in content else {}
            )
    return {}


def _same(one: str, other: str) -> bool:
    return absolute_source(one) == absolute_source(other)


def match_classes(theirs: Sequence[str], ours: Sequence[str]) -> NDArray[np.int64]:
    """The model's index of each class of a data set. Errors: DataError for a class that the model does not have."""
    place = {name: index for index, name in enumerate(ours)}
    unknown = [name for name in theirs if name not in place]
    if unknown:
        raise DataError(
            f"The data has {len(unknown)} classes that the model does not know ({', '.join(unknown[:3])}); it knows {', '.join(ours[:5])}"
            f"{' ...' if len(ours) > 5 else ''}. Rename the class folders, or train a model on these classes."
        )
    return np.array([place[name] for name in theirs], dtype=np.int64)


def score(
    scorer: Scorer,
    runtime: Runtime,
    images: ImageSet,
    preprocess: Preprocess,
    labels: NDArray[np.int64],
    *,
    batch_size: int,
    workers: int = 0,
    on_batch: OnBatch | None = None,
) -> None:
    """Run every image of a set through a runtime into a scorer; `labels` maps the set's class indices to the scorer's."""
    loader = make_loader(images, eval_transform(preprocess), preprocess.mode, batch_size=batch_size, train=False, seed=0, workers=workers)
    to_model = torch.from_numpy(labels)
    done = 0
    for pixels, classes, indices in loader:
        scorer.update(runtime.run(pixels), to_model[classes], indices)
        done += len(pixels)
        if on_batch:
            on_batch(done, len(images))


callable_module(__name__)
