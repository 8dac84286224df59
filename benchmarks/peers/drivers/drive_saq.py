"""SAQ on Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Worker
from saq.queue.postgres import PostgresQueue
from wire import LEDGER, Background, Peer, main

CONCURRENCY = 100
TOGETHER = 500


async def noop(ctx: Any, *, number: int) -> None:
    """Nothing but being counted."""
    LEDGER.note(number)


async def echo(ctx: Any, *, number: int) -> int:
    """The argument, for who waits for it."""
    return number


class Saq(Peer):
    """About four statements a task."""

    distributions = ("saq", "psycopg")
    settings = (
        "concurrency=100, a pool of 4 to 20 (its default), psycopg binary; "
        "bulk: it has none, so gather() of 500 enqueue() calls; round trip: apply"
    )
    drain = 5_000
    many = 10_000
    chunk = TOGETHER
    waiting = "SELECT count(*) FROM saq_jobs WHERE status = 'queued'"
    idle = (
        "SELECT NOT EXISTS (SELECT FROM saq_jobs WHERE status IN ('new', 'queued'))"
        "   AND NOT EXISTS (SELECT FROM saq_jobs WHERE status IN ('active', 'aborting'))"
    )
    finished = "SELECT count(*) FROM saq_jobs WHERE status = 'complete'"

    async def install(self, url: str) -> None:
        queue = PostgresQueue.from_url(url)
        await queue.connect()
        await queue.disconnect()

    async def open(self, url: str, *, results: bool) -> None:
        self._queue = PostgresQueue.from_url(url)
        await self._queue.connect()

    async def one(self, number: int) -> None:
        await self._queue.enqueue("noop", number=number)

    async def bulk(self, numbers: range) -> None:
        await asyncio.gather(*[self._queue.enqueue("noop", number=number) for number in numbers])

    async def trip(self, number: int) -> Any:
        return await self._queue.apply("echo", number=number)

    async def prepare(self, url: str, *, results: bool) -> None:
        await self.open(url, results=results)
        self._worker: Worker[Any] = Worker(
            self._queue, functions=[noop, echo], concurrency=CONCURRENCY
        )
        self._worker.SIGNALS = []  # type: ignore[misc]

    async def work(self) -> None:
        self._running = Background(self._worker.start())

    async def stop(self) -> None:
        await self._running.end(self._worker.event.set)


main(Saq())
