"""A lively past for the pictures: rows as a day of work leaves them, and what workers counted."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import asyncpg
from rows import TABLES

from fastedgy.ids import new_id
from fastedgy.store.rollups import MINUTE, RollupKey, Tally, bucket, write

NAMES = (
    ("board_tasks.send_email", "mail", 640),
    ("board_tasks.resize", "images", 310),
    ("board_tasks.charge", "default", 120),
    ("board_tasks.import_rows", "imports", 6),
)

PAST = """
INSERT INTO queued_tasks (id, name, function, queue, state, args, kwargs, attempt, date_created,
                          date_enqueued, date_started, date_ended, worker_id, run)
SELECT gen_random_uuid(), 'board_tasks.send_email', 'board_tasks:send_email', 'mail', 'done',
       '["ann@example.org", "Welcome"]', '{"token": "secret"}', 1,
       moment, moment, moment + interval '4 ms', moment + interval '31 ms', NULL, 1
  FROM (SELECT clock_timestamp() - number * interval '700 ms' AS moment
          FROM generate_series(1, 4000) AS number) AS each
"""
LATER = """
INSERT INTO queued_tasks (id, name, function, queue, state, args, date_due)
SELECT gen_random_uuid(), 'board_tasks.send_email', 'board_tasks:send_email', 'mail', 'scheduled',
       jsonb_build_array('user' || number || '@example.org', 'A week with us'),
       clock_timestamp() + number * interval '15 min'
  FROM generate_series(1, 120) AS number
"""


async def furnish(connection: asyncpg.Connection, *, minutes: int = 70) -> None:
    """Fill the tables."""
    await connection.execute(PAST)
    await connection.execute(LATER)
    await connection.execute("ANALYZE queued_tasks")
    chance = random.Random(7)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    rows = []
    for age in range(1, minutes):
        for name, queue, number in NAMES:
            swing = 1 + 0.35 * math.sin(age / 6) + chance.uniform(-0.08, 0.08)
            key = RollupKey(MINUTE, now - timedelta(minutes=age), queue, name)
            rows.append((key, _tally(int(number * swing), name, age, chance)))
    await write(connection, TABLES, new_id(), rows)


def _tally(number: int, name: str, age: int, chance: random.Random) -> Tally:
    failed = number // 20 if name.endswith("charge") and 4 < age < 9 else 0
    tally = Tally(done=number - failed, failed=failed)
    for _ in range(number):
        took = chance.lognormvariate(math.log(0.03), 0.6)
        waited = chance.lognormvariate(math.log(0.003), 0.5)
        tally.runs[bucket(took)] += 1
        tally.waits[bucket(waited)] += 1
        tally.run_seconds += took
    return tally
