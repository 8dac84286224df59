"""What a worker process does: open the application, run the worker in it, close it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import select
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

from fastedgy.app import running, without_http
from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.connections import Connections
from fastedgy.database import connect, resolve_url
from fastedgy.dependencies import get_service
from fastedgy.discovery import find_app
from fastedgy.errors import (
    ConfigurationError,
    DatabaseTooOld,
    DatabaseUnavailable,
    SchemaOutdated,
)
from fastedgy.logs import configure_logging
from fastedgy.models import queue_tables
from fastedgy.worker.assignment import Assignment, read_assignment
from fastedgy.worker.ending import REPLACE
from fastedgy.worker.report import Report
from fastedgy.worker.wire import FIRST_PAUSE, LONGEST_PAUSE
from fastedgy.worker.worker import Worker

logger = logging.getLogger("fastedgy.worker")

MISCONFIGURED = 78
"""Exit code: starting again would not help. `sysexits.h` calls it EX_CONFIG."""


async def work(assignment: Assignment, report: Report) -> int:
    """Open the application, run the worker in it, close it. Returns the exit code."""
    await database_answers(assignment.lifeline)
    with without_http():
        app = find_app(assignment.app)
    async with running(app) as tasks:
        url = get_service(Connections).url
        config = get_service(QueuedTaskConfig)
        worker = Worker(assignment, url, config, tasks, queue_tables(), report)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        # Not by way of the loop, which would first go on with what was under way.
        signal.signal(signal.SIGCONT, lambda *_: worker.continued())
        if assignment.lifeline is not None:
            watch_lifeline(loop, assignment.lifeline, worker)
        # What is loaded stays: no look for garbage goes over it, which takes 30 ms and more.
        gc.freeze()
        return await worker.run()


async def database_answers(lifeline: int | None) -> None:
    """Return once the database can be reached: an outage is no reason to die while starting.

    Ends the process when the supervisor, which holds the other end of `lifeline`, is gone.
    """
    settings = Settings()
    pause = FIRST_PAUSE
    while True:
        try:
            connection = await connect(
                await resolve_url(settings), timeout=settings.database_connect_timeout
            )
            await connection.close()
            return
        except DatabaseUnavailable as error:
            if pause == FIRST_PAUSE:
                logger.warning("Waiting for the database: %s", error)
        if lifeline is not None and select.select([lifeline], [], [], 0)[0]:
            sys.exit(REPLACE)
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def watch_lifeline(loop: asyncio.AbstractEventLoop, fd: int, worker: Worker) -> None:
    """The supervisor holds the other end of this pipe; its death, of whatever kind, closes it."""

    def closed() -> None:
        loop.remove_reader(fd)
        worker.orphaned()

    loop.add_reader(fd, closed)


def main() -> NoReturn:
    """Run one worker process. Does not return: threads of sync functions that are left behind must
    not keep it, as their rows say that they ended with it.
    """
    assignment = read_assignment()
    report = Report(assignment.report)
    configure_logging(assignment.log_format, assignment.log_level)
    code = run(assignment, report)
    logging.shutdown()
    sys.stdout.flush()
    report.leave(code)


def run(assignment: Assignment, report: Report) -> int:
    """The worker's whole life. Returns the exit code."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            try:
                return runner.run(work(assignment, report))
            finally:
                # The runner waits for the threads of the loop's executor, in 3.11 without an end:
                # what a task left in `asyncio.to_thread` would hold the process up for as long as
                # it runs. They end with the process.
                runner.get_loop().set_default_executor(ThreadPoolExecutor(1))
    except DatabaseUnavailable as error:
        logger.warning("The database went away while the worker started: %s", error)
        return REPLACE
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
