"""Errors as answers: what FastEdgy raises, with the status and the body that say it over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from fastedgy.errors import (
    DatabaseUnavailable,
    DuplicateTask,
    FastEdgyError,
    FunctionNotFound,
    FunctionRefused,
    InvalidSchedule,
    InvalidTask,
    InvalidTransition,
    NoOpenBuffer,
    ParentNotFound,
    ScheduleExists,
    SchemaOutdated,
    ServiceNotFound,
    TooManyFollowers,
)

logger = logging.getLogger("fastedgy.admin")


class Problem(BaseModel):
    """Why a request came to nothing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "code": "TaskNotFound",
                    "detail": "No task has the id 01975c1e-0000-7000-8000-000000000000.",
                }
            ]
        }
    )

    code: str = Field(description="The kind of error, for programs.")
    detail: str = Field(description="What happened and what to do, for people.")
    where: list[str] = Field([], description="The parameters at fault, where there are any.")


_MEANINGS = {
    400: "What was asked for makes no sense for this queue.",
    401: "No token, or none of ours.",
    403: "The token may only read, or the request comes from another site's page.",
    404: "There is no such thing (any more).",
    409: "It is in a state in which this cannot be done.",
    422: "The request is not of the documented form.",
    503: "The database does not answer, or too many streams are open.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these error answers, for a route's `responses`. 401, 422 and 503 are
    among those of every route.
    """
    return {
        status: {"model": Problem, "description": _MEANINGS[status]}
        for status in sorted({401, 422, 503, *statuses})
    }


# The first that fits counts.
_STATUSES: list[tuple[tuple[type[Exception], ...], int]] = [
    ((InvalidTask, InvalidSchedule, ParentNotFound, FunctionNotFound, FunctionRefused), 400),
    ((DuplicateTask, InvalidTransition, ScheduleExists), 409),
    ((DatabaseUnavailable, SchemaOutdated, NoOpenBuffer, ServiceNotFound, TooManyFollowers), 503),
    ((LookupError,), 404),
]
_CODES = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict"}


def status_of(error: FastEdgyError) -> int | None:
    """The status that says this error; None for what is a mistake of the application's own."""
    return next((status for kinds, status in _STATUSES if isinstance(error, kinds)), None)


class ProblemRoute(APIRoute):
    """A route whose errors are `Problem`s, whatever handlers the application has."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, and what becomes of its errors."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return _invalid(error)
            except HTTPException as error:
                if error.status_code == 400:  # FastAPI, of a body that is not even JSON
                    return problem(422, "InvalidRequest", str(error.detail))
                code = _CODES.get(error.status_code, "Error")
                return problem(error.status_code, code, str(error.detail), headers=error.headers)
            except FastEdgyError as error:
                status = status_of(error)
                if status is None:
                    raise
                if status == 503:
                    logger.warning("%s %s: %s", request.method, request.url.path, error)
                return problem(status, type(error).__name__, str(error))

        return answer


def problem(
    status: int, code: str, detail: str, *, where: list[str] | None = None, headers: Any = None
) -> JSONResponse:
    """An error answer."""
    body = Problem(code=code, detail=detail, where=where or [])
    return JSONResponse(body.model_dump(), status, headers=headers)


def _invalid(error: RequestValidationError) -> JSONResponse:
    where, sentences = [], []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"][1:]) or str(item["loc"][0])
        where.append(place)
        sentences.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
    return problem(422, "InvalidRequest", "; ".join(sentences), where=where)
