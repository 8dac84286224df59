"""What `explain` says: reasons, in the order in which to look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. `text`: a sentence; `cure`: what to do, None where nothing has to be done.

    `holds`: whether it keeps the task from being taken now. Those that do not are worth knowing:
    its place in the line, the error before this attempt.
    """

    code: str
    text: str
    cure: str | None = None
    holds: bool = True
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a task does not run now, or that it does.

    `sentence`: the first reason, in plain words. `ready`: nothing holds it; the next claim that
    gets as far as its `position` in the line takes it. `expected_seconds`: about so long until it
    starts, None where nobody can say.
    """

    id: UUID
    name: str
    queue: str
    state: str
    ready: bool
    sentence: str
    reasons: Sequence[Reason]
    position: int | None = None
    expected_seconds: float | None = None
    checked_at: datetime | None = None
