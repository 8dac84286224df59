"""The fetcher: claims tasks for the executor, ahead of need when they are short."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store import claim, recovery
from fastedgy.store.claim import Lane
from fastedgy.store.gates import GateLane
from fastedgy.store.notify import Channels, Free
from fastedgy.store.outcomes import Outcome
from fastedgy.store.statements import GATED_LINE
from fastedgy.wakeups import until_rung
from fastedgy.worker.counters import Counters
from fastedgy.worker.gates import FIRST_AGAIN, LAST_AGAIN, Gatekeeper
from fastedgy.worker.lanes import Lanes
from fastedgy.worker.wire import GivenUp, Wire

if TYPE_CHECKING:
    from fastedgy.worker.completer import Completer
    from fastedgy.worker.executor import Executor
    from fastedgy.worker.telling import Telling

logger = logging.getLogger("fastedgy.worker")

T = TypeVar("T")

_place_in_line = itemgetter("date_enqueued")
_priority = itemgetter("priority")

LOOK_SHARE = 50
"""A look at all lanes may take one part in this of the time: it walks over dead row versions (27 to
100 ms where 500,000 tasks have gone by a held transaction), and no task is claimed meanwhile."""
SETTLE = 1.0
"""Seconds after a claim at which a look makes sure that no task was passed by: one that was locked
then, or whose transaction began early and was late to commit."""
DEAF_RULES = 0.5
"""Seconds for which the settings of the queues hold where nobody tells of a change."""


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
        self._gates = Gatekeeper(tables, worker_id, self._lanes, self._run, solo=solo)
        self._rules_at = 0.0
        self._solo = solo
        self._bell = asyncio.Event()
        self._rung = False
        self._stopping = False
        self._unsure = False
        self._more = False
        self._asked = 0
        self._look_at = 0.0
        self._look_allowed = 0.0
        self._settle_at: float | None = None
        self._again = FIRST_AGAIN
        self._deaf = not config.use_postgresql_notify
        self._gates.look_every(self._polling)
        self.found_nothing_since: float | None = None
        self.telling: Telling | None = None

    # Told by others, all in the worker's event loop.

    def ring(self, lanes: Iterable[Lane]) -> None:
        """There is work in these lanes (none named: somewhere)."""
        told = list(lanes)
        named = [lane for lane in told if self._lanes.serves(lane[0])]
        if told and not named:
            return
        self._gates.heard(named)
        self._bell.set()
        if named and not self._lanes.heard(lane for lane in named if lane[1] != GATED_LINE):
            return
        if not named:
            self._look_at = 0.0
        self._rung = True

    def ring_gates(self, lanes: Iterable[GateLane]) -> None:
        """There is work in these lanes behind gates."""
        self._gates.heard_of(lanes)
        self._bell.set()

    def freed(self, free: Free) -> None:
        """Another worker has freed places of gates and queues, and has no use for them."""
        self._gates.freed(free)
        self._bell.set()

    def ended(self, outcomes: Iterable[Outcome]) -> Free:
        """Outcomes are written. Returns the places that this worker leaves to others."""
        self.room()  # perhaps it waited for this
        free = self._gates.ended(outcomes)
        if not free or self._stopping or self._solo or self._executor.room() <= 0:
            return free
        self._bell.set()
        return Free()

    def rules_changed(self) -> None:
        """The settings of a queue are others now."""
        self._rules_at = 0.0
        self._bell.set()

    def served(self) -> list[str] | None:
        """The queues from which it goes on to claim at once; None: all."""
        if self._stopping or self._solo or not self._executor.has_slot(self._asked):
            return []
        return self._queues or None

    def room(self) -> None:
        """The executor can take more: worth a claim if the last one took all it could."""
        if self._more:
            self._bell.set()

    def set_deaf(self, deaf: bool) -> None:
        """Whether notifications do not arrive, so that looking must be more frequent."""
        self._deaf = deaf or not self._config.use_postgresql_notify
        self._look_at = 0.0
        self._rules_at = 0.0
        self._gates.look_every(self._polling)
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
        now = time.monotonic()
        if now >= self._rules_at:
            await self._read_rules(now)
        if self._solo:
            rows = await self._run(self._claim_alone) or await self._gates.claim_alone(self._queues)
            self._unsure = self._wire.losses != losses
            return await self._take(rows)
        if now >= self._look_at:
            await self._look()
        rung, self._rung = self._rung, False
        lanes = self._lanes.in_turn()
        rows = []
        limit = room
        passing = self._gates.due(now)
        self._asked = room  # which the claims may fill
        if lanes:
            # Half of the room is for those with gates, if there are any; of one slot every other.
            limit = (room + random.getrandbits(1)) // 2 if passing else room
            if limit:
                rows = await self._run(
                    lambda connection: claim.claim(
                        connection, self._tables, worker_id=self._worker_id, lanes=lanes,
                        limit=limit,
                    )
                )  # fmt: skip
        passed = await self._gates.claim(room - len(rows)) if passing and len(rows) < room else []
        self._asked = 0
        if self._wire.losses != losses:
            self._unsure = True  # the answer to an earlier try may have been lost with its claim
        # Half of the room is not all that there was for the others.
        self._more = len(rows) + len(passed) == room or len(rows) == limit < room
        if rows or passed:
            self._executor.came(len(rows) + len(passed), gated=bool(passed))
        if passed:
            await self._take_passed(passed)
        if rows:
            self._again = FIRST_AGAIN
            rows.sort(key=_place_in_line)
            self._lanes.claimed(rows)
            if len(self._lanes) > 1:
                rows.sort(key=_priority, reverse=True)
            await self._take(rows)
            if self._settle_at is None:  # not put off by the claims that follow
                settle = min(SETTLE, self._config.polling_interval) if self._deaf else SETTLE
                self._settle_at = time.monotonic() + settle
            self._look_at = max(self._settle_at, self._look_allowed)
            return self._more or self._rung or bool(passed)
        if limit == 0:  # it was the turn of those with gates
            self._rung = self._rung or rung
            return True
        if rung and time.monotonic() >= self._look_allowed:
            # A bell for nothing: a late commit may have put the task below our bounds.
            return await self._look() or bool(passed)
        if rung:
            self._look_at = self._look_allowed
        return self._rung or bool(passed)

    async def _read_rules(self, now: float) -> None:
        """Read the settings of the queues. What is claimed ahead of a paused one goes back."""
        deaf = self._deaf or self._solo
        pause = DEAF_RULES if deaf else self._config.fallback_polling_interval
        self._rules_at = now + pause
        paused = await self._gates.read_rules()
        if paused:
            self._executor.give_back(paused)

    async def _take_passed(self, rows: list[Record]) -> None:
        """Those of keys that have nothing in the queue here do not stand behind what was claimed
        ahead of others."""
        first: list[Record] = []
        if self._executor.queued:
            ahead = self._executor.gates_queued()
            first = [row for row in rows if row["gate"] not in ahead]
            rows = [row for row in rows if row["gate"] in ahead]
        if first:
            await self._take(first, first=True)
        if rows:
            await self._take(rows)

    async def _claim_alone(self, connection: Connection) -> list[Record]:
        return await claim.claim_alone(
            connection, self._tables, worker_id=self._worker_id, queues=self._queues,
            skip=self._gates.rules.paused | self._gates.rules.limited,
        )  # fmt: skip

    async def _take(self, rows: list[Record], *, first: bool = False) -> bool:
        if not rows:
            self.found_nothing_since = self.found_nothing_since or time.monotonic()
            return False
        self.found_nothing_since = None
        self._counters.claimed += len(rows)
        if self.telling is not None and self.telling.active:
            self.telling.started(rows)
        self._executor.accept(rows, first=first)
        return True

    async def _look(self) -> bool:
        """Look at all lanes; True when there is work that the bounds kept from sight."""
        began = time.monotonic()
        found = await self._run(lambda connection: claim.find_lanes(connection, self._tables))
        now = time.monotonic()
        self._look_allowed = now + LOOK_SHARE * (now - began)
        self._settle_at = None
        if any(self._lanes.serves(queue) for queue, _ in found):
            # If the claim that follows passes it by, its row is locked: come back soon.
            pause, self._again = self._again, min(2 * self._again, LAST_AGAIN)
        else:
            self._again = FIRST_AGAIN
            pause = self._polling
        self._look_at = max(now + pause, self._look_allowed)
        return self._lanes.looked(found)

    @property
    def _polling(self) -> float:
        """Seconds between two looks at the table when nothing happens."""
        config = self._config
        return config.polling_interval if self._deaf else config.fallback_polling_interval

    async def _reconcile(self) -> None:
        """Give back what names us as its owner and is neither running nor queued here."""
        self._unsure = False
        known = self._executor.known() | self._completer.known()
        taken = await self._run(
            lambda connection: recovery.hand_back(
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
        await asyncio.sleep(0)  # what was claimed starts before this is worked out
        if self._solo:
            pause = 0.2
        elif self._executor.room() <= 0:
            pause = 1.0
        else:
            until = min(self._look_at, self._rules_at, self._gates.next_turn())
            pause = max(0.001, until - time.monotonic())
        await until_rung(self._bell, pause)
