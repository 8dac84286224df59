"""What the workers throw away in time: old tasks, workers, schedules, events, keys and counts."""

from __future__ import annotations

from uuid import UUID

from asyncpg import Connection

from fastedgy.config import QueuedTaskConfig
from fastedgy.models.tables import Tables
from fastedgy.store import archive, events, gates, keys, maintain, rollups, schedules, workers
from fastedgy.store.maintain import DAY, FIRST_ID
from fastedgy.worker.counters import Counters

BATCH = 1_000
FORGET_AFTER = 24 * 3600.0
"""Seconds for which the row of an ended worker is kept."""


class Pruner:
    """Rounds of pruning, one chunk after the other."""

    def __init__(self, tables: Tables, config: QueuedTaskConfig, counters: Counters) -> None:
        self._tables = tables
        self._config = config
        self._counters = counters
        self._archive = archive.JsonLines(config.archive_dir) if config.archive_dir else None
        self._ages = maintain.retention(config)
        self._turn = 0
        self._after: UUID = FIRST_ID
        self._more_to_tidy = False

    async def chunk(self, connection: Connection) -> bool:
        """Prune a little; whether there is more to do at once. May be repeated."""
        if self._more_to_tidy:
            self._more_to_tidy = await self._prune_many(connection)
            return self._more_to_tidy or self._turn > 0 or self._after != FIRST_ID
        if self._turn == 0 and self._after == FIRST_ID:
            await self._tidy(connection)
        states, older_than = self._ages[self._turn]
        pruned, self._after = await archive.prune(
            connection, self._tables, self._archive, older_than=older_than, limit=BATCH,
            after=self._after, states=states,
        )  # fmt: skip
        self._counters.pruned += pruned
        if pruned < BATCH:
            self._after = FIRST_ID
            self._turn = (self._turn + 1) % len(self._ages)
        return pruned == BATCH or self._turn > 0 or self._more_to_tidy

    async def _tidy(self, connection: Connection) -> None:
        """What there is little of, and the first chunk of what there may be much of."""
        tables, config = self._tables, self._config
        await workers.forget_workers(connection, tables, older_than=FORGET_AFTER)
        await rollups.tidy(connection, tables, keep_hours=config.stats_days * DAY)
        await schedules.forget(connection, tables, older_than=config.retention_days * DAY)
        await gates.forget_gates(connection, tables)
        self._more_to_tidy = await self._prune_many(connection)

    async def _prune_many(self, connection: Connection) -> bool:
        """A chunk of the events and of the keys; whether there are more of either."""
        kept = self._config.key_retention_days * DAY
        gone = await events.prune_events(connection, self._tables, older_than=kept, limit=BATCH)
        return max(gone, await keys.prune_keys(connection, self._tables, limit=BATCH)) == BATCH
