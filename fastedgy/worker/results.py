"""What tasks get in place of the tasks among their arguments: the results of those.

They are read when a task starts, in one statement for all of its arguments, and with those of other
tasks that start at the same time; never copied into the rows of the children. What was read stays
here for a while, as the children of one task mostly run one after the other.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any
from uuid import UUID

from fastedgy.errors import InvalidArguments, ResultGone, TaskOutcomeError
from fastedgy.queued_task.control import Snooze
from fastedgy.queued_task.encoding import filled, loads, references
from fastedgy.queued_tasks.outcome import ENDED, error_of

Reading = Callable[[list[UUID]], Awaitable[Sequence[Any]]]
"""Reads the rows of tasks by their ids, with the columns of `store.watch`."""

KEPT = 16_000_000
"""Characters of JSON that are kept at most."""
TOO_LARGE = 1_000_000
"""Characters of one result from which on it is not kept."""
UNFINISHED_AGAIN = 1.0
"""Seconds after which a task is run again that found a parent at work once more."""

Found = str | TaskOutcomeError | None
"""The JSON of a result, or the error in its place. None: the task has not ended."""


class Results:
    """Reads results in turns: what is asked for while one statement is under way goes together
    into the next.
    """

    def __init__(self, read: Reading) -> None:
        self._read = read
        self._kept: OrderedDict[UUID, str] = OrderedDict()
        self._size = 0
        self._wanted: dict[UUID, list[asyncio.Future[Found]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def arguments(
        self, name: str, args: str, kwargs: str, *, run_anyway: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a row that takes results, with the results in their places.

        `run_anyway`: a parent that came to nothing has its TaskFailed or TaskCancelled there; else
        that is raised, or ResultGone where there is no row (any more). Raises Snooze when a parent
        is at work again, and InvalidArguments for arguments that were forged.
        """
        given = loads(args), loads(kwargs)
        try:
            ids = {text: UUID(text) for text in references(list(given))}
        except (ValueError, TypeError, AttributeError):
            raise InvalidArguments(f"{name}: a place for a result names no task.") from None
        found = await self._of(set(ids.values()))

        def result(text: str) -> Any:
            value = found[ids[text]]
            if isinstance(value, str):
                return loads(value)
            if value is None:
                raise Snooze(UNFINISHED_AGAIN, f"its parent {text} is at work again")
            if not run_anyway:
                raise value
            return value

        return filled(given[0], result), filled(given[1], result)

    def close(self) -> None:
        """Read no more."""
        if self._reading is not None:
            self._reading.cancel()

    async def _of(self, ids: Collection[UUID]) -> dict[UUID, Found]:
        found: dict[UUID, Found] = {}
        futures: dict[UUID, asyncio.Future[Found]] = {}
        loop = asyncio.get_running_loop()
        for id in ids:
            kept = self._kept.get(id)
            if kept is not None:
                self._kept.move_to_end(id)
                found[id] = kept
            else:
                futures[id] = loop.create_future()
                self._wanted.setdefault(id, []).append(futures[id])
        if futures:
            if self._reading is None:
                self._reading = loop.create_task(self._read_wanted(), name="fastedgy results")
            for id, future in futures.items():
                found[id] = await future
        return found

    async def _read_wanted(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                try:
                    rows = {row["id"]: row for row in await self._read(list(wanted))}
                except Exception as error:
                    for future in _all(wanted):
                        future.set_exception(error)
                    continue
                for id, futures in wanted.items():
                    value = self._found(id, rows.get(id))
                    for future in futures:
                        if not future.done():
                            future.set_result(value)
        finally:
            self._reading = None

    def _found(self, id: UUID, row: Any) -> Found:
        if row is None:
            return ResultGone(
                f"Task {id}, whose result is an argument here, has no row (any more): it was "
                "cancelled before it was written, or its row was deleted.",
                id=id,
            )
        if row["state"] not in ENDED:
            return None
        error = error_of(row)
        if error is not None:
            return error
        text: str = "null" if row["result"] is None else row["result"]
        if len(text) < TOO_LARGE:
            self._kept[id] = text
            self._size += len(text)
            while self._size > KEPT:
                self._size -= len(self._kept.popitem(last=False)[1])
        return text


def _all(wanted: dict[UUID, list[asyncio.Future[Found]]]) -> list[asyncio.Future[Found]]:
    return [future for futures in wanted.values() for future in futures if not future.done()]


