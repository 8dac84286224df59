"""Maintenance: the chores that the workers do in turns. Two at the same one share it or skip it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from uuid import UUID

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.scheduler.firing import Firer, Round
from fastedgy.store import events, maintain, recovery
from fastedgy.store.claim import Lane
from fastedgy.store.maintain import Promoted
from fastedgy.store.notify import Channels, ring
from fastedgy.wakeups import until_rung
from fastedgy.worker.counters import Counters
from fastedgy.worker.pruning import Pruner
from fastedgy.worker.wire import GivenUp, Wire

logger = logging.getLogger("fastedgy.worker")

PROMOTE_BATCH = 1_000
PRUNE_EVERY = 600.0
"""Seconds between two rounds of pruning, give or take a half, so that workers take turns."""
ORPHANS_EVERY = 30.0
FIRE_PAUSE = 0.03
"""Seconds between two looks at the schedules that are due, give or take a half: what is due
meanwhile goes in one statement, and the workers take turns."""
RECENT = 3_600.0
"""Seconds: how old the events may be that are looked at regularly. Who waits for one looks by
itself once a day, too."""


class Maintenance:
    """One loop, one connection, one timer: the next moment at which there is something to do."""

    def __init__(
        self,
        wire: Wire,
        tables: Tables,
        channels: Channels,
        config: QueuedTaskConfig,
        counters: Counters,
        firer: Firer,
        *,
        may_judge: Callable[[], bool],
    ) -> None:
        """`may_judge`: whether this worker has itself beaten without a gap for a whole lease."""
        self._wire = wire
        self._tables = tables
        self._channels = channels
        self._config = config
        self._counters = counters
        self._firer = firer
        self._may_judge = may_judge
        self._bell = asyncio.Event()
        self._stopping = False
        now = time.monotonic()
        self._promote_at = now
        self._fire_at = now
        self._sent: list[str] = []
        self._wake_at = now + self._look_every() * random.uniform(0.5, 1.5)
        self._rescue_at: float | None = None
        self._orphans_at = now + ORPHANS_EVERY * random.uniform(0.5, 1.5)
        self._prune_at = now + PRUNE_EVERY * random.uniform(0.05, 1.0)
        self._pruner = Pruner(tables, config, counters)
        self.on_lanes: Callable[[Iterable[Lane]], None] = lambda lanes: None

    # Told by others, in the worker's event loop.

    def due_in(self, seconds: float) -> None:
        """A scheduled task is due in so many seconds; 0 means look now."""
        at = time.monotonic() + max(0.0, seconds)
        if at < self._promote_at:
            self._promote_at = at
            self._bell.set()

    def fire_soon(self) -> None:
        """A schedule was added or changed."""
        self._fire_at = time.monotonic()
        self._bell.set()

    def event_sent(self, key: str) -> None:
        """An event was sent in somebody's transaction, which is committed."""
        self._sent.append(key)
        self._bell.set()

    def rescue_soon(self) -> None:
        """Somebody's heartbeat is stale."""
        if self._rescue_at is None and self._may_judge():
            # Not all at once: the first one does it, and the others find nothing.
            self._rescue_at = time.monotonic() + random.uniform(0, self._config.heartbeat / 2)
            self._bell.set()

    def stop(self) -> None:
        """Finish the chore that is under way, and no more."""
        self._stopping = True
        self._bell.set()

    async def run(self) -> None:
        """Do what is due until `stop`."""
        while not self._stopping:
            try:
                await self._round()
            except GivenUp:
                return
            except Exception:
                self._counters.errors += 1
                logger.exception("A chore failed; it will be tried again")
                await asyncio.sleep(1)
            pause = self._next() - time.monotonic()
            if pause > 0 and not self._stopping:
                await until_rung(self._bell, pause)

    def _next(self) -> float:
        if self._sent:
            return 0.0
        moments = [self._promote_at, self._fire_at, self._wake_at, self._orphans_at,
                   self._prune_at]  # fmt: skip
        if self._rescue_at is not None:
            moments.append(self._rescue_at)
        return min(moments)

    async def _round(self) -> None:
        now = time.monotonic()
        if now >= self._promote_at:
            await self._promote()
        if now >= self._fire_at:
            await self._fire()
        if self._sent or now >= self._wake_at:
            await self._wake()
        if self._rescue_at is not None and now >= self._rescue_at:
            self._rescue_at = None
            await self._rescue()
        if now >= self._orphans_at:
            self._orphans_at = now + ORPHANS_EVERY * random.uniform(0.5, 1.5)
            await self._rescue_orphans()
        if now >= self._prune_at:
            await self._prune()

    async def _promote(self) -> None:
        # The heartbeat looks, too, and tells when something is due before this.
        self._promote_at = time.monotonic() + self._config.fallback_polling_interval

        async def promote(connection: Connection) -> Promoted:
            return await maintain.promote(
                connection, self._tables, limit=PROMOTE_BATCH, channel=self._channels.tasks
            )

        promoted = await self._wire.run(promote, until=self._is_stopping)
        if promoted.moved:
            self._counters.promoted += promoted.moved
            self.on_lanes(promoted.lanes)
        if promoted.moved == PROMOTE_BATCH:
            self.due_in(0)
        elif promoted.next_due is not None:
            self.due_in(promoted.next_due)

    async def _fire(self) -> None:
        config = self._config
        # Without notifications nobody tells of a new schedule.
        heard = config.use_postgresql_notify
        look = config.fallback_polling_interval if heard else config.polling_interval
        self._fire_at = time.monotonic() + look
        turn: Round = await self._wire.run(self._firer.round, until=self._is_stopping)
        self._counters.fired += turn.fired
        self._counters.misfired += turn.missed
        if turn.lanes:
            self.on_lanes(turn.lanes)
        if turn.next_in is not None:
            pause = max(turn.next_in, FIRE_PAUSE * random.uniform(0.5, 1.5))
            self._fire_at = min(self._fire_at, time.monotonic() + pause)

    async def _wake(self) -> None:
        """Wake who waits for events that were sent. Now and then for all that were sent lately: a
        notification may have been lost, and a task's row may have been locked for a moment.
        """
        sent, self._sent = self._sent, []
        regular = time.monotonic() >= self._wake_at
        if regular:
            self._wake_at = time.monotonic() + self._look_every()

        async def wake(connection: Connection) -> set[Lane]:
            lanes: set[Lane] = set()
            for key in sent:
                lanes |= await events.wake_for(connection, self._tables, key)
            if regular:
                lanes |= await events.wake_recent(connection, self._tables, seconds=RECENT)
            await ring(connection, self._channels.tasks, lanes)
            return lanes

        self.on_lanes(await self._wire.run(wake, until=self._is_stopping))

    def _look_every(self) -> float:
        config = self._config
        heard = config.use_postgresql_notify
        return config.fallback_polling_interval if heard else config.polling_interval

    async def _rescue(self) -> None:
        async def rescue(connection: Connection) -> dict[UUID, recovery.TakenBack]:
            # Asked again here: the connection may have been away in between. The statement's
            # licence is short, so that one held up on its way does nothing when it arrives.
            if not self._may_judge():
                return {}
            return await recovery.rescue(
                connection, self._tables, lease=self._config.lease,
                licence=self._config.heartbeat, max_losses=self._config.max_losses,
                channels=self._channels,
            )  # fmt: skip

        self._tell(await self._wire.run(rescue, until=self._is_stopping))

    async def _rescue_orphans(self) -> None:
        async def rescue(connection: Connection) -> dict[UUID, recovery.TakenBack]:
            if not self._may_judge():
                return {}
            return await recovery.rescue_orphans(
                connection, self._tables, max_losses=self._config.max_losses,
                channels=self._channels,
            )  # fmt: skip

        self._tell(await self._wire.run(rescue, until=self._is_stopping))

    def _tell(self, rescued: dict[UUID, recovery.TakenBack]) -> None:
        for worker_id, taken in rescued.items():
            self._counters.rescued += taken.total
            logger.warning(
                "Worker %s is gone: %d of its tasks are in the line again, %d failed, %d cancelled",
                worker_id, taken.enqueued, taken.failed, taken.cancelled,
            )  # fmt: skip
            self.on_lanes(taken.lanes)

    async def _prune(self) -> None:
        """One chunk of what is too old; the next at once as long as there is more."""
        chunk = self._pruner.chunk
        if await self._wire.run(chunk, until=self._is_stopping, may_be_large=True):
            self._prune_at = time.monotonic() + 0.05
        else:
            self._prune_at = time.monotonic() + PRUNE_EVERY * random.uniform(0.5, 1.5)

    def _is_stopping(self) -> bool:
        return self._stopping
