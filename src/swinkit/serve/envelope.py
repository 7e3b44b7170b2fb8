"""Around every request: its id, the headers of every answer, a line in the log, the counters, and 500 for what nobody foresaw."""

from __future__ import annotations

import asyncio
import re
import sys
import time
import traceback
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from swinkit.serve.problems import ApiError, answer, failed
from swinkit.serve.service import Service
from swinkit.serve.sites import check_site
from swinkit.tasks.text import printable

SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""What every answer has that does not say otherwise."""
GONE = 499
"""In the log and the counters: the client left before the answer."""


@dataclass
class Note:
    """What the log tells of a request."""

    request_id: str
    method: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    images: int = 0
    gone: bool = False


class Envelope:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        note = scope.setdefault("state", {})["note"] = Note(_request_id(scope), scope["method"])
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # a copy: by the original the server leaves the body out

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = message["status"]
                _add_headers(message, note.request_id)
            # A client that does not read its answer must not keep it here.
            async with asyncio.timeout(self.service.settings.timeout_s):
                await send(message)

        self.service.in_flight += 1
        try:
            await self._run(scope, receive, sending, note)
        finally:
            self.service.in_flight -= 1
            self._done(scope, note)

    async def _run(self, scope: Scope, receive: Receive, send: Send, note: Note) -> None:
        try:
            check_site(scope["method"], Headers(scope=scope), self.service.settings)
            await self.app(scope, receive, send)
        except ApiError as error:
            self.service.metrics.refused.labels(error.code).inc()
            await answer(error, note.request_id)(scope, receive, send)
        except Exception:
            log_error(note.request_id)
            if note.status:
                raise  # half an answer is sent; all that is left is to close the connection
            await answer(failed(), note.request_id)(scope, receive, send)

    def _done(self, scope: Scope, note: Note) -> None:
        status = GONE if note.gone else note.status
        seconds = time.perf_counter() - note.began
        route = getattr(scope.get("route"), "path", "other")
        self.service.metrics.answered(route, status, seconds)
        if self.service.settings.access_log:
            client = printable(str((scope.get("client") or ("-",))[0]))[:45]  # a proxy may have given it
            what = f"{note.method[:16]} {printable(scope['path'])[:80]} {status} {1000 * seconds:.1f} ms"
            images = f" {note.images} image{'s' * (note.images != 1)}" if note.images else ""
            print(f"{client} {what}{images} {note.request_id}", file=sys.stderr, flush=True)


def log_error(request_id: str) -> None:
    """The error being handled, on stderr."""
    print(f"error in request {request_id}:\n{traceback.format_exc().rstrip()}", file=sys.stderr, flush=True)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _add_headers(message: Message, request_id: str) -> None:
    headers = MutableHeaders(scope=message)
    headers["X-Request-ID"] = request_id
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
