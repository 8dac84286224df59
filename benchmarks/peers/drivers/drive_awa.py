"""Awa: a dispatcher in Rust; Python runs the bodies."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from awa import AsyncClient, Job
from wire import LEDGER, Peer, main

SCHEMA = "awa"
QUEUE = "default"
WORKERS = 1_024
CLAIM = 512
CONNECTIONS = 20


@dataclass
class Noop:
    """The arguments of the one task."""

    number: int


def client(url: str) -> AsyncClient:
    """Its URLs must name a host, even where the socket's folder stands in the options."""
    parts = urlsplit(url)
    if not parts.hostname:
        parts = parts._replace(netloc=f"{parts.netloc}localhost")
    return AsyncClient(urlunsplit(parts), max_connections=CONNECTIONS)


class Awa(Peer):
    """The queue-storage engine: append-only, and COPY to enqueue."""

    distributions = ("awa-pg",)
    settings = (
        "queue-storage engine, max_workers=1024, claim_batch_size=512, 20 connections; "
        "bulk: enqueue_many_copy, 5,000 a call"
    )
    drain = 40_000
    many = 200_000
    chunk = 5_000
    cannot = {"round_trip": "has no call that waits for a result"}  # noqa: RUF012
    waiting = "SELECT count(*) FROM awa.ready_entries"
    # Its view awa.jobs takes minutes with as many tasks as these, so this is what lies below. After
    # some seconds, finished tasks are cut off and only counted: in queue_terminal_rollups.
    idle = (
        "SELECT (SELECT coalesce(sum(cardinality(job_ids)), 0) FROM awa.receipt_completion_batches)"
        "     + (SELECT count(*) FROM awa.done_entries)"
        "     + (SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups)"
        "    >= $1::bigint"
    )
    finished = (
        "SELECT (SELECT count(*) FROM awa.terminal_jobs WHERE state = 'completed')"
        "     + (SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups)"
        "       ::bigint"
    )

    async def install(self, url: str) -> None:
        installer = client(url)
        await installer.migrate()
        # Without this, what `migrate` leaves is the older engine.
        await installer.install_queue_storage(schema=SCHEMA)
        await installer.close()

    async def open(self, url: str, *, results: bool) -> None:
        self._client = client(url)

    async def one(self, number: int) -> None:
        await self._client.insert(Noop(number), queue=QUEUE)

    async def bulk(self, numbers: range) -> None:
        await self._client.enqueue_many_copy([Noop(number) for number in numbers], queue=QUEUE)

    async def prepare(self, url: str, *, results: bool) -> None:
        self._client = client(url)

        @self._client.task(Noop, queue=QUEUE)
        async def noop(job: Job[Noop]) -> None:
            LEDGER.note(job.args.number)

        await self._client.storage_status()  # opens a connection

    async def work(self) -> None:
        await self._client.start(
            [{"name": QUEUE, "max_workers": WORKERS, "claim_batch_size": CLAIM}],
            queue_storage_schema=SCHEMA,
        )

    async def stop(self) -> None:
        await self._client.shutdown()
        await self._client.close()


main(Awa())
