"""Whoever can write to the table cannot thereby run code of their choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import asyncpg
import fault_tasks
from helpers import eventually
from supervised import Supervised, enqueue, forge, reaches

FORGED = (
    "os:system",
    "subprocess:run",
    "builtins:eval",
    "builtins:exec",
    "posix:system",
    "importlib:import_module",
    "shutil:rmtree",
    "pathlib:Path.touch",
    "fault_tasks:_touch",
    "fault_tasks:os.system",
    "fault_tasks:Path",
    "fault_tasks:hoard.append",
    "fault_tasks:touch.__globals__",
    "fault_tasks:touch.__call__",
    "fastedgy.queued_task.closures:unpack",
)


async def test_forged_rows_run_nothing_and_say_why(
    connection: asyncpg.Connection, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    supervised = supervise()
    [pid] = await supervised.ready(connection)
    marker = tmp_path / "ran"
    command = json.dumps([f"touch {marker}"])

    ids = {path: await forge(connection, path, command) for path in FORGED}
    refused = {path: await reaches(connection, ids[path], "failed") for path in FORGED}

    for path, row in refused.items():
        assert row["error_type"] == "FunctionRefused", (path, row["error_message"])
        assert path in row["error_message"] or path.split(":")[-1] in row["error_message"]
    assert not marker.exists()
    assert supervised.workers() == [pid]


async def test_a_row_of_nonsense_stops_no_worker(
    connection: asyncpg.Connection, supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    supervised = supervise()
    [pid] = await supervised.ready(connection)

    crooked = [
        await forge(connection, "fault_tasks:touch", args)
        for args in ("{}", "1", '"text"', "null", "[1, 2, 3]")
    ]
    for path in (
        "",
        ":",
        "no colon",
        "a:b:c",
        "x" * 10_000,
        "☃:☃",
        "../etc:passwd",
        "fault_tasks:",
    ):
        await forge(connection, path)
    honest = await enqueue(connection, fault_tasks.touch, str(tmp_path / "ran"))

    for id in crooked:
        assert (await reaches(connection, id, "failed"))["error_message"]
    await reaches(connection, honest, "done")
    assert (tmp_path / "ran").exists()
    assert supervised.workers() == [pid]

    async def nothing_is_left() -> None:
        left = await connection.fetchval(
            "SELECT count(*) FROM queued_tasks WHERE state IN ('enqueued', 'doing')"
        )
        assert left == 0, "each has failed, or waits with its reason"

    await eventually(nothing_is_left)
