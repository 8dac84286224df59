"""Doing something to a whole tree of tasks: cancelling it, or retrying it."""

from __future__ import annotations

from uuid import UUID

from asyncpg import Connection

from fastedgy.admin import bulk
from fastedgy.admin.types import BulkAction, BulkPreview
from fastedgy.errors import InvalidOption, TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store import actions, audit, details, trees


async def preview(
    connection: Connection, tables: Tables, action: BulkAction, id: UUID
) -> BulkPreview:
    """Count what would be cancelled, or retried. Raises TaskNotFound."""
    _check(action)
    await _is_there(connection, tables, id)
    find = trees.below if action is BulkAction.cancel else trees.broken
    return await bulk.preview_of(connection, tables, action, await find(connection, tables, [id]))


async def apply(
    admin: bulk.Admin, action: BulkAction, id: UUID, actor: str, source: str,
    *, reason: str | None = None,
) -> int:  # fmt: skip
    """Do it in one transaction, and write it down; how many tasks it was done to.

    Raises TaskNotFound.
    """
    _check(action)
    tables, channels = admin.tables, admin.channels
    async with admin.connection() as connection, connection.transaction():
        await _is_there(connection, tables, id)
        if action is BulkAction.cancel:
            done = await actions.cancel(
                connection, tables, [id], reason=reason, tree=True, channels=channels
            )
            changed = len(done.ended) + len(done.asked)
        else:
            again = await actions.retry(connection, tables, [id], tree=True, channels=channels)
            changed = len(again)
        if changed:
            told = {"changed": changed} | ({"reason": reason} if reason else {})
            await audit.note(
                connection, tables, actor=actor, source=source,
                action=f"task.{action.value}_tree", target=f"task:{id}", details=told,
            )  # fmt: skip
    return changed


def _check(action: BulkAction) -> None:
    if action not in (BulkAction.cancel, BulkAction.retry):
        raise InvalidOption(f"A tree can be cancelled and retried; {action.value} takes a filter.")


async def _is_there(connection: Connection, tables: Tables, id: UUID) -> None:
    if await details.task_state(connection, tables, id) is None:
        raise TaskNotFound(id)
