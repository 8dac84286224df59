"""When to start one more worker, and when one is too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Load:
    """One ready worker. `idle_for`: seconds since it last had a task, 0 while it has some."""

    full: bool
    idle_for: float


class Step(Enum):
    """What to do about the number of workers."""

    STAY = "stay"
    GROW = "grow"
    SHRINK = "shrink"


@dataclass(slots=True)
class Scaling:
    """Between `least` and `most` workers: one more when all slots have been busy for
    `grow_after` seconds, one less when one has been idle for `idle_timeout` seconds."""

    least: int
    most: int
    idle_timeout: float
    grow_after: float
    full_since: float | None = None

    def decide(self, now: float, loads: Sequence[Load]) -> Step:
        """The next step, given all workers. Each `GROW` starts the wait anew."""
        if not loads or not all(load.full for load in loads):
            self.full_since = None
        elif self.full_since is None:
            self.full_since = now
        elif len(loads) < self.most and now - self.full_since >= self.grow_after:
            self.full_since = None
            return Step.GROW
        if len(loads) > self.least and any(load.idle_for >= self.idle_timeout for load in loads):
            return Step.SHRINK
        return Step.STAY
