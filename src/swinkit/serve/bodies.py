"""Reading a request's body: no more than it may be, no longer than it may take, and the pictures in it."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from swinkit.serve.problems import ApiError, busy
from swinkit.serve.schemas import Base64Images
from swinkit.serve.settings import MIB, Settings
from swinkit.tasks.text import printable

MULTIPART, JSON = "multipart/form-data", "application/json"
RAW = ("application/octet-stream", "image/")
FIELD = "file"


@dataclass(frozen=True)
class Upload:
    """A file that a client sent, and what it calls it."""

    name: str | None
    content: bytes


class Budget:
    """Bytes of bodies that may be in memory at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, count: int) -> None:
        """Errors: ApiError (503) if that is more than there is room for."""
        if self.used + count > self.limit:
            raise busy("Too many uploads are under way; send it again later.")
        self.used += count

    def give(self, count: int) -> None:
        """The bytes are gone."""
        self.used -= count


def check_type(request: Request) -> str:
    """The body's media type. Errors: ApiError (415) if nobody here reads it."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(415, "unsupported_type", "The body is compressed; send it without Content-Encoding.")
    if kind not in (MULTIPART, JSON) and not kind.startswith(RAW):
        raise ApiError(
            415, "unsupported_type",
            f"The body's type is {_short(kind) or 'not given'}; send {MULTIPART} with files in the field {FIELD!r}, an image as image/*"
            f' or {RAW[0]}, or {JSON} {{"images": ["<base64>"]}}.',
        )  # fmt: skip
    return kind


class Body:
    """A body in memory, until it is freed."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._size, self.content = budget, 0, bytearray()

    def add(self, chunk: bytes, limit: int) -> None:
        """Errors: ApiError (413, 503)."""
        _check_size(len(self.content) + len(chunk), limit)
        self._budget.take(len(chunk))
        self._size += len(chunk)
        self.content += chunk

    def whole(self) -> bytes:
        """The content, once, for whoever goes on with it; it counts until it is freed, and is not held twice."""
        content, self.content = bytes(self.content), bytearray()
        return content

    def free(self) -> None:
        """Forget the content; more than once does no harm."""
        self._budget.give(self._size)
        self._size, self.content = 0, bytearray()


@asynccontextmanager
async def body_of(request: Request, settings: Settings, budget: Budget) -> AsyncIterator[Body]:
    """The whole body, freed at the end of the block at the latest.

    The length that the client announces only serves to refuse early. Errors: ApiError (408, 413, 503), ClientDisconnect.
    """
    _check_announced(request, settings.max_bytes)
    body = Body(budget)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body.add(chunk, settings.max_bytes)
    except BaseException as error:
        body.free()
        if isinstance(error, TimeoutError):
            says = f"The body did not arrive within {settings.body_timeout_s:g} s."
            raise ApiError(408, "slow_body", says, {"Connection": "close"}) from None
        raise
    try:
        yield body
    finally:
        body.free()


def _check_announced(request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        _check_size(int(announced[:20]), limit)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ApiError(413, "body_too_large", f"The body has more than {limit / MIB:.4g} MiB; send smaller or fewer images at a time.")


def uploads_in(kind: str, content_type: str, content: bytes, most: int) -> list[Upload]:
    """The files in a body, 1 to `most`. It takes a while for large ones: not for the event loop. Errors: ApiError (400, 413, 422)."""
    if kind == MULTIPART:
        return _from_multipart(content_type, content, most)
    if kind == JSON:
        return _from_json(content, most)
    return [Upload(None, content)]


def _from_multipart(content_type: str, content: bytes, most: int) -> list[Upload]:
    from python_multipart.multipart import FormParser, parse_options_header

    found: list[Upload] = []
    others: list[str] = []

    def on_file(file: Any) -> None:
        if file.field_name != FIELD.encode():
            return on_field(file)
        found.append(Upload(clean_name(file.file_name), file.file_object.getvalue()))
        _check_count(len(found), most)

    def on_field(field: Any) -> None:
        others.append(_short(field.field_name.decode(errors="replace")))
        if len(others) > 16:
            raise ApiError(422, "bad_form", f"The form has more than 16 fields that are not {FIELD!r}; leave them out.")

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise ApiError(400, "bad_form", "The form's type names no boundary; let your HTTP client write the Content-Type of a form.")
    try:
        ended: list[bool] = []
        parser = FormParser(
            MULTIPART, on_field, on_file, lambda: ended.append(True), boundary=boundary, config={"MAX_MEMORY_FILE_SIZE": len(content) + 1}
        )
        parser.write(content)
        parser.finalize()
        if not ended:
            raise EOFError
    except ApiError:
        raise
    except Exception as error:  # the parser raises its own errors, and asserts and others on what it did not foresee
        raise ApiError(400, "bad_form", "The form is broken or cut short; send it again.") from error
    if not found:
        has = f"; it has {', '.join(map(repr, others[:4]))}" if others else ""
        raise ApiError(422, "no_image", f"The form has no file in a field {FIELD!r}{has}. Send each image as such a field.")
    return found


def _from_json(content: bytes, most: int) -> list[Upload]:
    # Brackets and commas that no list of base64 has would make objects of many times their size.
    if sum(map(content.count, (b"[", b"{", b","))) > most + 2:
        raise ApiError(422, "bad_json", f'The JSON has too many parts; expected {{"images": ["<base64>"]}} with at most {most} images.')
    try:
        images = Base64Images.model_validate_json(content).images
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise ApiError(422, "bad_json", f'{_short(where)}: {first["msg"]}; expected {JSON} {{"images": ["<base64>"]}}.') from None
    _check_count(len(images), most)
    return [Upload(None, _from_base64(text, number)) for number, text in enumerate(images)]


def _from_base64(text: str, number: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(422, "bad_base64", f"images.{number} is not base64; send the bytes of an image file encoded so.") from None


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise ApiError(413, "too_many_images", f"The request brings more than {most} images; send fewer at a time.")


def clean_name(name: bytes | str | None) -> str | None:
    """A client's file name for an answer: its last part, printable, at most 120 characters; it is never opened."""
    text = name.decode(errors="replace") if isinstance(name, bytes) else name or ""
    return printable(text.replace("\\", "/").rpartition("/")[2][:120])[:120].strip() or None


def _short(text: str) -> str:
    return printable(text[:60])[:60]
