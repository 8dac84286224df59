"""One passage through the gates: how things stand there, who may start, and the claim of those.

All of it happens in one transaction under a lock, so that no two workers count at once. What came
of it is a value: the passage may be repeated from its start when the connection was lost.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store import claim, gates, queues
from fastedgy.store.claim import Lane
from fastedgy.store.gates import GateLane, Head
from fastedgy.store.queues import QueueSettings

BURST = timedelta(seconds=0.25)
"""What a rate allowed and nobody used may be made up for, for so long. It also covers the delay of
a worker that comes late, so that the mean is the rate."""
UNLIMITED = 2**31 - 1
SLOWEST, FASTEST = 1e-8, 1e8
"""Starts a second. What a row says beyond them, or is no number (a forged one), counts as these."""

lane_of = itemgetter("queue", "gate", "priority")
"""A row's lane behind a gate: a tuple that is equal to its GateLane, and made faster."""


def tokens(now: datetime, next_at: datetime | None, rate: float) -> int:
    """How many may start now under a rate (starts a second)."""
    base = _base(now, next_at)
    if base > now:
        return 0
    return min(UNLIMITED, math.floor((now - base).total_seconds() * rate + 1e-6) + 1)


def after(now: datetime, next_at: datetime | None, rate: float, spent: int) -> datetime:
    """When the next start is due after so many now."""
    return _base(now, next_at) + timedelta(seconds=spent / rate)


def _base(now: datetime, next_at: datetime | None) -> datetime:
    return now - BURST if next_at is None else max(next_at, now - BURST)


@dataclass(slots=True)
class _Budget:
    """What a gate, a queue or a breaker allows. `until`: seconds until a rate allows more."""

    left: int
    rate: float | None = None
    next_at: datetime | None = None
    until: float | None = None


@dataclass(slots=True)
class Passage:
    """What came of it.

    `entered`: False when another worker was at the gates; then nothing else is known. `held`: lanes
    with work that may not start now, and in how many seconds to ask again (None: when a task of
    theirs ends). `locked`: lanes with work whose rows somebody else has locked at this moment.
    `gone`: lanes without work. `held_queues`: like `held`, for limited queues. `free`: lanes far
    from their limit, which have nothing else, with what their tasks say of it.
    """

    entered: bool = False
    rows: list[Record] = field(default_factory=list)
    held: dict[GateLane, float | None] = field(default_factory=dict)
    locked: list[GateLane] = field(default_factory=list)
    gone: list[GateLane] = field(default_factory=list)
    held_queues: dict[str, float | None] = field(default_factory=dict)
    free: dict[GateLane, int] = field(default_factory=dict)


class Counting:
    """How things stand, as counted under the lock, and what of it was given out."""

    def __init__(
        self,
        now: datetime,
        heads: Collection[Head],
        limited: dict[str, QueueSettings],
        breakers: dict[str, bool],
    ) -> None:
        self.now = now
        self._queues = {name: self._of_queue(queue) for name, queue in limited.items()}
        self._gates = {head.lane.gate: self._of_gate(head) for head in heads}
        self._breakers = {name: _Budget(int(free)) for name, free in breakers.items()}
        self._limits: dict[GateLane, int] = {}
        for head in heads:  # two tasks of a gate may say different things
            if head.limit is not None:
                self._limits[head.lane] = max(0, head.limit - head.running)

    def _rated(self, left: int, rate: float | None, next_at: datetime | None) -> _Budget:
        if rate is None:
            return _Budget(left)
        rate = min(rate, FASTEST) if rate >= SLOWEST else SLOWEST
        allowed = tokens(self.now, next_at, rate)
        budget = _Budget(min(left, allowed), rate, next_at)
        if allowed <= left:
            budget.until = (after(self.now, next_at, rate, allowed) - self.now).total_seconds()
        return budget

    def _of_queue(self, queue: QueueSettings) -> _Budget:
        most = queue.max_running
        left = UNLIMITED if most is None else max(0, most - queue.running)
        return self._rated(left, queue.rate, queue.next_at)

    def _of_gate(self, head: Head) -> _Budget:
        return self._rated(UNLIMITED, head.rate, head.next_at)

    def _budgets(self, queue: str, head: Head | None = None) -> list[_Budget]:
        found = [self._queues.get(queue)]
        if head is not None:
            found += [self._gates[head.lane.gate], self._breakers.get(head.breaker or "")]
        return [budget for budget in found if budget is not None]

    def allowed(self, queue: str, head: Head | None = None) -> int:
        """How many may start now in a lane; without a head, in the queue itself."""
        limit = UNLIMITED if head is None else self._limits.get(head.lane, UNLIMITED)
        return min([limit, *(budget.left for budget in self._budgets(queue, head))])

    def is_limited(self, queue: str) -> bool:
        """Whether the queue itself has limits."""
        return queue in self._queues

    def give(self, queue: str, number: int, head: Head | None = None) -> None:
        """So many are to start in a lane; a negative number takes back what was not used."""
        for budget in self._budgets(queue, head):
            budget.left -= number
        if head is not None:
            for lane in self._limits:
                if lane.gate == head.lane.gate:
                    self._limits[lane] -= number

    def wait(self, queue: str, head: Head | None = None) -> float | None:
        """Why nothing more may start: seconds, or None when only the end of a task helps."""
        waits = [
            budget.until
            for budget in self._budgets(queue, head)
            if budget.left <= 0 and budget.until is not None
        ]
        return max(waits, default=None)

    def spent(self, started: Counter[str], *, of_queues: bool = False) -> dict[str, datetime]:
        """When the next start is due for all that have a rate, after so many starts each."""
        budgets = self._queues if of_queues else self._gates
        return {
            name: after(self.now, budget.next_at, budget.rate, started[name])
            for name, budget in budgets.items()
            if budget.rate is not None and started[name]
        }


def shares(counting: Counting, heads: Sequence[Head], room: int) -> dict[GateLane, int]:
    """Divide the room among lanes: equally, and what some cannot use among the others.

    The first in order get theirs first, where there is not enough for all.
    """
    given: dict[GateLane, int] = {}
    for fair in (True, False):
        waiting = len(heads)
        for head in heads:
            if room <= 0:
                return given
            most = -(-room // waiting) if fair else room
            waiting -= 1
            share = min(most, counting.allowed(head.lane.queue, head))
            if share > 0:
                counting.give(head.lane.queue, share, head)
                given[head.lane] = given.get(head.lane, 0) + share
                room -= share
    return given


async def pass_gates(
    connection: Connection,
    tables: Tables,
    *,
    worker_id: UUID,
    lanes: Sequence[tuple[GateLane, datetime]],
    limited: dict[str, list[tuple[Lane, datetime]]],
    limited_queues: frozenset[str],
    free: Mapping[GateLane, int],
    room: int,
) -> Passage:
    """Claim up to `room` tasks of lanes with a gate, and of the other lanes of limited queues.

    `limited`: those other lanes, by queue. `limited_queues`: all queues that have a limit. `free`:
    what an earlier passage has found to be so.
    """
    passage = Passage()
    async with gates.counting(connection, tables) as entered:
        if not entered:
            return passage
        passage.entered = True
        if not limited and all(
            lane in free and lane.queue not in limited_queues for lane, _ in lanes
        ):
            await _pass_freely(connection, tables, worker_id, lanes, free, room, passage)
            return passage
        found: dict[GateLane, Head] = {}
        if lanes:
            found = {head.lane: head for head in await gates.heads(connection, tables, lanes)}
        heads = [found[lane] for lane, _ in lanes if lane in found]
        passage.gone = [lane for lane, _ in lanes if lane not in found]
        concerned = limited_queues & ({head.lane.queue for head in heads} | limited.keys())
        counting = await _count(connection, tables, heads, concerned)
        started: Counter[str] = Counter()
        plain_room = (room + random.getrandbits(1)) // 2 if heads else room
        for queue, queue_lanes in limited.items():
            most = min(plain_room, counting.allowed(queue))
            rows = []
            if most > 0:
                rows = await claim.claim(
                    connection, tables, worker_id=worker_id, lanes=queue_lanes, limit=most
                )
                counting.give(queue, len(rows))
                started[queue] += len(rows)
                plain_room -= len(rows)
                room -= len(rows)
                passage.rows += rows
            if len(rows) < most or counting.allowed(queue) <= 0:
                passage.held_queues[queue] = counting.wait(queue)
        passage.free = _free(heads, counting, room)
        given = shares(counting, heads, room)
        lows = dict(lanes)
        wanted = [(head, lows[head.lane], given[head.lane]) for head in heads if head.lane in given]
        rows = []
        if wanted:
            rows = await gates.claim_gated(connection, tables, worker_id=worker_id, shares=wanted)
        passage.rows += rows
        taken = Counter(map(lane_of, rows))
        for head, _, share in wanted:
            counting.give(head.lane.queue, taken[head.lane] - share, head)
            if not taken[head.lane]:  # nobody else claims meanwhile, and it was seen
                passage.locked.append(head.lane)
            elif taken[head.lane] < share:
                passage.gone.append(head.lane)
        gone = {*passage.gone, *passage.locked}
        passage.held = {
            head.lane: counting.wait(head.lane.queue, head)
            for head in heads
            if head.lane not in gone and counting.allowed(head.lane.queue, head) <= 0
        }
        await _note(connection, tables, counting, rows, started)
    return passage


async def _pass_freely(
    connection: Connection, tables: Tables, worker_id: UUID,
    lanes: Sequence[tuple[GateLane, datetime]], free: Mapping[GateLane, int], room: int,
    passage: Passage,
) -> None:  # fmt: skip
    """Claim without asking first. Where less came of it than might have, the next one asks."""
    lanes = lanes[:room]
    share = room // len(lanes)
    wanted = [(lane, low, free[lane]) for lane, low in lanes]
    passage.rows = await gates.claim_freely(
        connection, tables, worker_id=worker_id, lanes=wanted, share=share
    )
    taken = Counter(map(lane_of, passage.rows))
    passage.free = {lane: limit for lane, _, limit in wanted if taken[lane] == share}


def _free(heads: Sequence[Head], counting: Counting, room: int) -> dict[GateLane, int]:
    lanes = Counter(head.lane.gate for head in heads)
    return {
        head.lane: head.own_limit
        for head in heads
        if head.own_limit is not None
        and head.rate is None
        and head.breaker is None
        and lanes[head.lane.gate] == 1
        and counting.allowed(head.lane.queue, head) > room
        and not counting.is_limited(head.lane.queue)
    }


async def pass_alone(
    connection: Connection, tables: Tables, *, worker_id: UUID, queues_served: Sequence[str],
    limited_queues: frozenset[str], paused: Collection[str],
) -> list[Record]:  # fmt: skip
    """Claim the oldest task with a gate that is to run alone and may start now, if there is one."""
    async with gates.counting(connection, tables) as entered:
        if not entered:
            return []
        heads = await gates.suspects(
            connection, tables, queues=queues_served, paused=paused, limited=limited_queues
        )
        concerned = limited_queues & {head.lane.queue for head in heads}
        for head in heads:
            counting = await _count(connection, tables, [head], concerned)
            if counting.allowed(head.lane.queue, head) <= 0:
                continue
            rows = await gates.claim_suspect(connection, tables, worker_id=worker_id, id=head.id)
            await _note(connection, tables, counting, rows, Counter())
            return rows
    return []


async def _count(
    connection: Connection, tables: Tables, heads: Collection[Head], limited: Collection[str]
) -> Counting:
    now = await gates.clock(connection) if _is_timed(heads, limited) else datetime.min
    counted = await queues.count_running(connection, tables, limited) if limited else {}
    names = {head.breaker for head in heads if head.breaker is not None}
    broken = await gates.breakers(connection, tables, names) if names else {}
    return Counting(now, heads, counted, broken)


def _is_timed(heads: Collection[Head], limited: Collection[str]) -> bool:
    """Whether the clock matters: where there is a rate, or may be one."""
    return bool(limited) or any(head.rate is not None for head in heads)


async def _note(
    connection: Connection, tables: Tables, counting: Counting, rows: Collection[Record],
    started: Counter[str],
) -> None:  # fmt: skip
    """Write down when the rates allow the next starts."""
    spent = counting.spent(Counter(row["gate"] for row in rows))
    if spent:
        await gates.spend(connection, tables, spent)
    spent = counting.spent(started + Counter(row["queue"] for row in rows), of_queues=True)
    if spent:
        await queues.spend(connection, tables, spent)
