"""Rows of any kind, and the links of those that have parents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.errors import ParentNotFound
from fastedgy.models.tables import Tables
from fastedgy.store.family import doom
from fastedgy.store.newtask import NewTask
from fastedgy.store.notify import lanes_payload
from fastedgy.store.statements import GATED_LINE, Statement

GATES_NAMED = 10
"""Gates that a notification names. Those of others are found by looking."""

_ANY = """
    INSERT INTO $tasks (id, args, kwargs, name, function, queue, priority, max_retries, timeout,
                        awaited, on_parent_failure, unique_key, auto_remove, context, closure,
                        gate, gate_limit, gate_rate, breaker, redact, schedule, takes_results,
                        trace, signature,
                        has_children, waiting_on, date_due, date_enqueued, worker_id, run, attempt,
                        date_started, state)
    SELECT given.id, given.args, given.kwargs, given.name, given.function, given.queue,
           given.priority, given.max_retries, given.timeout, given.awaited,
           given.on_parent_failure, given.unique_key, given.auto_remove, given.context,
           given.closure,
           given.gate, given.gate_limit, given.gate_rate, given.breaker,
           -- There are no arrays of arrays of several lengths.
           CASE WHEN given.redact IS NOT NULL
                THEN ARRAY (SELECT jsonb_array_elements_text(given.redact)) END,
           given.schedule, given.takes_results, given.trace, given.signature,
           $has_children,
           $waiting_on,
           due.at,
           clock_timestamp(),
           given.owner,
           (given.owner IS NOT NULL)::integer,
           (given.owner IS NOT NULL)::integer,
           CASE WHEN given.owner IS NOT NULL THEN clock_timestamp() END,
           CASE WHEN given.owner IS NOT NULL THEN 'doing'
                WHEN $waiting_on > 0 THEN 'waiting'
                WHEN due.at > clock_timestamp() THEN 'scheduled'
                ELSE 'enqueued' END
      FROM unnest($1::uuid[], $2::jsonb[], $3::jsonb[], $4::text[], $5::text[], $6::text[],
                  $7::integer[], $8::integer[], $9::float8[], $10::boolean[], $11::float8[],
                  $12::timestamptz[], $13::text[], $14::text[], $15::boolean[], $16::jsonb[],
                  $17::bytea[], $18::uuid[], $19::text[], $20::integer[], $21::float8[],
                  $22::text[], $23::jsonb[], $24::text[], $25::boolean[], $26::text[], $27::text[])
           WITH ORDINALITY
           AS given (id, args, kwargs, name, function, queue, priority, max_retries, timeout,
                     awaited, delay, at, on_parent_failure, unique_key, auto_remove, context,
                     closure, owner, gate, gate_limit, gate_rate, breaker, redact, schedule,
                     takes_results, trace, signature, place)
      $bonds
     CROSS JOIN LATERAL (
           SELECT coalesce(given.at, clock_timestamp() + given.delay * interval '1 second') AS at
     ) AS due
     ORDER BY given.place
        ON CONFLICT DO NOTHING
    RETURNING id"""
_BELL = "pg_notify($28::text, $29::text)"
_WRITTEN = "CASE WHEN $30::boolean THEN ARRAY (SELECT id FROM new) END AS written"

# Nothing that they hang on: planning what follows for a single row takes three times as long as
# writing it.
INSERT_FREE = Statement(f"""
WITH new AS ({_ANY}
)
SELECT {_WRITTEN}, CASE WHEN $28::text IS NOT NULL THEN {_BELL} END
""", has_children="false", waiting_on="0", bonds="")  # fmt: skip

# The parents that are rows already are locked first, so that none of them can end between the look
# at its state and the link to it (DECISIONS R11). One that runs is written as well, also if it has
# children: who finishes it waits, and then sees that it has changed. Whoever finishes another has
# to claim it first, and sees the link. One that is missing, or came to nothing, keeps everything
# out.
INSERT_BOUND = Statement(f"""
WITH parent AS (
    SELECT id, state FROM $tasks WHERE id = ANY ($33::uuid[]) ORDER BY id FOR NO KEY UPDATE
), fault AS (
    SELECT ARRAY (SELECT wanted FROM unnest($33::uuid[]) AS wanted
                   WHERE NOT EXISTS (SELECT FROM parent WHERE parent.id = wanted)) AS missing,
           ARRAY (SELECT id FROM parent WHERE state IN ('failed', 'cancelled')) AS dead
), fine AS (
    SELECT FROM fault WHERE cardinality(missing) = 0 AND (cardinality(dead) = 0 OR $34::boolean)
), edge AS (
    SELECT link.child_id, link.parent_id, coalesce(parent.state = 'done', false) AS settled
      FROM unnest($31::uuid[], $32::uuid[]) AS link (child_id, parent_id)
      LEFT JOIN parent ON parent.id = link.parent_id
), bound AS (
    SELECT child_id, count(*) FILTER (WHERE NOT settled)::integer AS parents
      FROM edge GROUP BY child_id
), marked AS (
    UPDATE $tasks AS task SET has_children = true
      FROM parent, fine
     WHERE task.id = parent.id AND (parent.state = 'doing'
                                    OR (NOT task.has_children AND parent.state <> 'done'))
), awaiting AS (
    SELECT DISTINCT parent_id FROM edge
), new AS ({_ANY}
), linked AS (
    INSERT INTO $links (child_id, parent_id, settled)
    SELECT edge.child_id, edge.parent_id, edge.settled
      FROM edge JOIN new ON new.id = edge.child_id
        ON CONFLICT DO NOTHING
)
SELECT fault.missing, fault.dead, {_WRITTEN},
       (SELECT {_BELL} FROM fine WHERE $28::text IS NOT NULL)
  FROM fault
""", has_children="awaiting.parent_id IS NOT NULL", waiting_on="coalesce(bound.parents, 0)",
    bonds="""JOIN fine ON true
      LEFT JOIN bound ON bound.child_id = given.id
      LEFT JOIN awaiting ON awaiting.parent_id = given.id""")  # fmt: skip

KNOWN = Statement("SELECT id FROM $tasks WHERE id = ANY ($1::uuid[])")


def _bell(tasks: Sequence[NewTask]) -> str:
    """What the notification of these tasks says (see `lanes_payload`)."""
    lanes: set[tuple[str, int]] = set()
    gates: set[tuple[str, str, int]] = set()
    due: float | None = None
    for spec in {id(task.spec): task.spec for task in tasks}.values():
        if spec.owner is not None:
            continue
        if spec.delay is not None:
            due = spec.delay if due is None else min(due, spec.delay)
        elif spec.at is not None:
            due = 0.0  # only the database knows how far away that is
        elif not spec.has_gate():
            lanes.add((spec.queue, spec.priority))
        else:
            found = {task.gate for task in tasks if task.spec is spec and task.gate is not None}
            if len(found) > GATES_NAMED:
                lanes.add((spec.queue, GATED_LINE))
            else:
                gates |= {(spec.queue, gate, spec.priority) for gate in found}
    return lanes_payload(lanes, due, gates)


async def insert(
    connection: Connection, tables: Tables, tasks: Sequence[NewTask], *, channel: str | None,
    again: bool, timeout: float | None,
) -> list[UUID]:  # fmt: skip
    """Write them in one statement. Returns the ids that another row's unique key kept out."""
    ids = {task.id for task in tasks}
    links = [(task.id, parent) for task in tasks for parent in dict.fromkeys(task.parents)]
    keyed = any(task.unique_key is not None for task in tasks)
    if all(task.spec.owner is not None for task in tasks):
        channel = None

    rows = (
        [task.id for task in tasks],
        [task.args for task in tasks],
        [task.kwargs for task in tasks],
        [task.spec.name for task in tasks],
        [task.spec.function for task in tasks],
        [task.spec.queue for task in tasks],
        [task.spec.priority for task in tasks],
        [task.spec.max_retries for task in tasks],
        [task.spec.timeout for task in tasks],
        [task.awaited for task in tasks],
        [task.spec.delay for task in tasks],
        [task.spec.at for task in tasks],
        [task.spec.on_parent_failure for task in tasks],
        [task.unique_key for task in tasks],
        [task.spec.auto_remove for task in tasks],
        [task.context for task in tasks],
        [task.spec.closure for task in tasks],
        [task.spec.owner for task in tasks],
        [task.gate for task in tasks],
        [task.spec.limit for task in tasks],
        [task.spec.rate for task in tasks],
        [task.spec.breaker for task in tasks],
        [orjson.dumps(task.spec.redact).decode() if task.spec.redact else None for task in tasks],
        [task.spec.schedule for task in tasks],
        [task.takes_results for task in tasks],
        [task.trace for task in tasks],
        [task.signature for task in tasks],
        channel,
        _bell(tasks) if channel else "",
        keyed,
    )
    if links:
        written = await _insert_bound(connection, tables, rows, links, ids, timeout=timeout)
    else:
        written = await connection.fetchval(INSERT_FREE[tables], *rows, timeout=timeout)
    if not keyed:
        return []
    found = set(written)
    absent = [task.id for task in tasks if task.id not in found]
    if again and absent:
        known = await connection.fetch(KNOWN[tables], absent, timeout=timeout)
        absent = [id for id in absent if id not in {record["id"] for record in known}]
    return absent


async def _insert_bound(
    connection: Connection, tables: Tables, rows: Sequence[Any], links: Sequence[tuple[UUID, UUID]],
    ids: set[UUID], *, timeout: float | None,
) -> Any:  # fmt: skip
    """The rows of tasks of which some have parents, and their links."""
    elsewhere = sorted({parent for _, parent in links if parent not in ids})

    async def write(*, dead_parents: bool) -> Any:
        return await connection.fetchrow(
            INSERT_BOUND[tables],
            *rows,
            [child for child, _ in links],
            [parent for _, parent in links],
            elsewhere,
            dead_parents,
            timeout=timeout,
        )

    row = await write(dead_parents=False)
    if row["missing"]:
        raise ParentNotFound(list(row["missing"]))
    if row["dead"]:
        # Rare: a parent failed or was cancelled before its child was written. The child goes in
        # and meets its parent's fate in the same transaction.
        async with connection.transaction():
            row = await write(dead_parents=True)
            await doom(connection, tables, list(row["dead"]))
    return row["written"]
