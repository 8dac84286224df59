"""SQL with the project's table names filled in, once."""

from __future__ import annotations

import re

from fastedgy.models.tables import Tables

# A row's history before a further entry: the last 20 runs. What is no list (a forged row) is
# dropped: it would make the statement fail for all rows beside it.
HISTORY = """CASE WHEN jsonb_typeof(task.history) <> 'array' THEN '[]'::jsonb
                      WHEN jsonb_array_length(task.history) >= 20 THEN task.history - 0
                      ELSE task.history END"""

GATED_LINE = 2**31
"""In place of a priority: the line of all tasks of a queue that have a gate. A priority cannot be
that high."""

# Which lane of its queue a task belongs to, as bells name it.
LANE = f"CASE WHEN task.gate IS NULL THEN task.priority ELSE {GATED_LINE} END AS priority"

# What belongs to deleted tasks goes with them: parts of a statement in which `gone` are those.
BELONGINGS = """unlinked AS (
    DELETE FROM $links AS link USING gone WHERE link.child_id = gone.id
), unlogged AS (
    DELETE FROM $logs AS log USING gone WHERE log.task_id = gone.id
), unstepped AS (
    DELETE FROM $steps AS step USING gone WHERE step.task_id = gone.id
)"""

# What was cancelled holds no period, and without its row nobody could tell. Here `gone` has
# `state` and `unique_key`, too.
UNHELD = """unheld AS (
    DELETE FROM $keys AS held USING gone
     WHERE gone.state = 'cancelled' AND held.kind = 'unique'
       AND held.key = ANY (ARRAY [gone.unique_key]) AND held.task_id = gone.id
)"""

_NAME = re.compile(r"\$([a-z_]+)")


class Statement:
    """One SQL text in which `$tasks`, `$links`, `$logs` and `$workers` stand for the tables.

    `statement[tables]` is the text that asyncpg takes; numbered parameters (`$1`) stay as they are.
    It is the same string object each time: asyncpg keeps one prepared statement for it in each
    connection.
    """

    __slots__ = ("_filled", "_template")

    def __init__(self, template: str, **parts: str) -> None:
        """`parts` fill further `$names` now: what the variants of one statement differ in."""
        self._template = _NAME.sub(lambda name: parts.get(name[1], name[0]), template)
        self._filled: dict[Tables, str] = {}

    def __getitem__(self, tables: Tables) -> str:
        filled = self._filled.get(tables)
        if filled is None:
            filled = _NAME.sub(lambda name: getattr(tables, name[1]), self._template)
            self._filled[tables] = filled
        return filled
