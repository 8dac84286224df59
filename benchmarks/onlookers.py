"""People who look while it works: open pages of the dashboard, and a Prometheus that scrapes."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from benchmarks.harness import BenchmarkError
from benchmarks.serving import served

PAGES = {"/queue/": 2.0, "/queue/tasks": 1.0}
"""Pages, and how often at most each fetches itself again when something has changed, in seconds:
what their script does."""
METRICS = "/metrics"
SCRAPE_EVERY = 1.0
PATHS = (*PAGES, METRICS)


@contextmanager
def settings(**values: str) -> Iterator[None]:
    """Settings of the processes that are started within the block."""
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


class Onlookers:
    """`slowest`: by path, the longest answer in milliseconds."""

    def __init__(self, port: int, token: str) -> None:
        self.slowest: dict[str, float] = {}
        self.all_have_looked = asyncio.Event()
        self.port = port
        self._token = token

    def _request(self, path: str) -> bytes:
        return (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Fragment: 1\r\n"
            f"Authorization: Bearer {self._token}\r\n\r\n"
        ).encode()

    async def get(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
    ) -> None:
        """Ask for a path. Raises BenchmarkError unless it is answered with 200."""
        began = time.perf_counter()
        writer.write(self._request(path))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise BenchmarkError(f"{path} answered {head.splitlines()[0]!r}.")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        took = (time.perf_counter() - began) * 1000
        self.slowest[path] = max(self.slowest.get(path, 0.0), took)
        if len(self.slowest) == len(PATHS):
            self.all_have_looked.set()

    async def scrape(self) -> None:
        """Ask for the metrics every second."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while True:
                await self.get(reader, writer, METRICS)
                await asyncio.sleep(SCRAPE_EVERY)
        finally:
            writer.close()

    async def watch(self, path: str, pace: float) -> None:
        """Have a page open: follow the events, and fetch it again when something has changed."""
        changed = asyncio.Event()
        changed.set()
        following = asyncio.create_task(self._follow(changed))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while True:
                await changed.wait()
                changed.clear()
                await self.get(reader, writer, path)
                await asyncio.sleep(pace)
                if following.done():
                    following.result()
                    raise BenchmarkError("A stream of events ended.")
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            writer.close()

    async def _follow(self, changed: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(self._request("/queue/api/events"))
            if b" 200 " not in await reader.readline():
                raise BenchmarkError("The stream of events was not answered with 200.")
            while data := await reader.read(65_536):
                if b"event: " in data:
                    changed.set()
        finally:
            changed.set()  # who waits for it sees that there will be no more
            writer.close()


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[Onlookers]:
    """Within the block the overview and the list of tasks are open in two tabs, and the metrics are
    scraped. Raises BenchmarkError at its end when one of them was not answered."""
    token = secrets.token_urlsafe()
    with settings(QUEUE_ADMIN_TOKEN=token):
        async with served("app:app", url) as (port, _):
            people = Onlookers(port, token)
            try:
                async with asyncio.TaskGroup() as group:
                    looking = [
                        group.create_task(people.scrape()),
                        *(group.create_task(people.watch(*page)) for page in PAGES.items()),
                    ]
                    await people.all_have_looked.wait()
                    yield people
                    for each in looking:
                        each.cancel()
            except ExceptionGroup as group_of:
                raise group_of.exceptions[0] from None
