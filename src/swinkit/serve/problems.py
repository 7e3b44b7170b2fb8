"""Answers that say what went wrong, all in one shape."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse

REASONS = {
    400: "The body cannot be read, or holds something that is no image.",
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site, or calls the server by a name that is not its own.",
    404: "There is no such model, label or page.",
    405: "The method is not that of the route.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, images or pixels.",
    415: "A type of body that is not read here.",
    422: "A parameter, or what the body consists of, is not as described here.",
    500: "The server failed; its log says why.",
    501: "This model cannot do that.",
    503: "Too much to do, not ready yet, or shutting down; Retry-After says when to come again.",
    504: "The answer took too long.",
}
"""status -> what it means, for the API's description"""


class ApiError(Exception):
    """An answer that is no result. `code` is a word for programs, `message` a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})


def busy(what: str, seconds: float = 1.0) -> ApiError:
    """503 for more than can be taken; `seconds` until it is worth coming again."""
    return ApiError(503, "overloaded", what, {"Retry-After": str(min(60, max(1, math.ceil(seconds))))})


def stopping() -> ApiError:
    """503 for what comes while the server shuts down."""
    return ApiError(503, "shutting_down", "The server is shutting down; send it again elsewhere or later.", {"Retry-After": "5"})


def failed() -> ApiError:
    """500, which tells clients nothing about the inside."""
    return ApiError(500, "internal", "The server failed at this request; its log says why, under the request's id.")


def answer(error: ApiError, request_id: str) -> JSONResponse:
    """The error as a response."""
    content = {"error": {"code": error.code, "message": error.message, "request_id": request_id}}
    return JSONResponse(content, error.status, error.headers)
