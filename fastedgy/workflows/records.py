"""What the journal of a run is made of: calls, what the table knows of them, and their tries."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from fastedgy.errors import InvalidStep
from fastedgy.queued_task.backoff import Policy
from fastedgy.queued_task.encoding import fault_of

LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a step or a wait, at its place among those of the task's own flow.

    `position` counts from 1; 0: made in an asyncio task beside the task's own, where the order is
    nobody's. `handled` are failed steps that the flow has gone on from.
    """

    name: str
    kind: str
    position: int
    handled: tuple[str, ...] = ()


@dataclass(slots=True)
class Known:
    """A step as the table has it. `ended` is by the database's clock; `result` is JSON."""

    name: str
    kind: str
    state: str
    position: int
    attempts: int = 0
    handled: bool = False
    result: str | None = None
    event: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    ended: float | None = None
    remaining: float | None = None
    read_at: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until it is due."""
        if self.remaining is None:
            return 0.0
        return max(0.0, self.remaining - (time.monotonic() - self.read_at))


@dataclass(frozen=True, slots=True)
class Tries:
    """How often a step may fail before that counts (`retries` times more than once), and when it is
    tried again: in a run of its own, at no cost for the task's own budget."""

    retries: int = 0
    delay: Policy = field(default=lambda attempt: 0.0)


ONCE = Tries()


def check_name(name: Any) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidStep(f"A step's name is text, as in step('charge', …), and not {name!r}.")
    if len(name) > LONGEST_NAME:
        raise InvalidStep(f"The step's name {name[:40]!r}… has more than {LONGEST_NAME} characters")
    reason = fault_of(name)
    if reason is not None:
        raise InvalidStep(f"The step's name {name!a} cannot be stored: {reason}.")
