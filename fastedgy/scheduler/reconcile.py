"""At the start of a worker or an application: what code declares, compared with the rows.

Code's changes are taken over, an operator's are kept. Several processes may start at once, of
several releases and of several applications on one database, so a process judges only what it can
see: a schedule whose module it has, or had to have, and that is declared there no more.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

import orjson
from asyncpg import Connection

from fastedgy.queued_task.functions import resolve
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.scheduler.actions import Desk, Hand
from fastedgy.scheduler.declared import Declaration, declarations
from fastedgy.scheduler.definition import TIMES, Call, begin, is_sealed, put_terms, words_of
from fastedgy.store import schedules
from fastedgy.store.schedules import ScheduleRow

logger = logging.getLogger("fastedgy.scheduler")

START = Hand("code", "start")
_CALLED = ("function", "args", "kwargs", "options")


async def reconcile(
    connection: Connection,
    service: QueuedTasks,
    declared: Mapping[str, Declaration] | None = None,
) -> None:
    """Make the rows follow what code declares. One look where nothing has changed.

    Raises InvalidFunction, InvalidArguments or InvalidOption for a declaration that cannot be run.
    """
    wanted = declarations() if declared is None else dict(declared)
    new = {name: _row_of(each, service) for name, each in wanted.items()}
    rows = await _rows(connection, service)
    if not any(True for _ in _differences(new, rows, service)):
        return
    desk = Desk(connection, service, START)
    async with connection.transaction():
        await schedules.take_turn(connection, service._tables)
        now = await schedules.clock(connection)
        rows = await _rows(connection, service)
        for name, wanted_row, row in list(_differences(new, rows, service)):
            await _settle(desk, name, wanted_row, row is not None, now)


async def _rows(connection: Connection, service: QueuedTasks) -> dict[str, ScheduleRow]:
    rows = await schedules.list_schedules(connection, service._tables)
    return {row.name: row for row in rows}


def _row_of(declaration: Declaration, service: QueuedTasks) -> ScheduleRow:
    row = ScheduleRow(declaration.name, "")
    declaration.call.put_into(row, service)
    put_terms(row, declaration.terms)
    row.declared = True
    row.declared_as = orjson.loads(orjson.dumps(words_of(row)))
    return row


def _differences(
    new: Mapping[str, ScheduleRow], rows: Mapping[str, ScheduleRow], service: QueuedTasks
) -> Iterator[tuple[str, ScheduleRow | None, ScheduleRow | None]]:
    """Name, declaration and row of what is to be settled."""
    for name, wanted in new.items():
        row = rows.get(name)
        if (
            row is None
            or row.undeclared is not None
            or row.declared_as != wanted.declared_as
            or _stale(row, wanted)
        ):
            yield name, wanted, row
    for name, row in rows.items():
        if name in new:
            continue
        if row.declared:
            if row.undeclared is None and _gone(row):
                yield name, None, row
        elif row.next_due is not None and _refreshed(row, service) is not None:
            yield name, None, row


async def _settle(
    desk: Desk, name: str, wanted: ScheduleRow | None, known: bool, now: datetime
) -> None:
    if not known and wanted is not None:
        begin(wanted, now)
        if await schedules.add(desk.connection, desk.tables, wanted):
            await desk.note("declare", name, wanted.declared_as)
        return
    row = await schedules.get(desk.connection, desk.tables, name, lock=True)
    if row is None:  # removed this moment
        return
    if wanted is not None:
        await _follow(desk, row, wanted, now)
    elif not row.declared:
        fresh = _refreshed(row, desk.service)
        if fresh is not None:
            await desk.save(fresh)
    elif row.removed is not None:
        await schedules.delete(desk.connection, desk.tables, name)
    else:
        row.undeclared, row.next_due = now, None
        await desk.save(row)
        await desk.note("undeclare", name, {"function": row.function})
        logger.warning(
            "The schedule %s fires no more: %s does not declare it any longer. `fastedgy schedule "
            "remove` deletes it.",
            name, row.function,
        )  # fmt: skip


async def _follow(desk: Desk, row: ScheduleRow, wanted: ScheduleRow, now: datetime) -> None:
    """Take over what the code changed since it was last seen, where no operator changed it, too."""
    old, new, mine = row.declared_as, wanted.declared_as or {}, words_of(row)
    if old is None:
        logger.warning(
            "The schedule %s was added at run time, and is declared by code now: it stays as it "
            "is, `fastedgy schedule remove` and a restart let the code's take its place.",
            row.name,
        )
        old = new
    taken: list[str] = []
    for words in (TIMES, _CALLED, *((word,) for word in new if word not in TIMES + _CALLED)):
        differs = [word for word in words if old.get(word) != new.get(word)]
        if differs and all(mine.get(word) == old.get(word) for word in words):
            taken += differs
    called = not any(mine.get(word) != new.get(word) for word in _CALLED if word not in taken)
    if called:
        for column in (*_CALLED, "task", "signature"):
            setattr(row, column, getattr(wanted, column))
    _take(row, wanted, taken)
    again = row.undeclared is not None
    row.declared, row.declared_as, row.undeclared = True, wanted.declared_as, None
    if again or any(word in TIMES for word in taken):
        begin(row, now)
    if row.removed is not None:
        row.next_due = None
    await desk.save(row)
    if taken or again:
        await desk.note("redeclare", row.name, {word: new.get(word) for word in taken})


def _take(row: ScheduleRow, wanted: ScheduleRow, words: list[str]) -> None:
    if any(word in TIMES for word in words):
        for column in ("cron", "every", "at", "timezone", "start_at", "end_at"):
            setattr(row, column, getattr(wanted, column))
    for word in words:
        column = {"coalesce": "coalesce_missed"}.get(word, word)
        if word not in TIMES and word not in _CALLED:
            setattr(row, column, getattr(wanted, column))


def _stale(row: ScheduleRow, wanted: ScheduleRow) -> bool:
    """Whether the function's own options, or the signing key, are others than at the last start."""
    mine, new = words_of(row), words_of(wanted)
    same_call = all(mine[word] == new[word] for word in _CALLED)
    return same_call and (row.task, row.signature) != (wanted.task, wanted.signature)


def _refreshed(row: ScheduleRow, service: QueuedTasks) -> ScheduleRow | None:
    """A row that was added at run time, as its function's options are now. None: nothing is new.

    What nobody signed, where tasks are signed, stays as it is: this process did not make it.
    """
    keys = service.config.signing_keys
    if keys and not is_sealed(row, keys):
        return None
    try:
        function = resolve(row.function, service.config)
        fresh = replace(row)
        call = Call(function.call, orjson.loads(row.args), orjson.loads(row.kwargs), row.options)
        call.put_into(fresh, service)
    except Exception:  # not in this process, not any more, or forged: its tasks say so
        return None
    if not keys:
        fresh.signature = row.signature  # of use to those who have keys
    return fresh if (fresh.task, fresh.signature) != (row.task, row.signature) else None


def _gone(row: ScheduleRow) -> bool:
    """Whether this process can tell that nobody declares it: its module is here without it, or the
    package is here without the module."""
    module = row.function.partition(":")[0]
    if module in sys.modules:
        return True
    top = module.partition(".")[0]
    if top not in sys.modules:
        return False
    try:
        return importlib.util.find_spec(module) is None
    except (ImportError, ValueError, AttributeError):
        return True  # a package on the way is gone
