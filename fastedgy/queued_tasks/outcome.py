"""What the row of a task that has ended says: its result, or the error in place of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from fastedgy.errors import ResultNotStored, TaskCancelled, TaskFailed, TaskOutcomeError
from fastedgy.queued_task.encoding import loads

ENDED = ("done", "failed", "cancelled")


def error_of(row: Any) -> TaskOutcomeError | None:
    """Why there is no result, from the columns of `store.watch`; None if there is one."""
    id, name = UUID(int=row["id"].int), row["name"]
    if row["state"] == "failed":
        return TaskFailed(
            id=id,
            name=name,
            error_type=row["error_type"] or "Exception",
            error_message=row["error_message"] or "",
            traceback=row["error_traceback"],
        )
    if row["state"] == "cancelled":
        return TaskCancelled(id=id, name=name, reason=row["error_message"])
    if row["error_type"] == "ResultNotStored":
        return ResultNotStored(f"Task {name} ({id}) is done: {row['error_message']}", id=id)
    return None


def result_of(row: Any) -> Any:
    """The result of a task that is done, as JSON gives it."""
    return None if row["result"] is None else loads(row["result"])


def outcome(row: Any) -> Any:
    """The result; raises what `error_of` says."""
    error = error_of(row)
    if error is not None:
        raise error
    return result_of(row)


@asynccontextmanager
async def in_time(timeout: float | None, who: str) -> AsyncIterator[None]:
    """`asyncio.timeout`, with a TimeoutError that says what took longer than `timeout` seconds."""
    clock = asyncio.timeout(timeout)
    try:
        async with clock:
            yield
    except TimeoutError:
        if not clock.expired():
            raise
        raise TimeoutError(
            f"{who} not ended within {timeout:g} s, and goes on. "
            "`fastedgy queue explain ID` says why a task does not run."
        ) from None
