"""The audit: who changed what by hand. One row per action, never changed afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.ids import new_id
from fastedgy.models.tables import Tables
from fastedgy.store.statements import Statement

NOTE = Statement("""
INSERT INTO $audit (id, actor, source, action, target, details)
VALUES ($1, $2, $3, $4, $5, $6::jsonb)
""")

# Ids grow with the time at which they were made, so they are the order and the cursor.
LIST = Statement("""
SELECT id, date, actor, source, action, target, details FROM $audit
 WHERE ($1::text IS NULL OR target = $1)
   AND ($2::text IS NULL OR starts_with(action, $2))
   AND ($3::uuid IS NULL OR id < $3)
   AND ($4::text IS NULL OR starts_with(actor, $4))
 ORDER BY id DESC
 LIMIT $5
""")


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action: `actor` (a person, or `code`), `source` (cli, api, python, start), what, on what.

    `target` names the thing with its kind: `schedule:nightly`, `queue:mail`, `task:<id>`.
    """

    id: UUID
    date: datetime
    actor: str
    source: str
    action: str
    target: str
    details: dict[str, Any]


async def note(
    connection: Connection,
    tables: Tables,
    *,
    actor: str,
    source: str,
    action: str,
    target: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one action down. Call it in the transaction that does what it tells of.

    `action` is `kind.verb` (`schedule.pause`), `details` anything that JSON can hold; other values
    are written as text.
    """
    await connection.execute(
        NOTE[tables],
        new_id(),
        _text(actor, 200),
        source,
        action,
        _text(target, 500),
        orjson.dumps(dict(details or {}), default=str).decode(),
    )


async def list_audit(
    connection: Connection,
    tables: Tables,
    *,
    target: str | None = None,
    action: str | None = None,
    actor: str | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[AuditEntry]:
    """The last `limit` actions, newest first.

    `target` is one thing, `action` a verb or the beginning of some (`schedule.`), `actor` a name or
    the beginning of some, `before` the id of the last entry of the page before.
    """
    rows = await connection.fetch(LIST[tables], target, action, before, actor, limit)
    return [AuditEntry(**{**row, "details": orjson.loads(row["details"])}) for row in rows]


def _text(value: str, limit: int) -> str:
    """What Postgres can store, however it came here."""
    return value[:limit].replace("\x00", "").encode("utf-8", "backslashreplace").decode()
