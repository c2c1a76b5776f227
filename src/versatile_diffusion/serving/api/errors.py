"""Errors in OpenAI's form: a status, one sentence, and the field that is to blame."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from versatile_diffusion.printable import brief, printable, shown
from versatile_diffusion.serving.jobs import CancelledError, ClosedError, FullError, LateError, NoMemoryError

LONGEST = 500


class NotFoundError(ValueError):
    """There is no such model."""


GONE = 499
"""Of a client that went away, as web servers log it; nobody reads the answer."""
STATUSES: Mapping[type[Exception], int] = {
    FullError: 429,
    ClosedError: 503,
    LateError: 504,
    CancelledError: GONE,
    NoMemoryError: 507,
    NotFoundError: 404,
    ValueError: 400,
}
"""What an error means for the client."""
TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
logger = logging.getLogger(__name__)


def failure(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    text = brief(printable(" ".join(message.split())), LONGEST)
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> JSONResponse:
    """The response of an error."""
    return JSONResponse(failure(status, message, **more), status, dict(headers or {}))


def status_of(error: BaseException) -> int:
    """The status of an error; 500 for a fault of ours."""
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


def describe_error(error: BaseException) -> tuple[int, str]:
    """Status and message of an error; a fault of ours is logged, and its details stay there."""
    status = status_of(error)
    if status == 500:
        logger.error("a request failed", exc_info=error)
        return status, "something went wrong in the service; its log has the details under the request's id"
    return status, str(error) or type(error).__name__


def handle_errors(api: FastAPI) -> None:
    """Every error of the app leaves it in this form."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        status, message = describe_error(error)
        later = error.after if isinstance(error, FullError) else 5 if status == 503 else None
        code = "rate_limit_exceeded" if status == 429 else None
        return error_response(status, message, {} if later is None else {"Retry-After": str(later)}, code=code)

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(error.status_code, str(error.detail), error.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        message, param = sentence(error.errors())
        return error_response(400, message, param=param)

    for kind in (*STATUSES, Exception):
        api.add_exception_handler(kind, ours)
    api.add_exception_handler(HTTPException, http)
    api.add_exception_handler(RequestValidationError, invalid)


def sentence(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """What pydantic says of the first mistake, in one sentence, and the field that it is about."""
    first = errors[0]
    place = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    param = ".".join(part for part in place if part.isidentifier() or part.isdecimal()) or None
    name, kind = param or "the body", first.get("type", "")
    if kind == "json_invalid":
        return "the body is no valid JSON", None
    if kind == "missing":
        return f"{name} is missing" if param else "the request has no body; send JSON with its Content-Type", param
    if kind == "value_error":  # of a check of ours, which says it all
        return str(first["msg"]).removeprefix("Value error, "), param
    message = str(first.get("msg", "is not valid"))
    given = "" if "input" not in first or isinstance(first["input"], dict) else f" is {shown(first['input'])}; "
    return f"{name}{given or ': '}{message[:1].lower()}{message[1:]}", param
