"""Data sets of the library `datasets`, from local folders; nothing here goes to the network."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from PIL import Image
from rich.console import Console

import swinkit
from conftest import COLOURS, TINY
from swinkit.data import ImageSet, Preprocess, eval_transform, make_loader, open_data, open_split, read_image
from swinkit.data.hub import Address, HubImages, parse_address
from swinkit.errors import DataError, InputError

# From Python 3.12 on a fork beside threads warns; torch forks its workers all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

PETS = ClassLabel(names=["dog", "cat"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(number: int) -> bytes:
    return encoded(Image.new("RGB", (8, 6), (number, 0, 0)))


def pets(labels: list[Any], feature: Any = PETS, column: str = "label", **more: Any) -> Dataset:
    images = [{"bytes": picture(number), "path": None} for number in range(len(labels))]
    features = Features({"image": datasets.Image(), column: feature, **dict.fromkeys(more, PETS)})
    return Dataset.from_dict({"image": images, column: labels, **more}, features=features)


def saved(folder: Path, data: Dataset | DatasetDict) -> Path:
    data.save_to_disk(str(folder))
    return folder


def test_saved_splits(tmp_path: Path) -> None:
    parts = DatasetDict({"train": pets([0, 1, 1]), "validation": pets([1]), "test": pets([0, 0]), "unsupervised": pets([0])})
    folder = saved(tmp_path / "pets", parts)
    data = open_data(folder)
    assert data.test is not None
    assert (data.classes, data.in_chans, data.image_size) == (("dog", "cat"), 3, (6, 8))
    assert [part.labels.tolist() for part in (data.train, data.val, data.test)] == [[0, 1, 1], [1], [0, 0]]
    assert np.asarray(data.train.image(2, "RGB"))[0, 0].tolist() == [2, 0, 0]
    assert data.train.name(2) == f"{folder}/train/2"
    assert open_split(f"hf:{folder}").labels.tolist() == [0, 0]


def test_without_splits_the_seed_decides(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pets", pets([0, 1] * 10))
    data = open_data(folder, seed=4)
    assert (np.bincount(data.train.labels).tolist(), np.bincount(data.val.labels).tolist(), data.test) == ([9, 9], [1, 1], None)
    again = open_split(folder, "val", seed=4)
    assert [again.name(index) for index in range(2)] == [data.val.name(index) for index in range(2)]
    assert len(open_split(folder)) == 20


def test_images_are_read_as_files_are(tmp_path: Path) -> None:
    """16 bit, rotation and transparency: what `datasets` would decode differs from what read_image does."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        encoded(Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)),
        encoded(Image.new("RGB", (8, 6), (9, 9, 9)), "JPEG", exif=exif),
        encoded(Image.new("RGBA", (8, 6), (0, 0, 0, 0))),
    ]
    features = Features({"image": datasets.Image(), "label": PETS})
    table = Dataset.from_dict({"image": [{"bytes": file} for file in files], "label": [0, 1, 0]}, features=features)
    images = open_split(saved(tmp_path / "set", table))
    for index, file in enumerate(files):
        np.testing.assert_array_equal(np.asarray(images.image(index, "RGB")), np.asarray(read_image(file, "RGB")))
    assert images.image(1, "RGB").size == (6, 8)


def test_a_broken_image_has_a_name(tmp_path: Path) -> None:
    table = Dataset.from_dict(
        {"image": [{"bytes": picture(0)}, {"bytes": b"broken"}], "label": [0, 1]},
        features=Features({"image": datasets.Image(), "label": PETS}),
    )
    images = open_split(saved(tmp_path / "set", table))
    with pytest.raises(InputError, match=r"set/all/1 is not an image"):
        images.image(1, "RGB")


def test_a_folder_of_images(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images as ours from the same folder, named relatively and absolutely."""
    ours = open_data(pictures)
    monkeypatch.chdir(pictures.parent)
    theirs = open_data(f"hf:{pictures.name}")
    assert ours.test is not None
    assert theirs.test is not None
    assert ours.classes == theirs.classes
    for one, other in ((ours.train, theirs.train), (ours.val, theirs.val), (ours.test, theirs.test)):
        assert one.labels.tolist() == other.labels.tolist()
        assert one.image(3, "RGB").tobytes() == other.image(3, "RGB").tobytes()
    assert isinstance(theirs.train, HubImages)
    assert theirs.train.encoded(3) == Path(ours.train.name(3))


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for split, labels in (("train", [0, 1, 1]), ("test", [1])):
        pets(labels).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    data = open_data(f"hf:{folder}", val_fraction=0.5)
    assert data.test is not None
    assert (data.classes, len(data.train), len(data.val), data.test.labels.tolist()) == (("dog", "cat"), 2, 1, [1])


@pytest.mark.parametrize(
    ("labels", "feature", "column", "classes"),
    [
        (["b", "a", "b"], Value("string"), "label", ("a", "b")),
        ([10, 9, 10], Value("int64"), "target", ("9", "10")),
        ([-1, 1, 1], Value("int32"), "class", ("-1", "1")),
        ([1, 0, 1], PETS, "species", ("dog", "cat")),
    ],
)
def test_columns_of_classes(tmp_path: Path, labels: list[Any], feature: Any, column: str, classes: tuple[str, ...]) -> None:
    images = open_split(saved(tmp_path / "set", pets(labels, feature, column)))
    assert images.classes == classes
    assert [images.classes[label] for label in images.labels] == [str(PETS.names[n] if feature is PETS else n) for n in labels]


def test_several_columns_of_classes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", pets([0, 1], column="fine", coarse=[1, 0]))
    with pytest.raises(DataError, match=r"several columns of classes \(fine, coarse\). Name one: .*#fine"):
        open_data(folder)
    assert open_split(f"hf:{folder}#coarse").labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="no column colour; its columns are image, fine, coarse"):
        open_data(f"hf:{folder}#colour")


def test_hidden_test_labels_are_no_test(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", DatasetDict({"train": pets([0, 1, 0, 1]), "test": pets([-1, -1])}))
    data = open_data(folder)
    assert (data.test, len(data.val)) == (None, 2)
    with pytest.raises(DataError, match="has no split test"):
        open_split(folder, "test")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (lambda: pets([[0], [0, 1]], List(PETS)), "several labels per image; .*several labels cannot be trained"),
        (lambda: pets([["a"], ["b"]], List(Value("string")), "labels"), "several labels cannot be trained"),
        (lambda: pets(["a", "b;c"], Value("string")), r"row 1 has the label 'b;c'.*several labels cannot be trained"),
        (lambda: pets(["a", None], Value("string")), "row 1 has an empty label"),
        (lambda: pets([0.5, 1.5], Value("float32")), "measurement"),
        (lambda: pets([0, -1]), "1 of the 2 rows of .*, all have no label"),
        (lambda: pets([-1, -1]), "no labels in all"),
        (lambda: pets([0, 0], Value("int64")), "only one class"),
        (lambda: pets(["a", "b"], Value("string"), "caption"), "no column of classes; its columns are image, caption"),
        (lambda: Dataset.from_dict({"text": ["a"], "label": [0]}), "no column of images; its columns are text, label"),
        (lambda: DatasetDict({"one": pets([0]), "two": pets([1])}), "splits one, two; expected train"),
        (lambda: DatasetDict({"val": pets([0]), "validation": pets([1])}), "two splits that mean val"),
        (lambda: DatasetDict({"train": pets([0, 0]), "validation": pets([1])}), "class cat in val, which train has not"),
        (lambda: DatasetDict({"validation": pets([0, 1])}), "has a split val but no split train"),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path: Path, data: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        open_data(saved(tmp_path / "set", data()))


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_address("hf:owner/name") == Address("owner/name")
    assert parse_address("hf:mnist#digit") == Address("mnist", label="digit")
    assert parse_address("hf:o-w/n.a_m/con-fig@refs/convert/parquet#l") == Address("o-w/n.a_m", "con-fig", "refs/convert/parquet", "l")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert parse_address("hf:owner/name#l") == Address(str(tmp_path.resolve() / "owner" / "name"), label="l")
    for wrong in ("hf:", "hf:a/b/c/d", "hf:a b/c", "hf:#label"):
        with pytest.raises(DataError, match="names no data set; expected hf:OWNER/NAME"):
            parse_address(wrong)
    with pytest.raises(DataError, match=r"folder \./gone does not exist"):
        parse_address("hf:./gone")


def test_what_cannot_be_had_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^hf:owner/name cannot be opened \(.*HF_HUB_OFFLINE") as caught:
        open_data("hf:owner/name")
    assert "\n" not in str(caught.value)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(DataError, match="swinkit runs no code of a data set"):
        open_data(f"hf:{tmp_path / 'code'}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the package datasets .*pip install 'swinkit\[data\]'"):
        open_data("hf:owner/name")


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_it_too(tmp_path: Path, workers: int) -> None:
    images: ImageSet = open_split(saved(tmp_path / "set", pets([0, 1] * 8)))
    images = pickle.loads(pickle.dumps(images))
    transform = eval_transform(Preprocess(size=(6, 6), mean=(0.0,) * 3, std=(1.0,) * 3))
    batches = list(make_loader(images, transform, "RGB", batch_size=5, train=False, seed=0, workers=workers))
    red = torch.cat([pixels[:, 0, 0, 0] for pixels, _, _ in batches])
    assert (red * 255).round().tolist() == list(range(16))


def test_training_from_a_saved_set(pictures: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(pictures))
    del loaded["validation"]
    folder = saved(tmp_path / "set", loaded)
    result = swinkit.train(folder, output=tmp_path / "run", console=Console(quiet=True), **TINY | {"epochs": 1})
    scores = swinkit.evaluate(result.run, f"hf:{folder}", split="val")
    assert (result.scored_on, result.scores.count, scores.count) == ("test", 18, 6)
    assert scores.classes == tuple(COLOURS)
