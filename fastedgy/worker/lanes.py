"""Where to look for work: the lanes that had some, each with the place up to which all is taken."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from asyncpg import Record

from fastedgy.store.claim import Lane

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
MOST = 500
"""More lanes than this are forgotten, oldest first, and found again by the next look."""


class Lanes:
    """The lanes of one worker and their lower bounds.

    Within a queue the higher priority comes first; the queues take turns at being first, so that a
    busy one does not starve the others.
    """

    def __init__(self, queues: Collection[str] = ()) -> None:
        """`queues`: those to serve; empty means all."""
        self._queues = frozenset(queues)
        self._low: dict[Lane, datetime] = {}
        self._first = 0
        self._offset = 0
        self._order: list[list[Lane]] | None = None
        self._skipped: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._low)

    def serves(self, queue: str) -> bool:
        """Whether tasks of this queue are ours to run."""
        return not self._queues or queue in self._queues

    def skip(self, queues: frozenset[str]) -> None:
        """Leave these queues out of the turns: they are paused, or claimed by way of the gates."""
        self._skipped = queues
        self._order = None

    def of_queue(self, queue: str) -> list[tuple[Lane, datetime]]:
        """The lanes of one queue with their bounds, the highest priority first."""
        found = [(lane, low) for lane, low in self._low.items() if lane[0] == queue]
        return sorted(found, key=lambda lane: -lane[0][1])

    def heard(self, lanes: Iterable[Lane]) -> bool:
        """Note lanes that a bell named; True when one of them is ours."""
        ours = False
        for lane in lanes:
            if self.serves(lane[0]):
                ours = True
                if lane not in self._low:
                    self._add(lane, BEGINNING)
        return ours

    def looked(self, found: Mapping[Lane, datetime]) -> bool:
        """Take in a look at all lanes; True when there is work below a bound or in a new lane."""
        news = False
        ours = [lane for lane in found if self.serves(lane[0])]
        if len(ours) > MOST:
            # As many as are kept, others each time: the same ones would displace the rest for ever.
            ours = ours[self._offset :] + ours[: self._offset]
            self._offset = (self._offset + MOST) % len(ours)
            del ours[MOST:]
        for lane in ours:
            first, low = found[lane], self._low.get(lane)
            if low is None:
                self._add(lane, first)
                news = True
            elif first < low:
                self._low[lane] = first
                news = True
        return news

    def claimed(self, rows: Sequence[Record]) -> None:
        """Raise the bounds to what a claim has taken; `rows` stand in the order of the line."""
        low = self._low
        if len(low) == 1:
            rows = rows[-1:]
        for row in rows:
            lane = (row["queue"], row["priority"])
            place = row["date_enqueued"]
            if place > low.get(lane, BEGINNING):
                low[lane] = place

    def in_turn(self) -> list[tuple[Lane, datetime]]:
        """All lanes with their bounds, in the order in which the next claim is to try them."""
        order = self._order
        if order is None:
            by_queue: dict[str, list[Lane]] = {}
            for lane in sorted(self._low, key=lambda lane: (lane[0], -lane[1])):
                if lane[0] not in self._skipped:
                    by_queue.setdefault(lane[0], []).append(lane)
            order = self._order = list(by_queue.values())
        if not order:
            return []
        self._first = (self._first + 1) % len(order)
        low = self._low
        turned = order[self._first :] + order[: self._first]
        return [(lane, low[lane]) for lanes in turned for lane in lanes]

    def _add(self, lane: Lane, low: datetime) -> None:
        while len(self._low) >= MOST:
            del self._low[next(iter(self._low))]
        self._low[lane] = low
        self._order = None
