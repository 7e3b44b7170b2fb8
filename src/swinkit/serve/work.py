"""From a request to a model's answer: read, decode, queue, wait; each step with its limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from swinkit.serve.batching import Call, Places, QueueClosedError, QueueFullError
from swinkit.serve.bodies import JSON, MULTIPART, Body, Upload, body_of, check_type, uploads_in
from swinkit.serve.envelope import Note, log_error
from swinkit.serve.models import Served
from swinkit.serve.pictures import opened_picture
from swinkit.serve.problems import ApiError, busy, stopping
from swinkit.serve.service import Service

T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """What the model gave for the images of a request."""

    names: list[str | None]
    outputs: list[Any]
    timing_ms: dict[str, float]


@dataclass(frozen=True)
class Work:
    """What to do with the images of a request: how each is made ready, and the call that takes them."""

    prepare: Callable[[Any], Any]
    call: Call
    most: int


async def run(request: Request, service: Service, model: Served, work: Work) -> Done:
    """Errors: ApiError, for whatever stops it."""
    kind = check_type(request)
    with refusals(service):
        model.batcher.check()  # before the body is read: saying no has to be cheap
    async with body_of(request, service.settings, service.budget) as body:
        try:
            async with asyncio.timeout(service.settings.timeout_s):
                return await or_gone(request, _answered(request, service, model, work, kind, body))
        except TimeoutError:
            says = f"The answer took longer than {service.settings.timeout_s:g} s; send fewer images at a time, or come again later."
            raise ApiError(504, "timeout", says) from None


async def _answered(request: Request, service: Service, model: Served, work: Work, kind: str, body: Body) -> Done:
    note: Note = request.state.note
    began = time.perf_counter()
    uploads = await _uploads(request, service, kind, body, work.most)
    note.images, names = len(uploads), [upload.name for upload in uploads]
    with refusals(service), model.batcher.places(len(uploads)) as places:
        values = await service.each_in_thread(_made(service, model, work), list(enumerate(uploads)))
        # What waits in the queue is a few hundred kilobytes per image, whatever was sent.
        uploads.clear()
        body.free()
        return await _computed(places, work.call, values, names, (note.request_id, note.began, began))


async def _computed(places: Places, call: Call, values: list[Any], names: list[str | None], about: tuple[str, float, float]) -> Done:
    request_id, arrived, began = about
    decoded = time.perf_counter()
    ticket = places.submit(call, values)
    try:
        outputs = await asyncio.wrap_future(ticket.future)
    except (QueueClosedError, asyncio.CancelledError):
        raise
    except Exception as error:
        log_error(request_id)
        raise ApiError(500, "model_failed", "The model failed at this request; the server's log says why.") from error
    times = {
        "decode": decoded - began,
        "queue": ticket.started - ticket.queued,
        "model": ticket.finished - ticket.started,
        "total": time.perf_counter() - arrived,
    }
    return Done(names, outputs, {name: round(1000 * seconds, 3) for name, seconds in times.items()})


async def _uploads(request: Request, service: Service, kind: str, body: Body, most: int) -> list[Upload]:
    arguments = (kind, request.headers.get("content-type", ""), body.whole(), most)
    if kind in (MULTIPART, JSON):
        return await service.in_thread(uploads_in, *arguments)
    return uploads_in(*arguments)  # taken as it is


def _made(service: Service, model: Served, work: Work) -> Callable[[int, Upload], Any]:
    preprocess = model.predictor.preprocess

    def make(number: int, upload: Upload) -> Any:
        with opened_picture(upload, number, preprocess, service.pixels) as image:
            return work.prepare(image)

    return make


@contextmanager
def refusals(service: Service) -> Iterator[None]:
    """A queue's refusals as answers."""
    try:
        yield
    except QueueFullError as full:
        raise busy("More images are waiting than the queue takes; send it again later.", full.seconds) from None
    except QueueClosedError:
        raise stopping() from None


async def or_gone(request: Request, work: Awaitable[T]) -> T:
    """The result, unless the client leaves first: then the work is dropped. Errors: ClientDisconnect."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
