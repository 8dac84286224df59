"""What those who follow tasks have not seen yet: one read for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.notify import IDS_PER_PAYLOAD
from fastedgy.store.statements import Statement

LINES = 200
"""Log lines of one task in one read at most; there may be more afterwards."""
LARGEST = 65_536
"""Bytes of JSON. A larger context or result is left out, and asked for when it is wanted."""

# `xmin` is another one after each commit that changed the row: what has not changed is not sent.
_CHANGED = Statement("""
SELECT given.place, task.id, task.xmin::text AS version, task.name, task.queue, task.state,
       task.run, task.attempt, task.max_retries, task.waiting_on, task.cancel_requested,
       task.date_enqueued, task.date_due, task.date_started, task.date_ended,
       task.error_type, task.error_message, task.history,
       CASE WHEN length(task.context::text) <= $3 THEN task.context END AS context,
       CASE WHEN length(task.result::text) <= $3 THEN task.result END AS result,
       length(task.result::text) > $3 AS result_left_out
  FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS given (id, version, place)
  LEFT JOIN $tasks AS task ON task.id = given.id
 WHERE task.id IS NULL OR task.xmin::text <> given.version
""")
_LINES = Statement("""
SELECT given.place, log.run, log.seq, log.logged_at, log.level, log.logger, log.message, log.info
  FROM unnest($1::uuid[], $2::integer[], $3::integer[]) WITH ORDINALITY
       AS given (id, run, seq, place)
 CROSS JOIN LATERAL (
       SELECT run, seq, logged_at, level, logger, message, info FROM $logs
        WHERE task_id = given.id AND (run, seq) > (given.run, given.seq)
        ORDER BY run, seq LIMIT $4
 ) AS log
 ORDER BY given.place, log.run, log.seq
""")


@dataclass(frozen=True, slots=True)
class Seen:
    """How far somebody has seen a task: a log line, and the version of the row."""

    id: UUID
    run: int = -1
    seq: int = -1
    version: str = ""


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task's row as it changes. `context` and `result` are JSON as it is in the row.

    `result_left_out`: there is one, too large to be sent along.
    """

    id: UUID
    version: str
    name: str
    queue: str
    state: str
    run: int
    attempt: int
    max_retries: int
    waiting_on: int
    cancel_requested: bool
    date_enqueued: datetime | None
    date_due: datetime | None
    date_started: datetime | None
    date_ended: datetime | None
    error_type: str | None
    error_message: str | None
    history: list[Any]
    context: str | None
    result: str | None
    result_left_out: bool


@dataclass(slots=True)
class News:
    """What somebody has not seen of a task. `state`: None when the row has not changed. `gone`: it
    is not there (any more). `more`: there are further lines.
    """

    state: TaskState | None = None
    gone: bool = False
    lines: list[dict[str, Any]] | None = None
    more: bool = False


def raw(text: str | None) -> orjson.Fragment | None:
    """JSON that goes on as it is: nobody here reads it."""
    return None if text is None else orjson.Fragment(text)


async def read_news(connection: Connection, tables: Tables, seen: Sequence[Seen]) -> list[News]:
    """What is new, in the order of `seen`.

    The rows are read before the lines: what a run said is written before its end is.
    """
    news = [News() for _ in seen]
    ids = [each.id for each in seen]
    rows = await connection.fetch(_CHANGED[tables], ids, [each.version for each in seen], LARGEST)
    for row in rows:
        one = news[row["place"] - 1]
        if row["id"] is None:
            one.gone = True
            continue
        values = dict(row)
        del values["place"]
        values["result_left_out"] = bool(values["result_left_out"])
        history = values["history"]
        values["history"] = [] if history == "[]" else json.loads(history)
        if not isinstance(values["history"], list):  # a row that was forged
            values["history"] = []
        one.state = TaskState(**values)
    lines = await connection.fetch(
        _LINES[tables], ids, [each.run for each in seen], [each.seq for each in seen], LINES
    )
    for line in lines:
        one = news[line["place"] - 1]
        if one.lines is None:
            one.lines = []
        one.lines.append(
            {name: line[name] for name in ("run", "seq", "logged_at", "level", "logger", "message")}
            | {"info": raw(line["info"])}
        )
    for one in news:
        one.more = one.lines is not None and len(one.lines) == LINES
    return news


async def ask_to_tell(
    connection: Connection, channel: str, seconds: float, ids: Sequence[UUID] | None
) -> None:
    """Ask the workers to tell what happens to these tasks (None: to any) for so many seconds.

    `channel` is the control channel; the answers come on the events channel.
    """
    if ids is None:
        await connection.execute("SELECT pg_notify($1, $2)", channel, f"watch {seconds:g} *")
        return
    for start in range(0, len(ids), IDS_PER_PAYLOAD):
        named = ",".join(str(id) for id in ids[start : start + IDS_PER_PAYLOAD])
        await connection.execute("SELECT pg_notify($1, $2)", channel, f"watch {seconds:g} {named}")


async def tell_events(connection: Connection, channel: str, payloads: Sequence[Any]) -> None:
    """Tell on the events channel what has happened; each payload is of 8,000 bytes at most."""
    for payload in payloads:
        await connection.execute(
            "SELECT pg_notify($1, $2)", channel, orjson.dumps(payload).decode()
        )
