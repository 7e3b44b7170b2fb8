"""Folders of images as data sets, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swinkit.data import ImageSet, open_data, open_split
from swinkit.errors import DataError


def names(images: ImageSet) -> list[str]:
    return [images.name(index) for index in range(len(images))]


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(*files: str) -> Path:
        for file in files:
            picture(tmp_path / "pets" / file)
        return tmp_path / "pets"

    return make


def test_a_folder_with_splits(folder: Callable[..., Path]) -> None:
    root = folder("train/dog/b.png", "train/cat/a.png", "train/cat/deep/c.JPG", "valid/dog/d.png", "test/cat/e.png", "train/.tmp/f.png")
    data = open_data(root)
    assert data.test is not None
    assert (data.name, data.classes, data.in_chans, data.image_size) == (str(root), ("cat", "dog"), 3, (6, 8))
    assert names(data.train) == [str(root / "train" / name) for name in ("cat/a.png", "cat/deep/c.JPG", "dog/b.png")]
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.val.labels.tolist() == [1]
    assert data.val.classes == data.classes
    assert names(open_split(root)) == names(data.test)
    assert names(open_split(root, "train")) == names(data.train)
    assert data.val.image(0, "L").mode == "L"


def test_a_folder_of_classes_is_split_by_the_seed(folder: Callable[..., Path]) -> None:
    root = folder(*(f"{label}/{index}.png" for label, count in (("a", 20), ("b", 10), ("c", 1)) for index in range(count)))
    data = open_data(root, seed=5)
    assert data.test is None
    assert np.bincount(data.val.labels, minlength=3).tolist() == [2, 1, 0]
    assert np.bincount(data.train.labels).tolist() == [18, 9, 1]
    assert not set(names(data.train)) & set(names(data.val))
    assert names(open_split(root, "val", seed=5)) == names(data.val)
    assert len(open_split(root)) == 31
    with pytest.raises(DataError, match="no test/ folder"):
        open_split(root, "test")


def test_train_without_val_is_split(folder: Callable[..., Path]) -> None:
    root = folder(*(f"train/{label}/{index}.png" for label in "ab" for index in range(4)), "test/a/x.png")
    data = open_data(root)
    assert (len(data.train), len(data.val)) == (6, 2)
    assert names(open_split(root, "train")) == names(data.train)
    assert names(open_split(root, "val")) == names(data.val)
    assert len(open_split(root)) == 1


def test_only_val_can_be_evaluated_but_not_trained_on(folder: Callable[..., Path]) -> None:
    root = folder("val/a/1.png", "val/b/2.png")
    assert len(open_split(root)) == 2
    assert len(open_split(root, "val")) == 2
    with pytest.raises(DataError, match="no train/"):
        open_data(root)


def test_a_class_may_be_called_train(folder: Callable[..., Path]) -> None:
    root = folder(*(f"{label}/{index}.png" for label in ("bus", "train") for index in range(3)))
    assert open_data(root).classes == ("bus", "train")


def test_grey_folders_have_one_channel_and_sizes_are_medians(tmp_path: Path) -> None:
    for index, width in enumerate((10, 20, 90)):
        for label in "ab":
            picture(tmp_path / label / f"{index}.png", "L" if index else "I;16", (width, 7))
    (tmp_path / "a" / "broken.png").write_bytes(b"broken")
    data = open_data(tmp_path)
    assert (data.in_chans, data.image_size) == (1, (7, 20))
    picture(tmp_path / "b" / "colour.png")
    assert open_data(tmp_path).in_chans == 3


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        (["a.png", "b.png"], "images without class folders"),
        (["train/a.png", "val/b.png"], "images without class folders"),
        (["train/a.png", "train/cat/b.png", "train/dog/c.png"], r"a\.png lies beside the class folders"),
        (["cat/a.png"], "only one class"),
        (["train/cat/a.png", "val/cat/a.png"], "only one class"),
        (["train/cat/a.png", "train/dog/b.png", "val/cow/c.png"], "has the class cow"),
        (["train/cat/a.png", "train/dog/b.png", "birds/c.png"], "mixes two layouts"),
        (["train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "valid/cat/d.png"], "mean the same"),
        (["cat/a.png", "dog/b.png"], "No class has two images"),
    ],
)
def test_layouts_that_cannot_be_read(folder: Callable[..., Path], files: list[str], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        open_data(folder(*files))


def test_empty_places(tmp_path: Path, folder: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no images and no class folders"):
        open_data(tmp_path)
    root = folder("cat/a.png", "dog/b.png")
    (root / "cow").mkdir()
    with pytest.raises(DataError, match=r"class cow .* has no images"):
        open_data(root)
    with pytest.raises(DataError, match=r"a\.png is a file"):
        open_data(root / "cat" / "a.png")
    with pytest.raises(DataError, match="does not exist"):
        open_data(tmp_path / "gone")
    with pytest.raises(DataError, match="does not exist"):
        open_data("./gone")


def test_unreadable_folders_say_so(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(DataError, match="None of the 3 images"):
        open_data(tmp_path)


def test_a_folder_that_may_not_be_read_is_not_empty(pictures, tmp_path, monkeypatch):
    scan = os.scandir

    def refuse(path="."):
        if str(path).endswith("red"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"red cannot be read \(Permission denied\); check its permissions"):
        open_data(pictures)
