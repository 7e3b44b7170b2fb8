"""Data sets: the embedded sample, the full Fashion-MNIST, folders."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from swinkit.data import BUILT_IN, ImageSet, broken_files, fashion, open_data, open_split
from swinkit.errors import DataError, InputError, UnknownNameError

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


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


# The embedded sample


def test_the_sample_is_stratified_and_has_no_repeats() -> None:
    train, train_labels, train_indices = fashion.sheet_contents("train")
    test, test_labels, test_indices = fashion.sheet_contents("test")
    assert train.shape == (6000, 28, 28)
    assert test.shape == (1000, 28, 28)
    assert np.bincount(train_labels).tolist() == [600] * 10
    assert np.bincount(test_labels).tolist() == [100] * 10
    assert (len(set(train_indices.tolist())), len(set(test_indices.tolist()))) == (6000, 1000)
    assert len({image.tobytes() for image in np.concatenate([train, test])}) == 7000


def test_the_sample_looks_like_the_whole() -> None:
    pixels = fashion.sheet_contents("train")[0] / 255
    assert pixels.mean() == pytest.approx(0.286, abs=0.002)
    assert pixels.std() == pytest.approx(0.353, abs=0.002)
    # Every class keeps its own look: trousers are dark frames, pullovers fill theirs.
    means = [pixels[fashion.sheet_contents("train")[1] == label].mean() for label in (1, 2)]
    assert means == pytest.approx([0.223, 0.376], abs=0.01)


def test_the_sample_equals_the_originals() -> None:
    source = fashion.find_full()
    if source is None:
        pytest.skip("the full Fashion-MNIST is not on this machine")
    for split in ("train", "test"):
        pixels, labels, indices = fashion.sheet_contents(split)
        originals, original_labels = fashion.read_split(source, split)
        np.testing.assert_array_equal(pixels, originals[indices])
        np.testing.assert_array_equal(labels, original_labels[indices])


def test_opening_the_sample() -> None:
    data = open_data("fashion-mnist-sample")
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (5400, 600, 1000)
    assert np.bincount(data.val.labels).tolist() == [60] * 10
    assert (data.classes, data.in_chans, data.image_size) == (CLASSES, 1, (28, 28))
    assert not set(names(data.train)) & set(names(data.val))
    assert data.test.name(17) == "fashion-mnist-sample/test/17"
    assert len(set(data.test.labels[:50].tolist())) == 10
    image = data.val.image(3, "L")
    assert (image.mode, image.size) == ("L", (28, 28))
    place = int(data.val.name(3).rsplit("/", 1)[1])
    np.testing.assert_array_equal(np.asarray(image), fashion.sheet_contents("train")[0][place])
    assert data.val.image(3, "RGB").mode == "RGB"


def test_the_seed_chooses_the_validation_images() -> None:
    val = [names(open_data("fashion-mnist-sample", seed=seed).val) for seed in (0, 0, 1)]
    assert val[0] == val[1]
    assert val[0] != val[2]
    assert len(open_data("fashion-mnist-sample", val_fraction=0.2).val) == 1200


def test_open_split_agrees_with_open_data() -> None:
    data = open_data("fashion-mnist-sample", seed=3)
    assert names(open_split("fashion-mnist-sample", "val", seed=3)) == names(data.val)
    assert names(open_split("fashion-mnist-sample", "train", seed=3)) == names(data.train)
    assert open_split("fashion-mnist-sample").name(0) == "fashion-mnist-sample/test/0"


# The full set


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(header + array.tobytes())


@pytest.fixture
def small_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A full set in small, 24 train images a class, found through the environment."""
    rng = np.random.default_rng(0)
    root = tmp_path / "idx"
    root.mkdir()
    for split, count, suffix in (("train", 240, ".gz"), ("test", 20, "")):
        images, labels = fashion.FILES[split]
        write_idx(root / (images + suffix), rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(root / (labels + suffix), np.arange(count, dtype=np.uint8) % 10)
    monkeypatch.setenv(fashion.ENVIRONMENT, str(root))
    return root


def test_opening_the_full_set(small_full: Path) -> None:
    data = open_data("fashion-mnist")
    assert data.test is not None
    assert (len(data.train), len(data.val), len(data.test)) == (220, 20, 20)
    assert np.bincount(data.val.labels).tolist() == [2] * 10
    assert data.test.name(3) == "fashion-mnist/test/3"
    np.testing.assert_array_equal(data.test.labels, np.arange(20) % 10)
    pixels = np.frombuffer((small_full / fashion.FILES["test"][0]).read_bytes(), np.uint8, offset=16).reshape(20, 28, 28)
    np.testing.assert_array_equal(np.asarray(data.test.image(7, "L")), pixels[7])


def test_the_environment_variable_must_lead_somewhere(small_full: Path) -> None:
    (small_full / fashion.FILES["test"][1]).unlink()
    with pytest.raises(DataError, match=r"SWINKIT_FASHION_MNIST is .*idx.* does not hold"):
        open_data("fashion-mnist")


def test_the_cache_is_searched(small_full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fashion.ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    raw = tmp_path / "swinkit" / "fashion-mnist" / "FashionMNIST" / "raw"
    raw.parent.mkdir(parents=True)
    small_full.rename(raw)
    assert fashion.find_full() == raw


def test_a_failed_download_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)
    monkeypatch.setattr(fashion, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(fashion.ENVIRONMENT, raising=False)
    with pytest.raises(DataError, match="no network") as caught:
        open_data("fashion-mnist")
    for part in (str(tmp_path / "cache"), str(tmp_path / "debian"), "apt install dataset-fashion-mnist"):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x00\x00\x08\x01\x00\x00\x00\x05abc", b"\x00\x00\x0d\x01\x00\x00\x00\x00"])
def test_files_that_are_no_idx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DataError, match=r"/x "):
        fashion.read_idx(tmp_path / "x")


def test_a_gzip_cut_short(tmp_path: Path) -> None:
    whole = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 200]) + bytes(range(200)))
    (tmp_path / "x.gz").write_bytes(whole[:-50])
    with pytest.raises(DataError, match=r"x\.gz cannot be read"):
        fashion.read_idx(tmp_path / "x.gz")


# Folders


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


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"Did you mean .*fashion-mnist.*must be a folder"):
        open_data("fashon-mnist")
    with pytest.raises(UnknownNameError) as caught:
        open_split("zzz")
    assert all(name in str(caught.value) for name in BUILT_IN)
    with pytest.raises(UnknownNameError, match="'vall'"):
        open_split("fashion-mnist-sample", "vall")
    with pytest.raises(DataError, match="val_fraction"):
        open_data("fashion-mnist-sample", val_fraction=1.5)


def test_broken_files(folder: Callable[..., Path]) -> None:
    root = folder(*(f"{label}/{index}.png" for label in "ab" for index in range(10)))
    for name in ("a/3.png", "b/7.png"):
        (root / name).write_bytes((root / name).read_bytes()[:40])
    images = open_split(root)
    seen: list[tuple[int, int]] = []
    broken = broken_files(images, progress=lambda done, total: seen.append((done, total)))
    assert [name for name, _ in broken] == [str(root / "a/3.png"), str(root / "b/7.png")]
    assert all(name in reason for name, reason in broken)
    assert seen == [(done, 20) for done in range(1, 21)]
    assert len(broken_files(images, "L", limit=1)) == 1
    with pytest.raises(InputError, match=r"3\.png"):
        images.image(3, "RGB")
