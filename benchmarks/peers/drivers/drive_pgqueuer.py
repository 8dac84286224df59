"""PgQueuer: one QueueManager with large batches, completions in its own buffer."""

from __future__ import annotations

from typing import Any

import asyncpg
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from wire import LEDGER, Background, Peer, main

BATCH = 1_000


class PgQueuer(Peer):
    """The default batch of 10 gives a quarter of the throughput."""

    distributions = ("pgqueuer", "asyncpg")
    settings = (
        "1 QueueManager, batch_size=1000, a connection of its own, optimize_autovacuum() applied; "
        "bulk: Queries.enqueue([…]), 5,000 a call; round trip: CompletionWatcher (status only)"
    )
    drain = 60_000
    many = 200_000
    chunk = 5_000
    waiting = "SELECT count(*) FROM pgqueuer WHERE status = 'queued'"
    idle = "SELECT NOT EXISTS (SELECT FROM pgqueuer)"
    finished = "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'"

    async def install(self, url: str) -> None:
        connection = await asyncpg.connect(url)
        queries = Queries.from_asyncpg_connection(connection)
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()

    async def open(self, url: str, *, results: bool) -> None:
        self._driver = AsyncpgDriver(await asyncpg.connect(url))
        self._queries = Queries(self._driver)
        if results:
            # A connection of its own: it listens and polls.
            listening = AsyncpgDriver(await asyncpg.connect(url))
            self._watcher = CompletionWatcher(listening, queries=Queries(listening))
            await self._watcher.__aenter__()

    async def one(self, number: int) -> None:
        await self._queries.enqueue("noop", b"%d" % number)

    async def bulk(self, numbers: range) -> None:
        count = len(numbers)
        payloads: list[bytes | None] = [b"%d" % number for number in numbers]
        await self._queries.enqueue(["noop"] * count, payloads, [0] * count)

    async def trip(self, number: int) -> Any:
        (job,) = await self._queries.enqueue("noop", b"%d" % number)
        status = await self._watcher.wait_for(job)
        if status != "successful":
            raise RuntimeError(f"The task ended as {status}.")

    async def prepare(self, url: str, *, results: bool) -> None:
        self._manager = QueueManager(Queries(AsyncpgDriver(await asyncpg.connect(url))))

        @self._manager.entrypoint("noop")
        async def noop(job: Job) -> None:
            assert job.payload is not None
            LEDGER.note(int(job.payload))

    async def work(self) -> None:
        self._running = Background(self._manager.run(batch_size=BATCH))

    async def stop(self) -> None:
        await self._running.end(self._manager.shutdown.set)


main(PgQueuer())
