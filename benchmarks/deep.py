"""A table of millions of rows, and what the engine's statements touch of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from asyncpg import Connection

from benchmarks.floor import BEGINNING
from benchmarks.harness import T, fill, settle
from benchmarks.tasks import noop
from fastedgy.database import connect
from fastedgy.store import claim, maintain, recovery, returned
from fastedgy.store.statements import Statement
from fastedgy.worker.wire import HELD_PLANS

CHUNK = 250_000
OLD = 500
"""Of the done rows, so many are old enough to be pruned, if nothing else is said."""

# Ids as producers make them: the time first. The newest done row was made a minute ago, the oldest
# 20 days ago, but for the first few, which are old enough to go.
_DONE = f"""
INSERT INTO {T.tasks} (id, name, function, args, date_created, date_enqueued, date_started,
                       date_ended, state, run, attempt, worker_id)
SELECT (lpad(to_hex((extract(epoch FROM made.at) * 1000)::bigint), 12, '0') || '7000'
        || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
       'benchmarks.tasks.noop', 'benchmarks.tasks:noop', jsonb_build_array(n),
       made.at, made.at, made.at, made.at, 'done', 1, 1,
       '00000000-0000-7000-8000-000000000001'
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
 CROSS JOIN LATERAL (
       SELECT now() - interval '1 minute'
              - CASE WHEN n < $4::bigint THEN interval '40 days'
                     ELSE (1 - n::float8 / $3::bigint) * interval '20 days' END AS at
 ) AS made
"""
_SCHEDULED = f"""
INSERT INTO {T.tasks} (id, name, function, args, date_due, date_enqueued, state)
SELECT (lpad(to_hex((extract(epoch FROM now() - interval '1 minute') * 1000)::bigint), 12, '0')
        || '7001' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
       'benchmarks.tasks.noop', 'benchmarks.tasks:noop', jsonb_build_array(n),
       now() + interval '1 day' + n * interval '1 second', now(), 'scheduled'
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
"""
_WAITING = f"""
INSERT INTO {T.tasks} (id, name, function, args, date_enqueued, state, waiting_on)
SELECT (lpad(to_hex((extract(epoch FROM now() - interval '1 minute') * 1000)::bigint), 12, '0')
        || '7002' || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
       'benchmarks.tasks.noop', 'benchmarks.tasks:noop', jsonb_build_array(n), now(),
       'waiting', 1
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
"""
_LINKS = f"""
INSERT INTO {T.links} (parent_id, child_id)
SELECT (SELECT id FROM {T.tasks} WHERE state = 'scheduled' ORDER BY date_due LIMIT 1), id
  FROM {T.tasks} WHERE state = 'waiting'
"""


async def make_deep(url: str, done: int, scheduled: int, waiting: int, *, old: int = OLD) -> None:
    """Fill a database with rows that are in nobody's way. `old`: how many of them may be pruned."""
    connection = await connect(url)
    for statement, count, rest in (
        (_DONE, done, (done, old)),
        (_SCHEDULED, scheduled, ()),
        (_WAITING, waiting, ()),
    ):
        for start in range(0, count, CHUNK):
            await connection.execute(statement, start, min(count, start + CHUNK), *rest)
    await connection.execute(_LINKS)
    await connection.close()
    await settle(url)


async def unwanted_scans(url: str) -> list[str]:
    """What claim, promote, rescue and prune touch beside what they take; empty is right.

    Each statement is executed as the engine prepares it, explained, and undone.
    """
    await fill(url, noop, 2_000)
    await settle(url)
    connection = await connect(url, server_settings=HELD_PLANS)
    ghost = UUID(int=7)
    complaints: list[str] = []
    try:
        complaints += await _explain(
            connection, "claim", claim.CLAIM,
            [ghost, ["default"], [0], [BEGINNING], 500], taken=500,
        )  # fmt: skip
        complaints += await _explain(connection, "the look at all lanes", claim.LANES, [], taken=1)
        complaints += await _explain(
            connection, "promote", maintain.PROMOTE, [100, None], taken=101,
            before=f"UPDATE {T.tasks} SET date_due = now() - interval '1 hour' WHERE id IN "
            f"(SELECT id FROM {T.tasks} WHERE state = 'scheduled' ORDER BY date_due LIMIT 100)",
        )  # fmt: skip
        held = (
            f"UPDATE {T.tasks} SET state = 'doing', worker_id = '{ghost}', date_started = now() "
            f"WHERE id IN (SELECT id FROM {T.tasks} WHERE state = 'enqueued' LIMIT 200)"
        )
        complaints += await _explain(
            connection, "rescue", recovery.TAKE_BACK,
            [ghost, "lost", None, 3, False, [], None], taken=200, before=held,
        )  # fmt: skip
        complaints += await _explain(
            connection, "the look for orphans", recovery.ORPHANS, [], taken=2, before=held
        )
        bound = UUID(int=(await _milliseconds(connection, 30) << 80))
        complaints += await _explain(
            connection, "prune", maintain.PRUNE,
            [UUID(int=0), bound, list(maintain.ENDED), 30 * 86_400.0, 1_000], taken=OLD,
        )  # fmt: skip
        ids = [
            row["id"]
            for row in await connection.fetch(
                f"SELECT id FROM {T.tasks} WHERE state = 'enqueued' LIMIT 200"
            )
        ]
        complaints += await _explain(
            connection, "completion", returned.FINISH_DONE,
            [ids, [0] * 200, [], [], [0] * 200, [0] * 200, None], taken=200,
            # Just these: the next look at 200 of them may begin elsewhere.
            before=f"UPDATE {T.tasks} SET state = 'doing', worker_id = '{ghost}', "
            f"date_started = now() WHERE id = ANY ({_literal(ids)}::uuid[])",
        )  # fmt: skip
    finally:
        await connection.close()
    return complaints


async def _milliseconds(connection: Connection, days: int) -> int:
    found: int = await connection.fetchval(
        "SELECT (extract(epoch FROM now() - $1 * interval '1 day') * 1000)::bigint", days
    )
    return found


async def _explain(
    connection: Connection, what: str, statement: Statement, arguments: Sequence[Any], *,
    taken: int, before: str | None = None,
) -> list[str]:  # fmt: skip
    await connection.execute("BEGIN")
    try:
        if before is not None:
            await connection.execute(before)
        await connection.execute(f"PREPARE explained AS {statement[T]}")
        given = f" ({', '.join(map(_literal, arguments))})" if arguments else ""
        told = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained{given}")
        await connection.execute("DEALLOCATE explained")
    finally:
        await connection.execute("ROLLBACK")
    complaints = []
    for node in _nodes(json.loads(told)[0]["Plan"]):
        if node.get("Relation Name") != T.tasks or "Scan" not in node["Node Type"]:
            continue
        loops = node["Actual Loops"]
        touched = loops * (
            node["Actual Rows"]
            + node.get("Rows Removed by Filter", 0)
            + node.get("Rows Removed by Index Recheck", 0)
        )
        if (node["Node Type"] == "Seq Scan" and loops) or touched > taken + 10:
            complaints.append(
                f"{what} takes {taken} rows, and its {node['Node Type']}"
                f"{' of ' + node['Index Name'] if 'Index Name' in node else ''} touches "
                f"{touched:,.0f}."
            )
    return complaints


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _literal(value: Any) -> str:
    """A value as an argument of EXECUTE: text, which the server takes for the parameter's type."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        parts = ["NULL" if part is None else f'"{part}"' for part in value]
        value = f"{{{','.join(parts)}}}"
    return "'" + str(value).replace("'", "''") + "'"
