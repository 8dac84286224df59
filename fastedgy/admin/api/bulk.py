"""`/bulk`: something done to all tasks that a filter finds, with a look at them before."""

# FastAPI reads the annotations of what it calls, so this module does without
# `from __future__ import annotations`.

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter

from fastedgy.admin.api import examples
from fastedgy.admin.api.examples import answers
from fastedgy.admin.api.fields import Bulk
from fastedgy.admin.api.problems import ProblemRoute
from fastedgy.admin.api.services import Admin
from fastedgy.admin.api.tasks import SOURCE
from fastedgy.admin.auth import Identity, QueueAuth
from fastedgy.admin.types import BulkPreview, BulkProgress
from fastedgy.errors import InvalidOption

LINES = "application/x-ndjson"
_progress = TypeAdapter(BulkProgress)


def bulk_router(auth: QueueAuth) -> APIRouter:
    """The routes of bulk actions."""
    router = APIRouter(tags=["bulk"], route_class=ProblemRoute)
    Writer = Annotated[Identity, Depends(auth.write)]  # noqa: N806
    done = answers(examples.PROGRESS, 400, 403, description="What came of it.")
    done[200]["content"][LINES] = {"schema": {"type": "string"}}
    Accept = Annotated[str, Header(description=f"`{LINES}`: a line for each chunk.")]  # noqa: N806

    @router.post("/bulk/preview", dependencies=[Depends(auth.read)],
                 responses=answers(examples.PREVIEW, 400))  # fmt: skip
    async def preview(admin: Admin, wanted: Bulk) -> BulkPreview:
        """What an action would do: how many tasks, in which states, queues and names."""
        return await admin.preview(wanted.action, wanted.filter.filter())

    @router.post("/bulk/apply", response_model=BulkProgress, responses=done)
    async def apply(
        admin: Admin, who: Writer, wanted: Bulk, accept: Accept = "application/json"
    ) -> Any:
        """Do it, in chunks. Answers with the last progress, or with a line for each chunk.

        A client that leaves stops it after the chunk that is under way.
        """
        steps = admin.apply(
            wanted.action, wanted.filter.filter(), actor=who.name, source=SOURCE,
            priority=wanted.priority, queue=wanted.queue, reason=wanted.reason,
        )  # fmt: skip
        return await _answer(steps, lines=LINES in accept)

    @router.post("/bulk/{operation}/undo", response_model=BulkProgress, responses=done)
    async def undo(
        admin: Admin,
        who: Writer,
        operation: Annotated[UUID, Path(description="`operation` of a bulk cancel's progress.")],
        accept: Accept = "application/json",
    ) -> Any:
        """Take a bulk cancel back: what it cancelled before it ran is in the line again."""
        steps = admin.undo(operation, actor=who.name, source=SOURCE)
        return await _answer(steps, lines=LINES in accept)

    return router


async def _answer(steps: AsyncIterator[BulkProgress], *, lines: bool) -> BulkProgress | Response:
    # The first step here, so that what does not fit is an error answer and no broken stream.
    last = await anext(steps, None)
    if last is None:
        raise InvalidOption("There was nothing to do.")
    if lines:
        return StreamingResponse(_told(last, steps), media_type=LINES)
    async for step in steps:
        last = step
    return last


async def _told(first: BulkProgress, steps: AsyncIterator[BulkProgress]) -> AsyncIterator[bytes]:
    yield _progress.dump_json(first) + b"\n"
    async for step in steps:
        yield _progress.dump_json(step) + b"\n"
