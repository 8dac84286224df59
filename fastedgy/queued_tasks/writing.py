"""From pending tasks to rows: cancelled ones, unique keys, and then the store."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import InvalidTransition
from fastedgy.queued_task.signing import sign
from fastedgy.queued_tasks import duplicates
from fastedgy.queued_tasks.buffer import Pending, Wish
from fastedgy.queued_tasks.ref import QueuedTaskRef
from fastedgy.store import actions
from fastedgy.store.insert import Inserted, insert

if TYPE_CHECKING:
    from fastedgy.queued_tasks.service import QueuedTasks


ROUNDS = 100
"""Tries to find either a unique key free, or who holds it."""


@dataclass(slots=True)
class Batch:
    """What is written together. `simple`: all of its tasks are (see `Pending.is_simple`)."""

    tasks: list[Pending]
    cancellations: dict[UUID, Wish]
    simple: bool


def batch_of(tasks: list[Pending], cancellations: dict[UUID, Wish]) -> Batch:
    """What of it is still wanted."""
    simple = _are_simple(tasks)
    return Batch(tasks if simple else _without_cancelled(tasks), cancellations, simple)


def _are_simple(tasks: list[Pending]) -> bool:
    # No generator: mostly it is one task, and then that takes longer than the question.
    for pending in tasks:  # noqa: SIM110
        if not pending.is_simple():
            return False
    return True


async def write(
    connection: Connection,
    service: QueuedTasks,
    batch: Batch,
    *,
    again: bool = False,
) -> None:
    """Write tasks and cancellations on this connection. One round trip for tasks without keys.

    `again`: this is a repetition, its rows may be there already.
    """
    if batch.tasks:
        if batch.simple:
            await _put(connection, service, batch.tasks, again)
        else:
            await _insert_in_order(connection, service, batch.tasks, again=again)
        for pending in batch.tasks:
            ref = pending.ref
            ref._settle(ref._id or pending.id)
    if batch.cancellations:
        wishes: dict[Wish, list[UUID]] = {}
        for id, wish in batch.cancellations.items():
            wishes.setdefault(wish, []).append(id)
        for (reason, tree), ids in wishes.items():
            await actions.cancel(
                connection, service._tables, ids, reason=reason, tree=tree,
                channels=service._channels,
            )  # fmt: skip


async def _insert_in_order(
    connection: Connection, service: QueuedTasks, tasks: list[Pending], *, again: bool
) -> None:
    segments = _segments(tasks)
    all_or_none = any(not pending.uniqueness.is_usual for pending in tasks)
    if len(segments) == 1 and not all_or_none:
        await _insert(connection, service, tasks, again=again)
        return
    async with connection.transaction():
        for segment in segments:
            await _insert(connection, service, segment, again=again)


def _without_cancelled(tasks: list[Pending]) -> list[Pending]:
    """A child of a cancelled one meets its parent's fate."""
    kept = []
    for pending in tasks:
        gone = [parent for parent in pending.wanted
                if isinstance(parent, QueuedTaskRef) and parent._state == "cancelled"]  # fmt: skip
        whole = any(parent._whole_tree for parent in gone)
        if gone and pending.spec.on_parent_failure == "run" and not whole:
            pending.wanted = [parent for parent in pending.wanted if parent not in gone]
        elif gone:
            pending.ref._state = "cancelled"
            pending.ref._whole_tree = whole
        if pending.ref._state is None:
            kept.append(pending)
        else:
            pending.ref._dropped()
    return kept


def _segments(tasks: list[Pending]) -> list[list[Pending]]:
    """Cut where a task has a parent whose id depends on a key that is yet to be looked at."""
    segments: list[list[Pending]] = [[]]
    unsure: set[QueuedTaskRef] = set()
    for pending in tasks:
        if any(parent in unsure for parent in pending.wanted):
            segments.append([])
            unsure.clear()
        segments[-1].append(pending)
        if pending.ref._id is None:
            unsure.add(pending.ref)
    return segments


def _id_of(parent: UUID | QueuedTaskRef) -> UUID:
    if isinstance(parent, UUID):
        return parent
    if parent._id is None:
        raise InvalidTransition(
            "parent= or an argument is a task that was never written: its route or its block was "
            "undone."
        )
    return parent._id


async def _insert(
    connection: Connection, service: QueuedTasks, tasks: list[Pending], *, again: bool
) -> None:
    for pending in tasks:
        if pending.wanted:
            pending.parents = tuple(_id_of(parent) for parent in pending.wanted)
        if pending.unsure:
            _name_right(pending, service.config.signing_keys)
    waiting = await duplicates.hold_for_periods(connection, service, tasks)
    # A key that is taken may be free again before its holder is found; then the insert is due
    # once more. Bounded, since each round lost its race against another process.
    rounds = 0
    while waiting:
        rounds += 1
        if rounds > ROUNDS:
            raise InvalidTransition(
                f"{waiting[0].spec.name}: its unique key was taken by another task and free again, "
                f"{ROUNDS} times by turns. Add it again when fewer tasks with this key come and go."
            )
        result = await _put(connection, service, waiting, again)
        if not result.taken:
            break
        taken = set(result.taken)
        losers = [pending for pending in waiting if pending.id in taken]
        waiting = await duplicates.settle(connection, service, losers)
    for pending in tasks:
        if pending.ref._id is None:
            pending.ref._id = pending.id


def _put(
    connection: Connection, service: QueuedTasks, tasks: list[Pending], again: bool
) -> Awaitable[Inserted]:
    return insert(
        connection,
        service._tables,
        tasks,
        channel=service._channels.tasks,
        again=again,
        timeout=service.config.statement_timeout,
    )


def _name_right(pending: Pending, keys: Sequence[str]) -> None:
    """Put the right ids of tasks with unique keys into the arguments: those of the rows that hold
    the keys. What stands there until then occurs nowhere else.
    """
    for provisional, ref in (pending.unsure or {}).items():
        pending.args = pending.args.replace(str(provisional), str(_id_of(ref)))
        pending.kwargs = pending.kwargs.replace(str(provisional), str(_id_of(ref)))
    pending.unsure = None
    if keys:
        path = pending.spec.function
        pending.signature = sign(keys, pending.id, path, pending.args, pending.kwargs)
