"""Folders of images as data sets: train/ and val/ full of class folders, or just class folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from swinkit.data.images import images_below, is_image_file
from swinkit.data.sets import FileImages
from swinkit.errors import DataError

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}
SPLIT_NAMES = frozenset(name for names in SPLIT_FOLDERS.values() for name in names)
LAYOUT = "Expected train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg."

PICTURE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos"})
ANSWER_FOLDERS = frozenset({"labels", "label", "annotations", "annotation", "masks", "mask", "segmentationclass", "segmentationobject"})
ANSWER_SUFFIXES = frozenset({".txt", ".xml", ".json", ".csv"})


def list_folder(root: Path) -> dict[str, FileImages]:
    """The splits of a folder: any of "train", "val" and "test", or only "all" where it holds class folders directly.

    No file is opened. Raises DataError for a folder that is missing or laid out in no way that can be trained or evaluated on.
    """
    _check_folder(root)
    found = {split: folder for split, names in SPLIT_FOLDERS.items() if (folder := _split_folder(root, names))}
    if not found:
        return {"all": _list_classes(root, _class_folders(root))}
    _check_nothing_else(root, list(found.values()))
    # Without train/, the first split there is says what the classes are.
    first, *others = found
    splits = {first: _list_classes(found[first], _class_folders(found[first]))}
    return splits | {split: _list_known_classes(found[split], splits[first].classes, found[first]) for split in others}


def _check_folder(root: Path) -> None:
    if not root.exists():
        raise DataError(f"The folder {root} does not exist. Check the path.")
    if not root.is_dir():
        raise DataError(f"{root} is a file; expected a folder of images. {LAYOUT}")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _split_folder(root: Path, names: Sequence[str]) -> Path | None:
    # A folder called train with images but no folders in it is a class of vehicles.
    folders = [root / name for name in names if (root / name).is_dir() and _subfolders(root / name)]
    if len(folders) > 1:
        raise DataError(f"{root} holds {folders[0].name}/ and {folders[1].name}/, which mean the same. Remove or merge one of them.")
    return folders[0] if folders else None


def _check_nothing_else(root: Path, splits: Sequence[Path]) -> None:
    extra = [folder for folder in _subfolders(root) if folder not in splits and next(images_below(folder), None)]
    if extra:
        raise DataError(
            f"{root} mixes two layouts: {splits[0].name}/ with class folders, and {extra[0].name}/ with images beside it. "
            f"Move {extra[0].name}/ into {splits[0].name}/, or out of {root}."
        )


def _class_folders(root: Path) -> list[Path]:
    folders = _subfolders(root)
    loose = next((path for path in sorted(root.iterdir()) if is_image_file(path)), None)
    if loose and folders:
        raise DataError(f"{loose} lies beside the class folders of {root} and so has no class. Move it into one of them.")
    if loose or (folders and {folder.name for folder in folders} <= SPLIT_NAMES):
        raise DataError(f"{root} holds images without class folders. {LAYOUT}")
    if not folders:
        raise DataError(f"{root} holds no images and no class folders. {LAYOUT}")
    return folders


def _list_classes(root: Path, folders: Sequence[Path]) -> FileImages:
    images = {folder.name: list(images_below(folder)) for folder in folders}
    _check_not_scenes(root, images)
    empty = [name for name, paths in images.items() if not paths]
    if empty:
        raise DataError(f"The class {empty[0]} in {root} has no images. Add some, or remove the folder {root / empty[0]}.")
    if len(images) < 2:
        raise DataError(f"{root} holds only one class ({folders[0].name}); a classifier needs at least two. {LAYOUT}")
    return _file_images(tuple(images), images)


def _check_not_scenes(root: Path, images: Mapping[str, Sequence[Path]]) -> None:
    """Raise DataError for images/ beside labels/, annotations/ or masks/: a data set for detection or segmentation."""
    with_masks = len(images) == 2 and any(name.casefold() in PICTURE_FOLDERS for name in images)
    named = [name for name in images if name.casefold() in ANSWER_FOLDERS]
    answers = [name for name in named if (with_masks if images[name] else _holds_answers(root / name))]
    if answers:
        raise DataError(
            f"{root} looks like a data set for detection or segmentation ({answers[0]}/ holds no classes of images, but annotations). "
            f"swinkit trains classifiers, which need one folder of images per class. {LAYOUT}"
        )


def _holds_answers(folder: Path) -> bool:
    return any(path.suffix.lower() in ANSWER_SUFFIXES for path in folder.rglob("*"))


def _list_known_classes(root: Path, classes: tuple[str, ...], known_from: Path) -> FileImages:
    images = {folder.name: paths for folder in _class_folders(root) if (paths := list(images_below(folder)))}
    strangers = sorted(set(images) - set(classes))
    if strangers:
        raise DataError(f"{root} has the class {strangers[0]}, which {known_from} has not. Rename or remove it, or add it to {known_from}.")
    if not images:
        raise DataError(f"{root} holds no images. Add some, or remove the folder.")
    return _file_images(classes, images)


def _file_images(classes: tuple[str, ...], images: dict[str, list[Path]]) -> FileImages:
    pairs = [(path, label) for label, name in enumerate(classes) for path in images.get(name, [])]
    return FileImages(classes, np.array([label for _, label in pairs], dtype=np.int64), tuple(path for path, _ in pairs))


def looks_like_path(source: str | os.PathLike[str]) -> bool:
    """Whether somebody who wrote this meant a place on disk, or a pattern of places, and not a name."""
    return not isinstance(source, str) or "/" in source or os.sep in source or source.startswith((".", "~")) or "{" in source
