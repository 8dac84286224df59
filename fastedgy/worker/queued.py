"""Tasks that are claimed and not started: no slot is free for them yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from contextlib import suppress
from operator import itemgetter
from uuid import UUID

from asyncpg import Record

_gate = itemgetter("gate")


class Queued(deque[Record]):
    """Their rows, in the order in which they are to start.

    Another thread may take them while the event loop is blocked, and the loop may move again at any
    moment: so they are looked through in a copy (by `list`, which the other cannot interrupt as it
    can `tuple`), and each of them is taken by an operation that only one of both can succeed in.
    """

    def ids(self) -> set[UUID]:
        """The ids of all."""
        return {row["id"] for row in list(self)}

    def gates(self) -> set[str | None]:
        """Their gates; None: of those without."""
        return set(map(_gate, list(self)))

    def take(self, id: UUID) -> Record | None:
        """Take one out of the line, if it is in it."""
        return next(iter(self._take([row for row in list(self) if row["id"] == id])), None)

    def take_of(self, queues: Collection[str]) -> list[Record]:
        """Take those of these queues."""
        return self._take([row for row in list(self) if row["queue"] in queues])

    def take_all(self) -> list[Record]:
        """Take all of them."""
        taken: list[Record] = []
        with suppress(IndexError):
            while True:
                taken.append(self.popleft())
        return taken

    def _take(self, rows: list[Record]) -> list[Record]:
        taken: list[Record] = []
        for row in rows:
            with suppress(ValueError):
                self.remove(row)
                taken.append(row)
        return taken
