"""HTTP/1.1 connections of uvicorn that do not wait for ever, not more of them than there may be, and errors in the shape of all others."""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from swinkit.serve.problems import ApiError, answer, busy
from swinkit.serve.settings import Settings


def protocol_for(settings: Settings) -> type[H11Protocol]:
    """The protocol with the limits of `settings`."""
    limits = {"seconds": settings.header_timeout_s, "most": settings.connections, "reading_seconds": settings.timeout_s}
    return type("Protocol", (PatientProtocol,), limits)


def as_bytes(error: ApiError) -> bytes:
    """The answer to what never became a request; it closes the connection."""
    request_id = uuid.uuid4().hex
    response = answer(error, request_id)
    headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
    head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode() + head + b"\r\n" + bytes(response.body)


class PatientProtocol(H11Protocol):
    """A connection that ends when the head of its next request takes too long, however slowly it comes, or nobody reads its answer."""

    seconds = 10.0
    most = 512
    reading_seconds = 30.0
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait, or refuse."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(as_bytes(busy("There are too many connections; come again later.")))
            transport.close()
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Stop waiting when a request has begun."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._relax()

    def send_400_response(self, msg: str) -> None:
        """Where no answer has begun, say what all other errors say; then close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(as_bytes(ApiError(400, "bad_request", "This is no valid HTTP/1.1 request.")))
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next, unless it is there already."""
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before:
            self._expect()

    def pause_writing(self) -> None:
        """More of an answer is unread than is held: it has so long. Closing alone would wait for the client."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.reading_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads on."""
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._relax()
        self._read()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._relax()
        self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
