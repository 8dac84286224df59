"""Doing something to one task, or to all that a filter finds: previewed, in chunks, audited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from asyncpg import Connection

from fastedgy.admin.types import BulkAction, BulkPreview, BulkProgress, TaskFilter
from fastedgy.errors import InvalidOption, TaskNotFound
from fastedgy.ids import new_id
from fastedgy.models.tables import Tables
from fastedgy.queued_task.options import TaskOptions
from fastedgy.store import actions, audit, bulk, details, search
from fastedgy.store.find import STATES
from fastedgy.store.notify import Channels
from fastedgy.wording import count

NOT_STARTED = ("scheduled", "waiting", "enqueued")
CAN_BE = {
    BulkAction.cancel: (*NOT_STARTED, "doing"),
    BulkAction.retry: ("failed", "cancelled"),
    BulkAction.reprioritise: NOT_STARTED,
    BulkAction.move: NOT_STARTED,
    BulkAction.delete: ("done", "failed", "cancelled"),
}
"""The states that an action has something to do with."""
VERBS = {
    BulkAction.cancel: "Cancels",
    BulkAction.retry: "Retries",
    BulkAction.reprioritise: "Reprioritises",
    BulkAction.move: "Moves",
    BulkAction.delete: "Deletes",
}
READ = 5_000
"""Ids that are read at a time."""
LARGEST_CHUNK = 5_000
PREVIEW_SECONDS = 1.0
"""A preview counts for about so long."""
Groups = dict[tuple[str, str, str], int]
"""How many tasks there are of each state, queue and name."""


class Admin(Protocol):
    """What is needed of the service."""

    tables: Tables
    channels: Channels

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """A connection, for one chunk."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, by whom. `undone`: the operation that is taken back."""

    action: BulkAction
    actor: str
    source: str
    priority: int | None = None
    queue: str | None = None
    reason: str | None = None
    undone: UUID | None = None

    def __post_init__(self) -> None:
        for name, wanted in (("priority", BulkAction.reprioritise), ("queue", BulkAction.move)):
            given = getattr(self, name)
            if (given is not None) != (self.action is wanted):
                word = "needs" if given is None else "takes no"
                raise InvalidOption(f"{self.action.value} {word} {name}=.")
            if given is not None:
                TaskOptions.of_call({name: given})  # raises what it would for a new task
        if self.reason is not None and self.action is not BulkAction.cancel:
            raise InvalidOption(f"{self.action.value} takes no reason=.")

    @property
    def name(self) -> str:
        """What the audit calls it."""
        return "task.undo_cancel" if self.undone else f"task.{self.action.value}"

    @property
    def told(self) -> dict[str, Any]:
        """What was asked for beside the tasks."""
        values = {"priority": self.priority, "queue": self.queue, "reason": self.reason,
                  "undone": self.undone}  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}


async def one(
    admin: Admin, action: BulkAction, id: UUID, actor: str, source: str, **given: Any
) -> bool:
    """Do it to one task, and write it down. False: the task is in no state for it.

    Raises TaskNotFound.
    """
    order = Order(action, actor, source, **given)
    async with admin.connection() as connection, connection.transaction():
        changed = await _do(connection, admin, order, [id], order.reason)
        if changed:
            await audit.note(
                connection, admin.tables, actor=actor, source=source, action=order.name,
                target=f"task:{id}", details=order.told,
            )  # fmt: skip
        elif await details.task_state(connection, admin.tables, id) is None:
            raise TaskNotFound(id)
    return bool(changed)


async def preview(
    connection: Connection, tables: Tables, action: BulkAction, filter: TaskFilter
) -> BulkPreview:
    """Count what the action would be done to, for about a second."""
    groups: Groups = {}
    complete = True
    wanted = _eligible(action, filter)
    if wanted is not None:
        complete = False
        pages = search.pages(
            connection, tables, wanted, until=search.LAST_ID, size=READ, seconds=PREVIEW_SECONDS
        )
        async for ids, last in pages:
            complete = last
            await _count(connection, tables, ids, groups)
    return _previewed(action, groups, complete=complete)


async def preview_of(
    connection: Connection, tables: Tables, action: BulkAction, ids: Sequence[UUID]
) -> BulkPreview:
    """Count what the action would be done to of these tasks."""
    groups: Groups = {}
    for start in range(0, len(ids), READ):
        await _count(connection, tables, ids[start : start + READ], groups)
    eligible = {key: number for key, number in groups.items() if key[0] in CAN_BE[action]}
    return _previewed(action, eligible, complete=True)


async def _count(
    connection: Connection, tables: Tables, ids: Sequence[UUID], groups: Groups
) -> None:
    for row in await search.count_groups(connection, tables, ids):
        key = (row["state"], row["queue"], row["name"])
        groups[key] = groups.get(key, 0) + row["number"]


def _previewed(action: BulkAction, groups: Groups, *, complete: bool) -> BulkPreview:
    total = sum(groups.values())
    states, queues, names = (_by(groups, place) for place in range(3))
    return BulkPreview(
        action=action,
        total=total,
        at_least=not complete,
        states={state: states[state] for state in STATES if state in states},
        queues=queues,
        names=names,
        sentence=_sentence(action, total, complete, states, queues),
    )


def _eligible(action: BulkAction, filter: TaskFilter) -> TaskFilter | None:
    """The filter, for states that the action has something to do with; None if that is none."""
    states = tuple(each for each in CAN_BE[action] if not filter.states or each in filter.states)
    return replace(filter, states=states) if states else None


def _by(groups: Groups, place: int) -> dict[str, int]:
    total: dict[str, int] = {}
    for key, number in groups.items():
        total[key[place]] = total.get(key[place], 0) + number
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _sentence(
    action: BulkAction,
    total: int,
    complete: bool,
    states: Mapping[str, int],
    queues: Mapping[str, int],
) -> str:
    if not total:
        what = "no task" if complete else "no task that was found in a second"
        return f"{VERBS[action]} {what}."
    number = count(total, "task") if complete else f"more than {count(total, 'task')}"
    where = f" in {count(len(queues), 'queue')}" if len(queues) > 1 else ""
    running = states.get("doing", 0)
    asked = f"; {running:,} {'is' if running == 1 else 'are'} running" if running else ""
    return f"{VERBS[action]} {number}{where}{asked}."


async def apply(
    admin: Admin, order: Order, filter: TaskFilter, *, chunk: int
) -> AsyncIterator[BulkProgress]:
    """Do it to all that the filter finds, chunk by chunk, and write it down before and after."""
    if not 1 <= chunk <= LARGEST_CHUNK:
        raise InvalidOption(f"A chunk has 1 to {LARGEST_CHUNK:,} tasks, not {chunk:,}.")
    operation = new_id()
    wanted = _eligible(order.action, filter)
    async with admin.connection() as connection:
        planned = await preview(connection, admin.tables, order.action, filter)
        asked = {name: value for name, value in asdict(filter).items() if value}
        await _note(connection, admin, order, operation, {"filter": asked, "found": planned.total})
    total = None if planned.at_least else planned.total
    seen = changed = 0
    after: UUID | None = None
    reason = f"{order.reason or f'Cancelled by {order.actor}.'} {_mark(operation)}"
    more, complete = wanted is not None, False
    try:
        while wanted is not None and more:
            async with admin.connection() as connection:
                found = await search.find(
                    connection, admin.tables, wanted, limit=READ, after=after, oldest_first=True,
                    until=operation,
                )  # fmt: skip
            after, more = found.next, found.next is not None
            for start in range(0, len(found.ids), chunk):
                ids = found.ids[start : start + chunk]
                async with admin.connection() as connection:
                    changed += len(await _do(connection, admin, order, ids, reason))
                seen += len(ids)
                yield BulkProgress(operation, order.action, seen, changed, total, False)
        complete = True
    finally:
        async with admin.connection() as connection:
            told = {"changed": changed, "seen": seen, "complete": complete}
            await _note(connection, admin, order, operation, told, ended=True)
    yield BulkProgress(operation, order.action, seen, changed, total, True)


async def undo(
    admin: Admin, operation: UUID, *, actor: str, source: str, chunk: int
) -> AsyncIterator[BulkProgress]:
    """Take a bulk cancellation back."""
    async with admin.connection() as connection:
        entries = await audit.list_audit(connection, admin.tables, target=f"bulk:{operation}")
    if not any(entry.action == "task.cancel" for entry in entries):
        raise InvalidOption(f"{operation} is no cancellation of many tasks that could be undone.")
    order = Order(BulkAction.retry, actor, source, undone=operation)
    began = search.moment_of(operation) - timedelta(minutes=5)
    cancelled = TaskFilter(states=("cancelled",), ended_after=began, error_text=_mark(operation))
    async for progress in apply(admin, order, cancelled, chunk=chunk):
        yield progress


def _mark(operation: UUID) -> str:
    """What the reason of each task that an operation cancels ends with."""
    return f"(operation {operation})"


async def _do(
    connection: Connection,
    admin: Admin,
    order: Order,
    ids: Sequence[UUID],
    reason: str | None,
) -> Sequence[UUID]:
    """Do it to these tasks, in one transaction; those that it was done to."""
    tables, channels = admin.tables, admin.channels
    if order.undone is not None:
        return await bulk.restore(connection, tables, ids, channels)
    match order.action:
        case BulkAction.cancel:
            done = await actions.cancel(connection, tables, ids, reason=reason, channels=channels)
            return [*done.ended, *done.asked]
        case BulkAction.retry:
            return await actions.retry(connection, tables, ids, channels=channels)
        case BulkAction.reprioritise:
            assert order.priority is not None
            return await bulk.reprioritise(connection, tables, ids, order.priority, channels)
        case BulkAction.move:
            assert order.queue is not None
            return await bulk.move(connection, tables, ids, order.queue, channels)
        case BulkAction.delete:
            return await bulk.delete(connection, tables, ids)


async def _note(
    connection: Connection,
    admin: Admin,
    order: Order,
    operation: UUID,
    told: Mapping[str, Any],
    *,
    ended: bool = False,
) -> None:
    await audit.note(
        connection, admin.tables, actor=order.actor, source=order.source,
        action=f"{order.name}.ended" if ended else order.name, target=f"bulk:{operation}",
        details={**order.told, **told},
    )  # fmt: skip
