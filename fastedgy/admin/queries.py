"""Finding tasks and reading them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Connection

from fastedgy.admin.types import LogRow, Page, TaskDetails, TaskFilter, TaskSummary, Tree
from fastedgy.errors import InvalidOption
from fastedgy.models.tables import Tables
from fastedgy.store import details, find, search
from fastedgy.store.summaries import summaries

MOST = 1_000
"""Tasks of one page at most."""


async def list_tasks(
    connection: Connection,
    tables: Tables,
    filter: TaskFilter | None = None,
    *,
    limit: int = 50,
    cursor: str | None = None,
    oldest_first: bool = False,
    seconds: float = 0.15,
) -> Page[TaskSummary]:
    """A page of tasks, looked for over about `seconds` at most.

    Raises InvalidOption for a limit out of bounds and a cursor that is none.
    """
    if not 1 <= limit <= MOST:
        raise InvalidOption(f"A page has 1 to {MOST:,} tasks, not {limit:,}.")
    found = await search.find(
        connection, tables, filter or TaskFilter(), limit=limit, after=_after(cursor),
        oldest_first=oldest_first, seconds=seconds,
    )  # fmt: skip
    return Page(
        items=await summaries(connection, tables, found.ids),
        next=None if found.next is None else found.next.hex,
        searched_to=None if found.searched_to is None else search.moment_of(found.searched_to),
    )


def _after(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(cursor)
    except ValueError:
        raise InvalidOption(f"{cursor!r} is not the cursor of a page.") from None


async def running_tasks(
    connection: Connection, tables: Tables, *, limit: int
) -> Sequence[TaskSummary]:
    """What runs now, the longest-running first."""
    ids = await find.longest_running(connection, tables, limit=limit)
    return await summaries(connection, tables, ids)


async def oldest_due(
    connection: Connection, tables: Tables, *, limit: int
) -> Sequence[TaskSummary]:
    """What has been due for the longest time and is not claimed."""
    ids = await find.oldest_due(connection, tables, limit=limit)
    return await summaries(connection, tables, ids)


async def find_id(connection: Connection, tables: Tables, text: str) -> UUID:
    """A whole id, whether its task is there or not; or that of the one task it abbreviates."""
    return await find.find_id(connection, tables, text)


async def task_details(connection: Connection, tables: Tables, id: UUID) -> TaskDetails:
    """All about one task."""
    return await details.task_details(connection, tables, id)


async def task_logs(
    connection: Connection,
    tables: Tables,
    id: UUID,
    *,
    after: tuple[int, int],
    limit: int,
    level: str | None,
) -> Sequence[LogRow]:
    """Log lines in their order."""
    return await details.task_logs(connection, tables, id, after=after, limit=limit, level=level)


async def tree(connection: Connection, tables: Tables, id: UUID, *, limit: int) -> Tree:
    """A task's family."""
    family = await details.tree(connection, tables, id, limit=limit)
    nodes = await summaries(connection, tables, [task.id for task in family.tasks])
    return Tree(root=id, nodes=nodes, edges=family.links, truncated=family.truncated)


async def count_tasks(
    connection: Connection, tables: Tables, filter: TaskFilter, *, limit: int
) -> int:
    """How many tasks a filter finds, up to `limit`; fewer where looking takes over a second."""
    number = 0
    async for ids, _ in search.pages(
        connection, tables, filter, until=search.LAST_ID, size=limit, seconds=1.0
    ):
        number += len(ids)
        if number >= limit:
            break
    return min(number, limit)
