"""Oban for Python: one queue with a high limit."""

from __future__ import annotations

from typing import Any

from oban import Oban, worker
from oban.schema import install
from wire import LEDGER, Peer, main

LIMIT = 500


@worker(queue="default")
class Noop:
    """The one task."""

    async def process(self, job: Any) -> None:
        """Nothing but being counted."""
        LEDGER.note(job.args["number"])


class ObanPeer(Peer):
    """Claims in large batches; acknowledges row by row in one transaction."""

    distributions = ("oban", "psycopg")
    settings = "limit=500, a pool of 2 to 10, psycopg binary; bulk: enqueue_many, 1,000 a call"
    drain = 20_000
    many = 20_000
    chunk = 1_000
    cannot = {"round_trip": "has no call that waits for a result"}  # noqa: RUF012
    waiting = "SELECT count(*) FROM oban_jobs WHERE state = 'available'"
    idle = (
        "SELECT NOT EXISTS (SELECT FROM oban_jobs WHERE state = 'available')"
        "   AND NOT EXISTS (SELECT FROM oban_jobs WHERE state = 'executing')"
        "   AND NOT EXISTS (SELECT FROM oban_jobs WHERE state IN ('scheduled', 'retryable'))"
    )
    finished = "SELECT count(*) FROM oban_jobs WHERE state = 'completed'"

    async def install(self, url: str) -> None:
        pool = await Oban.create_pool(dsn=url)
        await install(pool)
        await pool.close()

    async def open(self, url: str, *, results: bool) -> None:
        self._pool = await Oban.create_pool(dsn=url, min_size=2, max_size=10)
        self._oban = Oban(pool=self._pool)

    async def one(self, number: int) -> None:
        await self._oban.enqueue(Noop.new({"number": number}))  # type: ignore[attr-defined]

    async def bulk(self, numbers: range) -> None:
        jobs = [Noop.new({"number": number}) for number in numbers]  # type: ignore[attr-defined]
        await self._oban.enqueue_many(jobs)

    async def prepare(self, url: str, *, results: bool) -> None:
        self._pool = await Oban.create_pool(dsn=url, min_size=2, max_size=10)
        self._oban = Oban(pool=self._pool, queues={"default": LIMIT})

    async def work(self) -> None:
        await self._oban.start()

    async def stop(self) -> None:
        await self._oban.stop()
        await self._pool.close()


main(ObanPeer())
