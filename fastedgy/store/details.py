"""Reading one task: all that its row says, its log lines, its family."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Connection

from fastedgy.errors import InvalidOption, TaskNotFound
from fastedgy.models.tables import Tables
from fastedgy.store.find import ENDED, STATES, TASK_ROW, TaskRow, task_row
from fastedgy.store.redaction import redact
from fastedgy.store.statements import Statement
from fastedgy.store.steps import StepRow, list_steps


@dataclass(frozen=True, slots=True)
class TaskDetails:
    """All that the table knows of one task. Dates are those of the database's clock.

    `timeout` is in seconds; None where the worker's own setting counts. `worker` names the server
    and process that has or had it, if its row is still there. `parents` and `children` are the
    first ones only; `parent_count` and `children_by_state` count them all. In `args` and `kwargs`,
    what is to be redacted is. `gate_limit` and `gate_rate` (starts a second) are those of its
    `gate`; `stands_for`: the task whose function returned this one; `steps`: what
    `fastedgy.workflows` has noted of it; `trace`: a W3C traceparent.
    """

    id: UUID
    name: str
    state: str
    queue: str
    priority: int
    attempt: int
    date_enqueued: datetime | None
    date_started: datetime | None
    date_ended: datetime | None
    date_created: datetime
    date_due: datetime | None
    function: str
    args: Any
    kwargs: Any
    context: Any
    result: Any
    timeout: float | None
    run: int
    max_retries: int
    losses: int
    alone: bool
    waiting_on: int
    cancel_requested: bool
    auto_remove: bool
    on_parent_failure: str
    unique_key: str | None
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    history: Any
    takes_results: bool
    gate: str | None
    gate_limit: int | None
    gate_rate: float | None
    breaker: str | None
    stands_for: UUID | None
    schedule: str | None
    trace: str | None
    worker_id: UUID | None
    worker: str | None
    parents: list[TaskRow]
    parent_count: int
    children: list[TaskRow]
    children_by_state: dict[str, int]
    steps: list[StepRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LogRow:
    """One log line of a task. Lines are ordered by (run, seq)."""

    run: int
    seq: int
    logged_at: datetime
    level: str
    logger: str
    message: str
    info: Any


@dataclass(frozen=True, slots=True)
class Family:
    """A task's ancestors and descendants, itself among them, in the order they were made.

    `links` are pairs (parent, child). `truncated` says that there are more than were asked for;
    the nearest are here.
    """

    tasks: list[TaskRow]
    links: list[tuple[UUID, UUID]]
    truncated: bool


_DETAILS = Statement("""
SELECT task.*, worker.server_name, worker.pid,
       (SELECT count(*) FROM $links WHERE child_id = task.id) AS parent_count
  FROM $tasks AS task LEFT JOIN $workers AS worker ON worker.id = task.worker_id
 WHERE task.id = $1
""")
_PARENTS = Statement(f"""
SELECT {TASK_ROW} FROM $tasks
 WHERE id = ANY (ARRAY (SELECT parent_id FROM $links WHERE child_id = $1 LIMIT $2))
 ORDER BY id
""")
_CHILDREN = Statement(f"""
SELECT {TASK_ROW} FROM $tasks
 WHERE id = ANY (ARRAY (SELECT child_id FROM $links WHERE parent_id = $1 LIMIT $2))
 ORDER BY id
""")
_CHILD_STATES = Statement("""
SELECT task.state, count(*) FROM $links AS link JOIN $tasks AS task ON task.id = link.child_id
 WHERE link.parent_id = $1 GROUP BY task.state
""")


def began(task: TaskRow | TaskDetails) -> datetime | None:
    """When the task's present or last run began, None if it has not run since it was enqueued.

    A row keeps the start of its last run when it is retried, or cancelled before the next.
    """
    if task.date_started is None or task.state not in {"doing", *ENDED}:
        return None
    if task.date_enqueued is not None and task.date_enqueued > task.date_started:
        return None
    return task.date_started


async def task_details(
    connection: Connection, tables: Tables, task_id: UUID, *, relatives: int = 50
) -> TaskDetails:
    """All about one task, with up to `relatives` of its parents and of its children.

    Raises TaskNotFound.
    """
    row = await connection.fetchrow(_DETAILS[tables], task_id)
    if row is None:
        raise TaskNotFound(task_id)
    parents, children, by_state = [], [], {}
    if row["parent_count"]:
        parents = await connection.fetch(_PARENTS[tables], task_id, relatives)
    if row["has_children"]:
        children = await connection.fetch(_CHILDREN[tables], task_id, relatives)
        counted = await connection.fetch(_CHILD_STATES[tables], task_id)
        by_state = {count["state"]: count["count"] for count in counted}
    values = {name: value for name, value in row.items() if name in TaskDetails.__slots__}
    for name in ("args", "kwargs", "context", "result", "history"):
        values[name] = _json(values[name])
    values["args"], values["kwargs"] = redact(values["args"], values["kwargs"], row["redact"])
    server = row["server_name"]
    return TaskDetails(
        **values,
        worker=f"{server}/{row['pid']}" if server else None,
        parents=[task_row(parent) for parent in parents],
        children=[task_row(child) for child in children],
        children_by_state={state: by_state[state] for state in STATES if state in by_state},
        steps=await list_steps(connection, tables, task_id),
    )


def _json(text: str | None) -> Any:
    # Not orjson: a result may hold an integer of any length, which orjson reads as a float.
    return None if text is None else json.loads(text)


_LOGS = Statement("""
SELECT run, seq, logged_at, level, logger, message, info FROM $logs
 WHERE task_id = $1 AND (run, seq) > ($2, $3) AND ($5::text[] IS NULL OR level = ANY ($5))
 ORDER BY run, seq LIMIT $4
""")
LEVELS = ("debug", "info", "warning", "error", "critical")
_LAST_LOGS = Statement("""
SELECT run, seq, logged_at, level, logger, message, info FROM $logs
 WHERE task_id = $1 ORDER BY run DESC, seq DESC LIMIT $2
""")


async def task_logs(
    connection: Connection,
    tables: Tables,
    task_id: UUID,
    *,
    after: tuple[int, int] = (-1, -1),
    limit: int = 1000,
    level: str | None = None,
) -> list[LogRow]:
    """Log lines of a task in their order, those after (run, seq), at most `limit`.

    `level`: those that are at least this serious. Raises InvalidOption for one that is none.
    """
    if level is not None and level not in LEVELS:
        raise InvalidOption(f"There is no level {level!r}; there are {', '.join(LEVELS)}.")
    levels = None if level is None else list(LEVELS[LEVELS.index(level) :])
    rows = await connection.fetch(_LOGS[tables], task_id, *after, limit, levels)
    return [_log(row) for row in rows]


async def last_logs(
    connection: Connection, tables: Tables, task_id: UUID, *, limit: int = 10
) -> list[LogRow]:
    """The last log lines of a task, in their order."""
    rows = await connection.fetch(_LAST_LOGS[tables], task_id, limit)
    return [_log(row) for row in reversed(rows)]


def _log(row: Any) -> LogRow:
    return LogRow(**{**row, "info": _json(row["info"])})


_STATE = Statement("SELECT state FROM $tasks WHERE id = $1")


async def task_state(connection: Connection, tables: Tables, task_id: UUID) -> str | None:
    """The state of a task, None if it is not there (any more)."""
    state: str | None = await connection.fetchval(_STATE[tables], task_id)
    return state


# UNION, not UNION ALL: an id that was seen is not followed again, so each task is met once. The
# LIMIT outside ends the walk, which goes generation by generation.
_RELATIVES = Statement(f"""
WITH RECURSIVE up (id) AS (
    SELECT $1::uuid UNION SELECT link.parent_id FROM up JOIN $links AS link ON link.child_id = up.id
), down (id) AS (
    SELECT $1::uuid
    UNION SELECT link.child_id FROM down JOIN $links AS link ON link.parent_id = down.id
), near (id) AS (
    (SELECT id FROM up LIMIT $2) UNION (SELECT id FROM down LIMIT $2)
)
SELECT {TASK_ROW} FROM $tasks WHERE id = ANY (ARRAY (SELECT id FROM near)) ORDER BY id
""")
_LINKS = Statement("""
SELECT parent_id, child_id FROM $links
 WHERE parent_id = ANY ($1::uuid[]) AND child_id = ANY ($1::uuid[])
 ORDER BY parent_id, child_id
""")


async def tree(
    connection: Connection, tables: Tables, task_id: UUID, *, limit: int = 1000
) -> Family:
    """The family of a task: up to `limit` ancestors and up to `limit` descendants.

    Raises TaskNotFound.
    """
    rows = await connection.fetch(_RELATIVES[tables], task_id, limit + 1)
    tasks = [task_row(row) for row in rows]
    ids = [task.id for task in tasks]
    if task_id not in ids:
        raise TaskNotFound(task_id)
    links = await connection.fetch(_LINKS[tables], ids)
    return Family(
        tasks=tasks,
        links=[(link["parent_id"], link["child_id"]) for link in links],
        truncated=len(tasks) > limit,
    )
