"""The entry point of a worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable

from fastedgy.app import running
from fastedgy.config import QueuedTaskConfig
from fastedgy.database import Connections
from fastedgy.dependencies import get_service
from fastedgy.discovery import find_app
from fastedgy.errors import ConfigurationError, DatabaseTooOld, SchemaOutdated
from fastedgy.logs import configure_logging
from fastedgy.models import queue_tables
from fastedgy.worker.assignment import Assignment, read_assignment
from fastedgy.worker.report import Report
from fastedgy.worker.worker import Worker

logger = logging.getLogger("fastedgy.worker")

MISCONFIGURED = 78
"""Exit code: starting again would not help. `sysexits.h` calls it EX_CONFIG."""


async def work(assignment: Assignment, report: Report) -> int:
    """Open the application, run the worker in it, close it. Returns the exit code."""
    async with running(find_app(assignment.app)) as tasks:
        url = get_service(Connections).url
        config = get_service(QueuedTaskConfig)
        worker = Worker(assignment, url, config, tasks, queue_tables(), report)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        if assignment.lifeline is not None:
            watch_lifeline(loop, assignment.lifeline, worker)
        return await worker.run()


def watch_lifeline(loop: asyncio.AbstractEventLoop, fd: int, worker: Worker) -> None:
    """The supervisor holds the other end of this pipe; its death, of whatever kind, closes it."""

    def closed() -> None:
        loop.remove_reader(fd)
        worker.orphaned()

    loop.add_reader(fd, closed)


def main() -> int:
    """Run one worker process."""
    assignment = read_assignment()
    report = Report(assignment.report)
    configure_logging(assignment.log_format, assignment.log_level)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(work(assignment, report))
    except (ConfigurationError, SchemaOutdated, DatabaseTooOld) as error:
        report.tell("misconfigured", reason=str(error))
        if assignment.report is None:
            print(str(error), file=sys.stderr)  # noqa: T201
        return MISCONFIGURED


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where the platform has it: a third of the CPU per round trip."""
    with contextlib.suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop
    return None


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Threads of sync functions that are left behind must not keep the process: their rows say that
    # they ended with it.
    os._exit(code)
