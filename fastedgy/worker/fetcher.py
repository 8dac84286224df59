"""The fetcher: claims tasks for the executor, ahead of need when they are short."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store import claim, workers
from fastedgy.store.claim import Lane
from fastedgy.store.notify import Channels
from fastedgy.worker.counters import Counters
from fastedgy.worker.lanes import Lanes
from fastedgy.worker.wire import GivenUp, Wire

if TYPE_CHECKING:
    from fastedgy.worker.completer import Completer
    from fastedgy.worker.executor import Executor

logger = logging.getLogger("fastedgy.worker")

T = TypeVar("T")

_place_in_line = itemgetter("date_enqueued")
_priority = itemgetter("priority")

LOOK_SHARE = 20
"""A look at all lanes may take one part in this of the time: it walks over dead row versions."""
FIRST_AGAIN = 0.02
LAST_AGAIN = 1.0
"""Seconds, doubling from the first to the last, between claims of a task that is there and that
somebody else has locked at this moment."""
SETTLE = 1.0
"""Seconds after the last claim at which a look makes sure that no task was passed by."""


class Fetcher:
    """One loop, one connection. It claims when there is room, and sleeps until the bell rings."""

    def __init__(
        self,
        wire: Wire,
        tables: Tables,
        worker_id: UUID,
        config: QueuedTaskConfig,
        channels: Channels,
        counters: Counters,
        executor: Executor,
        completer: Completer,
        queues: Iterable[str],
        *,
        solo: bool = False,
    ) -> None:
        self._wire = wire
        self._tables = tables
        self._worker_id = worker_id
        self._config = config
        self._channels = channels
        self._counters = counters
        self._executor = executor
        self._completer = completer
        self._queues = list(queues)
        self._lanes = Lanes(self._queues)
        self._solo = solo
        self._bell = asyncio.Event()
        self._rung = False
        self._stopping = False
        self._unsure = False
        self._more = False
        self._look_at = 0.0
        self._look_allowed = 0.0
        self._again = FIRST_AGAIN
        self._deaf = not config.use_postgresql_notify
        self.found_nothing_since: float | None = None

    # Told by others, all in the worker's event loop.

    def ring(self, lanes: Iterable[Lane]) -> None:
        """There is work in these lanes (none named: somewhere)."""
        named = list(lanes)
        if named and not self._lanes.heard(named):
            return
        if not named:
            self._look_at = 0.0
        self._rung = True
        self._bell.set()

    def serves(self, queue: str) -> bool:
        """Whether it goes on to claim tasks of this queue."""
        return not self._stopping and not self._solo and self._lanes.serves(queue)

    def room(self) -> None:
        """The executor can take more: worth a claim if the last one took all it could."""
        if self._more:
            self._bell.set()

    def set_deaf(self, deaf: bool) -> None:
        """Whether notifications do not arrive, so that looking must be more frequent."""
        self._deaf = deaf or not self._config.use_postgresql_notify
        self._look_at = 0.0
        self._bell.set()

    def be_unsure(self) -> None:
        """Check at the next turn for tasks that name us as their owner and that we do not have."""
        self._unsure = True
        self._bell.set()

    def stop(self) -> None:
        """No further claims. A request: a claim that is under way comes home first."""
        self._stopping = True
        self._bell.set()

    # The loop.

    async def run(self) -> None:
        """Fetch until `stop`."""
        while not self._stopping:
            try:
                if not await self._turn() and not self._unsure:
                    await self._sleep()
            except GivenUp:
                break
            except Exception:
                self._counters.errors += 1
                self._unsure = True
                logger.exception("A claim failed; the next one follows")
                await asyncio.sleep(0.5)

    async def _turn(self) -> bool:
        """Claim once, if there is room. True when another turn should follow at once."""
        if self._unsure:
            await self._reconcile()
        room = self._executor.room()
        if room <= 0:
            self._more = True
            return False
        losses = self._wire.losses
        rows: list[Record]
        if self._solo:
            rows = await self._run(self._claim_alone)
            self._unsure = self._wire.losses != losses
            return await self._take(rows)
        now = time.monotonic()
        if now >= self._look_at:
            await self._look()
        rung, self._rung = self._rung, False
        lanes = self._lanes.in_turn()
        rows = []
        if lanes:
            rows = await self._run(
                lambda connection: claim.claim(
                    connection, self._tables, worker_id=self._worker_id, lanes=lanes, limit=room
                )
            )
        if self._wire.losses != losses:
            self._unsure = True  # the answer to an earlier try may have been lost with its claim
        self._more = len(rows) == room
        if rows:
            self._again = FIRST_AGAIN
            rows.sort(key=_place_in_line)
            self._lanes.claimed(rows)
            if len(self._lanes) > 1:
                rows.sort(key=_priority, reverse=True)
            await self._take(rows)
            settle = min(SETTLE, self._config.polling_interval) if self._deaf else SETTLE
            self._look_at = max(time.monotonic() + settle, self._look_allowed)
            return self._more or self._rung
        if rung and time.monotonic() >= self._look_allowed:
            # A bell for nothing: a late commit may have put the task below our bounds.
            return await self._look()
        if rung:
            self._look_at = self._look_allowed
        return self._rung

    async def _claim_alone(self, connection: Connection) -> list[Record]:
        return await claim.claim_alone(
            connection, self._tables, worker_id=self._worker_id, queues=self._queues
        )

    async def _take(self, rows: list[Record]) -> bool:
        if not rows:
            self.found_nothing_since = self.found_nothing_since or time.monotonic()
            return False
        self.found_nothing_since = None
        self._counters.claimed += len(rows)
        self._executor.accept(rows)
        return True

    async def _look(self) -> bool:
        """Look at all lanes; True when there is work that the bounds kept from sight."""
        began = time.monotonic()
        found = await self._run(lambda connection: claim.find_lanes(connection, self._tables))
        now = time.monotonic()
        self._look_allowed = now + LOOK_SHARE * (now - began)
        if any(self._lanes.serves(queue) for queue, _ in found):
            # If the claim that follows passes it by, its row is locked: come back soon.
            pause, self._again = self._again, min(2 * self._again, LAST_AGAIN)
        else:
            self._again = FIRST_AGAIN
            config = self._config
            pause = config.polling_interval if self._deaf else config.fallback_polling_interval
        self._look_at = max(now + pause, self._look_allowed)
        return self._lanes.looked(found)

    async def _reconcile(self) -> None:
        """Give back what names us as its owner and is neither running nor queued here."""
        self._unsure = False
        known = self._executor.known() | self._completer.known()
        taken = await self._run(
            lambda connection: workers.hand_back(
                connection, self._tables, worker_id=self._worker_id, known=known,
                within=self._config.statement_timeout, channels=self._channels,
            )
        )  # fmt: skip
        if taken.total:
            self._counters.handed_back += taken.total
            logger.warning("Gave back %d tasks of claims whose answer was lost", taken.total)
            self.ring(taken.lanes)

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._wire.run(work, until=lambda: self._stopping)

    async def _sleep(self) -> None:
        """Until the bell rings, or the next look is due."""
        if self._solo:
            pause = 0.2
        elif self._executor.room() <= 0:
            pause = 1.0
        else:
            pause = max(0.001, self._look_at - time.monotonic())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._bell.wait(), pause)
        self._bell.clear()
