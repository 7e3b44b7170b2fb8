"""HTTP/1.1 connections of uvicorn that do not wait for ever, and not more of them than there may be."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from swinkit.serve.settings import Settings

TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def protocol_for(settings: Settings) -> type[H11Protocol]:
    """The protocol with the limits of `settings`."""
    return type("Protocol", (PatientProtocol,), {"seconds": settings.header_timeout_s, "most": settings.connections})


class PatientProtocol(H11Protocol):
    """A connection that is closed when the head of its next request takes too long, however slowly it trickles in."""

    seconds = 10.0
    most = 512
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait, or refuse."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.write(TOO_MANY)
            transport.close()
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Stop waiting when a request has begun."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._relax()

    def on_response_complete(self) -> None:
        """Wait for the next, unless it is there already."""
        before = self.cycle
        super().on_response_complete()
        if self.cycle is before:
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._relax()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._relax()
        self._deadline = self.loop.call_later(self.seconds, self.transport.close)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
