"""Taskiq with taskiq-postgres (asyncpg)."""

from __future__ import annotations

import asyncio
from typing import Any

from taskiq import AsyncBroker
from taskiq.receiver import Receiver
from taskiq_pg.asyncpg import AsyncpgBroker, AsyncpgResultBackend
from wire import LEDGER, Background, Peer, main

TASKS = 100
TOGETHER = 500


def broker(url: str, *, results: bool) -> AsyncBroker:
    """Results are kept only where somebody waits for them: without, it is faster."""
    backend: Any = AsyncpgResultBackend(dsn=url) if results else None
    made = AsyncpgBroker(dsn=url, result_backend=backend)

    @made.task(task_name="noop")
    async def noop(number: int) -> None:
        LEDGER.note(number)

    @made.task(task_name="echo")
    async def echo(number: int) -> int:
        return number

    return made


class Taskiq(Peer):
    """A worker runs what it is notified of, and nothing else."""

    distributions = ("taskiq", "taskiq-postgres", "asyncpg")
    settings = (
        "max_async_tasks=100, a pool of 10 (its default), acknowledged when saved; bulk: it has "
        "none, so gather() of 500 kiq() calls; round trip: AsyncpgResultBackend, wait_result. "
        "A worker never sees tasks that were there before it listened: for the drains, the "
        "notifications are sent again"
    )
    drain = 8_000
    many = 20_000
    chunk = TOGETHER
    waiting = "SELECT count(*) FROM taskiq_messages WHERE status = 'pending'"
    idle = "SELECT NOT EXISTS (SELECT FROM taskiq_messages)"
    ring = "SELECT count(pg_notify('taskiq', id::text)) FROM taskiq_messages"

    async def install(self, url: str) -> None:
        made = broker(url, results=True)
        await made.startup()
        await made.shutdown()

    async def open(self, url: str, *, results: bool) -> None:
        self._broker = broker(url, results=results)
        await self._broker.startup()
        self._noop, self._echo = (self._broker.find_task(name) for name in ("noop", "echo"))

    async def one(self, number: int) -> None:
        assert self._noop is not None
        await self._noop.kiq(number)

    async def bulk(self, numbers: range) -> None:
        assert self._noop is not None
        await asyncio.gather(*[self._noop.kiq(number) for number in numbers])

    async def trip(self, number: int) -> Any:
        assert self._echo is not None
        sent = await self._echo.kiq(number)
        return (await sent.wait_result()).return_value

    async def prepare(self, url: str, *, results: bool) -> None:
        self._broker = broker(url, results=results)
        self._broker.is_worker_process = True
        await self._broker.startup()
        self._receiver = Receiver(self._broker, max_async_tasks=TASKS, run_startup=False)

    async def work(self) -> None:
        self._end = asyncio.Event()
        self._running = Background(self._receiver.listen(self._end))

    async def stop(self) -> None:
        await self._running.end(self._end.set)
        await self._broker.shutdown()


main(Taskiq())
