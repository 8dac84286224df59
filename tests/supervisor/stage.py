"""A supervisor in this process with fake workers, and what tests do with them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from helpers import eventually

from fastedgy.config import QueuedTaskConfig
from fastedgy.supervisor import SupervisorOptions
from fastedgy.supervisor.child import Child
from fastedgy.supervisor.obituaries import Obituary
from fastedgy.supervisor.options import Tempo
from fastedgy.supervisor.supervisor import Supervisor

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
# -S: without site-packages it starts in 30 ms.
COMMAND = (sys.executable, "-S", "-E", str(FAKE_WORKER))
QUICK = Tempo(
    look=0.05,
    quick_death=10,
    first_delay=0.1,
    max_delay=0.4,
    kill_margin=0.3,
    start_limit=20,
    grow_after=0.1,
    farewell=0.5,
    watch=0.05,
)


class Stage:
    """A supervisor in this process, its fake workers, and what it did."""

    def __init__(self, folder: Path, logs: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self.logs = logs
        self.obituaries: list[Obituary] = []
        self.database = asyncio.Event()
        self.database.set()
        self.supervisor: Supervisor | None = None
        self.running: asyncio.Task[None] | None = None

    def open(
        self,
        workers: int = 1,
        *,
        config: dict[str, Any] | None = None,
        tempo: Tempo = QUICK,
        command: Sequence[str] = COMMAND,
        **options: Any,
    ) -> None:
        """Start a supervisor; `options` are those of SupervisorOptions."""
        options = {"concurrency": 2, **options}
        self.supervisor = Supervisor(
            "postgresql://nowhere",
            SupervisorOptions(workers=workers, **options),
            QueuedTaskConfig(**{"drain_timeout": 20, **(config or {})}),
            report=self.report,
            command=command,
            tempo=tempo,
        )
        self.running = asyncio.create_task(self.supervisor.run())

    async def report(self, obituary: Obituary) -> None:
        await self.database.wait()
        self.obituaries.append(obituary)

    def children(self, *, solo: bool = False) -> list[Child]:
        """The processes that live, or were last seen to."""
        assert self.supervisor is not None
        children = sorted(self.supervisor.crew.children.values(), key=lambda child: child.pid)
        return [child for child in children if child.solo is solo]

    async def ready(self, count: int, *, solo: bool = False) -> list[Child]:
        """Wait until exactly so many live and are ready."""

        def check() -> list[Child]:
            children = self.children(solo=solo)
            assert [child.ready for child in children] == [True] * count
            return children

        return await eventually(check)

    async def replaced(self, *old: Child, count: int = 1) -> list[Child]:
        """Wait until none of the old ones lives, and exactly so many others are ready."""

        async def check() -> list[Child]:
            children = self.children()
            assert not {child.pid for child in children} & {child.pid for child in old}
            assert [child.ready for child in children] == [True] * count
            return children

        return await eventually(check)

    def order(self, child: Child, order: str) -> None:
        """Have a fake worker do something."""
        with (self.folder / f"{child.pid}.orders").open("a") as file:
            file.write(order + "\n")

    def diary(self, pid: int) -> list[str]:
        """What a fake worker wrote down after its assignment."""
        return (self.folder / f"{pid}.diary").read_text().splitlines()[1:]

    def assignment(self, child: Child) -> dict[str, Any]:
        """What a fake worker was told."""
        line = (self.folder / f"{child.pid}.diary").read_text().splitlines()[0]
        return dict(json.loads(line))

    async def wrote_assignment(self, child: Child) -> None:
        """Wait until a fake worker takes orders."""

        def check() -> None:
            assert (self.folder / f"{child.pid}.diary").exists()

        await eventually(check)

    async def wrote(self, pid: int, line: str, times: int = 1) -> None:
        """Wait until a fake worker has written that line so often."""

        def check() -> None:
            assert self.diary(pid).count(line) == times

        await eventually(check)

    async def reported(self, count: int) -> list[Obituary]:
        """Wait until so many ends have been reported."""

        def check() -> None:
            assert len(self.obituaries) == count

        await eventually(check)
        return self.obituaries

    async def logged(self, message: str, times: int = 1) -> logging.LogRecord:
        """Wait for the so-many-th line with that message."""

        def check() -> logging.LogRecord:
            records = [record for record in self.logs.records if record.getMessage() == message]
            assert len(records) >= times, self.logs.messages
            return records[times - 1]

        return await eventually(check)

    async def ended(self) -> None:
        """Wait for the end of the supervisor; raises what it raises."""
        assert self.running is not None
        await asyncio.wait_for(asyncio.shield(self.running), 30)

    async def close(self) -> None:
        if self.running is None or self.supervisor is None:
            return
        if not self.running.done():
            os.kill(os.getpid(), signal.SIGTERM)
            for child in self.children() + self.children(solo=True):
                child.kill("the test is over")
        await asyncio.wait({self.running}, timeout=30)
        assert self.running.done()


def board(*tasks: UUID) -> str:
    """The order that writes tasks on the board."""
    return "start " + b"".join(task.bytes for task in tasks).hex()
