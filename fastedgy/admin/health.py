"""Whether the queue is well, in one word, with the reasons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastedgy.admin.service import QueueAdmin
from fastedgy.admin.types import Level
from fastedgy.errors import FastEdgyError
from fastedgy.store.outage import is_outage

FRESH = 1.0
"""Seconds for which an answer is given again, however many ask."""
PATIENCE = 5.0
"""Seconds after which a database that does not answer counts as away."""


@dataclass(frozen=True, slots=True)
class Health:
    """`healthy`; `degraded`: tasks run, but not as they should; `unhealthy`: they do not run, or
    the database is away. `sentence` and `reasons` say why.
    """

    level: Level
    sentence: str
    reasons: Sequence[str]


class HealthCheck:
    """Answers probes. One look at a time, and one for all who ask within a second."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._known: Health | None = None
        self._looked_at = 0.0

    async def look(self, admin: QueueAdmin) -> Health:
        """How the queue is now. Never raises because of the database."""
        async with self._turn:
            if self._known is None or time.monotonic() - self._looked_at >= FRESH:
                self._known = await check(admin)
                self._looked_at = time.monotonic()
            return self._known


async def check(admin: QueueAdmin) -> Health:
    """Look at the queue."""
    try:
        async with asyncio.timeout(PATIENCE):
            seen = await admin.overview()
    except Exception as error:
        if not isinstance(error, FastEdgyError | TimeoutError) and not is_outage(error):
            raise
        reason = str(error) or f"It did not answer within {PATIENCE:g} s."
        return Health(Level.unhealthy, "The queue's database does not answer.", [reason])
    return Health(seen.level, seen.sentence, seen.reasons)
