"""What the API takes: parameters and bodies, each with its bounds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from fastedgy.admin.types import BulkAction, TaskFilter

State = Literal["scheduled", "waiting", "enqueued", "doing", "done", "failed", "cancelled"]

WITHOUT_NUL = r"^[^\x00]*$"
"""What Postgres can store."""

Text = Annotated[str, StringConstraints(max_length=500, pattern=WITHOUT_NUL)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=WITHOUT_NUL)]
Priority = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]


def _near(value: datetime) -> datetime:
    if not 1900 <= value.year <= 9000:
        raise ValueError("a year between 1900 and 9000 is wanted")
    return value


Moment = Annotated[AwareDatetime, AfterValidator(_near)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
Cursor = Annotated[
    Text | None, Query(description="`next` of the page before. It means nothing by itself.")
]
Hours = Annotated[
    float, Query(gt=0, le=24 * 90, allow_inf_nan=False, description="How far to look back.")
]


def _json_value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        return text


class _Filter(BaseModel):
    """What the filter of a listing and of a bulk action have in common."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[
        list[State], Field(max_length=7, description="Any of these states. None: all.")
    ] = []
    name: Annotated[
        Text | None, Field(description="A task's name, its last part, or a pattern with `*`.")
    ] = None
    queue: Text | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    started_after: Moment | None = None
    started_before: Moment | None = None
    ended_after: Moment | None = None
    ended_before: Moment | None = None
    min_duration: Annotated[
        Seconds | None, Field(description="Seconds of the last run; of a running one, so far.")
    ] = None
    max_duration: Seconds | None = None
    worker: Annotated[
        Text | None, Field(description="A worker process's id, a server's name or `server/pid`.")
    ] = None
    error: Annotated[
        Text | None, Field(description="The type of the error, or a pattern with `*`.")
    ] = None
    error_text: Annotated[Text | None, Field(description="A part of the error's message.")] = None
    key: Annotated[Text | None, Field(description="The unique key.")] = None
    gate: Annotated[Text | None, Field(description="The key of the limit it waits at.")] = None
    schedule: Annotated[Text | None, Field(description="The schedule that made it.")] = None
    tree: Annotated[
        UUID | None, Field(description="A task whose ancestors and descendants are meant.")
    ] = None
    parent: Annotated[UUID | None, Field(description="A task whose children are meant.")] = None

    def _values(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in _Filter.model_fields}
        values["states"] = tuple(values.pop("state"))
        return values


class FilterQuery(_Filter):
    """The filter of a listing, as query parameters, with its page."""

    context: Annotated[
        list[Text],
        Field(
            max_length=10,
            description="`path=value` of the context, as in `dataset.id=7`. All of them hold.",
        ),
    ] = []
    limit: Annotated[int, Field(ge=1, le=200, description="How many at most.")] = 50
    cursor: Annotated[
        Text | None, Field(description="`next` of the page before. It means nothing by itself.")
    ] = None
    oldest_first: bool = False

    @model_validator(mode="after")
    def _context_has_paths(self) -> FilterQuery:
        if any("=" not in pair or pair.startswith("=") for pair in self.context):
            raise ValueError("context is written path=value")
        return self

    def filter(self) -> TaskFilter:
        """What the queries take."""
        pairs = [pair.partition("=") for pair in self.context]
        context = {path: _json_value(value) for path, _, value in pairs} or None
        return TaskFilter(**self._values(), context=context)


class FilterBody(_Filter):
    """The filter of a bulk action."""

    context: Annotated[
        dict[Name, Text | int | Finite | bool | None] | None,
        Field(max_length=10, description="Values of the context by dotted paths."),
    ] = None
    ids: Annotated[list[UUID] | None, Field(max_length=10_000, description="These tasks.")] = None

    def filter(self) -> TaskFilter:
        """What the queries take."""
        ids = None if self.ids is None else tuple(self.ids)
        return TaskFilter(**self._values(), context=self.context, ids=ids)


class Options(BaseModel):
    """The options of a task. What is left out is as the function's `@task(…)` says."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    queue: Name | None = None
    priority: Priority | None = None
    delay: Annotated[Seconds | None, Field(description="Seconds until it may run.")] = None
    at: Annotated[Moment | None, Field(description="When it may run.")] = None
    max_retries: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    timeout: Annotated[float | None, Field(gt=0, le=1e9, allow_inf_nan=False)] = None
    unique_key: Name | None = None

    def given(self) -> dict[str, Any]:
        """Those that are not left out."""
        return {name: value for name, value in self if value is not None}


class NewTask(BaseModel):
    """A call to be made by a worker."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "function": "shop.mail:send_welcome",
                    "kwargs": {"address": "ann@example.com"},
                    "options": {"queue": "mail", "delay": 60},
                }
            ]
        },
    )

    function: Annotated[
        Name, Field(description="`module:function`, one that the application offers as a task.")
    ]
    args: Annotated[list[Any], Field(max_length=1_000)] = []
    kwargs: Annotated[dict[str, Any], Field(max_length=1_000)] = {}
    options: Options = Options()
    parent: Annotated[
        list[UUID], Field(max_length=1_000, description="Tasks that have to be done before.")
    ] = []


class Cancel(BaseModel):
    """How to cancel."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "typo"}]})

    reason: Annotated[Text | None, Field(description="Goes into the row.")] = None


class Bulk(BaseModel):
    """Something to do to all tasks that a filter finds."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"action": "retry", "filter": {"state": ["failed"], "name": "send_email"}},
                {"action": "move", "filter": {"queue": "mail"}, "queue": "slow"},
            ]
        },
    )

    action: BulkAction
    filter: FilterBody
    priority: Annotated[Priority | None, Field(description="For `reprioritise`.")] = None
    queue: Annotated[Name | None, Field(description="For `move`.")] = None
    reason: Annotated[Text | None, Field(description="For `cancel`.")] = None


class Fixes(BaseModel):
    """Which findings of the doctor to cure. What is left out is not looked at: all of them."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"code": "missing_index"}]}
    )

    code: Annotated[Text | None, Field(description="The findings of this kind.")] = None
    title: Annotated[Text | None, Field(description="The finding with this title.")] = None


class QueueLimits(BaseModel):
    """What a queue may do. null: no limit."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"max_running": 10, "rate": 2.5}]}
    )

    max_running: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="At once.")] = None
    rate: Annotated[
        float | None, Field(gt=0, le=1e6, allow_inf_nan=False, description="Starts a second.")
    ] = None
