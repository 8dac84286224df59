"""Rows that differ in their ids and arguments only, and hang on nothing: the most frequent ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store import copying
from fastedgy.store.newtask import NewTask
from fastedgy.store.notify import lane_payload, ring
from fastedgy.store.statements import Statement

# `$again` makes it repeatable: when the answer to the first try was lost, its rows may be there.
_ALIKE = """
WITH new AS (
    INSERT INTO $tasks (id, args, kwargs, name, function, queue, priority, max_retries, timeout,
                        awaited, trace)
    $rows
    $again
)
SELECT pg_notify($12::text, $13::text) WHERE $12::text IS NOT NULL
"""
_SEVERAL = """
    SELECT task.id, task.args, task.kwargs, $4::text, $5::text, $6::text, $7::integer,
           $8::integer, $9::float8, $10::boolean, $11::text
      FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[]) AS task (id, args, kwargs)"""
# Its values take a third of the time that arrays with one element each take.
_ONE = "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_KNOWN_STAY = "ON CONFLICT (id) DO NOTHING"
INSERT_SAME = Statement(_ALIKE, rows=_SEVERAL, again="")
INSERT_SAME_AGAIN = Statement(_ALIKE, rows=_SEVERAL, again=_KNOWN_STAY)
INSERT_ONE = Statement(_ALIKE, rows=_ONE, again="")
INSERT_ONE_AGAIN = Statement(_ALIKE, rows=_ONE, again=_KNOWN_STAY)

# Rows of tasks that run already: no bell.
_OWNED = """
INSERT INTO $tasks (id, args, kwargs, context, name, function, queue, priority, max_retries,
                    timeout, worker_id, state, run, attempt, date_started)
SELECT task.id, task.args, task.kwargs, task.context, $5::text, $6::text, $7::text, $8::integer,
       $9::integer, $10::float8, $11::uuid, 'doing', 1, 1, clock_timestamp()
  FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[], $4::jsonb[])
       AS task (id, args, kwargs, context)
$again
"""
INSERT_OWNED = Statement(_OWNED, again="")
INSERT_OWNED_AGAIN = Statement(_OWNED, again=_KNOWN_STAY)


def are_alike(tasks: Sequence[NewTask]) -> bool:
    """Whether they differ in their ids and arguments only, and are bound to nothing else."""
    first = tasks[0]
    spec, awaited, trace = first.spec, first.awaited, first.trace
    if not spec.is_plain():
        return False
    for task in tasks:
        if (
            (task.spec is not spec and task.spec != spec)
            or task.parents
            or task.unique_key is not None
            or task.awaited is not awaited
            or task.context != "{}"
            or task.gate is not None
            or task.takes_results
            or task.trace is not trace
            or task.signature is not None
        ):
            return False
    return True


def are_alike_and_owned(tasks: Sequence[NewTask]) -> bool:
    """The same of tasks that run in this process already: each has a context and columns of its
    own."""
    spec = tasks[0].spec
    return spec.owner is not None and all(
        task.spec == spec
        and not task.parents
        and task.unique_key is None
        and task.signature is None
        for task in tasks
    )


async def insert(
    connection: Connection, tables: Tables, tasks: Sequence[NewTask], *, channel: str | None,
    again: bool, timeout: float | None,
) -> None:  # fmt: skip
    """Write them and ring the bell, in one statement."""
    if len(tasks) == 1:
        [task] = tasks
        statement = INSERT_ONE_AGAIN if again else INSERT_ONE
        rows: Sequence[Any] = (task.id, task.args, task.kwargs)
    else:
        statement = INSERT_SAME_AGAIN if again else INSERT_SAME
        rows = [
            [task.id for task in tasks],
            [task.args for task in tasks],
            [task.kwargs for task in tasks],
        ]
    spec = tasks[0].spec
    await connection.execute(
        statement[tables],
        *rows,
        *_shared(tasks[0]),
        channel,
        lane_payload(spec.queue, spec.priority),
        timeout=timeout,
    )


async def copy(
    connection: Connection, tables: Tables, tasks: Sequence[NewTask], *, channel: str | None,
    timeout: float | None,
) -> None:  # fmt: skip
    """The same by COPY, and a second statement for the bell."""
    spec = tasks[0].spec
    await copying.copy(connection, tables, tasks, _shared(tasks[0]), timeout=timeout)
    await ring(connection, channel, {(spec.queue, spec.priority)})


async def insert_owned(
    connection: Connection, tables: Tables, tasks: Sequence[NewTask], *, again: bool,
    timeout: float | None,
) -> None:  # fmt: skip
    """Write tasks that run in this process already, of which no worker is to hear."""
    spec = tasks[0].spec
    await connection.execute(
        (INSERT_OWNED_AGAIN if again else INSERT_OWNED)[tables],
        [task.id for task in tasks],
        [task.args for task in tasks],
        [task.kwargs for task in tasks],
        [task.context for task in tasks],
        spec.name,
        spec.function,
        spec.queue,
        spec.priority,
        spec.max_retries,
        spec.timeout,
        spec.owner,
        timeout=timeout,
    )


def _shared(task: NewTask) -> tuple[copying.Shared, ...]:
    """What all rows of `task`'s kind have in common, in the order of their columns."""
    spec = task.spec
    timeout = None if spec.timeout is None else float(spec.timeout)
    return (spec.name, spec.function, spec.queue, spec.priority, spec.max_retries, timeout,
            task.awaited, task.trace)  # fmt: skip
