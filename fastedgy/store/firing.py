"""Firing: the task goes in and its schedule moves on in one guarded statement.

Several workers may fire the same schedules at once, and each of them may be killed anywhere: a row
that is not as it was read (`revision`) gives no task, and whoever comes next finds it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.notify import BYTES_PER_PAYLOAD, LANES_PER_PAYLOAD
from fastedgy.store.schedules import COLUMNS, ScheduleRow, row_of
from fastedgy.store.statements import LANE, Statement

_LIST = ", ".join(COLUMNS)

# What is due, oldest first, and behind it the one that will be due next.
LOOK = Statement(f"""
(SELECT {_LIST}, statement_timestamp() AS now FROM $schedules
  WHERE NOT paused AND next_due <= statement_timestamp() AND name <> ALL ($2::text[])
  ORDER BY next_due LIMIT $1)
UNION ALL
(SELECT {_LIST}, statement_timestamp() AS now FROM $schedules
  WHERE NOT paused AND next_due > statement_timestamp()
  ORDER BY next_due LIMIT 1)
""")

_UNFINISHED = "('scheduled', 'waiting', 'enqueued', 'doing')"

FIRE = Statement(f"""
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::integer[], $4::timestamptz[],
                         $5::timestamptz[], $6::integer[], $7::text[])
                  AS given (name, created, revision, last_due, next_due, missed, because)
), held AS (
    SELECT schedule.*, given.last_due AS due, given.next_due AS following,
           given.missed AS skipped, given.because,
           ARRAY (SELECT task.id FROM unnest(schedule.instances) AS instance
                    JOIN $tasks AS task ON task.id = instance
                   WHERE task.state IN {_UNFINISHED}) AS alive
      FROM given
      JOIN $schedules AS schedule ON schedule.name = given.name
     WHERE schedule.revision = given.revision AND schedule.date_created = given.created
     ORDER BY schedule.name
       FOR UPDATE OF schedule SKIP LOCKED
), wanted AS (
    SELECT * FROM unnest($8::uuid[], $9::text[], $10::integer[], $11::timestamptz[], $12::jsonb[],
                         $13::text[])
                  AS wanted (id, schedule, place, at, context, signature)
), new AS (
    INSERT INTO $tasks AS task
                       (id, schedule, date_due, context, signature, name, function, args, kwargs,
                        queue, priority, max_retries, timeout, auto_remove, on_parent_failure,
                        unique_key, gate, gate_limit, gate_rate, breaker, redact, date_enqueued,
                        state)
    SELECT wanted.id, held.name, due.at, wanted.context, wanted.signature, said.name,
           held.function, held.args, held.kwargs, said.queue, said.priority, said.max_retries,
           said.timeout, said.auto_remove, said.on_parent_failure, said.unique_key, said.gate,
           said."limit", said.rate, said.breaker,
           CASE WHEN jsonb_typeof(said.redact) = 'array'
                THEN ARRAY (SELECT jsonb_array_elements_text(said.redact)) END,
           clock_timestamp(),
           CASE WHEN due.at > clock_timestamp() THEN 'scheduled' ELSE 'enqueued' END
      FROM held
      JOIN wanted ON wanted.schedule = held.name
     CROSS JOIN LATERAL jsonb_to_record(held.task)
           AS said (name text, queue text, priority integer, max_retries integer, timeout float8,
                    auto_remove boolean, on_parent_failure text, unique_key text, gate text,
                    "limit" integer, rate float8, breaker text, redact jsonb, delay float8)
     CROSS JOIN LATERAL (
           SELECT wanted.at + coalesce(said.delay, 0) * interval '1 second' AS at
     ) AS due
     WHERE $15::boolean OR held.max_instances IS NULL
        OR wanted.place <= held.max_instances - cardinality(held.alive)
     ORDER BY wanted.at, wanted.id
        ON CONFLICT DO NOTHING
 RETURNING task.id, task.schedule, task.queue, {LANE}, task.state, task.date_due
), made AS (
    SELECT schedule, array_agg(id ORDER BY id) AS ids FROM new GROUP BY schedule
), asked AS (
    SELECT schedule, count(*)::integer AS tasks FROM wanted GROUP BY schedule
), counted AS (
    SELECT held.*, coalesce(made.ids, '{{}}') AS ids,
           coalesce(asked.tasks, 0) - cardinality(coalesce(made.ids, '{{}}')) AS refused
      FROM held
      LEFT JOIN made ON made.schedule = held.name
      LEFT JOIN asked ON asked.schedule = held.name
), moved AS (
    UPDATE $schedules AS schedule
       SET next_due = counted.following,
           last_due = counted.due,
           revision = schedule.revision + 1,
           last_fired = CASE WHEN counted.ids <> '{{}}' THEN clock_timestamp()
                             ELSE schedule.last_fired END,
           last_task_id = coalesce(counted.ids[cardinality(counted.ids)], schedule.last_task_id),
           instances = CASE WHEN schedule.max_instances IS NULL THEN '{{}}'
                            ELSE counted.alive || counted.ids END,
           fired = schedule.fired + cardinality(counted.ids),
           missed = schedule.missed + counted.skipped + counted.refused,
           missed_because = CASE
               WHEN counted.refused > 0 AND cardinality(counted.alive) > 0 THEN 'still running'
               WHEN counted.refused > 0 THEN 'duplicate'
               ELSE coalesce(counted.because, schedule.missed_because) END,
           error = NULL
      FROM counted
     WHERE schedule.name = counted.name
 RETURNING schedule.name, counted.ids, counted.skipped + counted.refused AS missed,
           schedule.missed_because
), lane AS (
    SELECT DISTINCT queue, priority FROM new WHERE state = 'enqueued'
), named AS (
    SELECT lanes, number > {LANES_PER_PAYLOAD}
                  OR octet_length(lanes::text) > {BYTES_PER_PAYLOAD} AS too_many
      FROM (SELECT coalesce(jsonb_agg(jsonb_build_array(queue, priority)), '[]') AS lanes,
                   count(*) AS number
              FROM lane) AS counted
), told AS MATERIALIZED (
    SELECT pg_notify($14::text, (jsonb_build_object(
               'lanes', CASE WHEN too_many THEN '[]' ELSE lanes END,
               'due', (SELECT extract(epoch FROM min(date_due) - clock_timestamp()) FROM new
                        WHERE state = 'scheduled'))
           || CASE WHEN too_many THEN '{{"all": true}}'::jsonb ELSE '{{}}' END)::text)
      FROM named
     WHERE $14::text IS NOT NULL AND EXISTS (SELECT FROM new)
)
SELECT moved.*, (SELECT count(*) FROM told) AS told,
       ARRAY (SELECT queue FROM lane ORDER BY queue, priority) AS queues,
       ARRAY (SELECT priority FROM lane ORDER BY queue, priority) AS priorities
  FROM moved
""")

TROUBLE = Statement(
    "UPDATE $schedules SET error = $2 WHERE name = $1 AND error IS DISTINCT FROM $2"
)


@dataclass(frozen=True, slots=True)
class NewRun:
    """A task that is to be made of a schedule: when, and what its row says of the moment."""

    id: UUID
    at: datetime
    context: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """What one schedule gives: its tasks, the moment it moves on to, and what it leaves out."""

    row: ScheduleRow
    runs: Sequence[NewRun]
    last_due: datetime | None
    next_due: datetime | None
    missed: int = 0
    because: str | None = None


@dataclass(slots=True)
class Fired:
    """What became of some firings: the ids of the tasks by schedule, and the lanes they are in.

    A schedule that somebody else fired or changed meanwhile is not among `ids`. `missed`: how many
    due times gave no task, and why.
    """

    ids: dict[str, list[UUID]] = field(default_factory=dict)
    missed: dict[str, tuple[int, str]] = field(default_factory=dict)
    lanes: set[tuple[str, int]] = field(default_factory=set)

    def add(self, more: Fired) -> None:
        """Take in what became of others."""
        self.ids |= more.ids
        self.missed |= more.missed
        self.lanes |= more.lanes


async def look(
    connection: Connection, tables: Tables, *, limit: int, without: Sequence[str] = ()
) -> tuple[list[ScheduleRow], datetime | None]:
    """Up to `limit` schedules that are due, and the one after them; and the database's time.

    The time is None if there is none at all.
    """
    records = await connection.fetch(LOOK[tables], limit, list(without))
    return [row_of(record) for record in records], records[0]["now"] if records else None


async def fire(
    connection: Connection, tables: Tables, firings: Sequence[Firing], *, channel: str | None,
    by_hand: bool = False,
) -> Fired:  # fmt: skip
    """Write the tasks of schedules that are as they were read, and move these on.

    `by_hand`: whatever `max_instances` says.
    """
    runs = [
        (run.id, firing.row.name, place, run.at, run.context, run.signature)
        for firing in firings
        for place, run in enumerate(firing.runs, 1)
    ]
    records = await connection.fetch(
        FIRE[tables],
        [firing.row.name for firing in firings],
        [firing.row.date_created for firing in firings],
        [firing.row.revision for firing in firings],
        [firing.last_due for firing in firings],
        [firing.next_due for firing in firings],
        [firing.missed for firing in firings],
        [firing.because for firing in firings],
        *([run[index] for run in runs] for index in range(6)),
        channel,
        by_hand,
    )
    fired = Fired()
    for record in records:
        fired.ids[record["name"]] = list(record["ids"])
        if record["missed"]:
            fired.missed[record["name"]] = (record["missed"], record["missed_because"])
        fired.lanes |= set(zip(record["queues"], record["priorities"], strict=True))
    return fired


async def note_trouble(connection: Connection, tables: Tables, name: str, error: str) -> None:
    """Write why a schedule cannot be fired."""
    await connection.execute(TROUBLE[tables], name, error)


def context_of(name: str, due: datetime | None) -> str:
    """What a task's context says of its schedule. `due` is None where somebody ran it by hand."""
    return orjson.dumps({"schedule": {"name": name, "due": due}}).decode()
