"""Tar shards: found, indexed, read in place, and shuffled so that few are in use at a time."""

from __future__ import annotations

import gc
import gzip
import io
import json
import multiprocessing
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from rich.console import Console

import swinkit
from conftest import COLOURS, TINY
from swinkit.data import ImageSet, Preprocess, eval_transform, make_loader, open_data, open_split, shards, tar_index
from swinkit.data.loader import hashed
from swinkit.data.looks import look_at_all
from swinkit.data.sets import Subset
from swinkit.data.shards import ShardImages
from swinkit.errors import DataError

# From Python 3.12 on a fork beside threads warns; torch forks its workers all the same.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3:UserWarning"),  # on fewer cores
]

P = Preprocess(size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "swinkit" / "shards"


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 255 - number, 0)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, samples: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        for sample in samples:
            tar.write(sample)
    return path


def samples(first: int, count: int, classes: int = 3) -> list[dict[str, Any]]:
    return [{"__key__": f"{n:04}", "png": png(n), "cls": n % classes} for n in range(first, first + count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four shards of 5, 7, 9 and 11 samples, numbered through."""
    first = 0
    for shard, count in enumerate((5, 7, 9, 11)):
        write(tmp_path / "set" / f"train-{shard:04}.tar", samples(first, count))
        first += count
    return tmp_path / "set"


def whole(source: object) -> ShardImages:
    images = open_split(str(source))
    assert isinstance(images, ShardImages)
    return images


def test_pixels_labels_and_names_are_the_shards(folder: Path) -> None:
    images = whole(folder)
    assert (len(images), images.classes) == (32, ("0", "1", "2"))
    for index in range(32):
        assert images.encoded(index).read() == png(index)
        assert np.asarray(images.image(index, "RGB"))[3, 3].tolist() == [index, 255 - index, 0]
        assert images.labels[index] == index % 3
    assert images.name(6) == f"{folder}/train-0001.tar/0006.png"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its files to the garbage collector
def test_webdataset_reads_the_same(folder: Path) -> None:
    # Names with folders, several dots, capitals, and members that are no samples.
    odd = [
        {"__key__": "a/b.c/one", "PNG": png(40), "cls": 1, "mask.png": png(0), "note.txt": b"x"},
        {"__key__": "a/b.c/two", "png": png(41), "cls": 2},
    ]
    write(folder / "train-0004.tar", odd)
    with tarfile.open(folder / "train-0004.tar", "a") as tar:
        for name in ("__meta__/x.png", "README"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    images = whole(folder)
    paths = sorted(map(str, folder.glob("*.tar")))
    stream = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False)
    theirs = [(sample["__url__"], sample["__key__"], sample["png"], sample["cls"].decode()) for sample in stream]
    ours = []
    for index in range(len(images)):
        path = images.paths[images.shard[index]]
        key = str(images.names[index]).rpartition(".")[0]
        ours.append((path, key, images.encoded(index).read(), images.classes[images.labels[index]]))
    assert ours == theirs
    assert len(ours) == 34
    del stream
    gc.collect()


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    """As macOS puts them beside every file; webdataset would take "a/" for a sample."""
    path = write(tmp_path / "x.tar", [{"__key__": f"a/{n}", "png": png(n), "cls": n} for n in range(2)])
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("a/._0.png"), io.BytesIO())
    assert len(whole(path)) == 2


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_sample_comes_once_and_batches_do_not_depend_on_workers(folder: Path, workers: int) -> None:
    images = whole(folder)

    def epoch(number: int, workers: int, start: int = 0) -> list[list[torch.Tensor]]:
        loader = make_loader(images, eval_transform(P), "RGB", batch_size=5, train=True, seed=1, workers=workers)
        loader.set_epoch(number, start)
        return [list(batch) for batch in loader]

    orders = []
    for number in range(2):
        batches, alone = epoch(number, workers), epoch(number, 0)
        assert all(torch.equal(*pair) for one, other in zip(batches, alone, strict=True) for pair in zip(one, other, strict=True))
        orders.append(torch.cat([indices for _, _, indices in batches]).tolist())
        # The red channel is the number of the image: what arrives is what the index promises.
        red = torch.cat([pixels[:, 0, 0, 0] for pixels, _, _ in batches])
        assert torch.allclose(red * 127.5 + 127.5, torch.tensor(orders[-1]).float(), atol=1e-3)
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(32))
    assert orders[0] != orders[1]
    assert torch.cat([indices for _, _, indices in epoch(1, workers, start=3)]).tolist() == orders[1][15:]


def test_the_order_is_local_and_drawn_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "NEAR_SAMPLES", 50)
    counts = np.random.default_rng(0).integers(5, 15, 100)
    shard = np.repeat(np.arange(100), counts)
    N = len(shard)
    nothing = np.zeros(N, dtype=np.int64)
    images = ShardImages(("a", "b"), nothing, ("x",) * 100, ((0, 0),) * 100, shard, nothing, nothing, np.array(["n"] * N))
    order = images.epoch_order(5)
    assert np.array_equal(np.sort(order), np.arange(N))
    assert np.array_equal(order, images.epoch_order(5))
    assert not np.array_equal(order, images.epoch_order(6))
    # A sample moves by less than four shards of 14: those of a shard stay together, and a stretch of the order touches few shards.
    spans = [np.ptp(np.flatnonzero(shard[order] == number)) for number in range(100)]
    assert max(spans) < 56 + 14
    assert np.median(spans) > 28, "and are not in one piece"
    assert max(len(set(shard[order[start : start + 20]])) for start in range(0, N - 20, 20)) < 20
    # Shards themselves come in a random order, and no sample of a shard keeps its neighbours.
    first_seen = np.array([np.flatnonzero(shard[order] == number)[0] for number in range(100)])
    assert abs(np.corrcoef(first_seen, np.arange(100))[0, 1]) < 0.5
    assert np.mean(np.diff(order) == 1) < 0.1

    part = Subset(images, np.arange(0, N, 7))
    assert part.epoch_order is not None
    assert np.array_equal(part.indices[part.epoch_order(5)], [index for index in order if index % 7 == 0])
    nested = Subset(part, np.array([3, 1]))
    assert nested.epoch_order is not None
    assert sorted(nested.epoch_order(5)) == [0, 1]


def test_loaders_take_the_order_of_the_set(folder: Path) -> None:
    images = Subset(whole(folder), np.arange(4, 30))
    loader = make_loader(images, eval_transform(P), "RGB", batch_size=5, train=True, seed=9, workers=0)
    loader.set_epoch(2)
    assert images.epoch_order is not None
    assert torch.cat([indices for _, _, indices in loader]).tolist() == images.epoch_order(hashed(9, 2)).tolist()
    plain = make_loader(images, eval_transform(P), "RGB", batch_size=5, train=False, seed=9, workers=0)
    assert torch.cat([indices for _, _, indices in plain]).tolist() == list(range(26))


def test_sets_without_an_order_of_their_own_are_shuffled_whole() -> None:
    assert open_data("fashion-mnist-sample").train.epoch_order is None  # type: ignore[attr-defined]


def splits(source: object) -> list[list[str]]:
    data = open_data(str(source))
    parts: list[ImageSet] = [part for part in (data.train, data.val, data.test) if part is not None]
    return [[part.name(index)[-8:-4] for index in range(len(part))] for part in parts]


def test_splits_come_from_names_or_folders(tmp_path: Path) -> None:
    numbers = {"train": 0, "val": 20, "test": 40}
    expected = [[f"{first + n:04}" for n in range(6)] for first in numbers.values()]
    for split, first in numbers.items():
        write(tmp_path / "named" / f"pets-{split}-0000.tar", samples(first, 6))
        write(tmp_path / "deep" / split / "0000.tar", samples(first, 6))
    assert splits(tmp_path / "named") == splits(tmp_path / "deep") == expected
    assert splits(f"{tmp_path}/named/pets-{{train,val}}-0000.tar") == expected[:2]
    assert splits(f"{tmp_path}/deep/*/0000.tar")[0] != expected[0], "names that say nothing are split by the seed"
    assert len(open_split(f"{tmp_path}/named/*-{{train,test}}-*.tar", "test")) == 6
    with pytest.raises(DataError, match=r"has a split val but no split train"):
        open_data(f"{tmp_path}/named/pets-val-0000.tar")
    write(tmp_path / "named" / "more.tar", samples(60, 3))
    with pytest.raises(DataError, match=r"mixes shards named after a split with others \(more\.tar\)"):
        open_data(tmp_path / "named")
    write(tmp_path / "deep" / "more.tar", samples(60, 3))
    with pytest.raises(DataError, match="beside train/ with shards"):
        open_data(tmp_path / "deep")


def test_without_splits_the_seed_decides(tmp_path: Path) -> None:
    for shard in range(2):
        write(tmp_path / "set" / f"{shard}.tar", samples(20 * shard, 20, classes=2))
    data = open_data(tmp_path / "set", seed=3, val_fraction=0.2)
    assert (np.bincount(data.train.labels).tolist(), np.bincount(data.val.labels).tolist(), data.test) == ([16, 16], [4, 4], None)
    again = open_split(f"{tmp_path}/set/{{0..1}}.tar", "val", seed=3, val_fraction=0.2)
    assert [again.name(index) for index in range(8)] == [data.val.name(index) for index in range(8)]


def test_an_archive_beside_class_folders_is_no_shard(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train").symlink_to(pictures / "train")
    write(tmp_path / "set" / "original.tar", samples(0, 4))
    assert open_data(tmp_path / "set").classes == tuple(COLOURS)


LABELS: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "cls": ([{"cls": 10}, {"cls": 9}], ("9", "10")),
    "text": ([{"cls": b"dog\n"}, {"cls": b"cat"}], ("cat", "dog")),
    "json": ([{"json": {"label": 1}}, {"json": {"cls": "0", "caption": "x"}}], ("0", "1")),
    "json class": ([{"json": {"class": "b"}}, {"json": {"label": "a", "class": "z"}}], ("a", "b")),
    "cls before json": ([{"cls": 5, "json": {"label": 1}}, {"cls": 6, "json": {"label": 1}}], ("5", "6")),
    "json without": ([{"json": {"id": 1}, "txt": "a"}, {"classname": b"b"}], ("a", "b")),
}


@pytest.mark.parametrize("name", LABELS)
def test_where_the_class_is_written(tmp_path: Path, name: str) -> None:
    labels, classes = LABELS[name]
    path = write(tmp_path / "x.tar", [{"__key__": str(n), "jpg": png(n), **label} for n, label in enumerate(labels)])
    assert open_split(path).classes == classes


@pytest.mark.parametrize("name", ["classes.txt", "classnames.txt"])
def test_class_names_beside_the_shards(folder: Path, name: str) -> None:
    (folder / name).write_text("cat\ntench, Tinca tinca\nant\nbee\n")
    images = whole(folder)
    assert images.classes == ("cat", "tench, Tinca tinca", "ant", "bee")
    assert images.labels.tolist() == [index % 3 for index in range(32)]
    (folder / name).write_text("cat\ndog\n")
    with pytest.raises(DataError, match=rf"The class 2 of a sample is not in .*{name}"):
        whole(folder)
    (folder / name).write_text("cat\ndog\ncat\n")
    with pytest.raises(DataError, match="names cat twice"):
        whole(folder)


def test_the_index_is_kept_and_made_again_when_a_shard_changes(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = whole(folder)
    assert len(list(cache.glob("*.json"))) == len(list(cache.iterdir())) == 4
    assert sorted(path.name for path in folder.iterdir()) == [f"train-000{n}.tar" for n in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        again = whole(folder)
    assert again.encoded(20).read() == first.encoded(20).read() == png(20)
    write(folder / "train-0002.tar", samples(100, 9))
    assert whole(folder).encoded(20).read() == png(108)
    # As a process finds it that has not opened the shard yet.
    os.utime(folder / "train-0001.tar", ns=(1, 1))
    with pytest.raises(DataError, match=r"train-0001\.tar was changed"):
        first.encoded(5)
    for kept in cache.iterdir():
        kept.write_text("[]")
    assert len(whole(folder)) == 32


def test_long_indexing_says_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    whole(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(shards, "SILENCE", -1.0)
    whole(folder)
    assert f"3 of 4 shards of {folder} are indexed" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(whole(folder)) == 32


def test_few_files_stay_open_and_threads_do_not_mix_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_index, "OPEN_FILES", 3)
    for shard in range(10):
        write(tmp_path / "set" / f"{shard}.tar", samples(10 * shard, 10))
    images = whole(tmp_path / "set")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for index in np.random.default_rng(0).permutation(100):
        assert images.encoded(int(index)).read() == png(index)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert [seen.reason for seen in look_at_all({"all": images}, "RGB", None, 4, None)["all"]] == [""] * len(images)


def test_a_set_travels_to_a_spawned_process(folder: Path) -> None:
    images = whole(folder)
    images.encoded(3)
    copy = pickle.loads(pickle.dumps(images))
    assert copy.encoded(30).read() == png(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own_files(folder: Path) -> None:
    """An inherited one would share its position, and two readers would move it under each other."""
    images = whole(folder)
    images.encoded(3)
    file = tar_index._HERE.files.get(images.paths[0], images.stamps[0])
    before = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    child = multiprocessing.get_context("fork").Process(target=images.encoded, args=(0,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == before


def cut(path: Path, keep: Callable[[int], int]) -> None:
    path.write_bytes(path.read_bytes()[: keep(path.stat().st_size)])


@pytest.mark.parametrize("keep", [lambda size: size // 2, lambda size: 700, lambda size: 0, lambda size: 512 * 20, lambda size: 512 * 9])
def test_shards_cut_short(folder: Path, keep: Callable[[int], int]) -> None:
    cut(folder / "train-0003.tar", keep)
    with pytest.raises(DataError, match=r"train-0003\.tar is cut short or no tar"):
        open_data(folder)


def test_a_damaged_header_is_not_taken_for_the_end(folder: Path) -> None:
    path = folder / "train-0003.tar"
    content = bytearray(path.read_bytes())
    content[512 * 12 : 512 * 12 + 20] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-0003\.tar is cut short or no tar"):
        open_data(folder)


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar"])
def test_compressed_shards_are_refused(folder: Path, tmp_path: Path, suffix: str) -> None:
    packed = tmp_path / "packed" / f"train-0.{suffix}"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((folder / "train-0000.tar").read_bytes()))
    for source in (packed, packed.parent):
        with pytest.raises(DataError, match=r"is compressed \(gzip\).*gunzip"):
            open_data(source)


@pytest.mark.parametrize(
    ("sample", "complaint"),
    [
        ({"png": png(1)}, r"sample bad in .*x\.tar has no label, only png"),
        ({"png": png(1), "json": {"id": 3}}, "has no label"),
        ({"cls": 1}, "no image, only cls"),
        ({"jpg": png(1), "png": png(1), "cls": 1}, "the images jpg, png; expected one"),
        ({"png": png(1), "json": {"label": [1, 2]}}, r"has the labels \[1, 2\]; .*several labels cannot be trained"),
        ({"png": png(1), "cls": b"cat|dog"}, "several labels cannot be trained"),
        ({"png": png(1), "cls": b"[1, 2]"}, "several labels cannot be trained"),
        ({"png": png(1), "cls": b""}, "empty label"),
        ({"png": png(1), "json": b"{"}, "not JSON"),
        ({"png": png(1), "cls": b"\xff\xfe"}, "not text in UTF-8"),
    ],
)
def test_samples_that_cannot_be_trained_on(tmp_path: Path, sample: dict[str, Any], complaint: str) -> None:
    path = write(tmp_path / "x.tar", [*samples(0, 3), {"__key__": "bad", **sample}])
    with pytest.raises(DataError, match=complaint):
        open_data(path)


def test_two_files_of_one_kind_in_a_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(DataError, match=r"sample a in .* holds two files \.png"):
        open_data(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("gone-{0..3}.tar", r"4 of the 4 shards of gone.* do not exist, such as gone-0\.tar"),
        ("set/train-{0000..0005}.tar", r"2 of the 6 shards .* such as set/train-0004\.tar"),
        ("gone-*.tar", "No shard matches gone"),
        ("set/train-{0000,0000}.tar", "twice"),
        ("set/train-{0..3.tar", "no pattern of shards|do not exist"),
        ("https://host/x-{0..3}.tar", "not on this machine"),
        ("set/gone.tar", r"The shard set/gone\.tar does not exist"),
    ],
)
def test_patterns_that_match_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, complaint: str) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(DataError, match=complaint):
        open_data(pattern)


def test_val_must_not_know_more_than_train(tmp_path: Path) -> None:
    write(tmp_path / "s" / "train-0.tar", samples(0, 6, classes=2))
    write(tmp_path / "s" / "val-0.tar", samples(0, 6, classes=3))
    with pytest.raises(DataError, match="class 2 in val, which train has not"):
        open_data(tmp_path / "s")


def test_training_from_shards(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a relative pattern; interrupted runs and evaluation find the same images from another folder."""
    files = sorted((pictures / "train").rglob("*.png"))
    for shard in range(3):
        content = [
            {
                "__key__": f"{path.parent.name}{path.stem}",
                "png": path.read_bytes(),
                "json": json.dumps({"label": path.parent.name}).encode(),
            }
            for path in files[shard::3]
        ]
        write(tmp_path / "set" / f"colours-{shard:03}.tar", content)
    monkeypatch.chdir(tmp_path / "set")
    result = swinkit.train("colours-{000..002}.tar", output=tmp_path / "run", console=Console(quiet=True), **TINY | {"epochs": 2})
    monkeypatch.chdir(tmp_path)
    scores = swinkit.evaluate(result.run)
    assert (result.scored_on, scores.count, scores.top1) == ("val", 6, result.scores.top1)
    assert scores.classes == tuple(COLOURS)
