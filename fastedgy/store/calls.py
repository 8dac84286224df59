"""What a task calls, as its row has it: to make another one like it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A call. Nothing in it is redacted: it is not to be shown to anybody."""

    function: str
    args: Any
    kwargs: Any
    queue: str
    priority: int
    takes_results: bool


_CALL = Statement("""
SELECT function, args, kwargs, queue, priority, takes_results FROM $tasks WHERE id = $1
""")


async def stored_call(connection: Connection, tables: Tables, task_id: UUID) -> StoredCall:
    """The call of a task. Raises TaskNotFound."""
    row = await connection.fetchrow(_CALL[tables], task_id)
    if row is None:
        raise TaskNotFound(task_id)
    args, kwargs = json.loads(row["args"]), json.loads(row["kwargs"])
    return StoredCall(**{**row, "args": args, "kwargs": kwargs})
