"""Data sets that have a name: the embedded sample and the full Fashion-MNIST."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets

from swinkit.data import BUILT_IN, ImageSet, fashion, open_data, open_split
from swinkit.errors import DataError, UnknownNameError

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def names(images: ImageSet) -> list[str]:
    return [images.name(index) for index in range(len(images))]


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
