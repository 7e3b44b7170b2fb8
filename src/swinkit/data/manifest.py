"""Tables of images and labels: CSV, TSV or Parquet files with one image per row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swinkit.data.extras import need
from swinkit.data.labels import LABEL_COLUMNS, ONE_CLASS, class_name, number_classes, split_called
from swinkit.data.sets import FileImages
from swinkit.errors import DataError

PATH_COLUMNS = ("path", "image", "file", "file_name", "filename")
SPLIT_COLUMNS = ("split",)
SUFFIXES = (".csv", ".tsv", ".parquet")
SHOWN = 3


@dataclass(frozen=True)
class _Row:
    where: str
    """File and line, for errors."""
    split: str
    """"train", "val", "test", or "all" where the table says nothing."""
    path: Path
    label: str


@dataclass(frozen=True)
class _Table:
    file: Path
    columns: tuple[str, ...]
    rows: Iterable[tuple[int, Sequence[Any]]]
    """(line or row number, one value per column)"""
    unit: str
    """What the numbers count: "line" or "row"."""


def is_manifest(path: Path) -> bool:
    """Whether the name is a table's; the file need not exist."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def is_manifest_folder(folder: Path) -> bool:
    """Whether a table called after a split lies in the folder."""
    return folder.is_dir() and bool(manifests_in(folder))


def manifests_in(folder: Path) -> dict[str, Path]:
    """The tables of a folder that are called after a split: train.csv, val.parquet and so on. DataError if two mean the same."""
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if is_manifest(path)):
        if split := split_called(path.stem):
            if split in found:
                raise DataError(f"{folder} holds {found[split].name} and {path.name}, which mean the same. Remove or merge one of them.")
            found[split] = path
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def list_manifest(file: Path) -> dict[str, FileImages]:
    """The splits of one table: those its column `split` names, or only "all" if it has no such column.

    Columns: the image's path (PATH_COLUMNS), relative to the table's folder; the class (LABEL_COLUMNS); perhaps `split`. The first
    name that is there counts. No image is opened. Raises DataError, with file and line, for a table that cannot be trained on.
    """
    return _image_sets(list(_read_rows(file, None)), str(file))


def list_manifests(folder: Path) -> dict[str, FileImages]:
    """The splits of a folder with one table per split (see manifests_in); columns as in list_manifest."""
    rows = [row for split, file in manifests_in(folder).items() for row in _read_rows(file, split)]
    return _image_sets(rows, str(folder))


def _image_sets(rows: Sequence[_Row], source: str) -> dict[str, FileImages]:
    _check_paths(rows, source)
    parts = {split: rows_of for split in ("train", "val", "test", "all") if (rows_of := [row for row in rows if row.split == split])}
    classes, labels = number_classes({split: [row.label for row in part] for split, part in parts.items()}, source)
    return {split: FileImages(classes, labels[split], tuple(row.path for row in part)) for split, part in parts.items()}


def _check_paths(rows: Sequence[_Row], source: str) -> None:
    seen: dict[str, _Row] = {}
    for row in rows:
        before = seen.setdefault(os.path.normpath(row.path), row)
        if before is not row:
            raise DataError(_repeated(before, row))
    missing = [row for row in rows if not row.path.is_file()]
    if missing:
        listed = "; ".join(f"{row.path} ({row.where})" for row in missing[:SHOWN])
        more = "; ..." if len(missing) > SHOWN else ""
        raise DataError(
            f"{len(missing):,} of the {len(rows):,} images that {source} lists do not exist: {listed}{more}. "
            f"Paths are relative to the table's folder. Correct them, or remove the rows."
        )


def _repeated(before: _Row, row: _Row) -> str:
    if before.split != row.split:
        return f"{row.where} puts {row.path} into {row.split}, but {before.where} has it in {before.split}. Keep one of the two rows."
    if before.label == row.label:
        return f"{row.where} lists {row.path} a second time, after {before.where}. Remove one of the two rows."
    return (
        f"{row.where} gives {row.path} the label {row.label!r} after {before.label!r} in {before.where}; {ONE_CLASS}. "
        f"Keep one of the two rows."
    )


def _read_rows(file: Path, split: str | None) -> Iterator[_Row]:
    """split: the split that the file's name says, None if it says none."""
    table = _open_table(file)
    at_path = _column(table, PATH_COLUMNS, "path")
    at_label = _column(table, LABEL_COLUMNS, "label")
    at_split = next((index for index, name in enumerate(table.columns) if name in SPLIT_COLUMNS), None)
    empty = True
    for number, values in table.rows:
        where = f"{file}, {table.unit} {number}"
        named = split if at_split is None else _split(values[at_split], split, where)
        yield _Row(where, named or "all", _path(file.parent, values[at_path], where), class_name(values[at_label], where))
        empty = False
    if empty:
        raise DataError(f"{file} lists no images. Add rows, or remove the file.")


def _column(table: _Table, names: Sequence[str], what: str) -> int:
    for name in names:
        if name in table.columns:
            return table.columns.index(name)
    if what == "label" and (classes := _one_hot(table)):
        raise DataError(
            f"{table.file} has no label column but the columns {', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''} of 0 and 1; "
            f"{ONE_CLASS}. Write one column `label` with the one class of each image."
        )
    separator = {".csv": " separated by commas", ".tsv": " separated by tabs"}.get(table.file.suffix.lower(), "")
    raise DataError(
        f"{table.file} has no {what} column: expected one called {', '.join(names[:-1])} or {names[-1]}{separator}; "
        f"its columns are {', '.join(table.columns)}. Rename one."
    )


def _one_hot(table: _Table) -> list[str]:
    """Columns that hold nothing but 0 and 1, where there are several."""
    rows = [values for _, values in table.rows]
    flags = [name for index, name in enumerate(table.columns) if rows and all(_is_flag(values[index]) for values in rows)]
    return flags if len(flags) > 1 else []


def _is_flag(value: Any) -> bool:
    return str(value).strip() in ("0", "1", "0.0", "1.0", "True", "False")


def _split(value: Any, expected: str | None, where: str) -> str:
    split = split_called(str(value))
    if split is None:
        raise DataError(f"{where} has the split {value!r}; expected train, val (or validation, valid) or test. Correct it.")
    if expected not in (None, split):
        raise DataError(f"{where} has the split {value!r} in the table for {expected}. Move the row, or correct it.")
    return split


def _path(folder: Path, value: Any, where: str) -> Path:
    if value is None or not str(value).strip():
        raise DataError(f"{where} has no path. Fill it in, or remove the row.")
    return folder / str(value).strip()


def _open_table(file: Path) -> _Table:
    if not file.is_file():
        raise DataError(f"The table {file} does not exist. Check the path.")
    table = _open_parquet(file) if file.suffix.lower() == ".parquet" else _open_text(file)
    repeated = [name for name in table.columns if table.columns.count(name) > 1]
    if repeated:
        raise DataError(f"{file} has two columns called {repeated[0]}. Rename or remove one.")
    return table


def _open_text(file: Path) -> _Table:
    rows = _text_rows(file)
    _, header = next(rows, (0, []))
    if not header:
        raise DataError(f"{file} is empty; expected a first line with the columns, such as path,label.")
    return _Table(file, tuple(name.strip().lower() for name in header), _even_rows(file, rows, len(header)), "line")


def _text_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    with file.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise DataError(f"{file}, line {reader.line_num} is not {file.suffix[1:].upper()} ({error}). Correct its quotes.") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not text in UTF-8 ({error}). Save it as UTF-8.") from error


def _even_rows(file: Path, rows: Iterable[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for number, row in rows:
        if len(row) != width:
            raise DataError(f"{file}, line {number} has {len(row)} fields where the first line has {width}. Quote fields with commas.")
        yield number, row


def _open_parquet(file: Path) -> _Table:
    parquet = need("pyarrow.parquet", f"Reading {file}")
    try:
        schema = parquet.read_schema(file)
        names = [name for name in schema.names if name.strip().lower() in (*PATH_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS)]
        _check_holds_paths(file, {name: str(schema.field(name).type) for name in names})
        # Without a label column the others are looked at too: they may be one per class.
        table = parquet.read_table(file, columns=names if {name.strip().lower() for name in names} & set(LABEL_COLUMNS) else None)
    except (OSError, ValueError) as error:  # pyarrow's errors are either
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read as Parquet ({str(error).splitlines()[0]}). Write it again.") from error
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return _Table(file, tuple(name.strip().lower() for name in table.column_names), list(enumerate(rows, 1)), "row")


def _check_holds_paths(file: Path, types: dict[str, str]) -> None:
    for name, kind in types.items():
        if name.strip().lower() in PATH_COLUMNS and kind.startswith(("struct", "binary", "large_binary")):
            raise DataError(
                f"The column {name} of {file} holds images and not their paths. Put the file into a folder of its own "
                f"and open that with hf:, as in --data hf:FOLDER."
            )
