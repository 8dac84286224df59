"""Rows for COPY, in Postgres' binary format (its manual: "COPY", "Binary Format").

asyncpg makes such rows too, but half a megabyte of them before the server gets the first: then one
of both waits for the other all the time. These are made a few hundred at a time, while the server
writes those before them. What all rows have in common is put into bytes once.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence

from fastedgy.store.newtask import NewTask

COLUMNS = ("id", "args", "kwargs", "name", "function", "queue", "priority", "max_retries",
           "timeout", "awaited", "trace")  # fmt: skip
AT_ONCE = 250
"""Rows of one message: some 40 KB, which the server takes longer for than we do."""

_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_jsonb = struct.Struct(">iB").pack  # the length, and the version of the format, which is part of it


def _json(text: str) -> bytes:
    data = text.encode()
    return _jsonb(len(data) + 1, 1) + data


def _value(value: str | int | float | bool | None) -> bytes:
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return struct.pack(">i?", 1, value)
    if isinstance(value, int):
        return struct.pack(">ii", 4, value)
    if isinstance(value, float):
        return struct.pack(">id", 8, value)
    data = value.encode()
    return struct.pack(">i", len(data)) + data


def shared(task: NewTask) -> tuple[str | int | float | bool | None, ...]:
    """The values of all columns but the first three, which are the same in all rows."""
    spec = task.spec
    timeout = None if spec.timeout is None else float(spec.timeout)
    return (spec.name, spec.function, spec.queue, spec.priority, spec.max_retries, timeout,
            task.awaited, task.trace)  # fmt: skip


async def rows(tasks: Sequence[NewTask]) -> AsyncIterator[bytes]:
    """The rows of tasks that differ in their ids and arguments only."""
    before = struct.pack(">hi", len(COLUMNS), 16)
    behind = b"".join(map(_value, shared(tasks[0])))
    kwargs, behind_args = "{}", _json("{}") + behind
    yield _BEGIN
    for start in range(0, len(tasks), AT_ONCE):
        made: list[bytes] = []
        for task in tasks[start : start + AT_ONCE]:
            if task.kwargs != kwargs:
                kwargs = task.kwargs
                behind_args = _json(kwargs) + behind
            args = task.args.encode()
            made += (before, task.id.bytes, _jsonb(len(args) + 1, 1), args, behind_args)
        yield b"".join(made)
    yield _END
