"""Rows for COPY, in Postgres' binary format (its manual: "COPY", "Binary Format").

asyncpg makes such rows too, but half a megabyte of them before the server gets the first: then one
of both waits for the other all the time. These are made a few hundred at a time, while the server
writes those before them. What all rows have in common is put into bytes once.

asyncpg bounds the wait for the answer to a COPY, but not that for a socket that takes no more: a
frozen server, or a lost connection, would hold its caller for ever. So that is bounded here.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from asyncpg import Connection

from fastedgy.models.tables import Tables
from fastedgy.store.newtask import NewTask

COLUMNS = ("id", "args", "kwargs", "name", "function", "queue", "priority", "max_retries",
           "timeout", "awaited", "trace")  # fmt: skip
MESSAGE = 40_000
"""Bytes from which on rows are sent: the server takes longer for them than we do."""

Shared = str | int | float | bool | None
"""The value of a column that is the same in all rows."""

_BEGIN = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_BEFORE = struct.pack(">hi", len(COLUMNS), 16)  # a row: its columns, and the length of its id
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_jsonb = struct.Struct(">iB").pack  # the length, and the version of the format, which is part of it


def _json(text: str) -> bytes:
    data = text.encode()
    return _jsonb(len(data) + 1, 1) + data


def _value(value: Shared) -> bytes:
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


async def copy(
    connection: Connection,
    tables: Tables,
    tasks: Sequence[NewTask],
    shared: Sequence[Shared],
    *,
    timeout: float | None,
) -> None:
    """Write tasks that differ in their ids and arguments only. `shared`: their other columns.

    Raises TimeoutError after `timeout` seconds, and as soon as the connection is lost.
    """
    loop = asyncio.get_running_loop()
    rows = _rows(tasks, b"".join(map(_value, shared)))
    async with asyncio.timeout(timeout) as limit:

        def lost(connection: object) -> None:
            with suppress(RuntimeError):  # it is over already
                limit.reschedule(loop.time())

        connection.add_termination_listener(lost)
        try:
            await connection.copy_to_table(
                tables.tasks, source=rows, columns=COLUMNS, format="binary", timeout=timeout
            )
        finally:
            connection.remove_termination_listener(lost)


async def _rows(tasks: Sequence[NewTask], behind: bytes) -> AsyncIterator[bytes]:
    kwargs, behind_args = "{}", _json("{}") + behind
    made, size = [_BEGIN], 0
    for task in tasks:
        if task.kwargs != kwargs:
            kwargs = task.kwargs
            behind_args = _json(kwargs) + behind
        args = task.args.encode()
        made += (_BEFORE, task.id.bytes, _jsonb(len(args) + 1, 1), args, behind_args)
        size += len(args) + len(behind_args)
        if size >= MESSAGE:
            yield b"".join(made)
            made, size = [], 0
    yield b"".join([*made, _END])
