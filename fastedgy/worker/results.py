"""What tasks get in place of the tasks among their arguments: the results of those.

They are read when a task starts, in one statement for all of its arguments, and with those of other
tasks that start at the same time; never copied into the rows of the children. What was read stays
here for a while, as the children of one task mostly run one after the other; so does what a task
with children has returned here.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from operator import eq
from typing import Any

# Tens of thousands may be the arguments of one task: this one is made in C.
from asyncpg.pgproto.pgproto import UUID

from fastedgy.errors import InvalidArguments, ResultGone, TaskOutcomeError
from fastedgy.garbage import uncollected
from fastedgy.queued_task.control import Snooze
from fastedgy.queued_task.encoding import filled, loads, references
from fastedgy.queued_tasks.outcome import ENDED, error_of
from fastedgy.store.outcomes import DoneParent, Outcome

Read = tuple[dict[str, str], str | None]
Reading = Callable[[list[UUID]], Awaitable[Read]]
"""Reads results by the ids of tasks, as `store.watch.read_results` does."""
ReadingPlain = Callable[[list[UUID]], Awaitable[str | None]]
"""Reads very many, as `store.watch.read_plain_results` does."""

KEPT = 16_000_000
"""Bytes of results that are kept at most, more or less."""
EACH = 300
"""Bytes that one takes beside its JSON: its id, and its place among those that are kept."""
TOO_LARGE = 1_000_000
"""Characters of one result from which on it is not kept."""
TOO_MANY = 1_000
"""Results of one task from which on they are read by themselves, without their ids, and are not
kept: those of a join are wanted once."""
UNFINISHED_AGAIN = 1.0
"""Seconds after which a task is run again that found a parent at work once more."""

# What jsonb gives back as the same value: it sorts the keys of objects, and makes 1e16 an integer.
_COMES_BACK = re.compile(r'"|(true|false|[^{.e]*)\Z')

Found = str | TaskOutcomeError | None
"""The JSON of a result, or the error in its place. None: the task has not ended."""


class Results:
    """Reads results in turns: what is asked for while one statement is under way goes together
    into the next.
    """

    def __init__(self, read: Reading, read_plain: ReadingPlain) -> None:
        self._read = read
        self._read_plain = read_plain
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._size = 0
        self._wanted: list[tuple[set[str], asyncio.Future[dict[str, Found]]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def arguments(
        self, name: str, args: str, kwargs: str, *, run_anyway: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a row that takes results, with the results in their places.

        `run_anyway`: a parent that came to nothing has its TaskFailed or TaskCancelled there; else
        that is raised, or ResultGone where there is no row (any more). Raises Snooze when a parent
        is at work again, and InvalidArguments for arguments that were forged.
        """
        with uncollected():  # a join of thousands makes several objects for each of them
            given = [loads(args), loads(kwargs)]
            ids = references(given)
            once = _once(name, ids)
            found = self._known(once)
            missing = once - found.keys()
            tasks = _tasks(name, list(missing))
        values: dict[str, Any] = {}
        alone = len(ids) == len(once)  # else each place gets a copy of its own
        if alone and len(missing) >= TOO_MANY and (plain := await self._read_plain(tasks)):
            values = dict(zip(sorted(missing), loads(plain), strict=True))
        elif missing:
            found |= await self._asked(missing)
        with uncollected():
            if alone:
                texts = {id: value for id, value in found.items() if isinstance(value, str)}
                values |= zip(texts, loads(f"[{','.join(texts.values())}]"), strict=True)

            def result_of(id: str) -> Any:
                if id in values:
                    return values[id]
                value = found[id]
                if isinstance(value, str):
                    return loads(value)
                if value is None:
                    raise Snooze(UNFINISHED_AGAIN, f"its parent {id} is at work again")
                if not run_anyway:
                    raise value
                return value

            place = values.__getitem__ if len(values) == len(once) else result_of
            return filled(given[0], place), filled(given[1], place)

    def keep(self, written: Sequence[Outcome], fenced: Sequence[Outcome]) -> None:
        """Keep what tasks that others wait for have returned, now that it is in their rows.

        `fenced` are those of the outcomes that changed nothing.
        """
        of_others = set(map(id, fenced))
        self._keep(
            (str(outcome.id), outcome.result or "null")
            for outcome in written
            if type(outcome) is DoneParent
            and id(outcome) not in of_others
            and (outcome.result is None or _COMES_BACK.match(outcome.result))
        )

    def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    def _known(self, ids: set[str]) -> dict[str, Found]:
        kept = self._kept
        known: dict[str, Found] = {id: kept[id] for id in ids if id in kept} if kept else {}
        for id in known:
            kept.move_to_end(id)
        return known

    async def _asked(self, ids: set[str]) -> dict[str, Found]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[dict[str, Found]] = loop.create_future()
        self._wanted.append((ids, future))
        if self._reading is None:
            self._reading = loop.create_task(self._read_wanted(), name="fastedgy results")
        return await future

    async def _read_wanted(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, []
                ids = set().union(*(missing for missing, _ in wanted))
                try:
                    results, others = await self._read(list(map(UUID, ids)))
                except Exception as error:
                    for _, future in wanted:
                        if not future.done():
                            future.set_exception(error)
                    continue
                read = self._take(ids, results, others)
                for missing, future in wanted:
                    if not future.done():
                        one = len(missing) == len(read)
                        future.set_result(read if one else {id: read[id] for id in missing})
        finally:
            self._reading = None

    def _take(self, ids: set[str], results: dict[str, str], others: str | None) -> dict[str, Found]:
        read: dict[str, Found] = {**results}
        if len(results) < TOO_MANY:
            self._keep(results.items())
        for row in loads(others) if others is not None else ():
            read[row["id"]] = _error(row)
        for id in ids - read.keys():
            read[id] = ResultGone(
                f"Task {id}, whose result is an argument here, has no row (any more): it was "
                "cancelled before it was written, or its row was deleted.",
                id=UUID(id),
            )
        return read

    def _keep(self, results: Iterable[tuple[str, str]]) -> None:
        for id, result in results:
            if len(result) < TOO_LARGE and id not in self._kept:
                self._kept[id] = result
                self._size += len(result) + EACH
        while self._size > KEPT:
            self._size -= len(self._kept.popitem(last=False)[1]) + EACH


def _once(name: str, ids: list[Any]) -> set[str]:
    """What the places for results name. Raises InvalidArguments where it is no text."""
    if set(map(type, ids)) <= {str}:
        return set(ids)
    raise _no_task(name)


def _tasks(name: str, ids: list[str]) -> list[UUID]:
    """The ids as such. Raises InvalidArguments where one is none."""
    try:
        tasks = list(map(UUID, ids))
        if all(map(eq, map(str, tasks), ids)):
            return tasks
    except ValueError:
        pass
    raise _no_task(name)


def _no_task(name: str) -> InvalidArguments:
    return InvalidArguments(f"{name}: a place for a result names no task.")


def _error(row: dict[str, Any]) -> TaskOutcomeError | None:
    """What stands in the place of a result: None for a task that has not ended."""
    if row["state"] not in ENDED:
        return None
    return error_of(row | {"id": UUID(row["id"])})
