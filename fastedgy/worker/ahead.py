"""How many tasks to claim ahead of need: short ones, so that no slot waits for the next claim."""

from __future__ import annotations

import time
from collections.abc import Callable

SHORT = 0.005
"""Tasks that would take less than this (seconds, on average) if each ran alone are short."""
AHEAD = 0.1
"""Seconds of work that are claimed ahead of short tasks."""
MOST_AHEAD = 800
"""Tasks that are claimed ahead at most: with 2,000 a worker has 3 MB more, and is hardly faster."""
MOST_AHEAD_GATED = 2_400
"""Likewise where tasks come through gates: such a claim takes longer, and with 800 a worker has
often run dry before the next one is there (measured: a tenth to a quarter more tasks a second)."""
REFILL = 0.75
"""At which share of what may be claimed ahead the next claim is due."""
REFILL_GATED = 0.5
"""Likewise where tasks come through gates: each of these claims counts what runs, so that fewer and
larger ones cost less (measured: a tenth more tasks a second)."""


class Ahead:
    """What an executor has learned of its tasks, and the room that follows from it.

    How long a task takes is measured from its first step to its last, and whenever it awaits
    something, it then waits for its turn in the event loop as well: where 100 share a busy one, for
    most of the time. So what counts is the time that it would take alone, which is the loop's idle
    share of it, as where a processor is shared by turns (Kleinrock 1967, "Time-shared Systems":
    what needs S takes S / (1 - load)). Without this, tasks that wait three times for a millisecond
    are taken for long, and run at seven tenths of the speed.

    Those that keep the loop busy themselves are not claimed ahead, however short they would be
    alone: a slotful of them is to take less than what may be ahead.
    """

    def __init__(self, concurrency: int, *, clock: Callable[[], float] = time.thread_time) -> None:
        """`clock` tells how many seconds of a processor this thread has had: the event loop's."""
        self._concurrency = concurrency
        self._clock = clock
        self._known = False
        self._takes = 0.0
        self._cpu = 0.0
        self._rate = 0.0
        self._pace = 0
        self._asked = 0
        self._was_full = False
        self._most, self._refill = MOST_AHEAD, REFILL
        self.low_water = 0
        """At which number of tasks that are claimed and not started the next claim is due."""
        self.ended = 0
        """How many have ended since the last look. Counted by the executor."""
        self.worked = 0.0
        """Seconds from their first steps to their last, in all."""
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """Something runs again."""
        self._since, self._cpu_before = now, self._clock()

    @property
    def are_short(self) -> bool:
        """Whether tasks are so short that more are claimed than there are slots."""
        return self._known and self._takes < SHORT and self._cpu * self._concurrency < AHEAD

    def room(self, free: int, queued: int, now: float) -> int:
        """How many to claim now. `free`: slots for which there is no task; below 0 where more are
        claimed than there are slots. `queued`: how many are claimed and not started.
        """
        if not self._known and self.ended >= self._concurrency:
            self.measure(now)
        ahead = 0
        if self.are_short:
            wanted = max(self._concurrency, self._pace, int(self._rate * AHEAD))
            ahead = min(self._most, wanted)
        self.low_water = int(ahead * self._refill)  # the next ones come before these are over
        if queued > self.low_water:
            return 0
        self._asked = max(0, free + ahead)
        return self._asked

    def came(self, number: int, *, gated: bool, idle: bool) -> None:
        """So many were claimed for the room that there was, some of them through gates if `gated`.

        `idle`: nothing runs any more, and nothing is queued.
        """
        self._most = MOST_AHEAD_GATED if gated else MOST_AHEAD
        self._refill = REFILL_GATED if gated else REFILL
        if self._was_full and idle:
            # All that there was room for came, and is over before this has arrived: it was too
            # little, and the rate is not known yet.
            self._pace = min(self._most, 2 * max(self._concurrency, self._pace))
        self._was_full = number >= self._asked

    def measure(self, now: float) -> None:
        """Look at what has ended since the last look. In the event loop's thread."""
        elapsed, cpu = now - self._since, self._clock()
        if elapsed > 0:
            weight = 0.5 if self._known else 1.0
            self._rate += (self.ended / max(elapsed, AHEAD) - self._rate) * weight
            if self.ended:
                spent = cpu - self._cpu_before
                mean = self.worked / self.ended
                # The load is that of the time since the last look; before, they may have slept.
                alone = mean - min(mean, elapsed) * min(1.0, spent / elapsed)
                self._takes += (alone - self._takes) * weight
                self._cpu += (spent / self.ended - self._cpu) * weight
                self._known = True
        self._pace //= 2
        self.ended, self.worked = 0, 0.0
        self._since, self._cpu_before = now, cpu
