"""The routes. What they share stands in `app.state.service`."""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from swinkit.serve import schemas, work
from swinkit.serve.models import Served
from swinkit.serve.page import page as html_of
from swinkit.serve.problems import REASONS, ApiError
from swinkit.serve.reference import reference
from swinkit.serve.schemas import Base64Images, Failed, Models, Predictions, Status, Vectors
from swinkit.serve.service import Service
from swinkit.tasks.text import printable

PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "application/octet-stream")
QUERY = {"/predict": {"model", "top_k"}, "/embed": {"model"}, "/explain": {"model", "label"}}
"""What each route's query may hold: a parameter that is misspelt and ignored would be worse than none."""
bearer = HTTPBearer(auto_error=False, description="The token that the server was started with.")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


# Asynchronous, although they wait for nothing: FastAPI sends others through a thread, which costs more than all that they do.
async def service_of(request: Request) -> Service:
    """The app's service."""
    return _service(request)


async def model_of(
    request: Request, model: Annotated[str | None, Query(description="A name from GET /models; by default its first.")] = None
) -> Served:
    """The model that a request names. Errors: ApiError (404, 422, 503)."""
    service = _service(request)
    known = QUERY[request.scope["route"].path]
    if unknown := sorted(set(request.query_params) - known):
        says = f"There is no parameter {printable(unknown[0])[:40]!r}; there are {', '.join(sorted(known))}."
        raise ApiError(422, "bad_parameter", says)
    service.check_running()
    return service.model(model)


async def check_token(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None) -> None:
    """Errors: ApiError (401)."""
    wanted = _service(request).settings.token or ""
    if given is None or not hmac.compare_digest(given.credentials.encode(), wanted.encode()):
        raise ApiError(401, "no_access", "The token is missing or wrong; send Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How the API's description knows the answers that are no result."""
    return {status: {"model": Failed, "description": REASONS[status]} for status in statuses}


def _body(several: bool) -> dict[str, Any]:
    """How the API's description knows the body, which is read here and not by FastAPI."""
    binary = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": binary, "minItems": 1} if several else binary
    form = {"type": "object", "properties": {"file": files}, "required": ["file"]}
    json = Base64Images.model_json_schema()
    json["properties"]["images"] |= {} if several else {"maxItems": 1}
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": json}}
    content |= {kind: {"schema": binary} for kind in IMAGE_TYPES}
    return {"requestBody": {"required": True, "content": content}}


def _gives(kind: str, schema: dict[str, str]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "Done.", "content": {kind: {"schema": schema}}}}


ServiceOf = Annotated[Service, Depends(service_of)]
ModelOf = Annotated[Served, Depends(model_of)]
TAKING = errors(400, 403, 404, 408, 413, 415, 422, 500, 503, 504)

guarded, free = APIRouter(), APIRouter()
"""Routes that need the token where there is one, and routes that never do."""


@guarded.post("/predict", responses=TAKING, openapi_extra=_body(several=True))
async def predict(
    request: Request,
    service: ServiceOf,
    model: ModelOf,
    top_k: Annotated[int | None, Query(ge=1, le=1000, description="Guesses per image; never more than there are classes.")] = None,
) -> Predictions:
    """Name what is in images."""
    done = await work.run(request, service, model, _images(service, model, model.logits))
    guesses = model.guesses(done.outputs, top_k or service.settings.top_k)
    results = [
        schemas.ImageResult(
            name=name,
            predictions=[
                schemas.Guess(label=label, index=index, probability=score)
                for label, index, score in zip(guess.labels, guess.indices, guess.scores, strict=True)
            ],
        )
        for name, guess in zip(done.names, guesses, strict=True)
    ]
    return Predictions(model=model.name, request_id=request.state.note.request_id, results=results, timing_ms=_timing(done))


@guarded.post("/embed", responses=TAKING | errors(501), openapi_extra=_body(several=True))
async def embed(request: Request, service: ServiceOf, model: ModelOf) -> Vectors:
    """Turn images into vectors: the pooled features that the classifier takes."""
    if not model.embeds:
        raise ApiError(501, "no_features", f"{model.name} is an exported file, which gives no vectors; serve the model it was made from.")
    done = await work.run(request, service, model, _images(service, model, model.features))
    results = [schemas.Vector(name=name, embedding=vector.tolist()) for name, vector in zip(done.names, done.outputs, strict=True)]
    return Vectors(model=model.name, request_id=request.state.note.request_id, results=results, timing_ms=_timing(done))


@guarded.post(
    "/explain",
    responses=TAKING | errors(501) | _gives("image/png", {"type": "string", "format": "binary"}),
    response_class=Response,
    openapi_extra=_body(several=False),
)
async def explain(
    request: Request,
    service: ServiceOf,
    model: ModelOf,
    label: Annotated[str | None, Query(description="A class, by name or number; by default the model's first guess.")] = None,
) -> Response:
    """Show which parts of one image speak for a class, as a PNG."""
    if not model.explains:
        raise ApiError(501, "no_explanation", f"{model.name} cannot be looked into: that needs a model in PyTorch, not an exported file.")
    index = None if label is None else _index(label, model.predictor.classes)
    done = await work.run(request, service, model, work.Work(model.frame, model.overlay(index), 1))
    return Response(done.outputs[0], media_type="image/png")


@guarded.get("/models", responses=errors(403, 500))
async def models(service: ServiceOf) -> Models:
    """The models that are served."""
    return Models(models=[schemas.ModelFacts(**model.facts()) for model in service.models.values()])


@guarded.get("/metrics", response_class=Response, responses=errors(403, 500) | _gives("text/plain", {"type": "string"}))
async def metrics(service: ServiceOf) -> Response:
    """Counters for Prometheus."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@free.get("/health", responses=errors(403, 500))
async def health() -> Status:
    """Whether the process answers."""
    return Status(status="alive")


@free.get("/ready", responses=errors(403, 500) | {503: {"model": Status, "description": REASONS[503]}})
async def ready(service: ServiceOf) -> Any:
    """Whether requests are taken: 503 while the models warm up and while the server shuts down."""
    state = "stopping" if service.stopped else "ready" if service.ready else "failed" if service.problem else "warming up"
    return JSONResponse(Status(status=state).model_dump(), 200 if state == "ready" else 503)


@free.get("/", include_in_schema=False)
async def page(service: ServiceOf) -> Response:
    """The page. Where there is a token, it tells nothing of the models before it was given."""
    facts = [] if service.settings.token else [model.facts() for model in service.models.values()]
    nonce = secrets.token_urlsafe(16)
    return _html(html_of(facts).replace("{{nonce}}", nonce), nonce)


@free.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """What /openapi.json says, for people."""
    nonce = secrets.token_urlsafe(16)
    return _html(reference(request.app.openapi(), nonce), nonce)


def _html(text: str, nonce: str) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": PAGE_POLICY.format(nonce=nonce)})


def _images(service: Service, model: Served, call: Any) -> work.Work:
    return work.Work(model.predictor.prepare, call, service.settings.images_per_request)


def _timing(done: work.Done) -> schemas.Timing:
    return schemas.Timing(**done.timing_ms)


def _index(label: str, classes: tuple[str, ...]) -> int:
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and len(label) < 7 and int(label) < len(classes):
        return int(label)
    raise ApiError(404, "no_such_label", f"There is no such class; GET /models lists the {len(classes)} that there are.")
