"""Tasks as listings show them: one line each, redacted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.redaction import redact
from fastedgy.store.statements import Statement

LONGEST_CALL = 200
"""Characters of a listing's arguments."""
LONGEST_JSON = 2_000
"""Bytes that arguments may take in the table to be shown in a listing."""
LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """A task as a listing shows it.

    `arguments`: one line as its author would write them, redacted and cut. `progress`: 0 to 100,
    and `stage`, from the context. `duration`: seconds of the last run, of a running one so far.
    `error`: the first line of what went wrong. `worker`: `server/pid` of who has or had it.
    """

    id: UUID
    name: str
    state: str
    queue: str
    priority: int
    attempt: int
    max_retries: int
    arguments: str
    date_created: datetime
    date_enqueued: datetime | None
    date_due: datetime | None
    date_started: datetime | None
    date_ended: datetime | None
    duration: float | None
    progress: float | None
    stage: str | None
    error_type: str | None
    error: str | None
    worker_id: UUID | None
    worker: str | None
    unique_key: str | None
    gate: str | None
    schedule: str | None
    cancel_requested: bool


# What is large is not read: arguments and contexts may have megabytes.
_SUMMARIES = Statement(f"""
SELECT task.id, task.name, task.state, task.queue, task.priority, task.attempt, task.max_retries,
       CASE WHEN pg_column_size(task.args) <= {LONGEST_JSON} THEN task.args END AS args,
       CASE WHEN pg_column_size(task.kwargs) <= {LONGEST_JSON} THEN task.kwargs END AS kwargs,
       task.redact, task.date_created, task.date_enqueued, task.date_due, task.date_started,
       task.date_ended,
       extract(epoch FROM CASE WHEN task.state = 'doing' THEN clock_timestamp()
                               ELSE task.date_ended END - task.date_started)::float8 AS duration,
       CASE WHEN jsonb_typeof(task.context -> 'progress') = 'number'
            THEN (task.context ->> 'progress')::float8 END AS progress,
       CASE WHEN jsonb_typeof(task.context -> 'stage') = 'string'
            THEN left(task.context ->> 'stage', 200) END AS stage,
       task.error_type, left(task.error_message, {LONGEST_ERROR}) AS error, task.worker_id,
       worker.server_name, worker.pid, task.unique_key, task.gate, task.schedule,
       task.cancel_requested
  FROM $tasks AS task LEFT JOIN $workers AS worker ON worker.id = task.worker_id
 WHERE task.id = ANY ($1::uuid[])
""")


async def summaries(
    connection: Connection, tables: Tables, ids: Sequence[UUID]
) -> list[TaskSummary]:
    """These tasks, in this order; those that are gone are left out."""
    found = {row["id"]: row for row in await connection.fetch(_SUMMARIES[tables], ids)}
    return [_summary(found[id]) for id in ids if id in found]


def _summary(row: Any) -> TaskSummary:
    progress = row["progress"]
    server = row["server_name"]
    lines = (row["error"] or "").splitlines()
    own = {name: row[name] for name in TaskSummary.__slots__ if name in row.keys()}  # noqa: SIM118
    return TaskSummary(
        **own
        | {
            "id": UUID(int=row["id"].int),
            "arguments": _call(row),
            "duration": None if row["duration"] is None else round(max(0.0, row["duration"]), 6),
            "progress": None if progress is None else min(100.0, max(0.0, progress)),
            "error": lines[0] if lines else None,
            "worker": f"{server}/{row['pid']}" if server else None,
        }
    )


def _call(row: Any) -> str:
    """The arguments in one line, as the author of the call would write them."""
    if row["args"] is None or row["kwargs"] is None:
        return "…"
    args, kwargs = redact(json.loads(row["args"]), json.loads(row["kwargs"]), row["redact"])
    parts = [json.dumps(each, ensure_ascii=False) for each in (args if _many(args) else [args])]
    named = kwargs if isinstance(kwargs, Mapping) else {}
    parts += [f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in named.items()]
    text = ", ".join(parts)
    return text if len(text) <= LONGEST_CALL else f"{text[: LONGEST_CALL - 1]}…"


def _many(value: Any) -> bool:
    return isinstance(value, list)
