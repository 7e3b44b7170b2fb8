"""Files of torch.save, read by torch's own weights-only unpickler: nothing in them is imported or called.

Real checkpoints carry more than weights: the original authors' hold a yacs CfgNode, timm's an argparse.Namespace, mmengine's a history of
numpy arrays. The unpickler refuses those classes, and importing them would mean trusting them. So each name that is known to stand beside
weights is answered with a stand-in that takes any arguments, does nothing with them and keeps nothing. Every other name is refused.
"""

from __future__ import annotations

import io
import mmap
import threading
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from swinkit.checkpoints.opening.formats import WANTED, harmless
from swinkit.checkpoints.opening.scanning import check_pickles
from swinkit.errors import CheckpointError


class LeftOut:
    """In the place of an object that is not weights; whatever it is made of is dropped."""

    def __new__(cls, *_: object) -> LeftOut:
        """Take what the class in its place would take."""
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class LeftOutMapping:
    """In the place of a dict of another library: an OrderedDict, the one mapping with a state that the unpickler fills."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """An empty one; what its items were is filled in by the unpickler."""
        return OrderedDict()


_MAPPINGS = (
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "detectron2.config.config.CfgNode",
    "addict.addict.Dict",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_OBJECTS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "datetime.datetime",
    "datetime.timedelta",
    "typing.Any",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"builtins.{name}" for name in ("int", "float", "bool", "str", "list", "tuple", "dict", "frozenset", "slice", "range")),
    # A method of a class, as pickle protocol 2 spells it (mmengine's HistoryBuffer). Nothing is looked up.
    "builtins.getattr",
    *(f"numpy.{name}" for name in ("ndarray", "dtype", "bool_", "int32", "int64", "float16", "float32", "float64", "str_")),
    *(f"numpy.dtypes.{name}DType" for name in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64", "Str")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "Boolean", "String", "Enum", "Path", "Bytes")),
    "ml_collections.config_dict.config_dict.ConfigDict",
    "mmcv.utils.config.Config",
    "mmengine.config.config.Config",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "torch.torch_version.TorchVersion",
    *(
        f"{package}.callbacks.{name}"
        for package in ("pytorch_lightning", "lightning.pytorch")
        for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
    ),
)
STAND_INS: list[Any] = [*((LeftOutMapping, name) for name in _MAPPINGS), *((LeftOut, name) for name in _OBJECTS)]

_NAMES = {*_MAPPINGS, *_OBJECTS}

_LOCK = threading.Lock()  # torch keeps the names it accepts in one global set


def read_torch_zip(path: Path) -> object:
    """What torch.save put into a zip archive; its tensors are views of a private mapping of the file. Errors: CheckpointError."""
    _check_archive(path)
    check_pickles(io.BytesIO(_pickle_in(path)), 1, _NAMES, path)
    if path.suffix == ".safetensors":  # torch.load goes by this suffix; an open file has none, and cannot be mapped
        with path.open("rb") as file:
            return _load(file, path, mapped=False)
    return _load(path, path, mapped=True)


def read_torch_legacy(path: Path) -> object:
    """What torch.save wrote before torch 1.6; the tensors are copied into memory. Errors: CheckpointError."""
    with path.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            check_pickles(cast(IO[bytes], mapped), 5, _NAMES, path)  # a mark, a version, the machine, the content, the list of storages
        return _load(file, path, mapped=False)


def _load(source: Path | BinaryIO, path: Path, mapped: bool) -> object:
    try:
        with _LOCK, warnings.catch_warnings(), torch.serialization.safe_globals(STAND_INS):
            warnings.simplefilter("ignore")  # on unusual pickle protocols; what cannot be read raises
            return _plain_dicts(torch.load(cast(Any, source), map_location="cpu", weights_only=True, mmap=mapped))
    except Exception as error:  # torch raises a dozen kinds on a broken file
        raise CheckpointError(_broken(path, error)) from None


def _plain_dicts(content: object) -> object:
    """The same with every dictionary in a dictionary made a plain one: an OrderedDict can bring attributes that hide its methods."""
    plain: dict[int, dict[Any, Any]] = {}
    todo: list[dict[Any, Any]] = []

    def renewed(value: object) -> object:
        if not isinstance(value, dict):
            return value
        if id(value) not in plain:
            plain[id(value)] = {}
            todo.append(value)
        return plain[id(value)]

    content = renewed(content)
    while todo:
        value = todo.pop()
        plain[id(value)].update((key, renewed(item)) for key, item in dict.items(value))
    return content


def _broken(path: Path, error: Exception) -> str:
    reason = harmless(" ".join(str(error).split())[-200:]) or type(error).__name__
    return f"{path} is broken, cut off or not plain weights ({reason}); {WANTED}. Nothing in it was executed."


def _pickle_in(path: Path) -> bytes:
    """The record that torch will unpickle, by torch's own reader: another one could be led to another record."""
    try:
        return bytes(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))
    except Exception as error:
        raise CheckpointError(_broken(path, error)) from None


def _check_archive(path: Path) -> None:
    """A zip archive of torch.save, complete and not compressed: its records are mapped where they lie."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError) as error:
        raise CheckpointError(
            f"{path} is a zip archive that is broken or cut off ({harmless(error)}); download or save it again."
        ) from None
    names = {record.filename.partition("/")[2] for record in records}
    if "constants.pkl" in names:
        raise CheckpointError(f"{path} is a TorchScript program, not weights; save its state_dict() with torch.save.")
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip archive that torch.save did not write; {WANTED}: unpack it first.")
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
        raise CheckpointError(
            f"{path} was packed again with compression or a password, which torch.save never does; unpack and save it again."
        )
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise CheckpointError(f"{path} is a zip archive whose records claim more bytes than the file has; download it again.")
