"""Tables of images and labels: what they mean, and what is wrong with them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from rich.console import Console

import swinkit
from conftest import TINY
from swinkit.data import ImageSet, absolute_source, open_data, open_split
from swinkit.errors import DataError, UnknownNameError


def names(images: ImageSet) -> list[str]:
    return [images.name(index) for index in range(len(images))]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes text as a table, beside images 0.png to 9.png in pictures/."""
    for number in range(10):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(path)

    def write(text: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_text(text, encoding=encoding)
        return tmp_path / name

    return write


def rows(labels: str, first: int = 0) -> str:
    return "".join(f"pictures/{first + number}.png,{label}\n" for number, label in enumerate(labels))


def test_a_table_is_split_by_the_seed_as_a_folder_is(table: Callable[..., Path], tmp_path: Path) -> None:
    data = open_data(table("path,label\n" + rows("aaaaabbbbb")), seed=3)
    for number, label in enumerate("aaaaabbbbb"):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / f"pictures/{number}.png", tmp_path / "folder" / label)
    folder = open_data(tmp_path / "folder", seed=3)
    for ours, theirs in ((data.train, folder.train), (data.val, folder.val)):
        assert [Path(name).name for name in names(ours)] == [Path(name).name for name in names(theirs)]
        assert ours.labels.tolist() == theirs.labels.tolist()
    assert (data.classes, data.in_chans, data.image_size, data.test) == (("a", "b"), 3, (6, 8), None)
    assert np.asarray(data.train.image(0, "RGB"))[0, 0].tolist() == [0, 0, 0]
    assert data.train.name(0) == str(tmp_path / "pictures/0.png")


def test_a_split_column_decides(table: Callable[..., Path]) -> None:
    splits = ("train", "train", "Validation", "valid", "val", "test")
    text = "".join(f"pictures/{n}.png,{'ab'[n % 2]},{split}\n" for n, split in enumerate(splits))
    file = table("filename,target,split\n" + text)
    data = open_data(file)
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [2, 3, 1]
    assert names(open_split(file)) == names(data.test)
    assert names(open_split(file, "val")) == names(data.val)
    assert data.val.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_a_folder_with_a_table_per_split(table: Callable[..., Path], tmp_path: Path, form: str) -> None:
    for split, first in (("train", 0), ("valid", 4), ("test", 8)):
        content = {"image": [f"pictures/{first + n}.png" for n in range(2)], "class": ["x, y", "z"]}
        if form == "parquet":
            pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / f"{split}.parquet")
            continue
        mark = {"csv": ",", "tsv": "\t"}[form]
        lines = [mark.join((path, f'"{label}"')) for path, label in zip(*content.values(), strict=True)]
        table("\n".join([f"image{mark}class", *lines]), f"{split}.{form}", encoding="utf-8-sig")
    data = open_data(tmp_path)
    assert data.test is not None
    assert data.classes == ("x, y", "z")
    assert names(data.train) + names(data.val) + names(data.test) == [str(tmp_path / f"pictures/{n}.png") for n in (0, 1, 4, 5, 8, 9)]
    (tmp_path / "val.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="mean the same"):
        open_data(tmp_path)


def test_numbers_sort_as_numbers(table: Callable[..., Path], tmp_path: Path) -> None:
    text = "path,label\n" + "".join(f"pictures/{n}.png,{label}\n" for n, label in enumerate((10, 9, 100, 9)))
    assert open_split(table(text)).classes == ("9", "10", "100")
    pyarrow.parquet.write_table(
        pyarrow.table({"path": [f"pictures/{n}.png" for n in range(4)], "label": [10.0, 9.0, 100.0, 9.0]}), tmp_path / "x.parquet"
    )
    images = open_split(tmp_path / "x.parquet")
    assert (images.classes, images.labels.tolist()) == (("9", "10", "100"), [1, 0, 2, 0])
    assert open_split(table(text.replace(",100\n", ",tench\n"))).classes == ("10", "9", "tench")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no images"),
        ("id,label\n1,a\n", r"no path column: expected .*path, image, file.* its columns are id, label"),
        ("path,breed\na,b\n", r"no label column: .*label, class or target .* its columns are path, breed"),
        ("path;label\na;b\n", r"separated by commas; its columns are path;label"),
        ("path,label,Label\na,b,b\n", "two columns called label"),
        ("path,label\n" + rows("ab") + "pictures/2.png, \n", r"labels\.csv, line 4 has an empty label"),
        ("path,label\n" + rows("ab") + ",a\n", "line 4 has no path"),
        ("path,label\n" + rows("ab") + "pictures/2.png,a,b\n", "line 4 has 3 fields where the first line has 2"),
        ('path,label\n"pictures/0.png,a\n', r"line 2 is not CSV"),
        ("path,label\n" + rows("ab") + "x.png,a\ny.png,b\n", r"2 of the 4 images .* do not exist: .*x\.png \(.*line 4\); .*y\.png"),
        ("path,label,split\npictures/0.png,a,holdout\n", r"line 2 has the split 'holdout'; expected train, val"),
        ("path,label\n" + rows("ab") + rows("a"), r"line 4 lists .*0\.png a second time, after .*line 2"),
        ("path,label\n" + rows("ab") + "pictures/../pictures/0.png,b\n", r"line 4 gives .* 'b' after 'a' .*several labels cannot be"),
        ("path,label,split\npictures/0.png,a,train\npictures/0.png,a,val\n", "puts .* into val, but .* has it in train"),
        ("path,label\n" + rows("ab") + "pictures/2.png,cat|dog\n", r"line 4 has the label 'cat\|dog'.*several labels cannot be trained"),
        ("path,label\n" + rows("ab") + "pictures/2.png,cat;dog\n", "several labels cannot be trained"),
        ("path,label\n" + rows("ab") + "pictures/2.png,\"['cat', 'dog']\"\n", "several labels cannot be trained"),
        ("path,cat,dog\npictures/0.png,1,0\npictures/1.png,1,1\n", r"columns cat, dog of 0 and 1; .*several labels cannot be trained"),
        ("path,label\n" + rows("aa"), "only one class"),
        (
            "path,label,split\npictures/0.png,a,train\npictures/1.png,b,train\npictures/2.png,c,val\n",
            r"class c in val, which train has not",
        ),
        ("path,label,split\npictures/0.png,a,val\npictures/1.png,b,test\n", "only one class|no split train"),
        ("path,label,split\npictures/0.png,a,val\npictures/1.png,b,val\n", "no split train"),
    ],
)
def test_tables_that_cannot_be_trained_on(table: Callable[..., Path], text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        open_data(table(text))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"path": ["pictures/0.png"], "label": [["a", "b"]]}, r"row 1 has the labels .*several labels cannot be trained"),
        ({"path": ["pictures/0.png", "pictures/1.png"], "label": ["a", None]}, "row 2 has an empty label"),
        ({"path": ["pictures/0.png"], "label": [0.5]}, "row 1 has the label 0.5, which is a measurement"),
        ({"path": ["a", "b"], "cat": [0, 1], "dog": [True, True]}, "columns cat, dog of 0 and 1"),
        ({"image": [{"bytes": b"x", "path": "0.png"}], "label": ["a"]}, r"column image .* holds images .*hf:"),
        ({"name": ["a"], "label": ["b"]}, "no path column"),
    ],
)
def test_parquet_that_cannot_be_trained_on(
    table: Callable[..., Path], tmp_path: Path, content: dict[str, list[object]], complaint: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=complaint):
        open_data(tmp_path / "x.parquet")


def test_files_that_are_no_tables(table: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        open_data(table("nonsense", "x.parquet"))
    with pytest.raises(DataError, match="not text in UTF-8"):
        open_data(table("path,label\nä,ö\n", encoding="latin-1"))
    with pytest.raises(DataError, match=r"gone\.csv does not exist"):
        open_data("gone.csv")
    table("path,label,split\npictures/0.png,a,val\n", "train.csv")
    with pytest.raises(DataError, match="the table for train"):
        open_data(tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a"], "label": ["b"]}), tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"needs the package pyarrow .*pip install 'swinkit\[data\]'"):
        open_data(tmp_path / "x.parquet")


def test_sources_become_absolute(table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = table("path,label\n")
    monkeypatch.chdir(tmp_path)
    assert absolute_source("labels.csv") == str(file.resolve())
    assert absolute_source("pictures") == str((tmp_path / "pictures").resolve())
    assert absolute_source("hf:pictures#kind") == f"hf:{(tmp_path / 'pictures').resolve()}#kind"
    assert absolute_source("s/{a,../b}-{0..9}.tar::/x/c.tar") == f"{Path.cwd()}/s/{{a,../b}}-{{0..9}}.tar::/x/c.tar"
    for name in ("fashion-mnist", "hf:owner/name@main", "nothing-of-this-name"):
        assert absolute_source(name) == name
    with pytest.raises(UnknownNameError, match=r"a folder, a table .* or hf:OWNER/NAME"):
        open_data("nothing-of-this-name")


def test_training_from_a_table(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by a relative path, and scored from another folder on the images that the run held out."""
    lines = [f"{path.relative_to(pictures.parent)},{path.parent.name}" for path in sorted((pictures / "train").rglob("*.png"))]
    (pictures.parent / "colours.csv").write_text("\n".join(["file,label", *lines]))
    monkeypatch.chdir(pictures.parent)
    result = swinkit.train("colours.csv", output=tmp_path / "run", console=Console(quiet=True), **TINY | {"epochs": 1})
    monkeypatch.chdir(tmp_path)
    assert result.scored_on == "val"
    scores = swinkit.evaluate(result.run)
    assert (scores.count, scores.top1) == (6, result.scores.top1)
    assert swinkit.evaluate(result.run, pictures.parent / "colours.csv", split="train").count == 54
