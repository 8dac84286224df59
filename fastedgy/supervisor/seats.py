"""Seats: each is to be filled with a worker, and remembers how its last ones ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fastedgy.supervisor.child import Child
from fastedgy.supervisor.options import Tempo


@dataclass(slots=True)
class Backoff:
    """How long to wait before a worker is started again.

    Not at all after the first end; 1 s, 2 s, 4 s … 30 s when it keeps ending within 10 s of its
    start. A worker that lived longer, or a calm of 40 s, makes it forget.
    """

    tempo: Tempo
    quick_deaths: int = 0
    last_end: float = -math.inf

    def after_end(self, now: float, lived: float) -> float:
        """Seconds to wait, after a worker has ended `now` that had `lived` so many seconds."""
        tempo = self.tempo
        calm = now - self.last_end > tempo.max_delay + tempo.quick_death
        if lived >= tempo.quick_death or calm:
            self.quick_deaths = 0
        self.quick_deaths += lived < tempo.quick_death
        self.last_end = now
        if self.quick_deaths <= 1:
            return 0.0
        # 2**10 s is above any sensible maximum; the power itself must not grow without end.
        return min(tempo.max_delay, tempo.first_delay * 2.0 ** min(self.quick_deaths - 2, 10))


@dataclass(slots=True, eq=False)
class Seat:
    """A place for one worker. `coming` is the one that will replace `child` once it is ready."""

    number: int
    backoff: Backoff
    child: Child | None = None
    coming: Child | None = None
    restart_at: float = field(default=-math.inf)

    @property
    def empty(self) -> bool:
        """Whether nobody sits here and nobody is on the way."""
        return self.child is None and self.coming is None

    def leave(self, child: Child, now: float) -> bool:
        """`child` works here no longer. Whether the seat is to be filled again because of it."""
        if child is self.coming:
            self.coming = None
        elif child is self.child:
            self.child = None
        else:
            return False
        self.restart_at = now + self.backoff.after_end(now, child.lived(now))
        return self.empty
