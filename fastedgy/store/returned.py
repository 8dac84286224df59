"""Functions that returned: the hot part of finishing.

`state || ''` keeps the planner off the partial index on running tasks: it would walk all of them,
once per outcome. The rows are to be found by the primary key, one by one: so does `= ANY (ARRAY
[…])`, without which a plan made while the table was nearly empty walks the whole key instead, until
the next ANALYZE (seen: seconds for one statement).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.arrays import ages, integers
from fastedgy.store.family import COUNT_DOWN
from fastedgy.store.notify import (
    BYTES_PER_PAYLOAD,
    EVERYWHERE,
    IDS_PER_PAYLOAD,
    LANES_PER_PAYLOAD,
    Channels,
)
from fastedgy.store.outcomes import Outcome
from fastedgy.store.statements import Statement
from fastedgy.store.traces import Said, insert_lines, line_columns


def _returned(beside: str = "") -> str:
    """A function has returned, and its claim still holds. `beside`: what else is joined."""
    return f"""
    UPDATE $tasks AS task
       SET state = 'done', losses = 0, alone = false,
           result = outcome.result,
           context = coalesce(outcome.context, task.context),
           date_started = clock_timestamp() - outcome.began * interval '1 microsecond',
           date_ended = clock_timestamp() - outcome.ended * interval '1 microsecond',
           error_type = NULL, error_message = NULL, error_traceback = NULL
      FROM unnest($1::uuid[], $2::text::integer[], $3::jsonb[], $4::jsonb[], $5::text::bigint[],
                  $6::text::bigint[])
           AS outcome (id, run, result, context, began, ended) {beside}
     WHERE task.id = ANY (ARRAY [outcome.id]) AND task.run = outcome.run
       AND task.state || '' = 'doing'"""


_TOLD = f"""told AS MATERIALIZED (
    SELECT pg_notify($7::text, string_agg(id::text, ','))
      FROM (SELECT id, row_number() OVER () / {IDS_PER_PAYLOAD} AS part FROM ended
             WHERE awaited AND $7::text IS NOT NULL) AS awaited
     GROUP BY part
)"""

_FINISH_DONE = """
WITH ended AS ($returned
       AND NOT task.has_children AND NOT task.auto_remove
 RETURNING task.id, task.awaited
), $told $said
SELECT (SELECT count(*) FROM ended), (SELECT count(*) FROM told)
"""
# The hot one: functions that returned, in tasks that nobody waits for as a parent. A task that got
# a child meanwhile does not match (the check is repeated on the row as it is once its lock is had),
# and goes through FINISH_PARENTS.
FINISH_DONE = Statement(_FINISH_DONE, returned=_returned(), told=_TOLD, said="")

_LAST_WORDS = insert_lines(
    "($1::uuid[])[line.of]", "((SELECT $2::text::integer[]))[line.of]", first=8
)
# Outcomes with the last words of their tasks: one statement, one flush and one turn of the event
# loop instead of two of each. Words of tasks that did not match are left out. Mostly all match,
# which the first half of the condition finds; the second one is no join, as that may be planned to
# compare each with each.
FINISH_DONE_SAYING = Statement(
    _FINISH_DONE,
    returned=_returned(),
    told=_TOLD,
    said=f""", said AS ({_LAST_WORDS}
     WHERE (SELECT count(*) FROM ended) = cardinality($1::uuid[])
        OR ($1::uuid[])[line.of] IN (SELECT id FROM ended)
)""",
)

# The same for parents. A statement does not see what was linked while it waited for a row; but who
# links to a task that runs changes its row, so `xmin` of the row that it got tells. What does not
# match goes through FINISH_PARENTS. So do parents of a task that stands for another: it ends with
# that one, instead of running. There is mostly no such task at all, which the smallest of indexes
# tells; a look at all children would take as long as all the rest.
FINISH_AND_RELEASE = Statement(
    """
WITH ended AS ($returned
       AND NOT task.auto_remove AND task.xmin = ANY (ARRAY [seen.version])
       AND ((SELECT stands_for FROM $tasks
              WHERE state = 'waiting' AND stands_for >= '00000000-0000-0000-0000-000000000000'
              ORDER BY stands_for LIMIT 1) IS NULL
            OR NOT EXISTS (
               SELECT FROM $links AS link
                 JOIN $tasks AS child ON child.id = ANY (ARRAY [link.child_id])
                WHERE link.parent_id = ANY (ARRAY [task.id]) AND NOT link.settled
                  AND child.state || '' = 'waiting' AND child.stands_for IS NOT NULL))
 RETURNING task.id, task.has_children, task.awaited
), $told, released AS ($count_down), lane AS MATERIALIZED (
    SELECT queue, priority, count(*) AS tasks FROM released WHERE state = 'enqueued'
     GROUP BY queue, priority
), bell AS (
    SELECT jsonb_agg(jsonb_build_array(queue, priority)) AS lanes FROM lane
     WHERE (SELECT sum(tasks) FROM lane) > $10::integer
        OR NOT coalesce(queue = ANY ($9::text[]), true)
), rung AS MATERIALIZED (
    SELECT pg_notify($8::text,
           CASE WHEN jsonb_array_length(lanes) <= $most_lanes
                 AND octet_length(lanes::text) <= $most_bytes
                THEN jsonb_build_object('lanes', lanes, 'due', NULL)::text
                ELSE '$everywhere' END)
      FROM bell WHERE lanes IS NOT NULL AND $8::text IS NOT NULL
)
SELECT (SELECT count(*) FROM ended) AS ended, (SELECT count(*) FROM told) AS told,
       (SELECT count(*) FROM rung) AS rung,
       (SELECT jsonb_agg(jsonb_build_array(queue, priority, tasks)) FROM lane) AS lanes
""",
    returned=_returned(
        """
     CROSS JOIN LATERAL (
           SELECT now.xmin AS version FROM $tasks AS now WHERE now.id = ANY (ARRAY [outcome.id])
     ) AS seen"""
    ),
    most_lanes=str(LANES_PER_PAYLOAD),
    most_bytes=str(BYTES_PER_PAYLOAD),
    everywhere=EVERYWHERE,
    told=_TOLD,
    count_down=COUNT_DOWN.replace("$parents", "ARRAY (SELECT id FROM ended WHERE has_children)"),
)

# In a transaction: children are looked at in the statement that follows, which sees what was linked
# while this one waited for a row.
FINISH_PARENTS = Statement(
    """
WITH ended AS ($returned
 RETURNING task.id, task.has_children, task.awaited, task.auto_remove
)
SELECT count(*) AS ended,
       coalesce(array_agg(id) FILTER (WHERE has_children), '{}') AS parents,
       coalesce(array_agg(id) FILTER (WHERE awaited), '{}') AS awaited,
       -- Children look at it; and who waits for it is still to read its result.
       coalesce(array_agg(id) FILTER (WHERE auto_remove AND NOT has_children AND NOT awaited),
                '{}') AS removed
  FROM ended
""",
    returned=_returned(),
)


async def finish_done(
    connection: Connection,
    tables: Tables,
    outcomes: Sequence[Outcome],
    said: Sequence[Said] = (),
    *,
    channels: Channels,
) -> bool:
    """Write functions that returned, in one statement. True when all of them matched.

    `said` are log lines of theirs, to be written in the same statement.

    False: some have children or are to be removed, or their claim is gone. `finish_any` tells
    which, and may be given all of them. The lines of these are not written, those of others are.
    """
    now = time.monotonic()
    columns = (*outcome_columns(outcomes, now), channels.done)
    if said:
        place_of = {outcome.id: place for place, outcome in enumerate(outcomes, 1)}
        places = [place_of[each.task_id] for each in said]
        row = await connection.fetchrow(
            FINISH_DONE_SAYING[tables], *columns, *line_columns(said, places, now)
        )
    else:
        row = await connection.fetchrow(FINISH_DONE[tables], *columns)
    return bool(row[0] == len(outcomes))


def outcome_columns(outcomes: Sequence[Outcome], now: float) -> tuple[Any, ...]:
    """What a statement that finishes begins with. `now`: a reading of `time.monotonic()`."""
    results = [outcome.result for outcome in outcomes]
    contexts = [outcome.context for outcome in outcomes]
    return (
        [outcome.id for outcome in outcomes],
        integers([outcome.run for outcome in outcomes]),
        # Shorter than the others, an array is filled up with NULL.
        results if any(results) else [],
        contexts if any(contexts) else [],
        ages(now, (outcome.began for outcome in outcomes)),
        ages(now, (outcome.ended for outcome in outcomes)),
    )
