"""`fastedgy queue start` as a process, with what a test does to it and to its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from helpers import PATIENCE, eventually
from rows import TABLES

from fastedgy.ids import new_id
from fastedgy.queued_task.functions import describe
from fastedgy.store.insert import insert
from fastedgy.store.newtask import NewTask, Spec

SHORT = {"QUEUE_HEARTBEAT": "0.5", "QUEUE_LEASE": "4", "QUEUE_DRAIN_TIMEOUT": "5"}
"""So that a lease runs out within a test."""


class Supervised:
    """A supervisor and its workers."""

    def __init__(
        self, url: str, folder: Path, *, app: str = "fault_app:app", workers: int = 1,
        concurrency: int = 10, environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (), arguments: Sequence[str] = (), **queue: Any,
    ) -> None:  # fmt: skip
        """`queue` are settings of the queue, `prefix` what comes before the command, `arguments`
        what follows it.
        """
        settings = {f"QUEUE_{name.upper()}": str(value) for name, value in queue.items()}
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `close`
        command = [*prefix, sys.executable, "-m", "fastedgy", "queue", "start", "--app", app]
        command += ["--workers", str(workers), "--concurrency", str(concurrency), *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **SHORT, **settings, "DATABASE_URL": url, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._seen: set[int] = set()

    @property
    def output(self) -> str:
        """What it and its workers have printed."""
        self._output.seek(0)
        return self._output.read()

    def workers(self) -> list[int]:
        """The pids of its children."""
        found: list[int] = []
        with suppress(OSError):
            for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        self._seen |= set(found)
        return found

    async def ready(self, connection: asyncpg.Connection, workers: int = 1) -> list[int]:
        """Wait until so many workers are; their pids."""

        async def check() -> list[int]:
            assert self.process.poll() is None, self.output
            rows = await connection.fetch(
                "SELECT pid FROM queued_task_workers WHERE state = 'running' AND pid = ANY ($1)",
                self.workers(),
            )
            assert len(rows) >= workers, self.output
            return [row["pid"] for row in rows]

        return await eventually(check, within=40)

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    async def ended(self, within: float = PATIENCE) -> int:
        """Wait for its end; its exit code."""

        def check() -> int:
            code = self.process.poll()
            assert code is not None, self.output
            return code

        return await eventually(check, within=within)

    def close(self) -> None:
        """Leave nobody behind."""
        self.workers()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self._seen:
            if belongs_to_us(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._output.close()


def belongs_to_us(pid: int) -> bool:
    """Whether that process is a worker, and no later one with its number."""
    with suppress(OSError):
        return b"fastedgy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


async def enqueue(
    connection: asyncpg.Connection, func: Any, *args: Any, queue: str = "default"
) -> UUID:
    """Add a task as an application does; its id."""
    function = describe(func)
    encoded, named = function.bind(args, {})
    options = function.options
    retries = 3 if options.max_retries is None else options.max_retries
    spec = Spec(function.name, function.path, queue=queue, max_retries=retries,
                timeout=options.timeout)  # fmt: skip
    id = new_id()
    await insert(connection, TABLES, [NewTask(id, spec, encoded, named)], channel="queue_new_task")
    return id


async def forge(connection: asyncpg.Connection, function: str, args: str = "[]") -> UUID:
    """Write a row by hand, as somebody does who can write to the table."""
    id = new_id()
    await connection.execute(
        "INSERT INTO queued_tasks (id, name, function, args, date_enqueued)"
        " VALUES ($1, 'forged', $2, $3, clock_timestamp())",
        id, function, args,
    )  # fmt: skip
    await connection.execute("SELECT pg_notify('queue_new_task', '{\"lanes\": []}')")
    return id


async def row_of(connection: asyncpg.Connection, id: UUID) -> Any:
    """The row of a task."""
    return await connection.fetchrow("SELECT * FROM queued_tasks WHERE id = $1", id)


async def reaches(
    connection: asyncpg.Connection, id: UUID, *states: str, within: float = PATIENCE
) -> Any:
    """Wait until a task is in one of these states; its row."""

    async def check() -> Any:
        row = await row_of(connection, id)
        assert row is not None
        assert row["state"] in states, dict(row)
        return row

    return await eventually(check, within=within)
