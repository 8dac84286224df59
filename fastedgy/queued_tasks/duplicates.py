"""What becomes of a task whose unique key another one holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import DuplicateTask, InvalidOption
from fastedgy.queued_task.options import TaskOptions
from fastedgy.queued_task.signing import sign
from fastedgy.store import unique

if TYPE_CHECKING:
    from fastedgy.queued_tasks.buffer import Pending
    from fastedgy.queued_tasks.service import QueuedTasks


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """What a unique key keeps out, and what a duplicate gets.

    `scope`: others are kept out as long as the task is "unfinished" or "waiting" to start, and for
    `period` seconds at least. `answer`: "existing", "replace" or "error".
    """

    answer: str = "existing"
    scope: str = "unfinished"
    period: float | None = None

    @property
    def is_usual(self) -> bool:
        """Whether the index alone decides, and a duplicate gets the ref of the task there is."""
        return self == USUAL


USUAL = Uniqueness()

_OF_KEYS = {
    "unique_for": "how long unique_key= counts",
    "unique_while": "how long unique_key= counts",
    "on_duplicate": "what happens where unique_key= is taken",
}


def uniqueness(options: TaskOptions, where: str) -> Uniqueness:
    """What the options of a task say about duplicates. Raises InvalidOption."""
    if options.unique_key is None:
        for word, says in _OF_KEYS.items():
            if getattr(options, word) is not None:
                raise InvalidOption(f"{where}: {word}= says {says}; give both.")
        return USUAL
    answer = options.on_duplicate or "existing"
    scope = options.unique_while or ("waiting" if answer == "replace" else "unfinished")
    if answer == "replace" and (scope != "waiting" or options.unique_for is not None):
        raise InvalidOption(
            f'{where}: on_duplicate="replace" replaces a task that has not started, so it goes '
            'with unique_while="waiting" and without unique_for=.'
        )
    return Uniqueness(answer, scope, options.unique_for)


async def hold_for_periods(
    connection: Connection, service: QueuedTasks, tasks: list[Pending]
) -> list[Pending]:
    """Hold the keys of those that ask for a period; the tasks that are to be written."""
    first: dict[str, Pending] = {}
    for pending in tasks:
        if pending.unique_key is not None and pending.uniqueness.period is not None:
            first.setdefault(pending.unique_key, pending)
    if not first:
        return tasks
    wanted = [
        (key, pending.id, pending.uniqueness.period or 0.0)
        for key, pending in sorted(first.items())
    ]
    held = await unique.hold(connection, service._tables, wanted)
    left = []
    for pending in tasks:
        key = pending.unique_key
        if key is None or pending.uniqueness.period is None:
            left.append(pending)
        elif key in held:
            _refuse(pending, held[key])
        elif first[key] is pending:
            left.append(pending)
        else:
            _refuse(pending, first[key].id)
    return left


async def settle(
    connection: Connection, service: QueuedTasks, losers: list[Pending]
) -> list[Pending]:
    """Give tasks that were kept out what they asked for; those to be written once more."""
    tables = service._tables
    keys = [str(pending.unique_key) for pending in losers]
    holders = await unique.find_holders(
        connection, tables, keys, timeout=service.config.statement_timeout
    )
    again: list[Pending] = []
    free: list[str] = []
    idle: list[Pending] = []
    for pending in losers:
        key = str(pending.unique_key)
        holder = holders.get(key)
        kind = pending.uniqueness
        if holder is None:
            again.append(pending)
        elif kind.scope == "waiting" and holder.state == "doing":
            free.append(key)
            again.append(pending)
        elif kind.answer == "replace":
            if await _replace(connection, service, pending, holder.id):
                pending.ref._id = holder.id
            else:
                again.append(pending)
        else:
            if kind.period is not None:
                idle.append(pending)
            _refuse(pending, holder.id)
    if free:
        await unique.take_over(connection, tables, free)
    if idle:
        await unique.let_go(
            connection, tables, [str(pending.unique_key) for pending in idle],
            [pending.id for pending in idle],
        )  # fmt: skip
    return again


async def _replace(
    connection: Connection, service: QueuedTasks, pending: Pending, holder: UUID
) -> bool:
    signature = None
    if keys := service.config.signing_keys:
        function = pending.spec.function
        signature = sign(keys, holder, function, pending.args, pending.kwargs)
    return await unique.replace(
        connection, service._tables, holder, pending, signature=signature,
        channels=service._channels,
    )  # fmt: skip


def _refuse(pending: Pending, holder: UUID) -> None:
    if pending.uniqueness.answer == "error":
        raise DuplicateTask(str(pending.unique_key), holder)
    pending.ref._id = holder
