"""The process that keeps the workers of one machine alive (`fastedgy queue start`).

    supervisor ──starts──► N worker processes        (`python -m fastedgy.worker`)
        ◄── report pipe ── "ready", "beat", "suspects" …   one JSON object a line
        ── lifeline ─────► its end tells the workers that the supervisor has died
        ── board ────────  memory in which a worker notes what it has started

A worker that dies is reported to the database at once, with the tasks that may have killed it, and
is started again; one that is silent for half a lease is killed first. SIGTERM and SIGINT drain,
a second one interrupts, SIGHUP replaces the workers one by one.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

from fastedgy.config import QueuedTaskConfig, Settings
from fastedgy.database import connect, resolve_url
from fastedgy.errors import FastEdgyError
from fastedgy.logs import configure_logging
from fastedgy.supervisor.obituaries import Obituaries
from fastedgy.supervisor.options import WORKER, SupervisorOptions, Tempo
from fastedgy.supervisor.supervisor import Supervisor

__all__ = ["SupervisorOptions", "run", "supervise"]

logger = logging.getLogger("fastedgy.supervisor")


def run(
    options: SupervisorOptions,
    settings: Settings,
    config: QueuedTaskConfig,
    *,
    command: Sequence[str] = WORKER,
) -> int:
    """Keep workers running until SIGTERM or SIGINT; returns the exit code of the command.

    0 after a drain. 1 when it cannot start: the database does not answer, or a worker says that
    the application or the configuration is wrong; the reason is written in one line to stderr.
    `command` starts a worker process.
    """
    configure_logging(options.log_format, options.log_level)
    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(supervise(options, settings, config, command=command))
    except FastEdgyError as error:
        if options.log_format == "json":
            logger.error(str(error))
        else:
            sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


async def supervise(
    options: SupervisorOptions,
    settings: Settings,
    config: QueuedTaskConfig,
    *,
    command: Sequence[str] = WORKER,
    tempo: Tempo | None = None,
) -> None:
    """What `run` does, on the running loop of the main thread.

    Raises DatabaseUnavailable, DatabaseTooOld or EmbeddedPostgresError before anything is
    started, and ConfigurationError when a worker says that it cannot start, or when the port of the
    metrics is taken. Later outages of the database are survived.
    """
    url = await resolve_url(settings, announce=logger.info)
    connection = await connect(url, timeout=settings.database_connect_timeout)
    await connection.close()
    obituaries = Obituaries(url, config)
    supervisor = Supervisor(
        url, options, config, report=obituaries.write, command=command, tempo=tempo
    )
    if options.metrics_port is None:
        await supervisor.run()
        return
    from fastedgy.supervisor.metrics import serving_metrics  # as much again as all the rest

    async with serving_metrics(supervisor, settings, options, url, config):
        await supervisor.run()
