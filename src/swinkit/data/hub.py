"""Data sets of the Hugging Face library `datasets`: from the hub, from a folder it understands, or saved by save_to_disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from swinkit.data.extras import need
from swinkit.data.images import read_image
from swinkit.data.labels import LABEL_COLUMNS, ONE_CLASS, class_name, number_classes, split_called
from swinkit.data.sets import Labels, NamedBytes
from swinkit.errors import DataError

PREFIX = "hf:"
HIDDEN = -1
"""What the hub writes for a label that it keeps to itself."""


@dataclass(frozen=True, eq=False)
class HubImages:
    """Images of one split of a data set, read from its Arrow files when they are asked for."""

    prefix: str
    classes: tuple[str, ...]
    labels: Labels
    rows: Any
    """A datasets.Dataset with the one column `image`, not decoded."""

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> Path | NamedBytes:
        """The image's file: its bytes from the data set, or its path."""
        image = self.rows[index]["image"] or {}
        if image.get("bytes") is not None:
            return NamedBytes(image["bytes"], self.name(index))
        if not image.get("path"):
            raise DataError(f"{self.name(index)} has no image. Remove the row.")
        return Path(image["path"])

    def image(self, index: int, mode: str) -> Image.Image:
        """One image, as "RGB" or "L". Raises InputError with its name if it is broken."""
        return read_image(self.encoded(index), mode)

    def name(self, index: int) -> str:
        """The data set, the split and the row."""
        return f"{self.prefix}/{index}"


@dataclass(frozen=True)
class Address:
    """What `hf:NAME/CONFIG@REVISION#LABEL` says; all but NAME may be left out."""

    name: str
    """A data set on the hub or, as an absolute path, a folder."""
    config: str | None = None
    revision: str | None = None
    label: str | None = None
    """The column with the class, where the data set has several."""


def parse_address(source: str) -> Address:
    """The parts of a source that begins with "hf:". Raises DataError for one that leads nowhere."""
    whole = source.removeprefix(PREFIX)
    name, _, label = (whole, "", "") if _is_folder(whole) else whole.partition("#")
    if _is_folder(name):
        return Address(str(Path(name).expanduser().resolve()), label=label or None)
    if name.startswith(("/", ".", "~")):
        raise DataError(f"The folder {name} does not exist. Check the path; a data set on the hub is written hf:OWNER/NAME.")
    found = re.fullmatch(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.+-]+))?(?:@(?P<revision>[^@]+))?", name)
    if not found:
        raise DataError(f"{source} names no data set; expected hf:OWNER/NAME, hf:OWNER/NAME/CONFIG, hf:OWNER/NAME@REVISION or hf:FOLDER.")
    return Address(**found.groupdict(), label=label or None)


def absolute_address(source: str) -> str:
    """The same source from whatever folder it is opened: a local folder becomes absolute, a name stays."""
    name, mark, label = source.removeprefix(PREFIX).partition("#")
    return f"{PREFIX}{Path(name).expanduser().resolve()}{mark}{label}" if _is_folder(name) else source


def _is_folder(name: str) -> bool:
    return bool(name) and Path(name).expanduser().is_dir()


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk of `datasets` made this folder."""
    return (folder / "dataset_dict.json").is_file() or all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))


def list_hub(source: str) -> dict[str, HubImages]:
    """The splits of `hf:...` (see Address), or of a folder that save_to_disk made; only "all" if it has no splits.

    A split `test` whose labels are hidden counts as not there. Nothing is decoded, and no code of a data set is ever run. Raises
    DataError if it cannot be had, and for data that cannot be trained on.
    """
    address = parse_address(source if source.startswith(PREFIX) else f"{PREFIX}{source}")
    tables = _by_split(_load(address, source), source)
    return _image_sets(tables, address.label, source)


def _load(address: Address, source: str) -> Any:
    datasets = need("datasets", f"Opening {source}")
    try:
        if is_saved(Path(address.name)):
            return datasets.load_from_disk(address.name)
        with _quiet_retries():
            return datasets.load_dataset(address.name, address.config, revision=address.revision)
    except Exception as error:  # no network, no such data set, a broken file: the library has no common root for its errors
        raise DataError(_complaint(source, error)) from error


@contextmanager
def _quiet_retries() -> Iterator[None]:
    # Without a network it would announce each of six attempts in two lines; the error at the end says it all.
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _complaint(source: str, error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    advice = "Check the name: it is no folder here, or one without images and tables that the library `datasets` reads."
    if isinstance(error, ConnectionError) or "Offline" in type(error).__name__:
        advice = "Check the connection and HF_HUB_OFFLINE, or open it once where there is a network: it is kept in the cache."
    if "scripts are no longer supported" in first:
        advice = "swinkit runs no code of a data set; look for a copy in Parquet, or load it yourself and use save_to_disk."
    return f"{source} cannot be opened ({type(error).__name__}: {first}). {advice}"


def _by_split(loaded: Any, source: str) -> dict[str, Any]:
    if not isinstance(loaded, Mapping):
        return {"all": loaded}
    found: dict[str, Any] = {}
    for name, table in loaded.items():
        if (split := split_called(str(name))) in found:
            raise DataError(f"{source} has two splits that mean {split} ({', '.join(map(str, loaded))}). Rename or remove one.")
        if split:
            found[split] = table
    if not found and len(loaded) == 1:
        return {"all": next(iter(loaded.values()))}
    if not found:
        raise DataError(f"{source} has the splits {', '.join(map(str, loaded))}; expected train, validation or test. Rename them.")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _image_sets(tables: dict[str, Any], label: str | None, source: str) -> dict[str, HubImages]:
    datasets = need("datasets", f"Opening {source}")
    columns = {split: _columns(table.features, label, source) for split, table in tables.items()}
    names = {split: _class_names(table, columns[split][1], f"{source}, {split}") for split, table in tables.items()}
    if names.get("test") == [] and len(names) > 1:
        del tables["test"], names["test"]
    if unlabelled := [split for split, known in names.items() if not known]:
        raise DataError(f"{source} has no labels in {unlabelled[0]}. Choose another data set, or label its images.")
    feature = next(iter(tables.values())).features[columns[next(iter(tables))][1]]
    declared = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    classes, labels = number_classes(names, source, declared)
    return {
        split: HubImages(f"{source}/{split}", classes, labels[split], _undecoded(table, columns[split][0], datasets))
        for split, table in tables.items()
    }


def _undecoded(table: Any, column: str, datasets: Any) -> Any:
    rows = table.select_columns([column]).with_format(None).cast_column(column, datasets.Image(decode=False))
    return rows if column == "image" else rows.rename_column(column, "image")


def _columns(features: Mapping[str, Any], label: str | None, source: str) -> tuple[str, str]:
    """Names of the columns with the image and with the class."""
    datasets = need("datasets", f"Opening {source}")
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if len(images) > 1 and "image" in images:
        images = ["image"]
    if len(images) != 1:
        what = f"the columns of images {', '.join(images)}; expected one, or one called image" if images else "no column of images"
        raise DataError(f"{source} has {what}; its columns are {', '.join(features)}. Choose another data set, or rename them.")
    return images[0], _label_column(features, label, source, datasets)


def _label_column(features: Mapping[str, Any], wanted: str | None, source: str, datasets: Any) -> str:
    if wanted is not None and wanted in features:
        return wanted
    if wanted:
        raise DataError(f"{source} has no column {wanted}; its columns are {', '.join(features)}. Correct what follows the #.")
    known = [name for name in features if name.lower() in (*LABEL_COLUMNS, "labels")]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    many = [name for name in features if isinstance(getattr(features[name], "feature", None), datasets.ClassLabel)]
    found = [name for name in classes if name in known] or classes or known or many
    if not found:
        raise DataError(f"{source} has no column of classes; its columns are {', '.join(features)}. Name one: {source}#COLUMN.")
    if len(found) > 1:
        raise DataError(f"{source} has several columns of classes ({', '.join(found)}). Name one: {source}#{found[0]}.")
    return found[0]


def _class_names(table: Any, column: str, where: str) -> list[str]:
    """The class of every row; nothing if all of them are hidden."""
    feature = table.features[column]
    if not hasattr(feature, "dtype") or hasattr(feature, "feature") or isinstance(feature, dict):
        raise DataError(f"The column {column} of {where} holds several labels per image; {ONE_CLASS}. Choose another with #COLUMN.")
    values = table.with_format(None).select_columns([column])[:][column]
    if values and all(value is None or value == HIDDEN for value in values):
        return []
    names = getattr(feature, "names", None)
    if names:
        _check_known(values, column, where)
        return [names[value] for value in values]
    return [class_name(value, f"{where}, row {row}") for row, value in enumerate(values)]


def _check_known(values: list[int | None], column: str, where: str) -> None:
    hidden = sum(value is None or value == HIDDEN for value in values)
    if hidden:
        raise DataError(f"{hidden:,} of the {len(values):,} rows of {where} have no {column}. Remove them, or label them.")
