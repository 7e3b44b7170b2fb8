"""What a file is, decided by its first bytes and never by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from swinkit.errors import CheckpointError

SAFETENSORS, TORCH_ZIP, TORCH_LEGACY, INDEX = "safetensors", "torch zip", "torch legacy", "index"
WANTED = "expected .safetensors, or a file that torch.save wrote (.pth, .pt, .bin, .ckpt)"
LARGEST_JSON = 64 << 20  # bytes; the index of a model with a hundred thousand tensors has about 10 MB
_HEAD = 4096

# torch.save before torch 1.6 begins with this number, pickled with protocol 2.
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"RIFF", "a RIFF file, such as a WebP image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"GGUF", "a GGUF file (llama.cpp)"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (0, b"BZh", "compressed with bzip2: unpack it first"),
    (0, b"\xfd7zXZ\x00", "compressed with xz: unpack it first"),
    (0, b"(\xb5/\xfd", "compressed with zstd: unpack it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (0, b"Rar!", "a RAR archive: unpack it first"),
)


def recognise(path: Path) -> str:
    """One of the four formats that can be read. Errors: CheckpointError that says what the file is instead."""
    size, head = _head(path)
    if _is_safetensors(head, size):
        return SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return TORCH_ZIP
    if head[:1] == b"\x80" and head[2 : 2 + len(_LEGACY)] == _LEGACY:
        return TORCH_LEGACY
    if _unmarked(head).startswith((b"{", b"[")) and b"\0" not in head:
        return _check_index(path)
    raise CheckpointError(f"{path} {_describe(head, path, size)}; {WANTED}.")


def _head(path: Path) -> tuple[int, bytes]:
    if not os.path.exists(path):  # unlike Path.exists it never raises, whatever the name
        raise CheckpointError(f"There is no file {str(path)[:500]}; {WANTED}.")
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is not a regular file; {WANTED}.")
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size, file.read(_HEAD)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from None


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= size - 8


def _describe(head: bytes, path: Path, size: int) -> str:
    if not head:
        return "is empty: the download or the copy stopped before it began"
    for offset, magic, what in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            return f"is {what}"
    if head[0] == 8 and head[2:3] == b"\x12":
        return "looks like an ONNX or TensorFlow graph"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "is a pickle that torch.save did not write, and pickles are not executed: save its weights as .safetensors"
    return _describe_text(head) or _describe_broken(head, path, size)


def _describe_text(head: bytes) -> str:
    text = _unmarked(head).lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<script")):
        return "is a web page: the download failed or needs a login; download the file itself again"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the weights themselves: run `git lfs pull` beside it, or download the file again"
    return "is a text file" if len(head) > 8 and _is_text(head[:256]) else ""


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")  # the cut may go through the last character
    return all(character.isprintable() or character in "\t\n\r\f" for character in text) and "\ufffd" not in text


def _describe_broken(head: bytes, path: Path, size: int) -> str:
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        length = int.from_bytes(head[:8], "little")
        return f"is broken or cut off: its first bytes announce a safetensors header of {length:,} bytes and the file has {size:,}"
    return f"is of no format known here (it begins with {head[:8]!r})"


def harmless(text: object, most: int = 200) -> str:
    """Text out of a file as a message can carry it: short, and without line ends and commands to the terminal."""
    return "".join(character if character.isprintable() else "?" for character in str(text)[:most])


def _unmarked(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()


def _check_index(path: Path) -> str:
    content = read_json(path)
    if isinstance(content, dict) and "weight_map" in content:
        return INDEX
    raise CheckpointError(f"{path} is JSON, not weights; {WANTED}, or an index with a weight_map.")


def read_json(path: Path) -> Any:
    """The content of a JSON file of at most 64 MiB. Errors: CheckpointError."""
    if path.stat().st_size > LARGEST_JSON:
        raise CheckpointError(f"{path} is text of {path.stat().st_size:,} bytes, too long for an index; {WANTED}.")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} begins like JSON and cannot be parsed ({harmless(error)}); {WANTED}.") from None
