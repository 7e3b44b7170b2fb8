"""What a look at the images before training finds, says, refuses, and remembers."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import swinkit
from conftest import COLOURS, TINY, write_pictures
from swinkit.data import Splits, looks, open_data
from swinkit.data.check import Findings, apply, look, report
from swinkit.data.looks import cache_folder
from swinkit.data.sets import ImageSet, Subset
from swinkit.errors import ConfigError, DataError, InputError
from swinkit.train.checks import look_for_all
from swinkit.train.plan import plan_start
from swinkit.train.recipe import Recipe
from swinkit.train.world import World

PATCH = (4, 4)


def save_noise(path: Path, seed: int, size: tuple[int, int] = (24, 20), mode: str = "RGB", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size, 3) if mode == "RGB" else size
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path, **options)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """train/ (20 a class), val/ and test/ (6 a class) of blue, green and red; every image differs."""
    for seed, (split, count) in enumerate({"train": 20, "val": 6, "test": 6}.items()):
        write_pictures(tmp_path / "data" / split, count, seed)
    return tmp_path / "data"


def cut(path: Path, part: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])


# Findings


def test_a_good_folder(data: Path) -> None:
    splits, seen = open_data(data), []
    findings = look(splits, patch=PATCH, progress=lambda done, total: seen.append((done, total)))
    assert findings.counts == {"train": (20, 20, 20), "val": (6, 6, 6), "test": (6, 6, 6)}
    assert (findings.sizes, findings.modes) == (((20, 18),) * 3, {"RGB": 96})
    assert not any(findings.unusable(part) for part in findings.counts)
    assert (seen[-1], sorted(seen)) == ((96, 96), seen)
    assert apply(splits, findings, skip_broken=False).train is splits.train
    assert report(findings, splits) == [
        "classes blue 20/6/6, green 20/6/6, red 20/6/6 (images in train/val/test)",
        "sizes   20 x 18 pixels; 96 RGB",
    ]


def test_sizes_are_as_displayed_and_by_area(data: Path) -> None:
    save_noise(data / "train/red/wide.png", 1, (10, 50), mode="L")
    turned = Image.Exif()
    turned[0x0112] = 6
    save_noise(data / "train/red/turned.jpg", 2, (30, 90), exif=turned)
    save_noise(data / "train/red/little.png", 3, (5, 6))
    splits = open_data(data)
    findings = look(splits, patch=PATCH)
    assert findings.sizes == ((5, 6), (20, 18), (90, 30))
    assert findings.modes == {"RGB": 98, "L": 1}
    assert "sizes   5 x 6 to 90 x 30 pixels, median 20 x 18; 98 RGB, 1 L" in report(findings, splits)


def test_broken_and_small_images_stop_with_the_list(data: Path) -> None:
    cut(data / "train/red/003.png")
    (data / "val/blue/001.png").write_text("not a picture")
    save_noise(data / "test/green/002.png", 5, (30, 3))
    splits = open_data(data)
    findings = look(splits, patch=PATCH)
    with pytest.raises(DataError, match=r"3 of 96 images in .*--skip-broken") as caught:
        apply(splits, findings, skip_broken=False)
    for said in (r"train/red/003.png is broken or cut short", "val/blue/001.png is not an image", "test/green/002.png has 30 x 3 pixels"):
        assert said in str(caught.value)
    left = apply(splits, findings, skip_broken=True)
    assert left.test is not None
    assert (len(left.train), len(left.val), len(left.test)) == (59, 17, 17)
    names = [left.train.name(index) for index in range(len(left.train))]
    assert str(data / "train/red/003.png") not in names
    assert np.bincount(left.train.labels).tolist() == [20, 20, 19]
    assert sum(line.startswith("skipped 1 of ") for line in report(findings, splits)) == 3


def test_a_long_list_is_cut(data: Path) -> None:
    for path in sorted((data / "train").rglob("*.png"))[:25]:
        cut(path)
    splits = open_data(data)
    with pytest.raises(DataError, match=r"25 of 96 images(.|\n)*\.\.\. and 5 more") as caught:
        apply(splits, look(splits, patch=PATCH), skip_broken=False)
    assert len(str(caught.value).splitlines()) == 22


def test_what_must_be_left(data: Path) -> None:
    for path in (data / "train/red").iterdir():
        cut(path)
    splits = open_data(data)
    with pytest.raises(DataError, match="None of the 20 training images of class red"):
        apply(splits, look(splits, patch=PATCH), skip_broken=True)
    for path in (data / "val").rglob("*.png"):
        cut(path)
    with pytest.raises(DataError, match=r"None of the 18 images of val .*can be used"):
        apply(splits, look(splits, patch=PATCH), skip_broken=True)


def test_images_of_one_class_are_refused(data: Path) -> None:
    splits = open_data(data)
    one = dataclasses.replace(splits, train=Subset(splits.train, np.arange(20)))
    with pytest.raises(DataError, match=r"All 20 training images .* are of class blue"):
        apply(one, look(one, patch=PATCH), skip_broken=False)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("part", [0.3, 0.9, 0.95, 0.99, 0.999])
def test_a_jpeg_cut_short_is_found_where_training_would_find_it(tmp_path: Path, part: float, options: dict[str, Any]) -> None:
    path = tmp_path / "a.jpg"
    save_noise(path, 0, (300, 400), quality=90, **options)
    assert looks.look_at_file(path, "RGB")[:3] == ("RGB", 300, 400)
    cut(path, part)
    assert "a.jpg is broken or cut short" in looks.look_at_file(path, "RGB").reason
    with pytest.raises(InputError):
        swinkit.read_image(path)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_other_files_cut_short_are_found(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    (tmp_path / "a").write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * 0.9)])
    assert f"{tmp_path / 'a'} is broken" in looks.look_at_file(tmp_path / "a", "RGB").reason


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path) -> None:
    assert "No such file" in looks.look_at_file(tmp_path / "gone.png", "RGB").reason


def test_images_in_memory_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = open_data("fashion-mnist-sample")
    monkeypatch.setattr(type(splits.train), "image", lambda *_: pytest.fail("decoded"))
    findings = look(splits, patch=PATCH, progress=lambda *_: pytest.fail("looked"))
    assert apply(splits, findings, skip_broken=False).train is splits.train
    assert report(findings, splits)[0].startswith("classes T-shirt/top 540/60/100, Trouser 540/60/100, ")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Images that come from nowhere; the one of `bad` cannot be read."""

    classes: tuple[str, ...]
    labels: Any
    bad: int = -1
    repeat: int = 1000

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int, mode: str) -> Image.Image:
        if index == self.bad:
            raise InputError(f"{self.name(index)} is broken.")
        return Image.new("RGB", (8, 9), (index % self.repeat, 0, 7)).convert(mode)

    def name(self, index: int) -> str:
        return f"drawn/{index}"


def drawn_splits(train: ImageSet, val: ImageSet) -> Splits:
    return Splits("drawn", train, val, None, train.classes, 3, (8, 8))


def test_sets_without_files() -> None:
    splits = drawn_splits(Drawn(("a", "b"), np.array([0, 1] * 10), bad=3), Drawn(("a", "b"), np.array([0, 1, 0])))
    findings = look(splits, patch=PATCH)
    assert [image.name for image in findings.unusable("train")] == ["drawn/3"]
    assert (findings.sizes[0], findings.modes) == ((9, 8), {})
    assert findings.overlaps.leaks == (("val", 3, ("drawn/0", "drawn/0")),)
    assert len(apply(splits, findings, skip_broken=True).train) == 19


def test_findings_go_through_json(data: Path) -> None:
    cut(data / "train/red/003.png")
    save_noise(data / "val/red/small.png", 1, (2, 2))
    shutil.copy(data / "train/red/004.png", data / "val/blue/other.png")
    splits = open_data(data)
    findings = look(splits, patch=PATCH)
    back = Findings.from_dict(json.loads(json.dumps(findings.to_dict())))
    assert back == findings
    assert back.overlaps.leaks
    assert back.overlaps.label_pairs


# Notes


def test_many_classes_are_shortened() -> None:
    classes = tuple(f"c{number}" for number in range(30))
    labels = np.repeat(np.arange(30), np.arange(30) + 1)
    splits = drawn_splits(Drawn(classes, labels, repeat=256), Drawn(classes, np.arange(29)))
    lines = report(look(splits, patch=PATCH), splits)
    assert lines[0] == "classes 30; most: c29 30/0, c28 29/1, c27 28/1; least: c2 3/1, c1 2/1, c0 1/1 (images in train/val)"
    assert "note    c29 has no images in val, whose scores say nothing about it" in lines


def test_rare_and_absent_classes_are_mentioned() -> None:
    labels = np.array([0] * 200 + [1] * 2 + [2] * 50)
    splits = drawn_splits(Drawn(("cat", "dog", "cow", "emu"), labels), Drawn(("cat", "dog", "cow", "emu"), np.array([0, 1, 2])))
    lines = "\n".join(report(look(splits, patch=PATCH), splits))
    assert "cat has 200 training images and dog 2" in lines
    assert "emu has no training images" in lines
    assert "in val" not in lines.replace("in val images", "")


def test_training_images_among_the_others_are_mentioned(data: Path) -> None:
    shutil.copy(data / "train/red/004.png", data / "val/red/004.png")
    shutil.copy(data / "train/red/005.png", data / "test/red/other.png")
    splits = open_data(data)
    findings = look(splits, patch=PATCH)
    apply(splits, findings, skip_broken=False)
    notes = [line for line in report(findings, splits) if line.startswith("note")]
    assert len(notes) == 2
    assert "1 of 18 val images are in train as well" in notes[0]
    assert f"{data}/test/red/other.png is {data}/train/red/005.png" in notes[1]


# Several labels


@pytest.mark.parametrize("how", ["copy", "symlink", "hard link"])
def test_one_image_in_two_classes_is_refused(data: Path, how: str) -> None:
    source, target = data / "train/red/004.png", data / "train/blue/004.png"
    target.unlink()
    if how == "copy":
        shutil.copy(source, target)
    elif how == "symlink":
        (data / "train/blue/link.png").symlink_to(source)
    else:
        os.link(source, data / "train/blue/link.png")
    splits = open_data(data)
    with pytest.raises(DataError, match=r"in more than one class, such as .*red/004\.png.* several labels cannot be trained"):
        apply(splits, look(splits, patch=PATCH), skip_broken=False)


def test_a_few_stray_copies_are_only_mentioned() -> None:
    labels = np.array([0, 1] * 125)
    few = drawn_splits(Drawn(("a", "b"), labels, repeat=249), Drawn(("a", "b"), np.array([], np.int64)))
    findings = look(few, patch=PATCH)
    assert findings.overlaps.several_labels == 2
    assert apply(few, findings, skip_broken=False).train is few.train
    assert any("2 images are the same and in different classes, such as drawn/0 and drawn/249" in line for line in report(findings, few))
    many = drawn_splits(Drawn(("a", "b"), labels, repeat=247), Drawn(("a", "b"), np.array([], np.int64)))
    with pytest.raises(DataError, match="more than one class"):
        apply(many, look(many, patch=PATCH), skip_broken=False)


def test_copies_within_a_class_are_nobodys_business(data: Path) -> None:
    shutil.copy(data / "train/red/004.png", data / "train/red/005.png")
    splits = open_data(data)
    findings = look(splits, patch=PATCH)
    assert findings.overlaps == type(findings.overlaps)()
    apply(splits, findings, skip_broken=False)


@pytest.mark.parametrize(
    "files",
    [
        ["images/a.jpg", "labels/a.txt"],
        ["train/images/a.jpg", "train/labels/a.txt", "val/images/b.jpg", "val/labels/b.txt"],
        ["images/train/a.jpg", "labels/train/a.txt"],
        ["JPEGImages/a.jpg", "Annotations/a.xml", "ImageSets/Main/train.txt"],
        ["train2017/a.jpg", "annotations/instances_train2017.json"],
        ["images/a.jpg", "masks/a.png"],
    ],
    ids=str,
)
def test_folders_for_other_tasks_are_recognised(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(DataError, match="looks like a data set for detection or segmentation"):
        open_data(tmp_path)


# Memory


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    looked: list[Path] = []
    original = looks.look_at_file
    monkeypatch.setattr(looks, "look_at_file", lambda path, mode: (looked.append(path), original(path, mode))[1])
    return looked


def test_only_what_changed_is_decoded_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(data / "val/red/001.png")
    splits = open_data(data)
    first = look(splits, patch=PATCH)
    looked = count_decodes(monkeypatch)
    assert look(splits, patch=PATCH) == first
    assert looked == [data / "val/red/001.png"], "broken files are looked at again"
    looked.clear()
    save_noise(data / "train/red/007.png", 1, (40, 40))
    assert look(splits, patch=PATCH).sizes[-1] == (40, 40)
    assert set(looked) == {data / "train/red/007.png", data / "val/red/001.png"}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"format": 1}', b"\xff\xfe", b'{"format": 1, "pillow": "?", "files": {}}', "old"])
def test_a_memory_that_cannot_be_read_is_ignored(data: Path, looks_folder: Path, content: Any) -> None:
    splits = open_data(data)
    first = look(splits, patch=PATCH)
    file = max(looks_folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if content == "old":
        kept = json.loads(file.read_bytes())
        kept["files"] = {name: [*entry[:4], "wide", entry[5]] for name, entry in kept["files"].items()}
        content = json.dumps(kept).encode()
    file.write_bytes(content)
    assert look(splits, patch=PATCH) == first
    assert len(json.loads(file.read_bytes())["files"]) == 96


def test_a_memory_that_cannot_be_written_is_ignored(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(looks, "cache_folder", lambda: tmp_path / "file" / "below")
    assert look(open_data(data), patch=PATCH).modes == {"RGB": 96}


def test_an_interrupted_look_is_kept(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = open_data(data)

    def stop(done: int, _total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(splits, patch=PATCH, progress=stop)
    looked = count_decodes(monkeypatch)
    look(splits, patch=PATCH)
    assert len(looked) <= 56


def test_where_looks_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "swinkit" / "checked"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "swinkit" / "checked"


# In a run


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_says_what_it_found_and_skips_what_it_is_told(data: Path, tmp_path: Path) -> None:
    cut(data / "train/red/003.png")
    cut(data / "test/red/003.png")
    console = Console(file=io.StringIO(), width=300)
    options = TINY | {"epochs": 1, "batch_size": 1000, "grad_accum_steps": 4, "img_size": 4}
    with pytest.raises(DataError, match="2 of 96 images"):
        swinkit.train(data, output=tmp_path / "run", console=console, **options)
    assert not (tmp_path / "run").exists()
    result = swinkit.train(data, output=tmp_path / "run", console=console, skip_broken=True, **options)
    said = printed(console)
    assert "59 images to train on, 18 to validate, 17 to test" in said
    assert f"classes {', '.join(f'{name} 20/6/6' for name in COLOURS)}" in said
    assert "skipped 1 of 60 train images" in said
    assert "batch_size 1,000 is more than the 59 training images allow; 59 is used instead" in said
    assert "grad_accum_steps 4 is more than the batches of an epoch; 1 is used instead" in said
    assert "2 x 2 patches, less than one window of 4 x 4" in said
    assert swinkit.evaluate(result.run).count == 17


def test_the_first_of_several_processes_looks_for_all(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(data / "train/red/003.png")
    recipe, sent = Recipe(data=str(data), skip_broken=True, **TINY), []
    monkeypatch.setattr(World, "sum", lambda _, values: values)
    monkeypatch.setattr(
        World, "share", lambda world, value: sent.append(json.dumps(value)) or value if world.first else json.loads(sent[0])
    )
    start = plan_start(recipe, open_data(data))
    ours = look_for_all(start, open_data(data), World(0, 2), Console(quiet=True))
    monkeypatch.setattr(looks, "look_at_all", lambda *_: pytest.fail("looked"))
    theirs = look_for_all(start, open_data(data), World(1, 2), None)
    assert ours == theirs
    assert len(apply(open_data(data), theirs, skip_broken=True).train) == 59


def test_a_wrong_device_is_found_before_the_look(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = count_decodes(monkeypatch)
    with pytest.raises(ConfigError, match="cuda:99"):
        swinkit.train(data, console=Console(quiet=True), **(TINY | {"device": "cuda:99"}))
    assert looked == []
