"""Many browsers that follow running tasks on one process: one LISTEN, and how much of a core."""

from __future__ import annotations

import asyncio
import secrets
import time

from benchmarks.harness import (
    START_LIMIT,
    BenchmarkError,
    Lab,
    T,
    cpu_seconds,
    pool,
)
from benchmarks.onlookers import settings
from benchmarks.report import Bar, Figures, Scenario
from benchmarks.serving import served
from benchmarks.tasks import tick
from fastedgy.app import running
from fastedgy.config import Settings
from fastedgy.database import connect

BROWSERS = 500
PAUSE = 0.5
"""Seconds between two updates of each task: 500 tasks make 1,000 events a second."""
WARM_UP = 5.0
SECONDS = 20.0

_LISTENERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'fastedgy events'
"""
_RUNNING = f"SELECT count(*) FROM {T.tasks} WHERE state = 'doing'"


class Browser:
    """One that follows a task. `events`: how many have come."""

    def __init__(self, port: int, task_id: str, token: str) -> None:
        self.events = 0
        self._port = port
        self._request = (
            f"GET /queue/api/tasks/{task_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()

    async def follow(self) -> None:
        """Count events until cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._request)
            if b" 200 " not in await reader.readline():
                raise BenchmarkError("A stream was not answered with 200.")
            while data := await reader.read(65_536):
                self.events += data.count(b"event: progress")
        finally:
            writer.close()


async def sse(lab: Lab) -> Figures:
    """CPU of the web process while every browser follows a running task of its own."""
    browsers = lab.count(BROWSERS, least=20)
    seconds = lab.seconds(SECONDS, 5.0)
    token = secrets.token_urlsafe()
    async with lab.database() as url:
        with settings(QUEUE_ADMIN_READ_TOKEN=token, QUEUE_CONCURRENCY=str(browsers)):
            async with pool(url, 1) as workers, served("app:app", url) as (port, pid):
                await workers.ready(1)
                lasts = START_LIMIT + WARM_UP + seconds
                async with running(settings=Settings(database_url=url)) as tasks:
                    refs = tasks.add_tasks(tick, [(PAUSE, lasts)] * browsers)
                    ids = [str(await ref.get_task_id()) for ref in refs]
                watch = await connect(url)
                while await watch.fetchval(_RUNNING) < browsers:  # noqa: ASYNC110 - rows
                    await asyncio.sleep(0.1)
                following = [Browser(port, id, token) for id in ids]
                streams = [asyncio.create_task(browser.follow()) for browser in following]
                await asyncio.sleep(WARM_UP)
                began, used = time.monotonic(), cpu_seconds(pid)
                before = sum(browser.events for browser in following)
                await asyncio.sleep(seconds)
                took = time.monotonic() - began
                share = (cpu_seconds(pid) - used) / took
                events = (sum(browser.events for browser in following) - before) / took
                listeners = await watch.fetchval(_LISTENERS)
                await watch.close()
                for stream in streams:
                    if stream.done():
                        stream.result()
                        raise BenchmarkError("A stream ended early.")
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
    return {
        "browsers": browsers,
        "events_per_second": events,
        "cpu_share": share,
        "value": share / events * 1_000,
        "listeners": listeners,
    }


SCENARIOS = [
    Scenario(
        "sse",
        "share of a core",
        f"of a web process with {BROWSERS} streams and 1,000 events a second",
        sse,
        (
            Bar("value", 0.15, "share of a core at 1,000 events/s", at_most=True),
            Bar("listeners", 1, "LISTEN connections", at_most=True),
        ),
    ),
]
