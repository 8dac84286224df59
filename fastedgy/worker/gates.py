"""The gatekeeper: which gates have work, when to ask there again, and who frees their places.

A worker keeps the lanes behind gates that it has heard of or found. Those that let nobody through
now sleep until one of their tasks ends here, a bell rings, or their time has come; so a claim costs
what can be claimed, and not the number of keys. Without any gate and any limited queue nothing of
this does anything.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from operator import itemgetter
from typing import Any
from uuid import UUID

from asyncpg import Connection, Record

from fastedgy.models.tables import Tables
from fastedgy.store import gates, queues
from fastedgy.store.claim import Lane
from fastedgy.store.gates import GateLane
from fastedgy.store.notify import Free
from fastedgy.store.outcomes import Outcome
from fastedgy.store.queues import Rules
from fastedgy.store.statements import GATED_LINE
from fastedgy.worker.gate_lanes import GateLanes
from fastedgy.worker.lanes import Lanes
from fastedgy.worker.passage import Passage, lane_of, pass_alone, pass_gates

logger = logging.getLogger("fastedgy.worker")

AT_ONCE = 100
"""Lanes that one claim asks for at most; the others have their turn next."""
FOUND_AT_ONCE = 500
LOOK_SHARE = 20
"""A look at the gates may take one part in this of the time: it walks over dead row versions."""
SETTLE = 1.0
"""Seconds after the last claim at which a look makes sure that no task was passed by."""
ASK_AGAIN = 1.0
"""Seconds until a lane that was full is asked again, should nobody have told that it is not. With
many of them longer, as asking has its price."""
ASKED_PER_SECOND = 500
FIRST_AGAIN = 0.02
LAST_AGAIN = 1.0
"""Seconds, doubling from the first to the last, between claims of a task that is there and that
somebody else has locked at this moment."""
PACE = 0.02
"""Seconds between two starts under a rate at least. What was missed meanwhile is made up for."""

_id = itemgetter("id")
_place = itemgetter("queue", "gate")
_place_in_line = itemgetter("date_enqueued")
_priority = itemgetter("priority")


class Gatekeeper:
    """The fetcher's part for tasks with gates and for limited queues, and who tells of free places.

    `run` is the fetcher's: it does something on its connection, and again if that was lost.
    """

    def __init__(
        self,
        tables: Tables,
        worker_id: UUID,
        lanes: Lanes,
        run: Callable[[Callable[[Connection], Awaitable[Any]]], Awaitable[Any]],
        *,
        solo: bool,
    ) -> None:
        self._tables = tables
        self._worker_id = worker_id
        self._plain = lanes
        self._run = run
        self._solo = solo
        self._gates = GateLanes(lanes.serves)
        self._held: dict[UUID, tuple[str, str | None]] = {}
        self._queues_held: dict[str, float] = {}
        self._free: Mapping[GateLane, int] = {}
        self._locked: dict[GateLane, float] = {}
        self._cursor = ("", "")
        self._look_at = 0.0
        self._look_allowed = 0.0
        self._not_before = 0.0
        self._look_every = 0.0
        self.rules = Rules()

    # Told by others.

    def heard(self, lanes: Iterable[Lane]) -> None:
        """A bell rang for these lanes. None of them: it may be any."""
        named = list(lanes)
        for queue, priority in named:
            if priority == GATED_LINE:
                self._look_at = min(self._look_at, self._look_allowed)
            self._queues_held.pop(queue, None)
            self._gates.heard_of(queue)
        if not named:
            self._look_at = min(self._look_at, self._look_allowed)
            self._queues_held.clear()

    def heard_of(self, lanes: Iterable[GateLane]) -> None:
        """A bell rang for these lanes behind gates."""
        for lane in lanes:
            self._gates.heard(lane)

    def freed(self, free: Free) -> None:
        """Somebody else has freed places that he cannot fill himself."""
        for gate in free.gates:
            self._gates.wake(gate)
        for queue in free.queues:
            self._queues_held.pop(queue, None)
            self._gates.wake_queue(queue)

    def look_every(self, seconds: float) -> None:
        """How often to look for what no bell has told of; the first time now."""
        self._look_every = seconds
        self._look_at = 0.0

    def changed(self, rules: Rules) -> frozenset[str]:
        """Take in the settings of the queues; the queues that are paused now and were not."""
        known, self.rules = self.rules, rules
        self._plain.skip(rules.paused | rules.limited)
        if rules != known:
            paused, limited = _names(rules.paused), _names(rules.limited)
            logger.info("Queues paused: %s; limited: %s", paused, limited)
            self._queues_held.clear()
            for queue in known.paused - rules.paused:
                self._gates.wake_queue(queue)
        for queue in rules.limited:  # their limits may be others, while their names are the same
            self._gates.wake_queue(queue)
            self._queues_held.pop(queue, None)
        return rules.paused - known.paused

    def ended(self, outcomes: Iterable[Outcome]) -> Free:
        """Outcomes are written: their places are free. Returns those that somebody waits for."""
        free = Free()
        held = self._held
        if not held:
            return free
        places = {place for outcome in outcomes if (place := held.pop(outcome.id, None))}
        for queue, gate in places:
            if gate is not None and (self._gates.wake(gate) or self._solo):
                free.gates.add(gate)
            if queue in self.rules.limited:
                waiting = self._gates.wake_queue(queue)
                if self._queues_held.pop(queue, None) is not None or waiting or self._solo:
                    free.queues.add(queue)
        return free

    # Asked by the fetcher.

    def due(self, now: float) -> bool:
        """Whether to come by the gates in this turn."""
        if now < self._not_before:
            return False
        return (
            now >= self._look_at
            or self._gates.awake(now, self.rules.paused)
            or bool(self.rules.limited and self._limited_lanes(now))
        )

    def next_turn(self) -> float:
        """When `due` will be true, if nothing happens before."""
        now = time.monotonic()
        moments = [self._look_at, self._gates.next_alarm()]
        if self._gates.awake(now, self.rules.paused):
            moments.append(now)
        if self.rules.limited:
            moments += self._queues_held.values()
            if self._limited_lanes(now):
                moments.append(now)
        return max(self._not_before, min(moments))

    async def claim(self, room: int) -> list[Record]:
        """Claim up to `room` tasks that may start now."""
        now = time.monotonic()
        if now >= self._look_at:
            await self._look()
            now = time.monotonic()
        most = min(AT_ONCE, max(10, room))
        lanes = self._gates.in_turn(now, most, self.rules.paused)
        limited = self._limited_lanes(now) if self.rules.limited else {}
        if not lanes and not limited:
            return []

        async def work(connection: Connection) -> Passage:
            return await pass_gates(
                connection, self._tables, worker_id=self._worker_id, lanes=lanes, limited=limited,
                limited_queues=self.rules.limited, free=self._free, room=room,
            )  # fmt: skip

        self._gates.begin()
        try:
            return self._apply(await self._run(work))
        finally:
            self._gates.end()

    async def claim_alone(self, served: Sequence[str]) -> list[Record]:
        """Claim a task with a gate that is to run alone."""

        async def work(connection: Connection) -> list[Record]:
            return await pass_alone(
                connection, self._tables, worker_id=self._worker_id, queues_served=served,
                limited_queues=self.rules.limited, paused=self.rules.paused,
            )  # fmt: skip

        rows: list[Record] = await self._run(work)
        self._hold(rows)
        return rows

    def _limited_lanes(self, now: float) -> dict[str, list[tuple[Lane, datetime]]]:
        """The lanes without gates of the limited queues that may have work and places."""
        return {
            queue: lanes
            for queue in self.rules.limited - self.rules.paused
            if self._queues_held.get(queue, 0.0) <= now and (lanes := self._plain.of_queue(queue))
        }

    def _apply(self, passage: Passage) -> list[Record]:
        now = time.monotonic()
        if not passage.entered:
            # Another worker counts. Not all again at the same moment.
            self._not_before = now + random.uniform(0.002, 0.01)
            return []
        rows = passage.rows
        self._hold(rows)
        rows.sort(key=_place_in_line)
        lanes: list[GateLane] = list(map(lane_of, rows))
        self._gates.claimed(lanes, rows)
        if self.rules.limited:
            self._plain.claimed([row for row in rows if row["gate"] is None])
        self._free = passage.free
        for lane in passage.gone:
            self._gates.forget(lane)
        self._locked = {
            lane: min(2 * self._locked.get(lane, FIRST_AGAIN / 2), LAST_AGAIN)
            for lane in passage.locked
        }
        for lane, pause in self._locked.items():
            self._gates.sleep(lane, now + pause)
        patience = ASK_AGAIN + self._gates.asleep() / ASKED_PER_SECOND
        for lane, wait in passage.held.items():
            self._gates.sleep(lane, now + (patience if wait is None else max(PACE, wait)))
        for queue, wait in passage.held_queues.items():
            if self._gates.has_news_of(queue):
                continue
            self._queues_held[queue] = now + (ASK_AGAIN if wait is None else max(PACE, wait))
        if rows:
            self._look_at = min(self._look_at, max(now + SETTLE, self._look_allowed))
        return _in_turns(rows, lanes)

    def _hold(self, rows: Sequence[Record]) -> None:
        self._held.update(zip(map(_id, rows), map(_place, rows), strict=True))

    async def _look(self) -> None:
        """Look for lanes that are not known; with very many of them, at some more each time."""

        async def work(connection: Connection) -> dict[GateLane, datetime]:
            return await gates.find_lanes(
                connection, self._tables, after=self._cursor, limit=FOUND_AT_ONCE
            )

        began = time.monotonic()
        found: dict[GateLane, datetime] = await self._run(work)
        now = time.monotonic()
        self._look_allowed = now + LOOK_SHARE * (now - began)
        self._gates.found(found)
        if len(found) >= FOUND_AT_ONCE:
            # Not the last gate itself: it may have further priorities.
            passed = list(dict.fromkeys((lane.queue, lane.gate) for lane in found))
            self._cursor = passed[-2] if len(passed) > 1 else passed[-1]
            self._look_at = self._look_allowed
        elif self._cursor != ("", ""):
            self._cursor = ("", "")
            self._look_at = self._look_allowed
        else:
            self._look_at = max(now + self._look_every, self._look_allowed)

    async def read_rules(self) -> frozenset[str]:
        """Read the settings of the queues; the queues that are paused now and were not."""

        async def work(connection: Connection) -> Rules:
            return await queues.read_rules(connection, self._tables)

        return self.changed(await self._run(work))


def _in_turns(rows: list[Record], lanes: list[GateLane]) -> list[Record]:
    """In the order in which to start them: the oldest of each lane, then the second of each, …

    `rows` stand in the order of the line, and each has its lane in `lanes`.
    """
    numbers = dict.fromkeys(lanes, 0)
    if len(numbers) <= 1:
        return rows
    rounds: list[list[Record]] = []
    for lane, row in zip(lanes, rows, strict=True):
        number = numbers[lane]
        numbers[lane] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(row)
    return sorted(chain.from_iterable(rounds), key=_priority, reverse=True)


def _names(queues: Collection[str]) -> str:
    return ", ".join(sorted(queues)) or "none"
