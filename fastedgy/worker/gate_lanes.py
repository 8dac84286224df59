"""The lanes behind gates that a worker knows of: how far it has seen them, and whose turn it is."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter

from asyncpg import Record

from fastedgy.store.gates import GateLane
from fastedgy.worker.lanes import BEGINNING

MOST = 20_000
"""Lanes that are kept; more are found again by looking."""

_place_in_line = itemgetter("date_enqueued")


class GateLanes:
    """The lanes behind gates: their lower bounds, whose turn it is, and which of them sleep."""

    def __init__(self, serves: Callable[[str], bool]) -> None:
        self._serves = serves
        self._low: dict[GateLane, datetime] = {}
        self._turn: dict[GateLane, None] = {}  # those awake, next ones first
        self._sleeping: dict[GateLane, float] = {}
        self._alarms: list[tuple[float, GateLane]] = []
        self._by_gate: dict[str, set[GateLane]] = {}
        self._news: set[tuple[object, ...]] | None = None

    def __len__(self) -> int:
        return len(self._low)

    def heard(self, lane: GateLane) -> None:
        """There is work in this lane."""
        self._note(lane)
        if lane not in self._low:
            self.found({lane: BEGINNING})

    def found(self, lanes: Mapping[GateLane, datetime]) -> None:
        """Take in what a look has found."""
        for lane, first in lanes.items():
            low = self._low.get(lane)
            if not self._serves(lane.queue) or (low is not None and low <= first):
                continue
            if low is None:
                if len(self._low) >= MOST:
                    continue
                self._by_gate.setdefault(lane.gate, set()).add(lane)
                self._turn[lane] = None
            self._low[lane] = first

    def in_turn(
        self, now: float, most: int, paused: Collection[str]
    ) -> list[tuple[GateLane, datetime]]:
        """The next lanes to ask, with their bounds: the keys take turns. In each queue a higher
        priority comes first."""
        while self._alarms and self._alarms[0][0] <= now:
            _, lane = heapq.heappop(self._alarms)
            if self._sleeping.get(lane, now + 1) <= now:
                self._wake(lane)
        chosen: list[GateLane] = []
        for lane in self._turn:
            if lane.queue not in paused:
                chosen.append(lane)
                if len(chosen) >= most:
                    break
        ranks: dict[str, int] = {}
        for lane in chosen:
            ranks.setdefault(lane.queue, len(ranks))
            del self._turn[lane]
            self._turn[lane] = None
        chosen.sort(key=lambda lane: (ranks[lane.queue], -lane.priority))
        return [(lane, self._low[lane]) for lane in chosen]

    def awake(self, now: float, paused: Collection[str]) -> bool:
        """Whether there is a lane to ask now."""
        if self._alarms and self._alarms[0][0] <= now:
            return True
        if not paused:
            return bool(self._turn)
        return any(lane.queue not in paused for lane in self._turn)

    def next_alarm(self) -> float:
        """When the next one wakes."""
        return self._alarms[0][0] if self._alarms else float("inf")

    def sleep(self, lane: GateLane, until: float) -> None:
        """Do not ask there until then, unless a place became free during the passage."""
        if lane in self._low and not self._has_news(("gate", lane.gate), ("queue", lane.queue)):
            self._turn.pop(lane, None)
            self._sleeping[lane] = until
            heapq.heappush(self._alarms, (until, lane))
            if len(self._alarms) > 2 * len(self._sleeping) + MOST:
                # Those that were woken before their time.
                self._alarms = [(at, asleep) for asleep, at in self._sleeping.items()]
                heapq.heapify(self._alarms)

    def wake(self, gate: str) -> bool:
        """A place of this gate is free. True when somebody has waited for it."""
        self._note(("gate", gate))
        sleepers = [lane for lane in self._by_gate.get(gate, ()) if lane in self._sleeping]
        for lane in sleepers:
            self._wake(lane)
        return bool(sleepers)

    def wake_queue(self, queue: str) -> bool:
        """Ask all lanes of a queue again. True when there are some that have waited."""
        self._note(("queue", queue))
        sleepers = [lane for lane in self._sleeping if lane.queue == queue]
        for lane in sleepers:
            self._wake(lane)
        return bool(sleepers)

    def asleep(self) -> int:
        """How many of them sleep."""
        return len(self._sleeping)

    def claimed(self, lanes: Sequence[GateLane], rows: Sequence[Record]) -> None:
        """Raise the bounds to what was taken; `rows` stand in the order of the line, and each has
        its lane in `lanes`."""
        low = self._low
        for lane, place in dict(zip(lanes, map(_place_in_line, rows), strict=True)).items():
            if lane in low and place > low[lane]:
                low[lane] = place

    def forget(self, lane: GateLane) -> None:
        """Nothing is left there, unless a bell rang during the passage."""
        if self._has_news(lane):
            return
        self._turn.pop(lane, None)
        self._sleeping.pop(lane, None)
        if self._low.pop(lane, None) is not None:
            lanes = self._by_gate[lane.gate]
            lanes.discard(lane)
            if not lanes:
                del self._by_gate[lane.gate]

    # What is heard while a passage is under way is younger than what that has seen.

    def begin(self) -> None:
        """A passage begins."""
        self._news = set()

    def end(self) -> None:
        """What came of it has been taken in."""
        self._news = None

    def heard_of(self, queue: str) -> None:
        """There is work in this queue, in lanes without gates."""
        self._note(("bell", queue))

    def has_news_of(self, queue: str) -> bool:
        """Whether work for this queue, or a place in it, was heard of during the passage."""
        return self._has_news(("bell", queue), ("queue", queue))

    def _note(self, what: tuple[object, ...]) -> None:
        if self._news is not None:
            self._news.add(what)

    def _has_news(self, *of: tuple[object, ...]) -> bool:
        return self._news is not None and not self._news.isdisjoint(of)

    def _wake(self, lane: GateLane) -> None:
        if self._sleeping.pop(lane, None) is not None:
            self._turn[lane] = None
