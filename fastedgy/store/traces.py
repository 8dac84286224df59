"""What a running task leaves behind on its way: log lines and context."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.arrays import ages, integers, texts
from fastedgy.store.statements import Statement


class Said(NamedTuple):
    """Log lines of one run, one after the other. `first` is the number of the first one in it.

    Each of `lines`: level, a reading of `time.monotonic()`, logger, message, and JSON or None.
    """

    task_id: UUID
    run: int
    first: int
    lines: Sequence[tuple[str, float, str, str, str | None]]


def insert_lines(task_id: str, run: str, *, first: int) -> str:
    """The INSERT of what `line_columns` gives, as the parameters from number `first` on.

    What many lines share is sent once, with its place in the line: `task_id` and `run` are SQL for
    whose line it is, by the place `line.of`. Further sources and conditions may follow.
    """
    levels, loggers, *columns = (f"${number}" for number in range(first, first + 8))
    of, seq, kind, age, message, info = columns
    return f"""
INSERT INTO $logs (task_id, run, seq, level, logged_at, logger, message, info)
SELECT {task_id}, {run}, line.seq, ({levels}::text[])[line.kind],
       clock_timestamp() - line.age * interval '1 microsecond', ({loggers}::text[])[line.kind],
       line.message, line.info
  FROM unnest({of}::text::integer[], {seq}::text::integer[], {kind}::text::integer[],
              {age}::text::bigint[], {message}::text::text[], {info}::jsonb[])
       AS line (of, seq, kind, age, message, info)"""


# Only while the claim holds: the lines of a run that was taken over stay out of its successor's.
# Each task is looked up once; the place of one whose claim is gone is empty.
_APPEND = """
WITH held AS MATERIALIZED (
    SELECT array_agg(task.id ORDER BY given.place) AS ids
      FROM unnest($1::uuid[], $2::integer[]) WITH ORDINALITY AS given (id, run, place)
      LEFT JOIN $tasks AS task
        ON task.id = ANY (ARRAY [given.id]) AND task.run = given.run AND task.state || '' = 'doing'
)
$lines CROSS JOIN held
 WHERE held.ids[line.of] IS NOT NULL
$again
"""
_LINES = insert_lines("held.ids[line.of]", "($2::integer[])[line.of]", first=3)
# A line that may meet itself is written twice over by Postgres, at a quarter more of the time.
APPEND_LOGS = Statement(_APPEND, lines=_LINES, again="")
APPEND_LOGS_AGAIN = Statement(_APPEND, lines=_LINES, again="ON CONFLICT DO NOTHING")

WRITE_CONTEXTS = Statement("""
UPDATE $tasks AS task SET context = given.context
  FROM unnest($1::uuid[], $2::integer[], $3::jsonb[]) AS given (id, run, context)
 WHERE task.id = ANY (ARRAY [given.id]) AND task.run = given.run AND task.state || '' = 'doing'
""")


async def append_logs(
    connection: Connection, tables: Tables, said: Sequence[Said], *, again: bool = False
) -> int:
    """Write log lines (one at least) of running tasks; those whose claim is gone are left out.

    Returns how many were written. `again`: this is a repetition after an answer was lost. A line is
    known by its run and number, and those that are there already stay as they are.
    """
    status = await connection.execute(
        (APPEND_LOGS_AGAIN if again else APPEND_LOGS)[tables],
        [each.task_id for each in said],
        [each.run for each in said],
        *line_columns(said, range(1, len(said) + 1), time.monotonic()),
    )
    return int(status.rpartition(" ")[2])


def line_columns(said: Sequence[Said], places: Iterable[int], now: float) -> tuple[Any, ...]:
    """The lines of several runs (one line at least) as parameters of a statement.

    `places` says for each of `said` where the statement has the run. The columns: levels and
    loggers of each kind of line; then of each line the place of its run, its number, its kind, its
    age, message and info.
    """
    # Column by column: a loop over the lines takes three times as long.
    levels, moments, loggers, messages, infos = zip(
        *chain.from_iterable([each.lines for each in said]), strict=True
    )
    of_lines = list(zip(levels, loggers, strict=True))
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(of_lines), 1)}
    of: list[int] = []
    numbers: list[int] = []
    for place, (_, _, first, lines) in zip(places, said, strict=True):
        of += repeat(place, len(lines))
        numbers += range(first, first + len(lines))
    return (
        [level for level, _ in kinds],
        [logger for _, logger in kinds],
        integers(of),
        integers(numbers),
        integers(list(map(kinds.__getitem__, of_lines))),
        ages(now, moments),
        texts(messages),
        infos if any(infos) else [],  # shorter than the others, it is filled up with NULL
    )


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
