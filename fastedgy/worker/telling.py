"""Telling those who watch what happens here. Nobody watches: nothing is gathered, nothing is sent.

Who watches asks for it by the control channel, for a minute at a time. What is told are hints, at
most four notifications a second however much happens: the rows are read by who was told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection, Record

from fastedgy.store.outcomes import Outcome
from fastedgy.store.stream import tell_events
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

PAUSE = 0.25
"""Seconds between two notifications."""
MOST_NAMED = 40
"""Changes that are named in one notification; the others are counted."""
MOST_IDS = 150
"""Watched tasks in one notification: a payload has 8,000 bytes at most."""
MOST_KNOWN = 2_000
"""Running tasks whose names are remembered for the news of their end."""
MOST_WATCHED = 10_000
LONGEST_WATCH = 600.0
"""Seconds for which anybody may ask to be told."""


class Telling:
    """What a worker tells. `active` is all that is looked at while nobody watches."""

    def __init__(self, wire: Wire, channel: str | None) -> None:
        """`channel` None: there are no notifications here, and nobody is told."""
        self._wire = wire
        self._channel = channel
        self._all_until = 0.0
        self._watched: dict[UUID, float] = {}
        self._ids: dict[UUID, None] = {}
        self._named: list[tuple[str, str, str, str]] = []
        self._known: dict[UUID, tuple[str, str]] = {}
        self._started = 0
        self._ended: Counter[str] = Counter()
        self._bell = asyncio.Event()
        self._stopping = False
        self.active = False

    def watch(self, seconds: float, ids: Iterable[UUID] | None) -> None:
        """Tell of these tasks (None: of all) for so many seconds from now on."""
        if self._channel is None or not 0 < seconds <= LONGEST_WATCH:
            return
        until = time.monotonic() + seconds
        if ids is None:
            self._all_until = max(self._all_until, until)
        else:
            for id in ids:
                if len(self._watched) < MOST_WATCHED or id in self._watched:
                    self._watched[id] = until
                    self._ids[id] = None  # it may have changed before we knew
            self._bell.set()
        self.active = True

    # What happens. Called only while `active`.

    def started(self, rows: Sequence[Record]) -> None:
        """These tasks were claimed, and run now or soon."""
        watched = self._watched
        for row in rows:
            if row["id"] in watched:
                self._ids[row["id"]] = None
        if self._all_until:
            self._started += len(rows)
            for row in rows[: max(0, MOST_KNOWN - len(self._known))]:
                self._known[row["id"]] = row["name"], row["queue"]
            for row in rows[: max(0, MOST_NAMED - len(self._named))]:
                self._named.append((str(row["id"]), "doing", row["name"], row["queue"]))
        self._ring()

    def ended(self, outcomes: Sequence[Outcome]) -> None:
        """These outcomes are written."""
        watched = self._watched
        if watched:
            for outcome in outcomes:
                if outcome.id in watched:
                    self._ids[outcome.id] = None
        if self._all_until:
            self._ended.update(outcome.state for outcome in outcomes)
            room = MOST_NAMED - len(self._named)
            if self._known or room > 0:
                for outcome in outcomes:
                    name, queue = self._known.pop(outcome.id, ("", ""))
                    if room > 0 and name:
                        room -= 1
                        self._named.append((str(outcome.id), outcome.state, name, queue))
        self._ring()

    def said(self, ids: Iterable[UUID]) -> None:
        """These tasks have log lines or a context that were not there before."""
        watched = self._watched
        for id in ids:
            if id in watched:
                self._ids[id] = None
        self._ring()

    def _ring(self) -> None:
        if self._ids or self._started or self._ended:
            self._bell.set()

    # The loop.

    def stop(self) -> None:
        """Tell what is left, and end."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Tell until `stop`."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            payloads = self._payloads()
            if payloads and self._channel is not None:
                await self._send(self._channel, payloads)
            self._forget()
            if self._stopping:
                return
            await asyncio.sleep(PAUSE)

    async def _send(self, channel: str, payloads: list[dict[str, Any]]) -> None:
        async def tell(connection: Connection) -> None:
            await tell_events(connection, channel, payloads)

        # What could not be told is seen by the next look at the rows.
        with suppress(GivenUp):
            try:
                await self._wire.run(tell, until=lambda: True)
            except GivenUp:
                raise
            except Exception:
                logger.exception("Those who watch were not told")

    def _payloads(self) -> list[dict[str, Any]]:
        payloads: list[dict[str, Any]] = []
        if self._started or self._ended:
            payloads.append(
                {"started": self._started, "ended": dict(self._ended), "tasks": self._fitting()}
            )
        ids = [str(id) for id in self._ids]
        payloads += [
            {"ids": ids[start : start + MOST_IDS]} for start in range(0, len(ids), MOST_IDS)
        ]
        self._ids.clear()
        self._named.clear()
        self._ended.clear()
        self._started = 0
        return payloads

    def _fitting(self) -> list[tuple[str, str, str, str]]:
        """The named changes that a payload has room for: names may be long."""
        left = 7_000
        fitting = []
        for change in self._named:
            left -= len(orjson.dumps(change)) + 1
            if left < 0:
                break
            fitting.append(change)
        return fitting

    def _forget(self) -> None:
        """Stop watching what nobody has asked for again."""
        now = time.monotonic()
        if self._all_until and now >= self._all_until:
            self._all_until = 0.0
            self._known.clear()
        for id in [id for id, until in self._watched.items() if now >= until]:
            del self._watched[id]
        self.active = bool(self._all_until or self._watched)
