"""Exceptions as answers: which status each has, always `{"error": one line}`."""

from __future__ import annotations

import sys
import traceback

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from colbertxm.errors import UserError
from colbertxm.service.answers import explained, failure
from colbertxm.service.guard import RETRY, Refused
from colbertxm.service.served import NotThere, Unwritable
from colbertxm.service.waiting import Full, Late

ERRORS = {
    401: "no API key, or a wrong one",
    403: "a page of another site asks",
    408: "the body takes too long",
    413: "the body is too large",
    415: "the body is not called JSON",
    421: "the Host is not ours",
    422: "the request is wrong",
    503: "too much at a time, or the index cannot be changed now",
    504: "it took too long",
}


def add_failures(app: FastAPI) -> None:
    """Turn what handlers raise into answers. Raising anything else is a defect of ours: its traceback goes to stderr,
    and the client is told nothing of it."""

    @app.exception_handler(UserError)
    async def wrong(_: Request, error: UserError) -> Response:
        if isinstance(error, Unwritable):
            print(f"colbertxm: {error}", file=sys.stderr, flush=True)  # with places on this machine: not for clients
            return failure(503, "the index cannot be changed now; the server's log says why", RETRY)
        return failure(404 if isinstance(error, NotThere) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return failure(422, explained(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # a body so odd that the parser gave up
            return failure(422, "the body is not JSON that can be read")
        return failure(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return failure(error.status, str(error), error.headers)

    @app.exception_handler(Full)
    async def full(_: Request, error: Full) -> Response:
        return failure(503, "too many requests wait: come back in a moment", RETRY)

    @app.exception_handler(Late)
    async def late(request: Request, error: Late) -> Response:
        if request.url.path.startswith("/documents") and error.begun:
            return failure(504, "the change was begun and goes on: look at the document in a while")
        return failure(504, "nobody came to it in time, and nothing was changed: come back when there is less to do")

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        traceback.print_exception(type(error), error, error.__traceback__)
        return failure(500, "an error of the service's own; the server's log has it")
