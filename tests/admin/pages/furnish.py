"""A lively past for the pictures: rows as a day of work leaves them, and what workers counted."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from rows import TABLES

from fastedgy.ids import new_id
from fastedgy.store.find import first_id
from fastedgy.store.rollups import EVERY_NAME, MINUTE, RollupKey, Tally, bucket, write

NAMES = (
    ("board_tasks.send_email", "mail", 640),
    ("board_tasks.resize", "images", 310),
    ("board_tasks.charge", "default", 120),
    ("board_tasks.import_rows", "imports", 6),
)

PAST = """
INSERT INTO queued_tasks (id, name, function, queue, state, args, kwargs, attempt, date_created,
                          date_enqueued, date_started, date_ended, worker_id, run)
SELECT id, 'board_tasks.send_email', 'board_tasks:send_email', 'mail', 'done',
       '["ann@example.org", "Welcome"]', '{"token": "secret"}', 1,
       moment, moment, moment + interval '4 ms', moment + interval '31 ms', NULL, 1
  FROM unnest($1::uuid[], $2::timestamptz[]) AS each (id, moment)
"""
LATER = """
INSERT INTO queued_tasks (id, name, function, queue, state, args, date_due)
SELECT id, 'board_tasks.send_email', 'board_tasks:send_email', 'mail', 'scheduled',
       '["bob@example.org", "A week with us"]', moment + interval '7 days'
  FROM unnest($1::uuid[], $2::timestamptz[]) AS each (id, moment)
"""


async def furnish(connection: asyncpg.Connection, *, minutes: int = 70) -> None:
    """Fill the tables."""
    now = datetime.now(UTC)
    past = [now - timedelta(seconds=0.7 * number) for number in range(1, 4000)]
    await connection.execute(PAST, [_id_at(moment) for moment in past], past)
    await connection.execute(LATER, [_id_at(moment) for moment in past[:120]], past[:120])
    await connection.execute("ANALYZE queued_tasks")
    chance = random.Random(7)
    now = now.replace(second=0, microsecond=0)
    rows = []
    for age in range(1, minutes):
        for name, queue, number in NAMES:
            swing = 1 + 0.35 * math.sin(age / 6) + chance.uniform(-0.08, 0.08)
            minute = now - timedelta(minutes=age)
            tally = _tally(int(number * swing), name, age, chance)
            # Each queue has one name here, so that the sum over its names is the same.
            rows += [(RollupKey(MINUTE, minute, queue, each), tally) for each in (name, EVERY_NAME)]
    await write(connection, TABLES, new_id(), rows)


def _id_at(moment: datetime) -> UUID:
    """An id as it would have been made then."""
    return UUID(int=first_id(moment).int | (7 << 76) | (2 << 62) | random.getrandbits(62))


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
