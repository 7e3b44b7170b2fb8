"""The web application over predictors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

import swinkit
from swinkit.errors import ConfigError
from swinkit.predict import Predictor
from swinkit.serve import routes
from swinkit.serve.envelope import Envelope
from swinkit.serve.problems import ApiError, answer
from swinkit.serve.service import Service
from swinkit.serve.settings import Settings

ABOUT = "Images in, class names out. Every answer has an X-Request-ID; every answer that is no result has the same shape."


def create_app(predictors: Mapping[str, Predictor], *, settings: Settings | None = None) -> FastAPI:
    """The application for models by name, the first of which answers where a request names none.

    Its threads start here and end with its lifespan, which also warms the models up. Errors: ConfigError for no model at all.
    """
    if not predictors:
        raise ConfigError("There is no model to serve; give at least one.")
    settings = settings or Settings()
    # FastAPI's own pages of documentation load scripts from elsewhere; `reference` is ours.
    pages: dict[str, Any] = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(title="swinkit", version=swinkit.__version__, description=ABOUT, lifespan=_lifespan, **pages)
    app.state.service = Service(predictors, settings)
    guard = [Depends(routes.check_token)] if settings.token else []
    app.include_router(routes.guarded, dependencies=guard, responses=routes.errors(401) if guard else {})
    app.include_router(routes.free)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _bad_parameters)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_middleware(Envelope, service=app.state.service)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    warming = asyncio.create_task(service.warm_up())
    try:
        yield
    finally:
        warming.cancel()
        await asyncio.to_thread(service.close)


async def _refused(request: Request, error: Any) -> Response:
    request.app.state.service.metrics.refused.labels(error.code).inc()
    return answer(error, request.state.note.request_id)


async def _bad_parameters(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"])
    return await _refused(request, ApiError(422, "bad_parameter", f"{where}: {first['msg']}."))


async def _no_such_route(request: Request, error: Any) -> Response:
    codes = {404: "no_such_route", 405: "no_such_method"}
    says = {404: "There is no such route; GET /openapi.json lists them.", 405: "The route has other methods; Allow lists them."}
    code, message = codes.get(error.status_code, "refused"), says.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # `Envelope` makes the one of the other
    return await _refused(request, ApiError(error.status_code, code, message, headers))


async def _gone(request: Request, error: Any) -> Response:
    request.state.note.gone = True
    return Response(status_code=499)  # nobody is there to read it
