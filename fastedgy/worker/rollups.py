"""What this process has counted: how its tasks ended and how long they took, told to the table
every few seconds.

Counts are exact. Of a large batch of outcomes only some are looked at for how long they took and
had waited, each standing for several: a busy worker has no time to measure every task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store import rollups
from fastedgy.store.outcomes import Outcome
from fastedgy.store.rollups import (
    EPOCH,
    EVER,
    EVERY_NAME,
    HOUR,
    MINUTE,
    RollupKey,
    Tally,
    bucket,
)
from fastedgy.worker.running import Running
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

FLUSH_EVERY = 3.0
"""Seconds between two writes, as long as there is anything new."""
MEASURED = 16
"""Of a batch of more outcomes than this, about so many are measured."""
MOST_KINDS = 500
"""Names of which one process keeps counts; further ones are counted together."""
OTHERS = "(others)"

Kind = tuple[str, str]
"""A queue and a name."""


class Rollups:
    """Counts what came of tasks; `run` writes the counts until `stop`."""

    def __init__(self, wire: Wire, tables: Tables, worker_id: UUID) -> None:
        self._wire = wire
        self._tables = tables
        self._worker_id = worker_id
        # Until the database was asked, our own clock stands for its.
        self._clock = time.time() - time.monotonic()
        self._fresh: dict[Kind, Tally] = {}
        self._minute = self._now() // MINUTE
        self._rows: dict[RollupKey, Tally] = {}
        self._dirty: set[RollupKey] = set()
        self._kinds: set[Kind] = set()
        self._bell = asyncio.Event()
        self._stop = asyncio.Event()
        self._deadline: float | None = None

    # Told by the completer.

    def add(self, batch: Sequence[Outcome], fenced: Sequence[Outcome] = ()) -> None:
        """Count outcomes that were written; those `fenced` changed nothing and do not count."""
        minute = self._now() // MINUTE
        if minute != self._minute:
            self._settle()
            self._minute = minute
        if fenced:
            gone = set(map(id, fenced))
            batch = [outcome for outcome in batch if id(outcome) not in gone]
        done = [each for each in batch if each.word == "done" and each.of is not None]
        if done:
            self._add_done(done, [(each.of.queue, each.of.name) for each in done])
        if len(done) < len(batch):
            for outcome in batch:
                self._add_other(outcome)
        self._bell.set()

    def _add_done(self, outcomes: Sequence[Outcome], kinds: Sequence[Kind]) -> None:
        # Most large batches are of one kind, and to see that takes less than to count the kinds.
        alike = kinds.count(kinds[0]) == len(kinds)
        left = {kinds[0]: len(kinds)} if alike else dict(Counter(kinds))
        for kind, number in left.items():
            self._tally(kind).done += number
        step = max(1, len(outcomes) // MEASURED)
        for outcome, kind in zip(outcomes[::step], kinds[::step], strict=True):
            number = min(left[kind], step)
            if number:
                left[kind] -= number
                self._measure(outcome, self._tally(kind), number)
        # What is left of a kind stands behind its last one; few kinds have anything left.
        rest = {kind: number for kind, number in left.items() if number}
        if rest:
            last = dict(zip(kinds, outcomes, strict=True))
            for kind, number in rest.items():
                self._measure(last[kind], self._tally(kind), number)

    def _add_other(self, outcome: Outcome) -> None:
        if outcome.of is None or outcome.word not in ("failed", "retry", "cancelled"):
            return
        tally = self._tally((outcome.of.queue, outcome.of.name))
        match outcome.word:
            case "failed":
                tally.failed += 1
            case "retry":
                tally.retried += 1
            case "cancelled":
                tally.cancelled += 1
        self._measure_wait(outcome, tally, 1)

    def _measure(self, outcome: Outcome, tally: Tally, number: int) -> None:
        took = outcome.ended - outcome.began
        tally.run_seconds += took * number
        tally.runs[bucket(took)] += number
        self._measure_wait(outcome, tally, number)

    def _measure_wait(self, outcome: Outcome, tally: Tally, number: int) -> None:
        if isinstance(outcome.of, Running):
            waited = outcome.began + self._clock - outcome.of.enqueued.timestamp()
            tally.waits[bucket(waited)] += number

    def _tally(self, kind: Kind) -> Tally:
        tally = self._fresh.get(kind)
        if tally is None:
            if kind not in self._kinds and len(self._kinds) >= MOST_KINDS:
                kind = (kind[0], OTHERS)
            self._kinds.add(kind)
            tally = self._fresh.setdefault(kind, Tally())
        return tally

    def _now(self) -> float:
        """The database's time, as far as we know."""
        return time.monotonic() + self._clock

    # The loop.

    def stop(self, *, within: float) -> None:
        """Write what is left, for at most `within` seconds if the database is away, and end."""
        self._deadline = time.monotonic() + within
        self._stop.set()
        self._bell.set()

    async def run(self) -> None:
        """Write the counts every few seconds until `stop`."""
        with suppress(GivenUp):
            await self._wire.run(self._set_clock, until=self._given_up)
        while True:
            await self._bell.wait()
            self._bell.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), FLUSH_EVERY)
            try:
                await self._flush()
            except GivenUp:
                logger.warning("The counts of the last seconds were not written: no database")
            except Exception:
                logger.exception("The counts of the last seconds were not written; once more soon")
            if self._stop.is_set():
                return

    async def _set_clock(self, connection: Connection) -> None:
        before = time.monotonic()
        now = await rollups.clock(connection)
        self._clock = now - (before + time.monotonic()) / 2

    async def _flush(self) -> None:
        self._settle()
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        rows = [(key, self._rows[key]) for key in dirty]

        async def write(connection: Connection) -> float:
            return await rollups.write(connection, self._tables, self._worker_id, rows)

        try:
            before = time.monotonic()
            now = await self._wire.run(write, until=self._given_up)
        except BaseException:
            self._dirty |= dirty
            raise
        self._clock = now - (before + time.monotonic()) / 2
        self._forget(now)

    def _settle(self) -> None:
        """Add what was counted since to the rows of its minute, its hour and all time."""
        fresh, self._fresh = self._fresh, {}
        for (queue, own), tally in fresh.items():
            for seconds in (MINUTE, HOUR, EVER):
                for name in (own, EVERY_NAME):
                    key = RollupKey(seconds, self._start(seconds), queue, name)
                    self._rows.setdefault(key, Tally()).add(tally)
                    self._dirty.add(key)

    def _start(self, seconds: int) -> datetime:
        if seconds == EVER:
            return EPOCH
        at = self._minute * MINUTE
        return datetime.fromtimestamp(at - at % seconds, UTC)

    def _forget(self, now: float) -> None:
        """Drop the rows of minutes and hours that are over and written."""
        over = [
            key
            for key in self._rows
            if key.seconds and key.start.timestamp() + key.seconds + MINUTE < now
        ]
        for key in over:
            if key not in self._dirty:
                del self._rows[key]

    def _given_up(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline
