"""Circuit breakers: one row each, shared by all processes.

A breaker is `closed` (calls pass), `open` (none does, for `reset_timeout` seconds), and then
`half_open`: one call at a time passes as a probe, until `success_threshold` of them have come
through or one has failed. Who is the probe stands in the row, with the claim of the task that it
runs in (a probe whose task was taken from it is none any more), or else with a time until which it
counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store import audit
from fastedgy.store.statements import Statement

# What lets a probe through: the time of an open breaker is over, and no probe is under way.
NO_PROBE = """(breaker.probe IS NULL OR breaker.probe_until <= clock_timestamp()
        OR (breaker.probe_task IS NOT NULL
            -- A younger probe's claim may not be in this statement's snapshot.
            AND breaker.date_changed < statement_timestamp() - interval '1 second'
            AND NOT EXISTS (
            SELECT FROM $tasks AS task
             WHERE task.id = breaker.probe_task AND task.run = breaker.probe_run
               AND task.state || '' = 'doing')))"""
REST_IS_OVER = """(breaker.opened_at IS NULL
        OR breaker.opened_at + breaker.reset_timeout * interval '1 second' <= clock_timestamp())"""

_COLUMNS = """breaker.name, breaker.state, breaker.failures, breaker.successes,
       breaker.failure_threshold, breaker.success_threshold, breaker.reset_timeout,
       breaker.opened_at, breaker.probe, breaker.error,
       breaker.date_changed, breaker.opened,
       CASE WHEN breaker.state = 'open' THEN greatest(0, extract(epoch FROM breaker.opened_at
            + breaker.reset_timeout * interval '1 second' - clock_timestamp()))::float8
            ELSE 0 END AS rest"""

READ = Statement(
    "SELECT $columns FROM $breakers AS breaker WHERE breaker.name = $1", columns=_COLUMNS
)

LIST = Statement(
    "SELECT $columns FROM $breakers AS breaker ORDER BY breaker.name", columns=_COLUMNS
)

# What nobody has said stays as it is.
DECLARE = Statement(
    """
INSERT INTO $breakers AS breaker (name, failure_threshold, success_threshold, reset_timeout)
VALUES ($1, coalesce($2::integer, 5), coalesce($3::integer, 2), coalesce($4::float8, 30))
ON CONFLICT (name) DO UPDATE
   SET failure_threshold = coalesce($2::integer, breaker.failure_threshold),
       success_threshold = coalesce($3::integer, breaker.success_threshold),
       reset_timeout = coalesce($4::float8, breaker.reset_timeout)
RETURNING $columns
""",
    columns=_COLUMNS,
)

# The row is locked by the first who comes; the others see the probe once they have the lock.
PROBE = Statement(
    f"""
UPDATE $breakers AS breaker
   SET state = 'half_open', probe = $2, probe_task = $3, probe_run = $4,
       probe_until = clock_timestamp() + $5 * interval '1 second',
       successes = CASE WHEN breaker.state = 'open' THEN 0 ELSE breaker.successes END,
       date_changed = clock_timestamp()
 WHERE breaker.name = $1
   AND ((breaker.state = 'open' AND {REST_IS_OVER})
        OR (breaker.state = 'half_open' AND {NO_PROBE}))
RETURNING $columns
""",
    columns=_COLUMNS,
)

KEEP_PROBING = Statement("""
UPDATE $breakers SET probe_until = clock_timestamp() + $3 * interval '1 second'
 WHERE name = $1 AND probe = $2
""")

# A call that began before the breaker opened says nothing any more when it ends after that.
_SPEAKS = "((breaker.state = 'closed' AND $2::uuid IS NULL) OR breaker.probe = $2)"
_OPENS = """(breaker.state = 'half_open'
               OR breaker.failures + 1 >= breaker.failure_threshold)"""
_CLOSES = """(breaker.state = 'closed'
               OR breaker.successes + 1 >= breaker.success_threshold)"""

FAILED = Statement(
    """
UPDATE $breakers AS breaker
   SET state = CASE WHEN $opens THEN 'open' ELSE breaker.state END,
       opened_at = CASE WHEN $opens THEN clock_timestamp() ELSE breaker.opened_at END,
       opened = breaker.opened + CASE WHEN $opens THEN 1 ELSE 0 END,
       failures = least(breaker.failures, 2147483646) + 1, error = $3,
       probe = NULL, probe_task = NULL, probe_run = NULL, probe_until = NULL,
       date_changed = clock_timestamp()
 WHERE breaker.name = $1 AND $speaks
RETURNING $columns
""",
    columns=_COLUMNS, opens=_OPENS, speaks=_SPEAKS,
)  # fmt: skip

SUCCEEDED = Statement(
    """
UPDATE $breakers AS breaker
   SET state = CASE WHEN $closes THEN 'closed' ELSE breaker.state END,
       successes = CASE WHEN $closes THEN 0 ELSE breaker.successes + 1 END,
       failures = CASE WHEN $closes THEN 0 ELSE breaker.failures END,
       opened_at = CASE WHEN $closes THEN NULL ELSE breaker.opened_at END,
       error = CASE WHEN $closes THEN NULL ELSE breaker.error END,
       probe = NULL, probe_task = NULL, probe_run = NULL, probe_until = NULL,
       date_changed = clock_timestamp()
 WHERE breaker.name = $1 AND $speaks
RETURNING $columns
""",
    columns=_COLUMNS, closes=_CLOSES, speaks=_SPEAKS,
)  # fmt: skip

LET_GO = Statement("""
UPDATE $breakers
   SET probe = NULL, probe_task = NULL, probe_run = NULL, probe_until = NULL,
       date_changed = clock_timestamp()
 WHERE name = $1 AND probe = $2
""")

RESET = Statement(
    """
UPDATE $breakers AS breaker
   SET state = 'closed', failures = 0, successes = 0, opened_at = NULL, probe = NULL,
       probe_task = NULL, probe_run = NULL, probe_until = NULL, error = NULL,
       date_changed = clock_timestamp()
 WHERE breaker.name = $1
RETURNING $columns
""",
    columns=_COLUMNS,
)


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker's row. Durations are seconds.

    `rest` is how long an open breaker still lets nobody through; `probe` is who tries whether the
    other side works again; `opened` is how often it ever opened.
    """

    name: str
    state: str
    failures: int
    successes: int
    failure_threshold: int
    success_threshold: int
    reset_timeout: float
    opened_at: datetime | None
    probe: UUID | None
    error: str | None
    date_changed: datetime
    rest: float
    opened: int = 0


async def read(connection: Connection, tables: Tables, name: str) -> Breaker | None:
    """The breaker of that name; None as long as nobody has used it."""
    return _breaker(await connection.fetchrow(READ[tables], name))


async def list_breakers(connection: Connection, tables: Tables) -> list[Breaker]:
    """All breakers that were ever used, by name."""
    return [Breaker(**row) for row in await connection.fetch(LIST[tables])]


async def declare(
    connection: Connection,
    tables: Tables,
    name: str,
    *,
    failure_threshold: int | None,
    success_threshold: int | None,
    reset_timeout: float | None,
) -> Breaker:
    """Make the row if it is not there, with these numbers. None: the default, or as it is."""
    row = await connection.fetchrow(
        DECLARE[tables], name, failure_threshold, success_threshold, reset_timeout
    )
    return Breaker(**row)


async def probe(
    connection: Connection,
    tables: Tables,
    name: str,
    *,
    token: UUID,
    task_id: UUID | None,
    run: int | None,
    seconds: float,
) -> Breaker | None:
    """Become the one probe, for `seconds` at most; None when there is one, or the rest lasts.

    With a task's claim (`task_id`, `run`) it also ends with that.
    """
    return _breaker(await connection.fetchrow(PROBE[tables], name, token, task_id, run, seconds))


async def keep_probing(
    connection: Connection, tables: Tables, name: str, *, token: UUID, seconds: float
) -> None:
    """Extend the time of a probe that runs outside a task."""
    await connection.execute(KEEP_PROBING[tables], name, token, seconds)


async def failed(
    connection: Connection, tables: Tables, name: str, *, token: UUID | None, error: str
) -> Breaker | None:
    """A call failed, as the probe `token` or while the breaker was closed (None).

    Returns the breaker as it is now; None when the call says nothing about it any more.
    """
    return _breaker(await connection.fetchrow(FAILED[tables], name, token, error))


async def succeeded(
    connection: Connection, tables: Tables, name: str, *, token: UUID | None
) -> Breaker | None:
    """A call came through. See `failed`."""
    return _breaker(await connection.fetchrow(SUCCEEDED[tables], name, token))


async def let_go(connection: Connection, tables: Tables, name: str, *, token: UUID) -> None:
    """A probe ended without a verdict: another one may try."""
    await connection.execute(LET_GO[tables], name, token)


async def reset(
    connection: Connection, tables: Tables, name: str, *, actor: str, source: str = "python"
) -> Breaker | None:
    """Close a breaker by hand; None when there is none of that name. Noted in the audit."""
    async with connection.transaction():
        closed = _breaker(await connection.fetchrow(RESET[tables], name))
        if closed is not None:
            await audit.note(
                connection, tables, actor=actor, source=source, action="breaker.reset",
                target=f"breaker:{name}",
            )  # fmt: skip
    return closed


def _breaker(row: Any) -> Breaker | None:
    return None if row is None else Breaker(**row)
