"""Server-sent events: what happens to a task, and in the whole queue."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from fastedgy.admin.api import examples
from fastedgy.admin.api.problems import ProblemRoute, problems
from fastedgy.admin.api.services import Admin, Following
from fastedgy.admin.api.tasks import Id
from fastedgy.admin.auth import QueueAuth
from fastedgy.errors import TaskNotFound
from fastedgy.store.details import task_state

STREAM = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
RETRY = b"retry: 1000\n\n"
"""Milliseconds after which a browser connects again."""

Place = Annotated[str | None, Query(max_length=100, description="Like `Last-Event-ID`.")]
LastEventId = Annotated[str | None, Header(max_length=100, description="The last event's id.")]


class EventStream(StreamingResponse):
    """Events as they come. The stream's generator is closed when the client has left."""

    media_type = STREAM

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(self._with_retry(events), headers=HEADERS)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end, or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()

    async def _with_retry(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield RETRY
        async for event in events:
            yield event


def events_router(auth: QueueAuth) -> APIRouter:
    """The routes of events."""
    router = APIRouter(tags=["events"], route_class=ProblemRoute)
    reads = [Depends(auth.read)]

    def stream(example: str, *statuses: int) -> dict[str, Any]:
        content = {STREAM: {"schema": {"type": "string"}, "example": example}}
        body = {"description": "Events, until the stream ends.", "content": content}
        return {"response_class": StreamingResponse, "dependencies": reads,
                "responses": {200: body, **problems(*statuses)}}  # fmt: skip

    @router.get("/tasks/{id}/events", **stream(examples.TASK_EVENTS, 404))
    async def task_events(
        admin: Admin,
        live: Following,
        id: Id,
        after: Place = None,
        last_event_id: LastEventId = None,
    ) -> EventStream:
        """What happens to a task: `attempt`, `log`, `progress`, `state`, and at the end `result`.

        The first events are what there is already: earlier attempts, lines, context and state. With
        `Last-Event-ID` only what came since. `gone`: the row was deleted. A stream that has ended
        is not to be opened again.
        """
        async with admin.connection() as connection:
            if await task_state(connection, admin.tables, id) is None:
                raise TaskNotFound(id)
        return EventStream(live.follow_task(id, last_event_id or after))

    @router.get("/events", **stream(examples.QUEUE_EVENTS))
    async def queue_events(
        live: Following, after: Place = None, last_event_id: LastEventId = None
    ) -> EventStream:
        """What happens in the queue: `tasks` (a summary a second), `overview` (every two seconds).

        `reset`: there were events that nobody remembers; what was shown has to be asked for anew.
        """
        return EventStream(live.follow_queue(last_event_id or after))

    return router
