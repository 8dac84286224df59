"""Procrastinate: concurrency in one worker; it fetches one job at a time whatever that is."""

from __future__ import annotations

from procrastinate import App, PsycopgConnector
from wire import LEDGER, Background, Peer, main

CONCURRENCY = 30
POOL = 35


def application(url: str) -> App:
    """An app with the one task of the benchmark."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=POOL))

    @app.task(name="noop")
    async def noop(number: int) -> None:
        LEDGER.note(number)

    return app


class Procrastinate(Peer):
    """Workers fetch serially, so concurrency hardly matters."""

    distributions = ("procrastinate", "psycopg")
    settings = (
        "concurrency=30, a pool of up to 35, psycopg binary, finished jobs kept (its default); "
        "bulk: batch_defer_async, 1,000 a call"
    )
    drain = 5_000
    many = 50_000
    chunk = 1_000
    cannot = {"round_trip": "has no call that waits for a result"}  # noqa: RUF012
    waiting = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'"
    idle = (
        "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status = 'todo')"
        "   AND NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status = 'doing')"
    )
    finished = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"

    async def install(self, url: str) -> None:
        async with application(url).open_async() as app:
            await app.schema_manager.apply_schema_async()

    async def open(self, url: str, *, results: bool) -> None:
        self._app = application(url)
        await self._app.open_async()
        self._noop = self._app.tasks["noop"]

    async def one(self, number: int) -> None:
        await self._noop.defer_async(number=number)

    async def bulk(self, numbers: range) -> None:
        await self._noop.batch_defer_async(*[{"number": number} for number in numbers])

    async def prepare(self, url: str, *, results: bool) -> None:
        await self.open(url, results=results)

    async def work(self) -> None:
        self._running = Background(
            self._app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        )

    async def stop(self) -> None:
        await self._running.end()  # to cancel it is how it is asked to stop


main(Procrastinate())
