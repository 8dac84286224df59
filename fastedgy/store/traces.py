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
_APPEND = """
INSERT INTO $logs (task_id, run, seq, level, logged_at, logger, message, info)
SELECT line.task_id, line.run, line.seq, line.level,
       clock_timestamp() - line.age * interval '1 second', line.logger, line.message, line.info
  FROM unnest($1::uuid[], $2::integer[], $3::integer[], $4::text[], $5::float8[], $6::text[],
              $7::text[], $8::jsonb[])
       AS line (task_id, run, seq, level, age, logger, message, info)
  JOIN $tasks AS task
    ON task.id = ANY (ARRAY [line.task_id]) AND task.run = line.run AND task.state || '' = 'doing'
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
    status = await connection.execute(
        (APPEND_LOGS_AGAIN if again else APPEND_LOGS)[tables],
        [line[0] for line in lines],
        [line[1] for line in lines],
        [line[2] for line in lines],
        [line[3] for line in lines],
        [now - line[4] for line in lines],
        [line[5] for line in lines],
        [line[6] for line in lines],
        [line[7] for line in lines],
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
