"""Chancy: the asyncio executor with eager polling."""

from __future__ import annotations

import logging
from typing import Any

from chancy import Chancy, Job, Queue, Worker, job
from wire import LEDGER, Peer, main

QUEUE = Queue(
    name="default",
    executor=Chancy.Executor.Async,
    concurrency=500,
    eager_polling=True,
    polling_interval=1,
)


@job()
async def noop(*, number: int) -> None:
    """The one task."""
    LEDGER.note(number)


def made(number: int) -> Job:
    """One call of it."""
    return noop.job.with_kwargs(number=number)  # type: ignore[attr-defined,no-any-return]


def application(url: str) -> Chancy:
    """With its default plugins, and without a line of log for each of them."""
    return Chancy(url, log=logging.getLogger("benchmarks"))


class ChancyPeer(Peer):
    """Finished tasks are recorded once a second."""

    distributions = ("chancy", "psycopg")
    settings = (
        "AsyncExecutor, concurrency=500, eager_polling, polling_interval=1, psycopg binary; "
        "bulk: push_many, 1,000 a call; round trip: wait_for_job"
    )
    drain = 20_000
    many = 20_000
    chunk = 1_000
    waiting = "SELECT count(*) FROM chancy_jobs WHERE state = 'pending'"
    idle = (
        "SELECT NOT EXISTS (SELECT FROM chancy_jobs WHERE queue = 'default' AND state = 'pending')"
        "   AND NOT EXISTS (SELECT FROM chancy_jobs WHERE queue = 'default' AND state = 'running')"
        "   AND NOT EXISTS (SELECT FROM chancy_jobs WHERE queue = 'default' AND state = 'retrying')"
    )
    finished = "SELECT count(*) FROM chancy_jobs WHERE state = 'succeeded'"

    async def install(self, url: str) -> None:
        async with application(url) as chancy:
            await chancy.migrate()
            await chancy.declare(QUEUE, upsert=True)

    async def open(self, url: str, *, results: bool) -> None:
        self._chancy = application(url)
        await self._chancy.__aenter__()

    async def one(self, number: int) -> None:
        await self._chancy.push(made(number))

    async def bulk(self, numbers: range) -> None:
        async for _ in self._chancy.push_many([made(number) for number in numbers]):
            pass

    async def trip(self, number: int) -> Any:
        ended = await self._chancy.wait_for_job(await self._chancy.push(made(number)))
        if ended is None or ended.state != ended.State.SUCCEEDED:
            raise RuntimeError(f"The task ended as {ended and ended.state}.")

    async def prepare(self, url: str, *, results: bool) -> None:
        await self.open(url, results=results)

    async def work(self) -> None:
        self._worker = Worker(self._chancy, register_signal_handlers=False)
        await self._worker.start()

    async def stop(self) -> None:
        await self._worker.stop()


main(ChancyPeer())
