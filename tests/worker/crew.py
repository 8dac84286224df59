"""Starting workers: in this process, or as processes like a supervisor does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from helpers import PATIENCE, eventually
from rows import TABLES
from shop_app import app

from fastedgy.app import running
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.ids import new_id
from fastedgy.queued_tasks import QueuedTasks
from fastedgy.supervisor.board import Board
from fastedgy.worker.assignment import Assignment
from fastedgy.worker.counters import Counters
from fastedgy.worker.report import Report
from fastedgy.worker.worker import Worker


class Staff:
    """A worker in this process, and the producer of its application."""

    def __init__(self, worker: Worker, tasks: QueuedTasks, working: asyncio.Task[int]) -> None:
        self.worker = worker
        self.tasks = tasks
        self.working = working

    @property
    def counters(self) -> Counters:
        return self.worker.parts.counters

    def claims_ahead(self) -> None:
        """Make it claim more than it has slots for, as it does after many short tasks."""
        ahead = self.worker.parts.executor._ahead
        ahead._known = False  # how long its tasks took so far, on a busy machine, does not count
        ahead.ended, ahead.worked = 1_000_000, 0.0
        ahead.measure(time.monotonic())

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        return await asyncio.wait_for(self.working, PATIENCE)


class Diary(Report):
    """Hears when the worker is ready."""

    def __init__(self, fd: int | None) -> None:
        super().__init__(fd)
        self.ready = asyncio.Event()

    def tell(self, event: str, **facts: Any) -> None:
        if event == "ready":
            self.ready.set()


class Hire:
    """Starts workers in this process."""

    def __init__(self, url: str) -> None:
        self._url = url

    @asynccontextmanager
    async def __call__(
        self,
        *,
        url: str | None = None,
        concurrency: int = 20,
        queues: tuple[str, ...] = (),
        solo: bool = False,
        **queue: Any,
    ) -> AsyncIterator[Staff]:
        """`queue` are settings of QueuedTaskConfig. The block's end drains the worker."""
        # Nothing here is found by the look every half minute that covers lost notifications.
        own = {"drain_timeout": 5, "fallback_polling_interval": 600}
        config = QueuedTaskConfig(**own | queue)
        settings = Settings(database_url=url or self._url)
        async with running(app, settings=settings, queue=config) as tasks:
            assignment = Assignment(concurrency=concurrency, queues=list(queues), solo=solo)
            diary = Diary(None)
            worker = Worker(assignment, settings.database_url or "", config, tasks, TABLES, diary)
            working = asyncio.create_task(worker.run())
            try:
                await asyncio.wait_for(diary.ready.wait(), PATIENCE)
                yield Staff(worker, tasks, working)
            finally:
                worker.stop()
                await asyncio.wait_for(working, PATIENCE)


class Process:
    """A worker process, started as a supervisor starts it."""

    def __init__(
        self, url: str, folder: Path, *, concurrency: int = 4, app: str = "shop_app:app",
        solo: bool = False, queues: tuple[str, ...] = (), **settings: Any,
    ) -> None:  # fmt: skip
        self.worker_id = new_id()
        self.board = Board(concurrency)
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._reports, report = os.pipe()
        lifeline, self._lifeline = os.pipe()
        told = {
            "app": app, "concurrency": concurrency, "worker_id": str(self.worker_id), "solo": solo,
            "queues": list(queues), "supervisor_id": str(new_id()), "board": self.board.fd,
            "lifeline": lifeline, "report": report,
        }  # fmt: skip
        environment = {
            **os.environ,
            "FASTEDGY_WORKER": json.dumps(told),
            "DATABASE_URL": url,
            "QUEUE_FALLBACK_POLLING_INTERVAL": "600",
            **{f"QUEUE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastedgy.worker"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(self.board.fd, lifeline, report),
            start_new_session=True,
        )
        os.close(report)
        os.close(lifeline)
        os.set_blocking(self._reports, False)
        self._text = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed."""
        self._output.seek(0)
        return self._output.read()

    @property
    def reports(self) -> list[dict[str, Any]]:
        """What it has told its supervisor."""
        try:
            while data := os.read(self._reports, 65_536):
                self._text += data
        except BlockingIOError:
            pass
        return [json.loads(line) for line in self._text.splitlines()]

    async def ready(self) -> None:
        def check() -> None:
            # What kills it may come right after.
            assert any(report["event"] == "ready" for report in self.reports), self.output

        await eventually(check)

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def abandon(self) -> None:
        """What it sees when its supervisor dies."""
        os.close(self._lifeline)
        self._lifeline = -1

    async def ended(self, within: float = PATIENCE) -> int:
        """Wait for its end; its exit code."""

        def check() -> int:
            code = self._process.poll()
            assert code is not None, self.output
            return code

        return await eventually(check, within=within)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._reports)
        if self._lifeline >= 0:
            os.close(self._lifeline)
        self.board.close()
        self._output.close()


class Crew:
    """Worker processes of one test."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self._processes: list[Process] = []

    def begin(self, **given: Any) -> Process:
        """Start a process; it is not ready yet."""
        process = Process(given.pop("url", self.url), self._folder, **given)
        self._processes.append(process)
        return process

    async def start(self, **given: Any) -> Process:
        """Start a process, and wait until it is ready."""
        process = self.begin(**given)
        await process.ready()
        return process

    def close(self) -> None:
        for process in self._processes:
            process.close()


async def reaches(connection: asyncpg.Connection, id: UUID | None, *states: str) -> Any:
    """Wait until a task is in one of these states; its row."""

    async def check() -> Any:
        row = await connection.fetchrow("SELECT * FROM queued_tasks WHERE id = $1", id)
        assert row is not None
        assert row["state"] in states, dict(row)
        return row

    return await eventually(check)
