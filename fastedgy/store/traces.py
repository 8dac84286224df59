"""What a running task leaves behind on its way: log lines and context."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement


class LogLine(NamedTuple):
    """One log record of a run. `at` is a reading of `time.monotonic()`; `info` is JSON or None."""

    task_id: UUID
    run: int
    seq: int
    level: str
    at: float
    logger: str
    message: str
    info: str | None


# Only while the claim holds: the lines of a run that was taken over stay out of its successor's.
# What many lines share is sent once, with its place in the line: an array costs asyncpg as much for
# each of its elements as the server for writing a tenth of a row.
_APPEND = """
INSERT INTO $logs (task_id, run, seq, level, logged_at, logger, message, info)
SELECT task.id, task.run, line.seq, ($3::text[])[line.kind],
       clock_timestamp() - line.age * interval '1 second', ($4::text[])[line.kind], line.message,
       line.info
  FROM unnest($5::integer[], $6::integer[], $7::integer[], $8::float8[], $9::text[], $10::jsonb[])
       AS line (of, seq, kind, age, message, info)
  JOIN $tasks AS task
    ON task.id = ANY (ARRAY [($1::uuid[])[line.of]]) AND task.run = ($2::integer[])[line.of]
   AND task.state || '' = 'doing'
$again
"""
# A line that may meet itself is written twice over by Postgres, at a quarter more of the time.
APPEND_LOGS = Statement(_APPEND, again="")
APPEND_LOGS_AGAIN = Statement(_APPEND, again="ON CONFLICT DO NOTHING")

WRITE_CONTEXTS = Statement("""
UPDATE $tasks AS task SET context = given.context
  FROM unnest($1::uuid[], $2::integer[], $3::jsonb[]) AS given (id, run, context)
 WHERE task.id = ANY (ARRAY [given.id]) AND task.run = given.run AND task.state || '' = 'doing'
""")


async def append_logs(
    connection: Connection, tables: Tables, lines: Sequence[LogLine], *, again: bool = False
) -> int:
    """Write log lines of running tasks; those whose claim is gone are left out.

    Returns how many were written. `again`: this is a repetition after an answer was lost. A line is
    known by its run and number, and those that are there already stay as they are.
    """
    now = time.monotonic()
    ids: list[UUID] = []
    runs: list[int] = []
    places: list[int] = []
    kinds: dict[tuple[str, str], int] = {}
    of_kind: list[int] = []
    last: UUID | None = None
    for task_id, run, _, level, _, logger, _, _ in lines:
        if task_id is not last:
            last = task_id
            ids.append(task_id)
            runs.append(run)
        places.append(len(ids))
        kind = level, logger
        of_kind.append(kinds.get(kind) or kinds.setdefault(kind, len(kinds) + 1))
    status = await connection.execute(
        (APPEND_LOGS_AGAIN if again else APPEND_LOGS)[tables],
        ids,
        runs,
        [level for level, _ in kinds],
        [logger for _, logger in kinds],
        places,
        [line[2] for line in lines],
        of_kind,
        [now - line[4] for line in lines],
        [line[6] for line in lines],
        # Shorter than the others, it is filled up with NULL.
        [line[7] for line in lines] if any(line[7] for line in lines) else [],
    )
    return int(status.rpartition(" ")[2])


async def write_contexts(
    connection: Connection, tables: Tables, contexts: Sequence[tuple[UUID, int, str]]
) -> None:
    """Write the contexts (JSON) of running tasks under their claims, in one statement."""
    await connection.execute(
        WRITE_CONTEXTS[tables],
        [context[0] for context in contexts],
        [context[1] for context in contexts],
        [context[2] for context in contexts],
    )
