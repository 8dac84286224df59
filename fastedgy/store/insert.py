"""Enqueueing: how tasks and their parent links become rows, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store import insert_alike, insert_mixed
from fastedgy.store.newtask import NewTask
from fastedgy.store.order import in_order

CHUNK = 5_000
"""Rows of one statement. 1,000 to 5,000 cost the same per row; more take memory on both sides."""

TREE = 20_000
"""Rows of one statement where they hang together: a whole tree is one round trip."""

COPY_FROM = 2_000
"""Rows from which on COPY is worth one more round trip (the bell): it takes two thirds of an
INSERT's time per row."""


@dataclass(slots=True)
class Inserted:
    """What became of a flush. `taken` are the ids that another row's unique key kept out."""

    taken: list[UUID] = field(default_factory=list)


async def insert(
    connection: Connection,
    tables: Tables,
    tasks: Sequence[NewTask],
    *,
    channel: str | None,
    again: bool = False,
    timeout: float | None = None,
) -> Inserted:
    """Write tasks and their links; all of them or none.

    One round trip; more for thousands of tasks, which go by COPY if they are alike, and in chunks
    from 20,000 on.

    `channel` is where the bell rings at the commit (None: nowhere). `again` says that this is a
    repetition after an answer was lost: rows that are there already are left alone.

    Raises ParentNotFound when a parent is neither among `tasks` nor in the table, and
    CircularWorkflow when some of `tasks` would wait for each other; then nothing is written, and a
    surrounding transaction is not harmed.
    """
    alike = insert_alike.are_alike(tasks)
    copied = alike and len(tasks) >= COPY_FROM and not again
    if not alike:
        tasks = in_order(tasks)
    if len(tasks) > (CHUNK if alike else TREE) and not copied:
        return await _insert_chunks(connection, tables, tasks, channel=channel, again=again,
                                    timeout=timeout)  # fmt: skip
    if copied:
        await insert_alike.copy(connection, tables, tasks, channel=channel, timeout=timeout)
    elif alike:
        await insert_alike.insert(connection, tables, tasks, channel=channel, again=again,
                                  timeout=timeout)  # fmt: skip
    elif insert_alike.are_alike_and_owned(tasks):
        await insert_alike.insert_owned(connection, tables, tasks, again=again, timeout=timeout)
    else:
        return Inserted(
            await insert_mixed.insert(connection, tables, tasks, channel=channel, again=again,
                                      timeout=timeout)
        )  # fmt: skip
    return Inserted()


async def _insert_chunks(
    connection: Connection, tables: Tables, tasks: Sequence[NewTask], *, channel: str | None,
    again: bool, timeout: float | None,
) -> Inserted:  # fmt: skip
    """More than one statement's worth: in one transaction, parents before their children."""
    taken: list[UUID] = []
    async with connection.transaction():
        for start in range(0, len(tasks), CHUNK):
            chunk = tasks[start : start + CHUNK]
            part = await insert(connection, tables, chunk, channel=channel, again=again,
                                timeout=timeout)  # fmt: skip
            taken += part.taken
    return Inserted(taken)
